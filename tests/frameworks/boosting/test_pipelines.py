"""Losses in the tools that move rows: tables, engines, processes and pickles."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from rustloss import _core, boosting, errors
from rustloss._interop import as_array, refuse_misaligned
from rustloss.testing import example
from test_docs import ROOT, check_page

cloudpickle = pytest.importorskip("cloudpickle")
dill = pytest.importorskip("dill")
joblib = pytest.importorskip("joblib")
loky = pytest.importorskip("loky")
pa = pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
scipy_sparse = pytest.importorskip("scipy.sparse")

L2, CTC = rl.L2Loss(), rl.CTCLoss()
PRED, LABEL = np.array([1.0, 2.0, 3.0]), np.zeros(3)
MATRIX = np.array([[1.0, 2.0], [3.0, 4.0]])
FRAMES = np.random.default_rng(0).normal(size=(2, 5, 4))

FEW_ROWS, ROWS, CHUNK = 1_000_000, 10_000_000, 250_000
GROWTH = 40
"""MiB. The arrays of nine million rows more take above 100: scores, labels and losses."""


@pytest.mark.parametrize("page", ["boosting.md", "pipelines.md"])
@pytest.mark.filterwarnings(
    "ignore:Failed to import numba",
    "ignore::FutureWarning:ray",
    "ignore::DeprecationWarning",
    "ignore::ResourceWarning",
)
@pytest.mark.timeout(300)
def test_page(page: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_page(ROOT / "docs" / page)


def test_readme() -> None:
    check_page(ROOT / "README.md", about="xgboost")


# Tables

COLUMNS = {
    "pandas": pd.Series,
    "pandas, nullable": lambda x: pd.Series(x, dtype="Float64"),
    "pandas, Arrow": lambda x: pd.Series(x, dtype="double[pyarrow]"),
    "polars": pl.Series,
    "polars, chunks": lambda x: pl.concat([pl.Series(x[:1]), pl.Series(x[1:])], rechunk=False),
    "Arrow": pa.array,
    "Arrow, chunks": lambda x: pa.chunked_array([x[:1], x[1:]]),
    "Arrow, a slice": lambda x: pa.array([7.0, *x])[1:],
}
over_columns = pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)


@over_columns
def test_columns_are_arrays(column):
    weight = [0.5, 0.0, 2.0]
    found = L2.value_and_grad(column(PRED.tolist()), column([0.0] * 3), column(weight))
    for array, expected in zip(found, L2.value_and_grad(PRED, LABEL, weight), strict=True):
        assert type(array) is np.ndarray
        assert_array_equal(array, expected)


def test_columns_of_one_piece_are_not_copied():
    series, column, array = pd.Series(PRED), pl.Series(PRED), pa.array(PRED)
    for value, memory in (
        (series, series.to_numpy()),
        (column, column.to_numpy(allow_copy=False)),
        (array, array.to_numpy(zero_copy_only=True)),
    ):
        assert np.shares_memory(as_array("pred", value), memory)


@pytest.mark.parametrize("column", [c for name, c in COLUMNS.items() if name != "pandas"])
def test_nulls_of_columns_name_the_row(column):
    for call in (lambda x: L2(x, LABEL), lambda x: L2(PRED, x), lambda x: L2(PRED, LABEL, x)):
        with pytest.raises(errors.DTypeError, match=r"\[2\]: expected a number, got a null"):
            call(column([1.0, 2.0, None]))


TABLES = {
    "pandas": pd.DataFrame,
    "polars": pl.DataFrame,
    "Arrow": pa.table,
}
RECORDS = {"a": MATRIX[:, 0].tolist(), "b": MATRIX[:, 1].tolist()}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_are_matrices(table):
    zeros = table({name: [0.0, 0.0] for name in RECORDS})
    assert_array_equal(L2(table(RECORDS), zeros), L2(MATRIX, 0 * MATRIX))


FIXED = pa.list_(pa.float32(), 2)
ROWS_OF_TWO = {
    "polars": lambda x: pl.Series(x, dtype=pl.Array(pl.Float32, 2)),
    "Arrow": lambda x: pa.array(x, FIXED),
    "Arrow, chunks": lambda x: pa.chunked_array([pa.array(x[:1], FIXED), pa.array(x[1:], FIXED)]),
    "Arrow, a slice": lambda x: pa.array([[5, 5], *x], FIXED)[1:],
}


@pytest.mark.parametrize("column", ROWS_OF_TWO.values(), ids=ROWS_OF_TWO)
def test_columns_of_rows_are_matrices(column):
    found = L2(column(MATRIX.tolist()), 0 * MATRIX)
    assert found.dtype == np.float32
    assert_array_equal(found, L2(MATRIX, 0 * MATRIX))
    assert L2(column([]), np.empty((0, 2))).shape == (0,)
    for rows, index in (([[1, 2], [3, None]], (1, 1)), ([[1, 2], None], (1,))):
        with pytest.raises(errors.DTypeError, match="got a null") as caught:
            L2(column(rows), 0 * MATRIX)
        assert caught.value.index == index


SEVERAL = pd.DataFrame({"a": [True, False], "b": [1.5, 2.0]})
MIXED = {
    "nullable": SEVERAL.astype({"a": "Int64", "b": "Float64"}),
    "converted": SEVERAL.convert_dtypes(),
    "Arrow": SEVERAL.astype({"a": "double[pyarrow]", "b": "double[pyarrow]"}),
    "nullable and not": SEVERAL.astype({"a": "Int64"}),
    "truth values": SEVERAL,
    "one name": SEVERAL.set_axis(["a", "a"], axis=1),
    "polars": pl.DataFrame({"a": [True, False], "b": [1.5, 2.0]}),
    "Arrow table": pa.table({"a": [True, False], "b": [1.5, 2.0]}),
}


@pytest.mark.parametrize("table", MIXED.values(), ids=MIXED)
def test_tables_of_several_types_are_matrices(table):
    found = L2(table, np.zeros((2, 2)))
    assert_array_equal(found, L2(np.array([[1.0, 1.5], [0.0, 2.0]]), np.zeros((2, 2))))


def test_tables_keep_single_precision():
    table = pd.DataFrame(MATRIX).astype({0: "Float32", 1: "float32"})
    assert L2(table, 0 * MATRIX).dtype == np.float32


def test_tables_with_what_is_no_number_are_refused():
    null = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1.0, 2.0]})
    with pytest.raises(errors.DTypeError, match=r"pred\[1, 0\]: expected a number, got a null"):
        L2(null, 0 * MATRIX)
    with pytest.raises(errors.DTypeError, match="pred: expected real numbers"):
        L2(pd.DataFrame({"a": ["x", "y"], "b": [1.0, 2.0]}), 0 * MATRIX)


def as_objects(rows: list[Any]) -> Any:
    found = np.empty(len(rows), object)
    found[:] = rows
    return found


LISTS_OF_NUMBERS = {
    "Arrow": pa.array,
    "Arrow, large": lambda x: pa.array(x, pa.large_list(pa.float64())),
    "Arrow, view": lambda x: pa.array(x, pa.list_view(pa.float64())),
    "Arrow, large view": lambda x: pa.array(x, pa.large_list_view(pa.float64())),
    "Arrow, chunks": lambda x: pa.chunked_array([x[:1], x[1:]]),
    "polars": pl.Series,
    "pandas": pd.Series,
    "pandas, Arrow": lambda x: pd.Series(x, dtype=pd.ArrowDtype(pa.list_(pa.float64()))),
    "NumPy": as_objects,
}


@pytest.mark.parametrize("column", LISTS_OF_NUMBERS.values(), ids=LISTS_OF_NUMBERS)
def test_lists_of_one_length_are_matrices(column):
    assert_array_equal(L2(column(MATRIX.tolist()), 0 * MATRIX), L2(MATRIX, 0 * MATRIX))
    with pytest.raises(errors.ShapeError, match=r"pred\[1\]: expected a row of 2 numbers.*got 1"):
        L2(column([[1.0, 2.0], [3.0]]), 0 * MATRIX)
    for rows in ([[1.0, 2.0], [3.0, None]], [[1.0, 2.0], None]):
        with pytest.raises(errors.DTypeError, match=r"pred\[1.*null"):
            L2(column(rows), 0 * MATRIX)


def test_lists_of_a_fixed_size_in_pandas_are_matrices():
    column = pd.Series(MATRIX.tolist(), dtype=pd.ArrowDtype(pa.list_(pa.float64(), 2)))
    assert_array_equal(L2(column, 0 * MATRIX), L2(MATRIX, 0 * MATRIX))


@pytest.mark.parametrize("shape", [(2, 2), (2, 3, 2)])
def test_tensors_of_arrow(shape):
    numbers = np.arange(np.prod(shape), dtype=float).reshape(shape)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(numbers)
    for value in (tensors, pa.chunked_array([tensors[:1], tensors[1:]])):
        assert_array_equal(L2(value, 0 * numbers), L2(numbers, 0 * numbers))
    null = pa.array([[1.0, None]], pa.list_(pa.float64(), 2))
    tensors = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float64(), [2]), null)
    with pytest.raises(errors.DTypeError, match=r"pred\[0, 1\]: .*null"):
        L2(tensors, np.zeros((1, 2)))


def test_a_matrix_of_arrow_is_not_copied():
    rows = pa.array(np.arange(8.0).reshape(4, 2).tolist(), pa.list_(pa.float64(), 2))
    assert np.shares_memory(as_array("pred", rows), rows.flatten().to_numpy())


LISTS = {
    "list": pa.list_(pa.int32()),
    "large list": pa.large_list(pa.int16()),
    "list view": pa.list_view(pa.int32()),
    "large list view": pa.large_list_view(pa.uint8()),
}
LABELS = [[1, 2], [0]]


@pytest.mark.parametrize("kind", LISTS.values(), ids=LISTS)
def test_lists_of_arrow_are_label_sequences(kind):
    expected = CTC(FRAMES, LABELS)
    whole = pa.array([[2], *LABELS, [1]], kind)
    for labels in (
        pa.array(LABELS, kind),
        whole[1:3],
        pa.chunked_array([pa.array(LABELS[:1], kind), pa.array(LABELS[1:], kind)]),
    ):
        assert_array_equal(CTC(FRAMES, labels), expected)
    for labels, place in (([[1], None], "1"), ([[1, 2], [0, None]], "1][1")):
        with pytest.raises(errors.LabelError, match=rf"label\[{place}\]".replace("][", r"\]\[")):
            CTC(FRAMES, pa.array(labels, kind))


def test_a_list_view_may_have_any_order():
    view = pa.ListViewArray.from_arrays([1, 0], [1, 2], pa.array([1, 0], pa.int32()))
    assert view.to_pylist() == [[0], [1, 0]]
    assert_array_equal(CTC(FRAMES, view), CTC(FRAMES, [[0], [1, 0]]))


def test_lists_of_polars_and_pandas_are_label_sequences():
    expected = CTC(FRAMES, LABELS)
    arrow = pd.ArrowDtype(pa.list_(pa.int64()))
    for labels in (pl.Series(LABELS), pd.Series(LABELS), pd.Series(LABELS, dtype=arrow)):
        assert_array_equal(CTC(FRAMES, labels), expected)
    with pytest.raises(errors.LabelError, match=r"label\[1\]"):
        CTC(FRAMES, pl.Series([[1], None]))


def test_two_indices_are_refused():
    pred = pd.DataFrame({"a": PRED}, index=[3, 4, 5])
    label = pd.Series(LABEL, index=[5, 4, 3])
    for other in (label, label.to_frame()):
        for aligned in (other.loc[pred.index], other.to_numpy()):
            refuse_misaligned({"pred": pred, "label": aligned, "sample_weight": PRED})
        with pytest.raises(errors.ShapeError, match="label: expected the index of pred"):
            refuse_misaligned({"pred": pred, "label": other})


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_columns_in_two_orders_are_refused(table):
    pred, label = table({"x": [1.0], "y": [5.0]}), table({"y": [1.0], "x": [5.0]})
    with pytest.raises(errors.ShapeError, match="label: expected the column 'y' where pred has it"):
        L2(pred, label)
    for other in (table({"y": [5.0]}), table({"z": [1.0], "x": [5.0]})):
        with pytest.raises(errors.ShapeError, match="label: expected"):
            L2(pred, other)
    for other in (pred, table({"p": [1.0], "q": [5.0]})):
        assert_array_equal(L2(pred, other), [0.0])


def test_indices_of_objectives_metrics_and_means():
    one, other = pd.Series([1.0, 2.0]), pd.Series([2.0, 1.0], index=[1, 0])
    objective = boosting.xgboost(L2)
    for call in (
        lambda: boosting.Metric(L2)(one, other),
        lambda: objective(one, other),
        lambda: objective(one, [1.0, 2.0], sample_weight=other),
        lambda: objective.init_score(one, other),
        lambda: rl.Mean().update(one, other),
    ):
        with pytest.raises(errors.ShapeError, match="expected the index of"):
            call()
    assert boosting.Metric(L2)(one, other.loc[one.index]) == 0
    assert rl.Mean().update(one, other.loc[one.index]).result() == 5 / 3


def test_a_call_with_two_indices_is_refused():
    pred, label = pd.Series(PRED, index=[3, 4, 5]), pd.Series(LABEL, index=[5, 4, 3])
    for aligned in (label.loc[pred.index], label.to_numpy(), pd.Series(LABEL, index=[3, 4, 5])):
        assert_array_equal(L2(pred, aligned), L2(PRED, LABEL))
    for method in (L2, L2.value_and_grad, L2.grad, L2.grad_hess):
        with pytest.raises(errors.ShapeError, match="label: expected the index of pred"):
            method(pred, label)


def test_lazy_and_sparse_arrays_say_what_to_do():
    da, dd = pytest.importorskip("dask.array"), pytest.importorskip("dask.dataframe")
    for array, remedy in (
        (da.zeros(3), r"each block.*pred\.compute\(\)"),
        (dd.from_pandas(pd.Series(PRED)), r"each block.*pred\.compute\(\)"),
        (scipy_sparse.csr_array(MATRIX), r"pred\.todense\(\)"),
        (scipy_sparse.coo_matrix(MATRIX), r"pred\.todense\(\)"),
        (pl.DataFrame(RECORDS).lazy(), r"pred\.collect\(\)"),
    ):
        with pytest.raises(errors.DTypeError, match=remedy):
            L2(array, LABEL)


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_polars_queries(engine):
    rng = np.random.default_rng(0)
    n = 100_000
    pred, label = rng.normal(size=n), rng.integers(0, 2, n).astype(float)
    loss = rl.SigmoidBCELoss()
    column = pl.map_batches(
        ["pred", "label"], lambda s: loss(*s), return_dtype=pl.Float64, is_elementwise=True
    )
    query = pl.LazyFrame({"pred": pred, "label": label}).with_columns(loss=column)
    assert_array_equal(query.collect(engine=engine)["loss"].to_numpy(), loss(pred, label))


# Engines

DASK = """
import dask.array as da

