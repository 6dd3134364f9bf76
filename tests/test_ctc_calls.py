"""CTC: forms of labels, calls that are refused and what they say, memory between calls."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import types
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss import errors
from utterances import LOSS, everything, random_utterances

pytestmark = pytest.mark.loss("CTCLoss")

INF, NAN = np.inf, np.nan

CHILD = """
import json, sys
import numpy as np
import rustloss as rl
arguments = json.loads(sys.argv[1])
loss = rl.CTCLoss(blank=0)
pred = np.linspace(-1, 1, 60, dtype=np.float32).reshape(2, 6, 5)
found = []
for call in (loss, loss.value_and_grad, loss.posteriors, loss.align):
    try:
        call(pred, **arguments)
    except Exception as error:
        found.append([type(error).__name__, str(error), error.argument, error.index, error.value])
    else:
        found.append(None)
print(json.dumps(found))
"""
CALLS = 4
VALID: dict[str, Any] = {
    "label": [[1, 2, 3], [2, 3, 4]],
    "pred_lengths": [6, 6],
    "label_lengths": [3, 3],
}
IN_RANGE = "expected an integer with 0 <= label < 5 that is not the blank, 0"
COUNTED = "; label_lengths counts it as a label"
INVALID = {
    "label of C": ("label", [0, 1], 5, IN_RANGE),
    "label of 2^53 + 1": ("label", [0, 1], 2**53 + 1, IN_RANGE),
    "label of -1 inside the length": ("label", [0, 1], -1, IN_RANGE),
    "label of -2e9": ("label", [1, 0], -2_000_000_000, IN_RANGE),
    "label of the blank": ("label", [1, 2], 0, IN_RANGE),
    "input length beyond T": ("pred_lengths", [1], 100, "expected an integer from 0 to 6"),
    "input length of -5": ("pred_lengths", [1], -5, "expected an integer from 0 to 6"),
    "target length beyond L": ("label_lengths", [1], 50, "expected an integer from 0 to 3"),
    "target length of -4": ("label_lengths", [1], -4, "expected an integer from 0 to 3"),
}


def answers(arguments: dict[str, Any]) -> list[Any]:
    """Make the calls in a process of their own, and see how it ends."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


def test_valid_call() -> None:
    assert answers(VALID) == [None] * CALLS


@pytest.mark.parametrize("case", INVALID)
def test_invalid_call(case: str) -> None:
    argument, index, value, expected = INVALID[case]
    array = np.array(VALID[argument])
    array[tuple(index)] = value
    kind = "LabelError" if argument == "label" else "LengthError"
    place = "".join(f"[{i}]" for i in index)
    remedy = COUNTED if argument == "label" and value <= 0 else ""
    text = f"{argument}{place}: {expected}, got {value}{remedy}"
    error = [kind, text, argument, index, value]
    assert answers(VALID | {argument: array.tolist()}) == [error] * CALLS


@pytest.mark.parametrize("method", ["__call__", "value_and_grad", "posteriors", "align"])
def test_too_few_frames_may_raise(method: str) -> None:
    call = getattr(rl.CTCLoss(blank=0, infeasible="raise"), method)
    call(np.zeros((2, 3, 4)), [[1, 2, 3], [1, 1, -1]])
    text = r"pred_lengths\[1\]: .*at least 4 frames for the 3 labels of sample 1, got 3"
    with pytest.raises(errors.LengthError, match=text) as raised:
        call(np.zeros((2, 3, 4)), [[1, 2, 3], [1, 1, 2]])
    assert (raised.value.index, raised.value.value) == ((1,), 3)


@pytest.mark.parametrize("method", ["__call__", "value_and_grad", "posteriors", "align"])
def test_memory_limit_says_what_would_do(method: str) -> None:
    rng = np.random.default_rng(0)
    batch = random_utterances(rng, 1, 300, 8, 60, 1.0)
    free = getattr(rl.CTCLoss(blank=batch.blank), method)(**batch.inputs)
    with pytest.raises(
        MemoryError, match=r"memory_limit: sample 0 needs .*at least \d+ bytes"
    ) as raised:
        getattr(rl.CTCLoss(blank=batch.blank, memory_limit=1000), method)(**batch.inputs)
    least = int(str(raised.value).split()[-2])
    held = rl.CTCLoss(blank=batch.blank, memory_limit=least)
    with pytest.raises(MemoryError):
        getattr(rl.CTCLoss(blank=batch.blank, memory_limit=least - 1), method)(**batch.inputs)
    bound = getattr(held, method)(**batch.inputs)
    if method == "align":
        free, bound = free.index, bound.index
    assert_array_equal(np.concatenate(free, axis=None), np.concatenate(bound, axis=None))


