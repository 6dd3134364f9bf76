"""Arguments of other libraries, and arguments that do as they like."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from rustloss import errors
from rustloss._interop import as_array, refuse_misaligned

L2, CE = rl.L2Loss(), rl.SoftmaxCrossEntropyLoss()
PRED, LABEL = np.array([1.0, 2.0, 3.0]), np.zeros(3)
AT_ONCE = 0.1
"""Seconds."""


def foreign(module: str, name: str = "Tensor", **attributes: Any) -> Any:
    """Return an object of a class of another library, which counts what it is asked for."""

    def length(self: Any) -> int:
        self.asked += 1
        return 10**9

    def item(self: Any, _: int) -> Any:
        self.asked += 1
        return self

    methods = {"__len__": length, "__getitem__": item, "asked": 0}
    return type(name, (), {"__module__": module, **methods, **attributes})()


# Arrays of other libraries


class Device:
    def __init__(self, kind: str) -> None:
        self.type = kind


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (foreign("mxnet.ndarray.ndarray", "NDArray"), r"pass X\.asnumpy\(\)"),
        (foreign("mxnet.numpy.multiarray", "ndarray"), r"pass X\.asnumpy\(\)"),
        (foreign("torch", requires_grad=True), r"pass X\.detach\(\)\.numpy\(\)"),
        (foreign("torch.nn.parameter", requires_grad=True), r"pass X\.detach\(\)\.numpy\(\)"),
        (foreign("torch", device=Device("cuda")), r"pass X\.cpu\(\)\.numpy\(\)"),
        (foreign("torch", dtype="torch.bfloat16"), r"pass X\.float\(\)\.numpy\(\)"),
        (
            foreign("torch", requires_grad=True, device=Device("mps"), dtype="torch.bfloat16"),
            r"pass X\.detach\(\)\.cpu\(\)\.float\(\)\.numpy\(\)",
        ),
        (foreign("cupy", __cuda_array_interface__={}), r"copy it to the host .* X\.get\(\)"),
        (foreign("dask.array.core", "Array"), r"each block, .* or pass X\.compute\(\)"),
        (foreign("scipy.sparse", "csr_array", todense=None), r"pass X\.todense\(\)"),
        (foreign("polars.lazyframe.frame", "LazyFrame", collect=None), r"pass X\.collect\(\)"),
        (foreign("tensorflow.python.framework.ops", "SymbolicTensor"), r"tf\.numpy_function"),
        (
            foreign("jax._src.interpreters.partial_eval", "DynamicJaxprTracer"),
            r"through jax\.pure_callback|as by jnp\.stack\(pred\)",
        ),
    ],
)
def test_arrays_that_must_be_converted_say_how(array, remedy):
    start = time.perf_counter()
    for name, call in {
        "pred": lambda: L2(array, LABEL),
        "label": lambda: L2(PRED, array),
        "sample_weight": lambda: L2(PRED, LABEL, array),
        "grad_output": lambda: L2.grad(PRED, LABEL, grad_output=array),
    }.items():
        with pytest.raises(errors.DTypeError, match=remedy.replace("X", name)) as caught:
            call()
        assert caught.value.argument == name
    with pytest.raises(errors.DTypeError, match=remedy.replace("X", r"pred\[0\]")):
        L2([array, array], LABEL)
    assert array.asked == 0
    assert time.perf_counter() - start < AT_ONCE


def test_arrays_that_numpy_can_read_are_taken():
    def read(*_: Any, **__: Any) -> Any:
        return PRED.copy()

    for array in (
        foreign("torch", requires_grad=False, device=Device("cpu"), __array__=read),
        foreign("tensorflow.python.framework.ops", numpy=None, __array__=read),
        foreign("jaxlib._jax", "ArrayImpl", __array__=read),
    ):
        assert_array_equal(L2(array, LABEL), L2(PRED, LABEL))


@pytest.mark.parametrize("at", [(0,), (1,), (2, 1), (0, 1, 0)])
def test_a_masked_array_is_refused_at_any_depth_of_a_list(at):
    """What is behind a mask is no number, wherever the array stands."""
    values: Any = np.ma.masked_array([1.0, 999.0], [False, True])
    for i in reversed(at):
        values = [*[[1, 1]] * i, values]
    place = "".join(rf"\[{i}\]" for i in at)
    for call in (lambda: L2(values, LABEL), lambda: L2.grad(tuple(values), LABEL)):
        with pytest.raises(errors.DTypeError, match=rf"pred{place}: .* got a masked") as caught:
            call()
        assert (caught.value.argument, caught.value.index) == ("pred", at)
    with pytest.raises(errors.DTypeError, match=r"pred\[1\]: .* got a masked"):
        L2([1.0, np.ma.masked], LABEL[:2])


def test_a_list_is_looked_at_to_its_end():
    tensor = foreign("torch", requires_grad=True)
    with pytest.raises(errors.DTypeError, match=r"pred\[2\]: .* pass pred\[2\]\.detach\(\)"):
        L2([1.0, 2.0, tensor], LABEL)
    assert tensor.asked == 0
    endless: list[Any] = [1.0]
    endless += [endless, endless]
    with pytest.raises(errors.DTypeError, match="pred"):
        L2(endless, LABEL)


# DLPack


class Exported:
    """An array that DLPack alone leads to."""

    def __init__(self, array: Any, device: int = 1) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


def test_dlpack_is_read_without_a_copy():
    for array in (PRED, PRED.astype(np.float32), np.arange(6)[::2]):
        assert np.shares_memory(as_array("pred", Exported(array)), array)
        assert_array_equal(L2(Exported(array), LABEL), L2(array, LABEL))
    assert_array_equal(L2(PRED, LABEL, Exported(PRED)), L2(PRED, LABEL, PRED))
    pred, ctc = np.zeros((2, 6, 4)), rl.CTCLoss()
    label = np.array([[0, 1], [2, 2]])
    for form in (Exported(label), [Exported(label[0]), Exported(label[1])]):
        assert_array_equal(ctc(pred, form), ctc(pred, label))
    assert_array_equal(ctc(pred, [[0, 1], Exported(label[1, :1])]), ctc(pred, [[0, 1], [2]]))


def test_dlpack_that_cannot_be_read_is_told_what_to_do():
    text = r"DLPack's device 2; copy it to the host first"
    for name, call in {
        "pred": lambda: L2(Exported(PRED, 2), LABEL),
        "grad_output": lambda: L2.grad(PRED, LABEL, grad_output=Exported(PRED, 2)),
    }.items():
        with pytest.raises(errors.DTypeError, match=rf"{name}: .*Exported on {text}") as caught:
            call()
        assert caught.value.argument == name
    with pytest.raises(errors.DTypeError, match=rf"label\[1\]: .*{text}") as caught:
        rl.CTCLoss()(np.zeros((2, 6, 4)), [[1], Exported(np.ones(2, int), 2)])
    assert caught.value.index == (1,)
    with pytest.raises(errors.DTypeError, match=r"pred\[0\]: .* pass np\.from_dlpack\(pred\[0\]\)"):
        L2([Exported(PRED)], LABEL)
    for broken in (look_alike(__dlpack__=None), look_alike(__dlpack__=1, __dlpack_device__=1)):
        with pytest.raises(errors.DTypeError, match="pred: expected an array of real numbers"):
            L2(broken, LABEL)


# Nulls


class Column:
    """What the columns below have in common."""

    def __init__(self, numbers: list[float | None]) -> None:
        self.numbers = numbers

    def mask(self) -> Any:
        return np.array([x is None for x in self.numbers])

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([np.nan if x is None else x for x in self.numbers], dtype)


class PandasColumn(Column):
    dtype: Any = "Int64Dtype"

    def isna(self) -> Any:
        return self.mask()


class ArrowColumn(Column):
    @property
    def null_count(self) -> int:
        return int(self.mask().sum())

    def is_null(self) -> Any:
        return self.mask()


class PolarsColumn(Column):
    def null_count(self) -> int:
        return int(self.mask().sum())

    def is_null(self) -> Any:
        return self.mask().tolist()


class Table:
    """A table of columns."""

    def __init__(self, *columns: Column) -> None:
        self.parts = columns

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.stack([np.asarray(c) for c in self.parts], axis=1)


class PandasTable(Table):
    columns = ("a", "b")

    @property
    def dtypes(self) -> Any:
        return [c.dtype for c in self.parts if isinstance(c, PandasColumn)]

    def isna(self) -> Any:
        return np.stack([c.mask() for c in self.parts], axis=1)


class ArrowTable(Table):
    def itercolumns(self) -> Any:
        return iter(self.parts)


class PolarsTable(Table):
    def get_columns(self) -> Any:
        return list(self.parts)


COLUMNS: list[type[Column]] = [PandasColumn, ArrowColumn, PolarsColumn]
TABLES: list[tuple[type[Table], type[Column]]] = [
    (PandasTable, PandasColumn),
    (ArrowTable, ArrowColumn),
    (PolarsTable, PolarsColumn),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_nulls_of_a_column_are_an_error_that_names_the_row(column):
    full, holed = column([1, 2, 3]), column([1, 2, None])
    assert_array_equal(L2(full, LABEL), L2(PRED, LABEL))
    bce = rl.SigmoidBCELoss()
    calls: dict[str, Callable[[], Any]] = {
        "pred": lambda: L2(holed, LABEL),
        "label": lambda: L2(PRED, holed),
        "sample_weight": lambda: L2(PRED, LABEL, holed),
        "pos_weight": lambda: bce([PRED], [LABEL], None, holed),
        "grad_output": lambda: L2.grad(PRED, LABEL, grad_output=holed),
    }
    for name, call in calls.items():
        with pytest.raises(errors.DTypeError, match=rf"{name}\[2\]: .* got a null") as caught:
            call()
        assert (caught.value.argument, caught.value.index) == (name, (2,))
    with pytest.raises(errors.DTypeError, match=r"label\[2\]: .* got a null"):
        CE(np.zeros((3, 5)), holed)


@pytest.mark.parametrize(("table", "column"), TABLES)
def test_nulls_of_a_table_are_an_error_that_names_row_and_column(table, column):
    label, full = np.zeros((3, 2)), column([1, 2, 3])
    assert_array_equal(L2(table(full, full), label), PRED**2 / 2)
    with pytest.raises(errors.DTypeError, match=r"pred\[1, 1\]: .* got a null"):
        L2(table(full, column([1, None, None])), label)


def test_nan_of_a_plain_column_is_a_number():
    column = PandasColumn([1, 2, None])
    column.dtype = np.dtype(np.float64)
    assert_array_equal(L2(column, LABEL), [0.5, 2.0, np.nan])


# Indices


class Index:
    """What pandas's index has to say."""

    def __init__(self, *labels: int) -> None:
        self.labels = labels

    def equals(self, other: Index) -> bool:
        return self.labels == other.labels

    def __str__(self) -> str:
        return f"Index({self.labels})"