def run(rows):
    pred, label = (da.arange(rows, chunks={chunk}, dtype="f4") + x for x in (1, 0))
    losses = da.map_blocks(loss, pred, label, dtype="f4")
    total = losses.sum(dtype="f8").compute(scheduler="threads", num_workers=2)
    return total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
"""
RAY = """
import ray
ray.init(num_cpus=1, object_store_memory=2**27, include_dashboard=False, log_to_driver=False)

def private_memory():
    # The rest is Ray's object store, whose size is given above.
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024

def score(batch):
    pred = batch["id"].astype("f4")
    total = loss(pred + 1, pred).sum(dtype="f8")
    return {{"total": [total], "memory": [private_memory()]}}

def run(rows):
    table = ray.data.range(rows, override_num_blocks=rows // {chunk})
    found = table.map_batches(score, batch_size={chunk}).take_all()
    return sum(row["total"] for row in found), max(row["memory"] for row in found)
"""
MEASURED = """
import resource
import rustloss as rl
loss = rl.L2Loss()
{script}
for rows in {sizes}:
    print("MEASURED", *run(rows))
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", [DASK, RAY], ids=["dask", "ray"])
def test_ten_million_rows_take_the_memory_of_chunks(script):
    code = MEASURED.format(script=script.format(chunk=CHUNK), sizes=(FEW_ROWS, ROWS))
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"RAY_DATA_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split()[1:] for line in ran.stdout.splitlines() if line.startswith("MEASURED")]
    (few, little), (many, much) = [map(float, line) for line in lines]
    assert (few, many) == (FEW_ROWS / 2, ROWS / 2)
    assert much - little < GROWTH


def test_dask_finds_the_type_by_an_empty_call():
    da = pytest.importorskip("dask.array")
    rows = da.arange(10, chunks=4, dtype="f4")
    losses = da.map_blocks(L2, rows, rows + 2)
    assert losses.dtype == np.float32
    assert_array_equal(losses.compute(), np.full(10, 2.0))


# Processes

CHUNKS = [(PRED[:2], LABEL[:2]), (PRED[2:], LABEL[2:])]


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method):
    big = np.ones(1_000_000)
    L2(big, big)  # threads are at work before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.starmap(L2, [*CHUNKS, (big, 3 * big)])
    assert_array_equal(np.concatenate(found[:2]), L2(PRED, LABEL))
    assert_array_equal(found[2], 2 * big)


