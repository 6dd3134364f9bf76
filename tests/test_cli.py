"""The command line: each command as a process of its own, with its output and exit code."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from commands import FINE, WRONG_DATA, WRONG_USE, rustloss
from contract import over_losses
from rustloss import cli
from rustloss.cli import _bench, _doctor
from rustloss.cli._show import drawing
from rustloss.cli._text import UsageError, loss_of
from rustloss.testing._registry import specs

PNG = b"\x89PNG\r\n\x1a\n"
#: SDML's probabilities have the rounding of distances as a relative error.
MOST_ULPS = 1000


# What all commands share.


def test_help_names_the_commands() -> None:
    text = rustloss("--help").text
    for name in ("list", "show", "eval", "align", "bench", "accuracy", "doctor"):
        assert name in text
        assert "--json" in rustloss(name, "--help").text


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("spam",),
        ("list", "--spam"),
        ("show",),
        ("show", "SpamLoss"),
        ("show", "Loss"),
        ("show", "HuberLoss(rho=-1)"),
        ("show", "HuberLoss(spam=1)"),
        ("show", "HuberLoss(1, 2, 3, 4, 5)"),
        ("show", "HuberLoss(rho=open('x'))"),
        ("show", "HuberLoss(**{})"),
        ("eval", "HuberLoss", "a.npz", "b.npz"),
        ("eval", "HuberLoss", "a.npz", "pred=b.npy"),
        ("eval", "HuberLoss", "spam=b.npy"),
        ("eval", "HuberLoss", "a.npz", "--column", "spam=x"),
        ("eval", "HuberLoss", "a.npz", "--column", "pred"),
        ("eval", "HuberLoss", "a.npz", "--rows", "0"),
        ("eval", "HuberLoss(reduction='mean')", "a.npz"),
        ("eval", "HuberLoss(batch_axis=1)", "a.npz"),
        ("eval", "CTCLoss(label_layout='TN')", "a.npz"),
        ("eval", "SDMLLoss", "a.npz"),
        ("align", "a.npz", "--loss", "HuberLoss"),
        ("align", "a.npz", "--seconds", "-1"),
        ("align", "a.npz", "--json", "--textgrid"),
        ("bench", "--losses", "spam"),
        ("bench", "--losses", "("),
        ("bench", "--threads", "0"),
        ("bench", "--peers", "spam"),
    ],
    ids=" ".join,
)
def test_wrong_use(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == WRONG_USE
    assert "error: " in capsys.readouterr().err


def test_process_ends_with_the_code_of_the_command() -> None:
    assert rustloss("show", "SpamLoss", code=WRONG_USE).complaint.startswith("rustloss: error: ")
    assert rustloss("eval", "L2Loss", "no such file", code=WRONG_DATA).complaint.count("\n") == 1


def test_a_reader_that_stops_is_no_error() -> None:
    command = f"{sys.executable} -m rustloss show CTCLoss --json | head -c 10"
    run = subprocess.run(command, shell=True, capture_output=True, check=True, timeout=100)
    assert run.stdout.startswith(b"{")
    assert run.stderr == b""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == FINE
    assert capsys.readouterr().out == f"rustloss {rl.__version__}\n"


@pytest.mark.parametrize("name", ["eval", "align"])
def test_help_says_what_a_file_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == FINE
    text = capsys.readouterr().out
    assert re.search(r"^\w.*\.\n\nFILE is ", text, re.MULTILINE)
    assert re.search(r"^  FILE +an? [.\w]+", text, re.MULTILINE)
    assert not re.search(r" $", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "near"),
    [("Hubber", "HuberLoss"), ("sofmaxce", "SoftmaxCELoss"), ("ctcLos", "CTCLoss"), ("spam", "")],
)
def test_names_that_are_near(name: str, near: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", name]) == WRONG_USE
    complaint = capsys.readouterr().err
    assert f"there is no loss {name}; " in complaint
    assert ("near it: " in complaint) == bool(near)
    assert near in complaint


def test_loss_texts() -> None:
    for name in ("huber", "HUBERLOSS", "huberLoss"):
        assert loss_of(f"{name}(rho=2)") == rl.HuberLoss(rho=2)
    assert loss_of("sigmoidbce") == rl.SigmoidBCELoss()
    assert loss_of("Huber") == rl.HuberLoss()
    assert loss_of(" HuberLoss (2, reduction=None) ") == rl.HuberLoss(2, reduction="none")
    assert loss_of("SoftmaxCELoss(class_weight=[1, 2])") == rl.SoftmaxCELoss(class_weight=[1, 2])
    with pytest.raises(UsageError, match="expected a loss like"):
        loss_of("rl.HuberLoss()")


def test_commands_of_the_page_can_be_meant() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    lines = re.findall(r"^rustloss (.+)$", page.replace("\\\n", ""), re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        assert cli.parser().parse_args(shlex.split(line)).run


# list, show.


def test_list_has_every_loss() -> None:
    lines = rustloss("list").text.splitlines()
    assert [line.split()[0] for line in lines] == list(specs())
    assert "``" not in "".join(lines)
    rows = rustloss("list", "--json").data
    assert [row["name"] for row in rows] == list(specs())
    assert all(row["about"] and row["inputs"] for row in rows)


def _has_curve(loss: rl.Loss) -> bool:
    try:
        return bool(rl.plot.sample(loss, points=2))
    except TypeError:
        return False


@over_losses
def test_show_has_formula_parameters_and_curve(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["show", name]) == FINE
    text = capsys.readouterr().out
    loss = specs()[name].cls()
    assert (loss.__doc__ or "").partition("\n")[0].replace("``", "") in text
    assert ">>>" not in text
    assert "``" not in text
    for parameter in loss._params:
        assert parameter in text
    assert ("gradient by" in text) == _has_curve(loss)
    assert cli.main(["show", repr(loss), "--json"]) == FINE
    assert json.loads(capsys.readouterr().out)["name"] == name


def test_show_has_the_call_in_short_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "CTC"]) == FINE
    call = capsys.readouterr().out.partition("\n\n")[0]
    assert max(map(len, call.splitlines())) < 80
    assert " ".join(call.split()).startswith("CTCLoss(layout='NTC', label_layout='NT', weight=None")


def test_show_draws_a_picture(tmp_path: Path) -> None:
    text = rustloss("show", "HuberLoss(rho=2)", "--png", tmp_path / "curve.png").text
    assert "gradient by" not in text
    assert (tmp_path / "curve.png").read_bytes().startswith(PNG)


def test_what_has_no_picture(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", "CTCLoss", "--png", "spam.png"]) == WRONG_USE
    assert "not a function" in capsys.readouterr().err


def test_drawing_has_a_mark_for_each_point() -> None:
    x = np.linspace(-2, 2, 41)
    lines = drawing(x.tolist(), (x**2).tolist())
    assert sum(line.count("*") for line in lines) == 41
    assert lines[0].split()[0] == "4"
    assert "*" in lines[14]
    assert lines[14].index("*") - lines[0].index("*") > 10
    holes = drawing([0.0, 1.0, 2.0], [np.inf, np.nan, 3.0])
    assert sum(line.count("*") for line in holes) == 1
    assert len({len(line.partition("|")[0]) for line in lines if "|" in line}) == 1


# align.


@pytest.fixture
def emissions() -> dict[str, np.ndarray[Any, Any]]:
    pred = np.full((2, 6, 3), -3.0)
    for sample, path in enumerate([[2, 0, 0, 2, 1, 1], [1, 1, 2, 2, 1, 2]]):
        pred[sample, np.arange(6), path] = 3.0
    return {"pred": pred, "label": np.array([[0, 1], [1, 1]])}


def test_spans_are_those_of_align(emissions: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **emissions)
    (tmp_path / "letters.txt").write_text('a\n"\n', encoding="utf-8")
    words = ["align", tmp_path / "a.npz", "--seconds", 0.5]
    words += ["--vocabulary", tmp_path / "letters.txt"]
    found = rustloss(*words).data
    expected = rl.CTCLoss().align(**emissions).spans()
    assert [[(s["start"], s["end"]) for s in row] for row in found] == [
        [(s.start * 0.5, s.end * 0.5) for s in row] for row in expected
    ]
    assert [[s["text"] for s in row] for row in found] == [["a", '"'], ['"', '"']]
    assert found[0][0]["log_prob"] == expected[0][0].log_prob
    grid = rustloss(*words, "--textgrid").text
    assert grid.count("IntervalTier") == 2
    assert 'text = """"' in grid
    assert "xmax = 3.0" in grid