# Forms of labels

PRED = np.random.default_rng(0).normal(size=(3, 7, 5))


def assert_same(label: Any, expected: Any, pred: Any = PRED, **params: Any) -> None:
    """Compare all that two forms of labels give."""
    loss = rl.CTCLoss(blank=0, **params)
    found, exact = everything(loss, pred=pred, label=label), everything(loss, **expected)
    for name, array in exact.items():
        assert_array_equal(found[name], array, err_msg=name)


def test_rows_of_one_length_are_padded_and_others_are_not() -> None:
    rows = [[1, 2, 3], [3, -1, -1], [-1, 4, 4]]
    counts = {"pred": PRED, "label": [1, 2, 3, 3], "label_lengths": [3, 1, 0]}
    forms: list[Any] = [rows, tuple(map(tuple, rows)), np.array(rows), [np.array(r) for r in rows]]
    for form in [*forms, FixedSizeLists(rows)]:
        assert_same(form, counts)
    for form in ([[1, -1, -1], [3], [2]], Lists([[1, -1, -1], [3], [2]])):
        text = r"label\[0\]\[1\]: .* got -1; sequences of different lengths need no padding"
        with pytest.raises(errors.LabelError, match=text) as raised:
            rl.CTCLoss(blank=0)(PRED, form)
        assert (raised.value.index, raised.value.value) == ((0, 1), -1)


def test_a_list_is_one_sequence_for_each_sample_in_any_layout() -> None:
    rows = [[1, 2, 3], [3, 2, 4], [1, 4, 2]]
    expected = {"pred": PRED, "label": np.array(rows).T}
    for form in (rows, Lists(rows), [np.array(row) for row in rows]):
        assert_same(form, expected, label_layout="TN")
    ragged = [[1, 2], [3], []]
    flat = {"pred": PRED, "label": [1, 2, 3], "label_lengths": [2, 1, 0]}
    for form in (ragged, Lists(ragged)):
        assert_same(form, flat, label_layout="TN")
    with pytest.raises(errors.ShapeError, match=r"label: expected 3 sequences, .* got 2"):
        rl.CTCLoss(blank=0)(PRED, [[1], [2, 3]])
    with pytest.raises(errors.ShapeError, match=r"label: expected 3 sequences, .* got 2"):
        rl.CTCLoss(blank=0)(PRED, [[1, 2], [2, 3]])
    with pytest.raises(errors.ShapeError, match=r"label: expected 3 sequences, .* got 0"):
        rl.CTCLoss(blank=0)(PRED, [])


def test_no_samples() -> None:
    forms: list[Any] = [[], np.empty(0, int), np.empty((0, 3), int), Lists([]), Lists([], [])]
    for label in forms:
        loss = rl.CTCLoss()
        value, grad = loss.value_and_grad(PRED[:0], label)
        assert (value.shape, grad.shape) == ((0,), (0, 7, 5))
        assert loss.posteriors(PRED[:0], label).shape == (0, 7, 0)
        assert loss.align(PRED[:0], label).index.shape == (0, 7)
    assert rl.CTCLoss("TC")(PRED[0], []) > 0


class Lists:
    """Looks like an Arrow list array; None is a null, over values that are hidden."""

    def __init__(self, rows: list[Any], offsets: Any = None) -> None:
        hidden: list[Any] = [[1, 1] if row is None else row for row in rows]
        self.values = Values([99, *itertools.chain(*hidden), 99])
        counted = np.cumsum([1, *map(len, hidden)])
        self.offsets = np.array(counted if offsets is None else offsets, np.int32)
        self._null = np.array([row is None for row in rows])
        self.null_count = int(self._null.sum())

    def is_null(self) -> Any:
        return self._null


