"""``eval``: what it reads, writes, sums up and refuses."""

from __future__ import annotations

import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from commands import FINE, WRONG_DATA, WRONG_USE, rustloss
from rustloss import cli
from rustloss.cli._eval import Progress
from rustloss.cli._tables import STREAMS, Values, opened

SAMPLES = 1000
#: A chunk's samples, so that there are several chunks.
ROWS = 64


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
    assert "error: label[700]: " in complaint
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


# The summary.


def summed_up(folder: Path, *words: object, **arrays: Any) -> Any:
    np.savez(folder / "summed.npz", **arrays)
    return rustloss("eval", "L1Loss", folder / "summed.npz", "--json", *words).data


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_least_and_greatest_are_finite(rows: int, tmp_path: Path) -> None:
    pred = np.array([0, np.nan, 2, 3, np.inf, 5, np.nan])
    found = summed_up(tmp_path, "--rows", rows, pred=pred, label=np.zeros(7))
    assert (found["samples"], found["not_finite"]) == (7, 3)
    assert (found["least"], found["greatest"]) == (0, 5)
    assert found["mean"] is None
    nothing = summed_up(tmp_path, "--rows", rows, pred=pred[[1, 4]], label=np.zeros(2))
    assert nothing["least"] is nothing["greatest"] is nothing["mean"] is None


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_means_do_not_depend_on_chunks(rows: int, tmp_path: Path) -> None:
    pred = np.array([1e16, 1.0, 1e300, 3.0, 1e-300, 2.0**-60, 1.0])
    weight = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 1.0, 1e-8])
    batch = {"pred": pred, "label": np.zeros(7), "sample_weight": weight}
    found = summed_up(tmp_path, "--rows", rows, **batch)
    losses = rl.L1Loss()(**batch)
    assert found["mean"] == rl.Mean().update(losses).result()
    assert found["weighted_mean"] == found["mean"] / rl.Mean().update(weight).result()
    assert found["weighted_mean"] == pytest.approx(rl.Mean().update(pred, weight).result())


def test_summary_is_json_beside_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pred=[0.0, np.nan, 2.0], label=np.zeros(3))
    ran = rustloss("eval", "L1Loss", tmp_path / "a.npz", "-o", "-", "--json")
    assert ran.text.splitlines() == ["row,loss", "0,0.0", "1,nan", "2,2.0"]
    expected = {"loss": "L1Loss()", "samples": 3, "mean": None, "least": 0, "greatest": 2}
    assert json.loads(ran.complaint) == {**expected, "not_finite": 1}


def test_a_reader_of_values_may_stop(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", pred=np.ones(100_000), label=np.zeros(100_000))
    for more in ("", "--json"):
        command = f"{sys.executable} -m rustloss eval L1Loss {tmp_path}/a.npz -o - {more}"
        whole = f"set -o pipefail; {command} --rows 100 | head -1"
        run = subprocess.run(["bash", "-c", whole], capture_output=True, check=True, timeout=100)
        assert (run.stdout, run.stderr) == (b"row,loss\n", b"")


# What errors name.


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_an_index_is_that_in_the_file(rows: int, tmp_path: Path) -> None:
    ones, bad = np.ones(9), np.array([1, 1, 1, 1, 1, 1, 1, -2, 1])
    for label, weight, place in ((bad, ones, "label[7]"), (ones, bad, "sample_weight[7]")):
        pred = np.zeros((9, 4))
        np.savez(tmp_path / "a.npz", pred=pred, label=label, sample_weight=weight)
        words = ["eval", "SoftmaxCELoss", tmp_path / "a.npz", "--rows", rows]
        complaint = rustloss(*words, code=WRONG_DATA).complaint
        assert complaint.startswith(f"rustloss: error: {place}: expected")


def test_a_sample_without_room_or_frames_is_that_in_the_file(tmp_path: Path) -> None:
    label = np.array([[0, -1, -1]] * 4 + [[0, 0, 0]])
    np.savez(tmp_path / "a.npz", pred=np.zeros((5, 4, 4)), label=label)
    words = ["a.npz", "--rows", "1"]
    complaints = {
        "CTCLoss(infeasible='raise')": r"pred_lengths\[4\]: .* of sample 4, got 4",
        "CTCLoss(memory_limit=88600)": "sample 4 needs a memory limit",
    }
    for loss, complaint in complaints.items():
        found = rustloss("eval", loss, tmp_path / words[0], *words[1:], code=WRONG_DATA).complaint
        assert re.search(complaint, found), found


def test_a_chunk_without_a_place_is_named(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    schema = pa.schema({"pred": pa.list_(pa.float64()), "label": pa.list_(pa.float64())})
    with pa.ipc.new_file(tmp_path / "a.arrow", schema) as writer:
        for width in (2, 3):
            rows = {"pred": [[1.0] * 2] * 4, "label": [[1.0] * width] * 4}
            writer.write_table(pa.table(rows, schema=schema))
    complaint = rustloss("eval", "L2Loss", tmp_path / "a.arrow", code=WRONG_DATA).complaint
    assert "in the samples from 4 on, label: expected" in complaint


def test_errors_name_files_as_they_were_given(batch: Any, tmp_path: Path) -> None:
    words = ["eval", "SoftmaxCELoss", *saved(tmp_path, batch, "npz"), "-o"]
    (tmp_path / "folder.npy").mkdir()
    for target in (tmp_path / "nowhere" / "x.npy", tmp_path / "folder.npy"):
        complaint = rustloss(*words, target, code=WRONG_DATA).complaint
        assert f"'{target}'" in complaint
        assert ".part" not in complaint
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("kind", ["npy", "npz", "parquet", "feather", "arrow"])
def test_damages_name_the_file(kind: str, batch: Any, tmp_path: Path) -> None:
    files = [str(file) for file in saved(tmp_path, batch, kind)]
    path = Path(files[0].removeprefix("pred="))
    path.write_bytes(path.read_bytes()[: -SAMPLES * 3])
    complaint = rustloss("eval", "SoftmaxCELoss", *files, code=WRONG_DATA).complaint
    assert complaint.startswith(f"rustloss: error: {path}: ")
    if kind != "npy":
        words = ["eval", "SoftmaxCELoss", "-", "--format", kind if kind in STREAMS else "arrow"]
        complaint = rustloss(*words, given=path.read_bytes()[:1000], code=WRONG_DATA).complaint
        assert complaint.startswith("rustloss: error: standard input: ")
