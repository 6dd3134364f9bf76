"""What the helpers for tests of one's own losses take, refuse and find, and the file to copy."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

import rustloss as rl
from rustloss.errors import DTypeError, ParameterError, ShapeError
from rustloss.testing import arguments, assert_parity, bad_calls, check_gradient, example, oracle
from rustloss.testing._registry import class_count, spec_of

ROOT = Path(__file__).parents[1]
SEARCH = settings(derandomize=True, database=None)
OF_CLASSES = [
    rl.SoftmaxCELoss(class_weight=[1, 2, 3]),
    rl.SoftmaxCELoss(class_weight=[1, 2, 3], sparse_label=False, axis=1),
    rl.MultiMarginLoss(class_weight=[1, 2]),
    rl.SoftmaxFocalLoss(alpha=[1, 2], axis=0, batch_axis=1),
    rl.PolyLoss(class_weight=[1, 2, 3, 4, 5, 6]),
    rl.MultiLabelSoftMarginLoss(class_weight=[1, 2]),
    rl.MultiQuantileLoss(quantiles=[0.1, 0.5, 0.9]),
]


def shown(mine: Any, loss: rl.Loss, **options: Any) -> list[str]:
    """Return the lines of what is found."""
    with pytest.raises(AssertionError) as caught:
        assert_parity(mine, loss, **options)
    return str(caught.value).splitlines()


# Rows and classes


def cross_entropy(logits: Any, label: Any) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(label)), label]


def triplet(pred: Any, positive: Any, negative: Any) -> Any:
    far, near = ((other - pred) ** 2 for other in (negative, positive))
    return np.maximum(near.sum(axis=1) - far.sum(axis=1) + 1, 0)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_ordinary_losses_of_rows(dtype):
    assert_parity(cross_entropy, rl.SoftmaxCELoss(reduction="none"), dtype=dtype)
    # Differences of large squares have fewer digits than the loss has.
    assert_parity(triplet, rl.TripletLoss(reduction="none"), dtype=dtype, large=dtype == "float64")
    fault, *_ = shown(lambda x, y: 2 * cross_entropy(x, y), rl.SoftmaxCELoss(reduction="none"))
    assert fault.startswith("value at [0] is 1.386294, expected 0.6931472: ")


def shapes_of(loss: rl.Loss, **options: Any) -> set[tuple[int, ...]]:
    """Return the shapes of the first inputs of the calls that `assert_parity` makes."""
    found = set()

    def mine(first: Any, *others: Any, **named: Any) -> Any:
        found.add(first.shape)
        return loss(first, *others, **named)

    assert_parity(mine, loss, max_examples=30, **options)
    return found


def test_shapes_of_parity_are_those_that_are_given():
    loss = rl.SoftmaxCELoss()
    assert shapes_of(loss, shape=(4, 1, 3)) == {(4, 1, 3)}
    assert shapes_of(rl.L2Loss(), shape=3) == {(3,)}
    assert shapes_of(rl.L2Loss(), shape=[2, 2]) == {(2, 2)}
    assert shapes_of(loss, shape=st.tuples(st.just(2), st.integers(2, 3))) == {(2, 2), (2, 3)}
    assert {max(shape) for shape in shapes_of(loss, max_side=2)} == {1, 2}
    assert {len(shape) for shape in shapes_of(rl.SoftmaxCELoss(axis=2))} == {3}
    assert {shape[1] for shape in shapes_of(rl.SoftmaxCELoss(class_weight=[1, 2], axis=1))} == {2}


def test_optional_inputs_that_are_given_are_always_there():
    found = []

    def mine(pred: Any, label: Any, **named: Any) -> Any:
        found.append(set(named))
        return rl.SigmoidBCELoss()(pred, label, **named)

    switches = {"pos_weight": True}
    assert_parity(mine, rl.SigmoidBCELoss(), optional=["sample_weight"], given=switches)
    assert {"pos_weight"} in found
    assert {"pos_weight", "sample_weight"} in found
    assert all("pos_weight" in names for names in found)


@pytest.mark.parametrize("loss", OF_CLASSES, ids=repr)
def test_losses_with_a_number_for_each_class(loss):
    assert_parity(loss, loss, max_examples=20, optional=["sample_weight"])
    spec = spec_of(loss)
    count = class_count(spec, loss._params)
    axis = example(loss)[spec.inputs[0].name].shape[loss._params["axis"]]
    assert axis == count
    own = {key: loss._params[key] for key, p in spec.params.items() if p.default is None}
    own = {key: value for key, value in own.items() if value is not None}

    @SEARCH
    @given(st.one_of(arguments(loss), arguments(type(loss), **own)))
    def check(call: Any) -> None:
        made, inputs = call
        assert {key: made._params[key] for key in own} == own
        assert inputs[spec.inputs[0].name].shape[made._params["axis"]] == count
        made(**inputs)

    check()


def test_options_are_kept():
    """Where one has no meaning without another, the other one follows it."""
    kept: dict[str, Any] = {"ignore_index": 1, "class_weight": (1.0, 2.0), "z_loss": 0.5}
    for name, value in kept.items():

        def differs(call: Any, name: str = name, value: Any = value) -> bool:
            return bool(call.loss._params[name] != value)

        with pytest.raises(NoSuchExample):
            find(arguments(rl.SoftmaxCELoss, **{name: value}), differs, settings=SEARCH)
    fixed = find(arguments("SoftmaxCELoss", class_weight=[1, 2, 3], shape=(3, 2)), lambda _: True)
    assert fixed.loss._params["axis"] % 2 == 0
    with pytest.raises(ParameterError, match="ignore_index: it needs sparse_label=True"):
        find(arguments("SoftmaxCELoss", ignore_index=1, sparse_label=False), lambda _: True)


# Large numbers


def naive_bce(pred: Any, label: Any) -> Any:
    with np.errstate(all="ignore"):
        return np.log1p(np.exp(pred)) - pred * label


def huber_wrong_far_away(pred: Any, label: Any) -> Any:
    error = pred - label
    size = np.abs(error)
    grad = np.where(size >= 100, 2.0, 1.0) * np.clip(error, -1, 1)
    return np.where(size <= 1, error**2 / 2, size - 0.5), grad


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_mistakes_in_large_numbers_are_found(dtype):
    fault, *_ = shown(naive_bce, rl.SigmoidBCELoss(reduction="none"), dtype=dtype)
    assert fault.startswith("value at [] is inf, expected ")
    # An ulp of an error in bfloat16 is more than the gradient, and few in float16 are that large.
    if dtype in {"float32", "float64"}:
        fault, *_ = shown(huber_wrong_far_away, rl.HuberLoss(reduction="none"), dtype=dtype)
        assert fault.startswith("d/dpred at ")
    assert_parity(huber_wrong_far_away, rl.HuberLoss(reduction="none"), dtype=dtype, large=False)


def test_large_numbers_are_as_large_as_the_loss_takes():
    def largest(loss: rl.Loss, **options: Any) -> float:
        sizes = []

        @settings(SEARCH, max_examples=200)
        @given(arguments(loss, **options))
        def look(call: Any) -> None:
            sizes.append(float(call.inputs["pred"].max()))
            value, grad = call.loss.value_and_grad(**call.inputs)
            assert np.isfinite(value).all()
            assert np.isfinite(grad).all()

        look()
        return max(sizes)

    loss: rl.Loss = rl.HuberLoss()
    assert largest(loss) <= 33
    assert 1000 < largest(loss, large=True) <= 8200
    assert 33 < largest(loss, large=True, dtype="float16") <= 130
    assert largest(rl.PoissonNLLLoss(), large=True, dtype="float32") <= 88


# What is shown


def test_a_function_without_a_name_is_told():
    loss = rl.L1Loss(reduction="none")
    _, which, mine, theirs = shown(lambda x, y: x - y, loss)
    assert which.startswith("# mine is the function that was compared: the lambda in line ")
    assert which.endswith(f" of {__file__}")
    assert mine == "mine(np.array(-1.0, 'float64'), np.array(0.0, 'float64'))"
    assert theirs.startswith("rl.L1Loss(reduction='none')(")
    _, which, mine, _ = shown(functools.partial(np.subtract), loss)
    assert which.endswith("functools.partial(<ufunc 'subtract'>)")
    assert mine.startswith("mine(")


class Named:
    def value(self, pred: Any, label: Any) -> Any:
        return pred - label


def test_what_is_shown_runs():
    loss = rl.L1Loss(reduction="none")
    for function in (lambda x, y: x - y, Named().value, rl.L2Loss(reduction="none")):
        for dtype in ("bfloat16", "float32"):
            _, *code = shown(function, loss, dtype=dtype)
            assert ("import ml_dtypes" in code) == (dtype == "bfloat16")
            exec("\n".join(code), {"mine": function, "rl": rl, "np": np})
    ctc = rl.CTCLoss(reduction="none")
    _, *code = shown(lambda x, *_: np.zeros(len(x)), ctc)
    assert "np.zeros((1, 0), 'int64')" in code[-1]
    exec(code[-1], {"rl": rl, "np": np})


def test_bounds_and_numbers_are_told_apart():
    ctc = rl.CTCLoss(reduction="none")
    fault, *_ = shown(lambda *args: ctc(*args) + 1e-9, ctc)
    assert "(1e-12 of the largest result, or of 1, and 2 ulp)" in fault
    is_, should = fault.partition(" is ")[2].partition(":")[0].split(", expected ")
    assert is_ != should
    with pytest.raises(AssertionError, match=r"is 2\.00000001\d+, by differences 2 \("):
        check_gradient(lambda x: (x**2, 2 * x + 2e-8), [1.0], rtol=1e-9)


# Wrong arguments

HUBER = rl.HuberLoss()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: assert_parity(len, rl.HuberLoss), TypeError, "loss: expected .* got <class"),  # type: ignore[arg-type]
        (lambda: assert_parity(len, "HuberLoss"), TypeError, "loss: expected .* got 'HuberLoss'"),  # type: ignore[arg-type]
        (lambda: assert_parity(1, HUBER), TypeError, "mine: expected a function.* got 1"),  # type: ignore[arg-type]
        (lambda: assert_parity(rl.HuberLoss, HUBER), TypeError, "mine: expected .* got <class"),
        (lambda: oracle(rl.HuberLoss), TypeError, "loss: expected a loss .* got <class"),  # type: ignore[arg-type]
        (lambda: oracle("HuberLoss"), TypeError, "loss: expected a loss .* got 'HuberLoss'"),  # type: ignore[arg-type]
        (lambda: example(rl.HuberLoss), TypeError, "loss: expected a loss .* got <class"),  # type: ignore[arg-type]
        (lambda: arguments("Huber"), TypeError, "loss: expected a loss .* got 'Huber'"),
        (lambda: arguments("errors"), TypeError, "loss: expected a loss .* got 'errors'"),
        (lambda: next(bad_calls("Huber")), TypeError, "loss: expected a loss .* got 'Huber'"),
        (lambda: check_gradient(rl.HuberLoss, 1.0), TypeError, "function: expected .* got <class"),
        (lambda: check_gradient(1), TypeError, "function: expected .* got 1"),  # type: ignore[arg-type]
        (lambda: check_gradient(np.sin, 1.0, gradient=1), TypeError, "gradient: expected .* got 1"),  # type: ignore[arg-type]
    ],
)
def test_wrong_losses_and_functions(call: Callable[[], Any], error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("draw", [arguments, functools.partial(assert_parity, len)])
@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"shape": "3"}, ParameterError, "shape: expected whole numbers .* got '3'"),
        ({"shape": (2, -1)}, ParameterError, r"shape: expected whole numbers .* got \(2, -1\)"),
        ({"shape": 2.5}, ParameterError, "shape: expected whole numbers .* got 2.5"),
        ({"shape": True}, ParameterError, "shape: expected whole numbers .* got True"),
        ({"max_side": 0}, ParameterError, "max_side: expected a whole number >= 1, got 0"),
        ({"max_side": 1.5}, ParameterError, "max_side: expected a whole number >= 1, got 1.5"),
        ({"dtype": "int8"}, DTypeError, "dtype: expected one of .*, got 'int8'"),
        ({"dtype": "spam"}, DTypeError, "dtype: expected one of .*, got 'spam'"),
        ({"dtype": int}, DTypeError, "dtype: expected one of .*, got <class 'int'>"),
        ({"given": "label"}, ParameterError, "given: expected a dictionary .* got 'label'"),
        ({"given": {"label": True}}, ParameterError, "given: expected names .* got 'label'"),
    ],
)
def test_wrong_options(draw, options, error, text):
    with pytest.raises(error, match=text) as caught:
        draw(HUBER, **options)
    assert caught.value.argument == next(iter(options))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: assert_parity(len, HUBER, optional="sample_weight"),
            "optional: .* as a list, got",
        ),
        (lambda: assert_parity(len, HUBER, optional=1), "optional: expected .* as a list, got 1"),  # type: ignore[arg-type]
        (lambda: assert_parity(len, HUBER, max_examples=0), "max_examples: expected a whole"),
        (lambda: assert_parity(len, HUBER, ulp=-1), "ulp: expected a number >= 0, got -1"),
        (lambda: example(HUBER, optional="sample_weight"), "optional: .* as a list, got"),
        (lambda: example(HUBER, optional=["spam"]), "optional: expected .* got 'spam'"),
        (lambda: arguments(HUBER, rho=2.0), "rho: expected with a class alone, got it with Huber"),
        (lambda: arguments("CTCLoss", max_side=2), "max_side: expected a whole number >= 3, got 2"),
        (lambda: arguments("SDMLLoss", max_side=1), "max_side: expected a whole number >= 2"),
    ],
)
def test_other_wrong_options(call, text):
    with pytest.raises(ParameterError, match=text):
        call()


def test_shapes_that_a_loss_does_not_take():
    with pytest.raises(ShapeError, match=r"class_weight: .* each of 3 classes, got 2"):
        assert_parity(len, rl.SoftmaxCELoss(class_weight=[1, 2]), shape=(2, 3))
    with pytest.raises(ParameterError, match="class_weight: expected a vector"):
        find(arguments("SoftmaxCELoss", class_weight=1.0), lambda _: True)
    assert example(HUBER, 3)["pred"].shape == (3,)


# Results


def test_check_gradient_asks_for_two_results():
    text = r"function: expected it to return a tuple of two, value and gradient, .* got "
    cases: list[tuple[Any, str]] = [
        (np.exp, "ndarray from exp"),
        (lambda x: (x, x, x), "a tuple of 3 from <lambda>"),
        (lambda x: [x, x], "list from <lambda>"),
    ]
    for function, kind in cases:
        with pytest.raises(TypeError, match=text + kind):
            check_gradient(function, [0.5, 2.0])
    with pytest.raises(TypeError, match=text + "float64"):
        check_gradient(np.exp, 0.5)
    given_apart: dict[str, Any] = {"gradient": lambda x: (x, x)}
    for options in ({}, given_apart):
        with pytest.raises(TypeError, match=r"gradient: expected 1 to 1 gradients, .* got 2"):
            check_gradient(lambda x: (x, (x, x)), [0.5], **options)


def test_check_gradient_keeps_integers_that_have_no_gradient():
    def picked(logits: Any, label: Any) -> Any:
        grad = np.zeros_like(logits)
        grad[np.arange(len(label)), label] = 1
        return logits[np.arange(len(label)), label], grad

    check_gradient(picked, [[1, 2], [3, 4]], np.array([1, 0]))
    check_gradient(lambda x, y: (x * y, (y, x)), np.array([2, 3]), np.array([1, 4]))


def test_parity_counts_results():
    loss = rl.L2Loss(reduction="none")
    assert shown(lambda x, _: (x, x, x, x), loss)[0].endswith("got 4 results")
    fault, *_ = shown(lambda x, y: ((x - y) ** 2 / 2, (x - y, y - x, x)), loss)
    assert fault == "expected gradients by at most 2 inputs, got 3"


# The file to copy


def test_the_file_to_copy(tmp_path):
    file = ROOT / "examples" / "test_my_loss.py"
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    assert "```{literalinclude} ../examples/test_my_loss.py\n" in page
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [*command, "-c", os.devnull, file],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout or "6 passed" in done.stdout