class Values:
    """Looks like an Arrow array of numbers."""

    def __init__(self, values: list[Any]) -> None:
        self._values = np.array(values, float)
        self.null_count = int(np.isnan(self._values).sum())

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, part: slice) -> Values:
        return Values(list(self._values[part]))

    def __array__(self, *_: Any, **__: Any) -> Any:
        return self._values

    def is_null(self) -> Any:
        return np.isnan(self._values)


class FixedSizeLists:
    """Looks like an Arrow array of lists of one size."""

    def __init__(self, rows: list[Any]) -> None:
        self._rows = rows
        self.null_count = rows.count(None)
        width = next(len(row) for row in rows if row is not None)
        self.type = types.SimpleNamespace(list_size=width)

    def __len__(self) -> int:
        return len(self._rows)

    def is_null(self) -> Any:
        return np.array([row is None for row in self._rows])

    def flatten(self) -> Values:
        return Values(list(itertools.chain(*(row for row in self._rows if row is not None))))


@pytest.mark.parametrize(
    ("label", "place", "index"),
    [
        ([[1, 2], None, [3]], r"\[1\]", (1,)),
        ([[1, 2], [3, 4], [1, None]], r"\[2\]\[1\]", (2, 1)),
        (Lists([[1, 2], None, [3]]), r"\[1\]", (1,)),
        (Lists([[1, 2], [3], [4, NAN]]), r"\[2\]\[1\]", (2, 1)),
        (FixedSizeLists([[1, 2], [3, 4], None]), r"\[2\]", (2,)),
        (FixedSizeLists([[1, 2], [NAN, 4], [1, 1]]), r"\[1\]\[0\]", (1, 0)),
        (np.array([[1, 2], None, [3]], dtype=object), r"\[1\]", (1,)),
    ],
)
def test_a_null_is_named(label: Any, place: str, index: tuple[int, ...]) -> None:
    with pytest.raises(errors.LabelError, match=f"^label{place}: expected") as raised:
        rl.CTCLoss(blank=0)(PRED, label)
    assert (raised.value.argument, raised.value.index) == ("label", index)


class Broken:
    """Cannot be converted."""

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("spam")


@pytest.mark.parametrize(
    ("label", "index", "cause"),
    [
        ([[0, [1]], [1, 2]], (0,), ValueError),
        ([[1, 2], [[1, 2], [3]]], (1,), ValueError),
        ([[1, 2], Broken(), [3]], (1,), ZeroDivisionError),
        ([Broken(), Broken(), Broken()], (0,), ZeroDivisionError),
        ([[1], [2, Broken()], [3]], (1,), ZeroDivisionError),
        ([[1], [2, np.array([1, 2]), None], [3]], (1, 2), None),
        ([[1], [2, np.array([1, 2])], [3]], (1,), ValueError),
        ([[1], "ab", [3]], (1,), None),
    ],
)
def test_an_odd_sequence_is_named(label: Any, index: tuple[int, ...], cause: Any) -> None:
    place = "".join(rf"\[{i}\]" for i in index)
    with pytest.raises(errors.ArgumentError, match=f"^label{place}: expected") as raised:
        rl.CTCLoss(blank=0)(PRED, label)
    assert type(raised.value) in (errors.DTypeError, errors.LabelError)
    assert (raised.value.argument, raised.value.index) == ("label", index)
    assert isinstance(raised.value.__cause__, cause or types.NoneType)


def test_a_look_alike_whose_parts_fail_is_named() -> None:
    class Failing(Lists):
        @property
        def sizes(self) -> Any:
            raise ZeroDivisionError("spam")

    with pytest.raises(errors.DTypeError, match=r"^label: .*spam"):
        rl.CTCLoss(blank=0)(PRED, Failing([[1], [2], [3]]))


@pytest.mark.parametrize("offsets", [[1, 4, 2, 5], [-1, 2, 3, 4], [1, 2, 3, 900], [[1, 2, 3, 4]]])
def test_offsets_of_a_look_alike_are_checked(offsets: Any) -> None:
    with pytest.raises(errors.ShapeError, match=r"^label: expected offsets that ascend"):
        rl.CTCLoss(blank=0)(PRED, Lists([[1, 2], [3], [4]], offsets))