def test_one_sample(emissions: Any, tmp_path: Path) -> None:
    for name, array in emissions.items():
        np.save(tmp_path / f"{name}.npy", array[0])
    files = [f"{name}={tmp_path / name}.npy" for name in emissions]
    found = rustloss("align", *files, "--json").data
    assert [(s["class"], s["start"], s["end"]) for s in found[0]] == [(0, 1, 3), (1, 4, 6)]


def test_labels_behind_each_other(emissions: Any, tmp_path: Path) -> None:
    pred, lengths = emissions["pred"], [2, 1]
    np.savez(tmp_path / "a.npz", pred=pred, label=[0, 1, 1], label_lengths=lengths)
    found = rustloss("align", tmp_path / "a.npz").data
    assert [[s["class"] for s in row] for row in found] == [[0, 1], [1]]


@pytest.mark.parametrize("layout", ["NTC", "TNC"])
def test_samples_without_a_path_are_named(layout: str, emissions: Any, tmp_path: Path) -> None:
    pred = np.concatenate([emissions["pred"]] * 2)
    pred[2, 1, 2] = np.nan
    label = np.array([[0, 1, -1, -1], [1, 1, 1, 1], [0, 1, -1, -1], [-1, -1, -1, -1]])
    pred = pred if layout == "NTC" else pred.swapaxes(0, 1)
    np.savez(tmp_path / "a.npz", pred=pred, label=label)
    words = ["align", tmp_path / "a.npz", "--loss", f"CTCLoss({layout!r}, infeasible='zero')"]
    for more in ([], ["--textgrid"]):
        ran = rustloss(*words, *more, code=WRONG_DATA)
        assert ran.complaint.splitlines() == [
            "rustloss: error: sample 1 has no spans: no path through its frames gives its label",
            "rustloss: error: sample 2 has no spans: pred has NaN",
        ]
        assert more or [len(row) for row in ran.data] == [2, 0, 0, 0]
    assert re.findall(r'name = "(.*)"', ran.text) == [f"sample {i}" for i in range(4)]
    np.savez(tmp_path / "b.npz", pred=np.zeros((0, 3)), label=[1])
    assert "sample 0 has" in rustloss("align", tmp_path / "b.npz", code=WRONG_DATA).complaint


