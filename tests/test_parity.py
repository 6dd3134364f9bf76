"""Parity: what `assert_parity` lets pass, what it finds, and how little it shows of it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from contract import over_losses
from reference.points import CASES
from rustloss.testing import assert_parity, assert_ulp
from rustloss.testing._bounds import BOUNDS, Absolute
from rustloss.testing._registry import input_of, spec_of

EXAMPLES = 20


def results_of(loss: rl.Loss) -> Any:
    """Return all that the library computes, as a function to be compared."""
    required = [i.name for i in spec_of(loss).inputs if i.required]
    wrt = tuple(name for name in required if input_of(loss, name).gradient != "Never")

    def mine(*args: Any, **named: Any) -> Any:
        value, grads = loss.value_and_grad(*args, **named, wrt=wrt)
        hess = (loss.grad_hess(*args, **named)[1],) if spec_of(loss).hess else ()
        return value, grads, *hess

    return mine


@over_losses
@pytest.mark.parametrize(
    ("dtype", "reduction"),
    [("float64", "none"), ("float32", "weighted_mean"), ("bfloat16", "none")],
)
def test_losses_are_within_their_bounds(name, dtype, reduction):
    loss = spec_of(name).cls(reduction=reduction)
    options: dict[str, Any] = {"optional": spec_of(name).optional, "max_examples": EXAMPLES}
    assert_parity(results_of(loss), loss, dtype=dtype, **options)


@over_losses
def test_a_planted_bug_is_found(name):
    """One result after the other is off by a thousandth."""
    loss = spec_of(name).cls(reduction="none")
    right = results_of(loss)

    def scaled(result: Any) -> Any:
        return tuple(map(scaled, result)) if isinstance(result, tuple) else 1.001 * result + 1e-3

    for wrong in range(3 if spec_of(name).hess else 2):

        def mine(*args: Any, wrong: int = wrong) -> Any:
            return tuple(
                scaled(result) if i == wrong else result for i, result in enumerate(right(*args))
            )

        title = ("value", "d/d", "d2/d")[wrong]
        with pytest.raises(AssertionError, match=rf"^{title}.* the bound [\s\S]*rl\.{name}\("):
            assert_parity(mine, loss, max_examples=EXAMPLES)


def huber(pred: Any, label: Any) -> Any:
    """Return the loss with its linear part half a unit too low."""
    size = abs(pred - label)
    return np.where(size < 1, size**2 / 2, size - 1.0)


def shown(mine: Any, loss: rl.Loss, **options: Any) -> list[str]:
    """Return the lines of what is found."""
    with pytest.raises(AssertionError) as caught:
        assert_parity(mine, loss, **options)
    return str(caught.value).splitlines()


def test_the_counterexample_is_code():
    fault, *code = shown(huber, rl.HuberLoss(reduction="none"), dtype="float32")
    text = "value at [] is 0, expected 0.5: the error is 5e-01, the bound 6e-07 (5 ulp)"
    assert fault == text
    assert code == [
        "huber(np.array(0.0, 'float32'), np.array(1.0, 'float32'))",
        "rl.HuberLoss(reduction='none')(np.array(0.0, 'float32'), np.array(1.0, 'float32'))",
    ]
    found = [eval(line, {"huber": huber, "rl": rl, "np": np}) for line in code]
    assert found == [0.0, 0.5]


def test_what_is_compared():
    loss = rl.L2Loss(reduction="none")

    def value(pred: Any, label: Any, sample_weight: Any = 1.0) -> Any:
        return (pred - label) ** 2 / 2 * sample_weight

    assert_parity(value, loss)
    assert_parity(lambda x, y: (value(x, y), x - y), loss)
    assert_parity(lambda x, y: (value(x, y), (x - y, y - x), np.ones_like(x)), loss)
    assert re.match(
        r"d/dlabel at .* expected", shown(lambda x, y: (value(x, y), (x - y, x - y)), loss)[0]
    )
    assert shown(lambda x, y: value(x, y).sum(), loss)[0].startswith("value: expected shape (")
    with_weights = shown(lambda x, y, **_: value(x, y), loss, optional=["sample_weight"])
    assert with_weights[2].endswith("sample_weight=np.array(0.0, 'float64'))")
    assert shown(lambda x, y: value(x, y) + 1e-9, loss)
    assert_parity(lambda x, y: value(x, y) + 1e-9, loss, ulp=1e8)


def test_kinks_may_have_any_slope():
    for at_kink in (-1.0, 0.0, 1.0):

        def l1(pred: Any, label: Any, slope: float = at_kink) -> Any:
            error = pred - label
            return abs(error), np.where(error == 0, slope, np.sign(error))

        assert_parity(l1, rl.L1Loss(reduction="none"))


def test_only_optional_inputs_are_optional():
    text = r"optional: expected names of optional inputs, \('sample_weight',\), got 'label'"
    with pytest.raises(rl.errors.ParameterError, match=text):
        assert_parity(huber, rl.HuberLoss(), optional=["label"])


def test_an_exception_comes_with_its_call():
    def fails(pred: Any, label: Any) -> Any:
        raise RuntimeError(f"spam {pred} {label}")

    with pytest.raises(RuntimeError, match="spam") as caught:
        assert_parity(fails, rl.L1Loss())
    assert "raised by\nfails(np.array(0.0, 'float64'), np.array(0.0, 'float64'))" in "".join(
        caught.value.__notes__
    )


@over_losses
def test_bounds_are_those_of_the_documentation(name):
    found: dict[str, list[Any]] = {"value": [], "grad": [], "hess": []}
    for case in CASES:
        for key, bound in case.bounds.items() if case.loss == name else ():
            found[key if key in found else "grad"].append(bound)
    for key, bounds in found.items():
        documented = getattr(BOUNDS[name], key)
        if not bounds:
            assert documented is None
        elif isinstance(documented, Absolute):
            assert set(bounds) == {documented}
        else:
            assert documented.base == max(bound.base for bound in bounds)
            assert documented.spread == max(bound.spread for bound in bounds)


def test_assert_ulp():
    assert_ulp(np.array([1.0, np.nan]), [1 + 2.0**-52, np.nan], 1)
    assert_ulp(np.zeros((0, 2)), np.zeros((0, 2)), 0)
    with pytest.raises(AssertionError, match=r"at \[0, 1\] is 2\.0, expected 1\.0: 4\.5e\+15 ulp"):
        assert_ulp([[1.0, 2.0]], [[1.0, 1.0]], 1)
    with pytest.raises(AssertionError, match=r"is nan, expected 1\.0: inf ulp, 1 allowed"):
        assert_ulp(np.nan, 1.0, 1)
    with pytest.raises(AssertionError, match=r"expected shape \(1,\), got \(2,\)"):
        assert_ulp([1.0, 1.0], [1.0], 1)