def indexed(*labels: int) -> Any:
    return look_alike(index=Index(*labels))


def test_two_indices_in_one_call_are_refused():
    pred, other = indexed(0, 1, 2), indexed(2, 1, 0)
    for named in (
        {"pred": pred, "label": pred, "sample_weight": indexed(0, 1, 2)},
        {"pred": PRED, "label": other, "sample_weight": indexed(2, 1, 0)},
        {"pred": [1.0], "label": (2.0,), "sample_weight": None},
    ):
        refuse_misaligned(named)
    text = r"sample_weight: expected the index of label, got another, Index\(\(2, 1, 0\)\)"
    with pytest.raises(errors.ShapeError, match=text) as caught:
        refuse_misaligned({"pred": PRED, "label": pred, "sample_weight": other})
    assert caught.value.argument == "sample_weight"
    assert "sample_weight.loc[label.index]" in str(caught.value)
    with pytest.raises(errors.ShapeError, match="label: expected the index of pred"):
        L2(pred, label=other)


# Objects that do as they like

HOOK = """
import warnings
import numpy as np
import rustloss as rl

pred, label = np.ones(100_000), np.zeros(100_000)
warnings.showwarning = lambda *_: pred.resize(1, refcheck=False)
try:
    rl.L2Loss()(pred, label)
except rl.errors.ShapeError as error:
    print(error)
"""


