"""The command line: each command as a process of its own, with its output and exit code."""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from contract import over_losses
from rustloss import cli
from rustloss.cli import _doctor
from rustloss.cli._eval import Progress
from rustloss.cli._show import drawing
from rustloss.cli._tables import Values, opened
from rustloss.cli._text import UsageError, loss_of
from rustloss.testing._registry import specs

FINE, WRONG_DATA, WRONG_USE = 0, 1, 2
PNG = b"\x89PNG\r\n\x1a\n"
SAMPLES = 1000
#: SDML's probabilities have the rounding of distances as a relative error.
MOST_ULPS = 1000
#: A chunk's samples, so that there are several chunks.
ROWS = 64


class Ran(subprocess.CompletedProcess[bytes]):
    """A command that has ended."""

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def complaint(self) -> str:
        return self.stderr.decode()

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)


def rustloss(*words: object, given: bytes = b"", code: int = FINE) -> Ran:
    """Run a command and check its exit code, and that no traceback is shown."""
    command = [sys.executable, "-m", "rustloss", *map(str, words)]
    ran = subprocess.run(
        command,
        input=given,
        capture_output=True,
        check=False,
        timeout=100,
        env=os.environ | {"PYTHONWARNINGS": "error", "COLUMNS": "100"},
    )
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    assert ran.returncode == code, ran.stderr.decode()
    return Ran(ran.args, ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(3)
    return {
        "pred": rng.normal(size=(SAMPLES, 5)).astype(np.float32),
        "label": rng.integers(0, 5, SAMPLES),
        "sample_weight": rng.uniform(0, 2, SAMPLES),
    }


@pytest.fixture(scope="module")
def losses(batch: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return rl.SoftmaxCELoss()(**batch)


def saved(folder: Path, batch: dict[str, np.ndarray[Any, Any]], kind: str) -> list[Path | str]:
    """Write a batch into files of a kind, and return them as the command takes them."""
    path = folder / f"batch.{kind}"
    if kind == "npy":
        for name, array in batch.items():
            np.save(folder / f"{name}.npy", array)
        return [f"{name}={folder / name}.npy" for name in batch]
    if kind == "npz":
        np.savez(path, **batch)  # type: ignore[arg-type]
    elif kind == "compressed.npz":
        np.savez_compressed(path, **batch)  # type: ignore[arg-type]
    else:
        pa = pytest.importorskip("pyarrow")
        rows = pa.FixedSizeListArray.from_arrays(batch["pred"].ravel(), batch["pred"].shape[1])
        if kind == "parquet":
            rows = rows.cast(pa.list_(pa.float32()))
        others = {name: array for name, array in batch.items() if name != "pred"}
        table = pa.table({"pred": rows, **others})
        if kind == "parquet":
            importlib.import_module("pyarrow.parquet").write_table(table, path)
        else:
            open_file = pa.ipc.new_file if kind == "feather" else pa.ipc.new_stream
            with open_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=300)
    return [path]


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


def test_loss_texts() -> None:
    assert loss_of("Huber") == rl.HuberLoss()
    assert loss_of(" HuberLoss (2, reduction=None) ") == rl.HuberLoss(2, reduction="none")
    assert loss_of("SoftmaxCELoss(class_weight=[1, 2])") == rl.SoftmaxCELoss(class_weight=[1, 2])
    with pytest.raises(UsageError, match="expected a loss like"):
        loss_of("rl.HuberLoss()")


def test_commands_of_the_page_can_be_meant() -> None:
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    lines = re.findall(r"^rustloss (.+)$", page, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        assert cli.parser().parse_args(shlex.split(line)).run


# list, show.


def test_list_has_every_loss() -> None:
    lines = rustloss("list").text.splitlines()
    assert [line.split()[0] for line in lines] == list(specs())
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
    assert (loss.__doc__ or "").partition("\n")[0] in text
    assert ">>>" not in text
    for parameter in loss._params:
        assert parameter in text
    assert ("gradient by" in text) == _has_curve(loss)
    assert cli.main(["show", repr(loss), "--json"]) == FINE
    assert json.loads(capsys.readouterr().out)["name"] == name


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


# eval.


@pytest.mark.parametrize("kind", ["npy", "npz", "compressed.npz", "parquet", "feather", "arrow"])
@pytest.mark.parametrize("output", ["npy", "csv", "parquet"])
def test_losses_are_those_of_one_call(
    kind: str, output: str, batch: Any, losses: Any, tmp_path: Path
) -> None:
    target = tmp_path / f"out.{output}"
    if output == "parquet":
        pytest.importorskip("pyarrow")
    files = saved(tmp_path, batch, kind)
    words = ["eval", "SoftmaxCELoss", *map(str, files), "-o", str(target), "--rows", str(ROWS)]
    assert cli.main(words) == FINE
    if output == "npy":
        found = np.load(target)
        assert found.dtype == losses.dtype
    elif output == "csv":
        found = np.loadtxt(target, np.float32, delimiter=",", skiprows=1)[:, 1]
    else:
        table = importlib.import_module("pyarrow.parquet").read_table(target)
        found = table["loss"].to_numpy()
    np.testing.assert_array_equal(found, losses)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("kind", ["npz", "parquet", "arrow"])
def test_standard_input_and_output(kind: str, batch: Any, losses: Any, tmp_path: Path) -> None:
    (path,) = saved(tmp_path, batch, kind)
    given = Path(path).read_bytes()
    words = ["eval", "SoftmaxCELoss", "-", "--format", kind, "-o", "-", "--rows", ROWS]
    ran = rustloss(*words, given=given)
    table = np.loadtxt(io.BytesIO(ran.stdout), np.float32, delimiter=",", skiprows=1)
    np.testing.assert_array_equal(table[:, 1], losses)
    assert f"samples={SAMPLES}" in ran.complaint


def test_summary(batch: Any, losses: Any, tmp_path: Path) -> None:
    found = rustloss("eval", "SoftmaxCELoss", *saved(tmp_path, batch, "npz"), "--json").data
    expected = rl.SoftmaxCELoss(reduction="weighted_mean")(**batch)
    assert found["samples"] == SAMPLES
    np.testing.assert_allclose(found["weighted_mean"], expected, rtol=1e-6)
    np.testing.assert_allclose(found["mean"], losses.mean(dtype=np.float64), rtol=1e-6)
    assert (found["least"], found["greatest"]) == (losses.min(), losses.max())
    assert found["loss"] == repr(rl.SoftmaxCELoss())


def test_columns_of_other_names_and_arrays_in_other_orders(tmp_path: Path) -> None:
    pred, label = np.random.default_rng(4).normal(size=(2, 200, 3))
    np.savez(tmp_path / "a.npz", logit=np.asfortranarray(pred), y=label[:, ::-1], epsilon=[1])
    columns = ["--column", "pred=logit", "--column", "label=y"]
    target = tmp_path / "out.npy"
    rustloss("eval", "L2Loss", tmp_path / "a.npz", *columns, "-o", target, "--rows", 7)
    np.testing.assert_array_equal(np.load(target), rl.L2Loss()(pred, label[:, ::-1]))


def test_labels_of_different_lengths(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pred = np.random.default_rng(5).normal(size=(6, 8, 4))
    frames = pa.FixedSizeListArray.from_arrays(pred.ravel(), 4)
    pred_column = pa.FixedSizeListArray.from_arrays(frames, 8)
    labels = [[0, 1], [2], [], [1, 1], [0], [2, 1, 0]]
    table = pa.table({"pred": pred_column, "label": pa.array(labels)})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    rustloss("eval", "CTCLoss", tmp_path / "a.arrow", "-o", tmp_path / "o.npy", "--rows", 4)
    np.testing.assert_array_equal(np.load(tmp_path / "o.npy"), rl.CTCLoss()(pred, labels))


def test_tables_with_gaps(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    label = pa.array([[1.0, 2.0], [3.0, 4.0]])
    complaints = {"null": [[1.0, None], [3.0, 4.0]], "one length": [[1.0], [3.0, 4.0]]}
    for complaint, pred in complaints.items():
        table = pa.table({"pred": pa.array(pred), "label": label})
        with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table)
        ran = rustloss("eval", "L2Loss", tmp_path / "a.arrow", code=WRONG_DATA)
        assert complaint in ran.complaint
        assert "pred" in ran.complaint


def test_wrong_data_is_named(batch: Any, tmp_path: Path) -> None:
    wrong = {**batch, "label": batch["label"].copy()}
    wrong["label"][700] = 17
    files = saved(tmp_path, wrong, "npz")
    words = ["eval", "SoftmaxCELoss", *files, "--rows", 100, "-o", tmp_path / "out.npy"]
    complaint = rustloss(*words, code=WRONG_DATA).complaint
    assert "in the samples from 700 on, label[0]" in complaint
    assert "17" in complaint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["batch.npz"]


def test_files_that_cannot_be_read(batch: Any, tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.npz"
    garbage.write_bytes(b"PK and so on")
    complaints = {
        garbage: "not an npz file",
        tmp_path / "text.npz": "expected an npz",
        tmp_path / "lengths.npz": "label has 3",
        tmp_path / "objects.npz": "Python objects",
    }
    (tmp_path / "text.npz").write_text("pred, label")
    np.savez(tmp_path / "lengths.npz", pred=batch["pred"], label=[1, 2, 3])
    np.savez(tmp_path / "objects.npz", pred=np.array([None]), label=[1])
    for path, complaint in complaints.items():
        assert complaint in rustloss("eval", "SoftmaxCELoss", path, code=WRONG_DATA).complaint
    np.save(tmp_path / "one.npy", batch["pred"])
    np.save(tmp_path / "y.npy", batch["label"])
    (tmp_path / "short.npy").write_bytes((tmp_path / "one.npy").read_bytes()[:-1])
    for name, complaint in {"short.npy": "ends before", "text.npz": "expected an array"}.items():
        arrays = [f"pred={tmp_path / name}", f"label={tmp_path / 'y.npy'}"]
        assert complaint in rustloss("eval", "SoftmaxCELoss", *arrays, code=WRONG_DATA).complaint
    words = ["eval", "SoftmaxCELoss", tmp_path / "one.npy"]
    assert "NAME=" in rustloss(*words, code=WRONG_USE).complaint
    words = ["eval", "SoftmaxCELoss", f"pred={tmp_path / 'one.npy'}"]
    assert "label: missing" in rustloss(*words, code=WRONG_USE).complaint


@pytest.mark.parametrize("kind", ["compressed.npz", "parquet", "feather", "arrow"])
def test_a_damaged_file(kind: str, batch: Any, tmp_path: Path) -> None:
    (path,) = saved(tmp_path, batch, kind)
    whole = Path(path).read_bytes()
    middle = len(whole) // 2
    damaged = [whole[:middle]]
    if kind == "compressed.npz":  # The others have no sums to check.
        damaged += [whole[:at] + bytes(100) + whole[at + 100 :] for at in (20, 60, middle)]
    for part in damaged:
        Path(path).write_bytes(part)
        assert cli.main(["eval", "SoftmaxCELoss", str(path)]) == WRONG_DATA


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(Progress, "_PAUSE", -1.0)
        progress = Progress(200)
        progress.show(50)
        progress.end()
        assert ("25%" in stream.getvalue()) == stream.isatty()


def test_an_empty_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pred=np.zeros((0, 3)), label=np.zeros((0, 3)))
    found = rustloss("eval", "L2Loss", tmp_path / "a.npz", "-o", tmp_path / "o.npy", "--json").data
    assert found["samples"] == 0
    assert found["mean"] is None
    assert np.load(tmp_path / "o.npy").shape == (0,)


@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_a_chunk_is_all_that_is_read(kind: str, batch: Any, tmp_path: Path) -> None:
    files = [str(file) for file in saved(tmp_path, batch, kind)]
    names = ["pred", "label", "sample_weight"]
    with opened(files, rows=ROWS, inputs=names, columns={}) as source:
        assert source.length == SAMPLES
        sizes = [len(chunk["pred"]) for chunk in source.chunks]
    assert max(sizes) <= ROWS
    assert sum(sizes) == SAMPLES


def peak(words: list[str]) -> int:
    """Return the largest memory of a command in its own process, in bytes."""
    # Not getrusage: what it says begins with the memory of the process that started this one.
    code = "import sys; from rustloss.cli import main; assert main(sys.argv[1:]) == 0; "
    code += "print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", code, *words]
    run = subprocess.run(command, capture_output=True, check=True, timeout=100, text=True)
    return 1024 * int(run.stdout.partition("VmHWM:")[2].split()[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["npz", "npy", "parquet"])
def test_memory_does_not_grow_with_the_file(kind: str, batch: Any, tmp_path: Path) -> None:
    words, sizes = ["eval", "SoftmaxCELoss"], []
    for repeats in (1, 2000):
        folder = tmp_path / str(repeats)
        folder.mkdir()
        long = {name: np.repeat(array, repeats, axis=0) for name, array in batch.items()}
        files = [str(file) for file in saved(folder, long, kind)]
        sizes.append(peak([*words, *files, "-o", str(folder / "losses.npy")]))
    written = sum(array.nbytes for array in long.values())
    assert sizes[1] - sizes[0] < written / 2


def test_header_has_room_for_any_length(tmp_path: Path) -> None:
    values = Values(str(tmp_path / "o.npy"))
    for part in (np.arange(3.0), np.arange(9.0), np.arange(10.0**6)):
        values.write(part)
    values.close()
    assert np.load(tmp_path / "o.npy").shape == (10**6 + 12,)


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