@pytest.mark.parametrize("padding", [-100, 0])
def test_other_padding_is_told_what_would_do(padding: int) -> None:
    for label in ([[1, 2], [3, padding], [4, 4]], np.array([[1, 2], [3, padding], [4, 4]])):
        with pytest.raises(errors.LabelError, match=r"; padding is -1, .* label_lengths"):
            rl.CTCLoss(blank=0)(PRED, label)
    text = r"at least 3 frames for the 2 labels .*; padding is -1, .* label_lengths"
    with pytest.raises(errors.LengthError, match=text):
        rl.CTCLoss(infeasible="raise")(PRED[:1, :2], [[padding % 2, padding % 2]])


def test_shapes_are_printed_as_python_does() -> None:
    loss = rl.CTCLoss(blank=0)
    with pytest.raises(errors.ShapeError, match=r"pred: .* got shape \(7, 5\)"):
        loss(PRED[0], [[1]])
    with pytest.raises(errors.ShapeError, match=r"pred_lengths: .* \(3,\), got shape \(2,\)"):
        loss(PRED, [[1]] * 3, [1, 2])
    with pytest.raises(errors.ShapeError, match=r"label_offsets: .* \(4,\), got shape \(2,\)"):
        loss(PRED, np.array([1, 2]), label_offsets=[0, 2])
    with pytest.raises(errors.ParameterError, match=r"label: expected rows of one length"):
        loss(PRED, [[1], [2, 3], [4]], label_lengths=[1, 2, 1])


# Weights


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_weights_beyond_the_range_of_the_type(dtype: Any) -> None:
    """No 0 times infinity: the gradient is infinite, 0 where it is 0, or tiny."""
    pred = np.random.default_rng(1).normal(size=(2, 3, 4)).astype(dtype)
    pred[:, :, 3] = -2000
    loss = rl.CTCLoss(blank=0)
    _, plain = loss.value_and_grad(pred, [[1], [2]])
    value, grad = loss.value_and_grad(pred, [[1], [2]], sample_weight=[1e39, 1e-50])
    with np.errstate(over="ignore"):
        expected = (plain.astype(np.float64) * np.array([1e39, 1e-50])[:, None, None]).astype(dtype)
    assert_allclose(grad, expected, rtol=1e-2 if dtype == np.float16 else 1e-5)
    assert not np.isnan(value).any()
    assert not grad[:, :, 3].any()


def test_weight_0_removes_a_sample() -> None:
    pred = PRED.copy()
    pred[1] = NAN
    label = np.array([[1.0, 2.0], [NAN, NAN], [3.0, -1.0]])
    for grad_output in (INF, NAN):
        value, grad = rl.CTCLoss(blank=0).value_and_grad(
            pred, label, sample_weight=[1, 0, 1], grad_output=np.array([1.0, grad_output, 1.0])
        )
        assert value[1] == 0
        assert not grad[1].any()
        assert np.isfinite(grad).all()


def test_long_half_precision_utterances_have_a_loss() -> None:
    """Far beyond what float16 can hold."""
    pred = np.full((1, 4000, 3), -20, np.float16)
    pred[..., 0] = 0
    label = np.tile([1, 2], 1800)[None]
    exact = rl.CTCLoss(blank=0, reduction="sum")(pred.astype(np.float64), label)
    found = rl.CTCLoss(blank=0, reduction="sum")(pred, label)
    assert exact > 65504
    assert_allclose(found, exact, rtol=LOSS[np.float32])


# Memory


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_part_of_an_array_is_not_copied() -> None:
    """Rows with gaps between them, and classes that do not lie side by side."""
    script = """
import resource, sys
import numpy as np
import rustloss as rl
pred = np.zeros((8, 1000, 2000), np.float32)
part = eval(sys.argv[1])
loss = rl.CTCLoss(blank=0)
loss(part[:, :10], [[1, 2, 3]] * len(part))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loss(part, [[1, 2, 3]] * len(part))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10)
"""
    for part in ("pred[:, :, :1000]", "pred[:, ::2]", "pred.transpose(0, 2, 1)[:, :1000]"):
        done = subprocess.run(
            [sys.executable, "-c", script, part],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert int(done.stdout) < 8 << 20, part