def test_a_vocabulary_that_is_no_text(emissions: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **emissions)
    words = ["align", tmp_path / "a.npz", "--vocabulary", tmp_path / "a.npz"]
    assert "a.npz: expected text in UTF-8" in rustloss(*words, code=WRONG_DATA).complaint


def test_alignment_of_wrong_labels(emissions: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{**emissions, "label": [[0, 7], [1, 1]]})
    assert "label[0, 1]" in rustloss("align", tmp_path / "a.npz", code=WRONG_DATA).complaint
    np.savez(tmp_path / "b.npz", pred=emissions["pred"])
    assert "pred and label" in rustloss("align", tmp_path / "b.npz", code=WRONG_USE).complaint


# bench, accuracy, doctor.


def test_bench_times_and_draws(tmp_path: Path) -> None:
    words = ["bench", "--losses", "^L1|SDML", "--threads", 1, "--png", tmp_path / "b.png"]
    found = rustloss(*words, "--json", "--peers", "numpy").data
    assert [row["loss"] for row in found["rows"]] == ["L1Loss", "SDMLLoss"]
    assert all(row["rustloss"] > 0 for row in found["rows"])
    assert all(row["numpy"] > 0 for row in found["rows"])
    assert found["threads"] == 1
    assert (tmp_path / "b.png").read_bytes().startswith(PNG)


def test_bench_alone_compares_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_bench, "SECONDS", 0.0)
    heads = {(): "rustloss", ("--peers", "numpy"): "fastest / rustloss"}
    for more, last in heads.items():
        assert cli.main(["bench", "--losses", "^sdml", *more]) == FINE
        head, row = capsys.readouterr().out.splitlines()[-2:]
        assert head.endswith(f" {last}")
        assert row.startswith("SDMLLoss ")


def test_threads_that_there_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "--threads", "0"]) == WRONG_USE
    assert "error: --threads: expected an integer from 1 to " in capsys.readouterr().err


def test_accuracy_has_the_documented_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["accuracy", "--losses", "^(softmaxfocal|gaussian|ctc)"]
    assert cli.main(words) == FINE
    table = capsys.readouterr().out.partition("\n\n")[2].splitlines()
    rows = [re.split(" {2,}", line) for line in table]
    assert rows[0] == ["loss", "value", "bound", "gradient", "bound"]
    bounds = [("4", "6"), ("19 + S/2", "19 + S/2"), ("2e-07", "2e-06")]
    assert [(row[2], row[4]) for row in rows[1:]] == bounds
    assert cli.main([*words, "--json"]) == FINE
    first = json.loads(capsys.readouterr().out)["rows"][0]
    assert first["bounds"] == {"value": "4", "gradient": "6"}


def test_accuracy_is_small_and_not_nothing() -> None:
    rows = rustloss("accuracy", "--json").data["rows"]
    assert [row["loss"] for row in rows] == list(specs())
    for what in ("value", "gradient"):
        assert 0 < max(row[what] for row in rows) < MOST_ULPS


def test_doctor_finds_nothing_wrong() -> None:
    found = rustloss("doctor", "--json").data
    assert found["self_test"] == "passed"
    assert found["rustloss"] == rl.__version__
    assert found["libraries"]["matplotlib"]
    assert "self_test: passed" in rustloss("doctor").text


def test_doctor_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(self: rl.L2Loss[Any], *args: Any, **kwargs: Any) -> Any:
        value, grad = super(rl.L2Loss, self).value_and_grad(*args, **kwargs)
        return value, grad / 2

    monkeypatch.setattr(rl.L2Loss, "value_and_grad", halved, raising=False)
    assert list(_doctor.self_test()) == ["L2Loss"]