def test_loky():
    executor = loky.get_reusable_executor(max_workers=2)
    found = list(executor.map(L2, *zip(*CHUNKS, strict=True)))
    executor.shutdown()
    assert_array_equal(np.concatenate(found), L2(PRED, LABEL))


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_joblib_with_arrays_in_shared_memory(backend):
    pred = np.random.default_rng(0).normal(size=(8, 50_000))
    tasks = (joblib.delayed(L2)(x, 0 * x) for x in pred)
    found = joblib.Parallel(2, backend=backend, max_nbytes="10K")(tasks)
    assert_array_equal(found, [L2(x, 0 * x) for x in pred])


# Pickles

BYTES = """
import hashlib, pickle, cloudpickle, dill
import rustloss as rl
from rustloss import _core, boosting
values = [getattr(rl, row["name"])() for row in _core.registry()]
values += [make(rl.L2Loss(), hessian="one") for make in (boosting.xgboost, boosting.lightgbm)]
values += [boosting.catboost(rl.SoftmaxCELoss()), boosting.Metric(rl.HuberLoss(rho=2))]
for module in (pickle, dill, cloudpickle):
    for value in values:
        assert module.loads(module.dumps(value)) == value
        print(hashlib.sha256(module.dumps(value)).hexdigest())
"""


def test_bytes_of_two_processes_are_equal():
    found = [
        subprocess.run(
            [sys.executable, "-c", BYTES],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert found[0] == found[1]
    assert len(found[0].split()) == 3 * (len(_core.registry()) + 4)


@pytest.mark.parametrize("name", [row["name"] for row in _core.registry()])
@pytest.mark.parametrize("module", [dill, cloudpickle], ids=lambda module: module.__name__)
def test_a_loss_from_another_process_is_the_same(module, name):
    loss = getattr(rl, name)()
    call = example(loss)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(module.loads(module.dumps(loss)), (), call)
    assert_array_equal(found, loss(**call))