def test_warning_filter_that_takes_memory_away():
    environment = os.environ | {"RUSTLOSS_NUM_THREADS": "spam"}
    ran = subprocess.run(
        [sys.executable, "-c", HOOK], env=environment, capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("label: expected pred's shape"), ran


class Converted:
    """Runs `action` when it is converted."""

    def __init__(self, action: Callable[[], Any], numbers: Any) -> None:
        self.action, self.numbers = action, numbers

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.action()
        return np.array(self.numbers)


def look_alike(**attributes: Any) -> Any:
    return type("LookAlike", (), attributes)()


def set_dtype(array: Any, dtype: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.dtype = dtype


def set_shape(array: Any, shape: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        array.shape = shape


def test_conversion_that_changes_the_type_of_another_argument():
    pred = np.arange(4.0)
    label = Converted(lambda: set_dtype(pred, np.int64), np.zeros(4))
    # What a call sees is the array as it is after all conversions.
    expected = L2(np.arange(4.0).view(np.int64), np.zeros(4))
    assert_array_equal(L2(pred, label), expected)
    pred = np.arange(4.0)
    with pytest.raises(errors.DTypeError, match=r"pred: .* during the call"):
        L2(pred, Converted(lambda: set_dtype(pred, "M8[s]"), np.zeros(4)))


def test_conversion_that_changes_the_shape_of_another_argument():
    pred = np.arange(4.0)
    label = Converted(lambda: set_shape(pred, (2, 2)), np.zeros((2, 2)))
    assert_array_equal(L2(pred, label), [0.25, 3.25])


def test_conversion_that_resizes_another_argument():
    pred, out = np.arange(4.0), np.zeros(4)

    def shrink() -> None:
        # NumPy refuses it for an array that others refer to.
        with pytest.raises(ValueError, match="referenc"):
            pred.resize(1)
        with pytest.raises(ValueError, match="referenc"):
            out.resize(1)

    for options in ({}, {"sample_weight": Converted(shrink, 1.0)}):
        label = Converted(shrink, np.zeros(4))
        assert_array_equal(L2(pred, label, out=out, **options), np.arange(4.0) ** 2 / 2)


def test_conversion_that_takes_memory_away():
    pred = np.arange(1000.0)
    label = Converted(lambda: pred.resize(1, refcheck=False), np.zeros(1000))
    with pytest.raises(errors.ShapeError, match=r"label: .*\(pred has shape \(1,\)\)"):
        L2(pred, label)


def test_conversion_that_changes_an_output():
    out = np.zeros(4)
    label = Converted(lambda: set_dtype(out, np.int64), np.zeros(4))
    with pytest.raises(errors.OutputError, match="out: expected dtype float64, got int64"):
        L2(np.arange(4.0), label, out=out)
    assert not out.any()
    grad_output = Converted(lambda: out.setflags(write=False), 1.0)
    out = np.zeros(4)
    with pytest.raises(errors.OutputError, match="read-only"):
        L2.grad(np.arange(4.0), np.zeros(4), grad_output=grad_output, grad_out=out)


@pytest.mark.parametrize(
    "error", [RuntimeError, IndexError, KeyError, AttributeError, UnicodeError, RecursionError]
)
def test_conversion_that_fails(error):
    def fail() -> None:
        raise error("spam")

    for odd in (
        Converted(fail, 1.0),
        look_alike(is_null=lambda _: fail()),
        look_alike(isna=lambda _: fail(), dtype=None),
        look_alike(get_columns=lambda _: fail()),
    ):
        with pytest.raises(errors.DTypeError, match=r"label: .*spam") as caught:
            L2(PRED, odd)
        assert isinstance(caught.value.__cause__, error)


def test_memory_that_a_conversion_lacks_is_no_error_of_types():
    def fail() -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        L2(PRED, Converted(fail, 1.0))


@pytest.mark.parametrize(
    "attributes",
    [
        {"isna": 1},
        {"isna": lambda _: [True], "dtype": None},
        {"is_null": None},
        {"is_null": lambda _: "spam"},
        {"is_null": lambda _: [[[]]]},
        {"itercolumns": lambda _: 1},
        {"get_columns": lambda _: []},
        {"get_columns": lambda _: [None]},
        {"isna": lambda _: [[True]], "dtypes": [None], "columns": 1},
    ],
)
def test_look_alikes(attributes):
    with pytest.raises(errors.DTypeError, match="label"):
        L2(PRED, look_alike(**attributes))


def test_parameters_that_fail():
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError

        def __float__(self) -> float:
            raise RuntimeError

    make: Any = rl.HuberLoss
    with pytest.raises(errors.ParameterError, match="rho"):
        make(rho=Odd())
    with pytest.raises(errors.ParameterError, match="denominator"):
        L2(PRED, LABEL, denominator=Odd())
    with pytest.raises(errors.ParameterError, match="wrt"):
        L2.grad(PRED, LABEL, wrt=Odd())
