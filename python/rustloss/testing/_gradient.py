"""Derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss import _core
from rustloss._loss import Loss
from rustloss.testing._registry import differentiable, spec_of

Array = NDArray[np.float64]

#: Relative to the derivative by differences.
RTOL = 5e-6
ATOL = 1e-10
#: A power of two, so that steps are exact.
STEP = 2.0**-10

#: Weights of f(x - 2h), f(x - h), f(x + h), f(x + 2h) in 12 h f'(x).
_STENCIL = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))


def check_gradient(
    loss: Loss,
    *args: Any,
    wrt: str | tuple[str, ...] | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    **options: Any,
) -> None:
    """Check the gradient of a loss, and its second derivative, against differences of values.

    The arrays are read as float64. A coordinate whose four points straddle a kink of the loss is
    left out. If that leaves nothing of a derivative to compare, the check fails.

    Parameters
    ----------
    loss : Loss
        The loss.
    *args, **options
        What ``loss.value_and_grad`` takes but `out`, `grad_out` and `wrt`.
    wrt : str or tuple of str, optional
        The arguments to vary; by default all that have a gradient.
    rtol, atol : float
        ``abs(gradient - difference) <= atol + rtol * abs(difference)`` must hold.

    Raises
    ------
    AssertionError
        If a derivative is wrong; the text names the argument, the index and both numbers. Also if
        all elements of an argument are at kinks, as nothing was checked then.

    Examples
    --------
    >>> import rustloss as rl
    >>> from rustloss.testing import check_gradient
    >>> check_gradient(rl.SigmoidBCELoss(), [[0.5, -1.0]], [[0.0, 0.75]], wrt="label")
    """
    spec = spec_of(loss)
    call = {i.name: a for i, a in zip(spec.inputs, args, strict=False) if a is not None} | options
    extra = {k: call.pop(k) for k in ("grad_output", "denominator") if k in call}
    slopes = differentiable(loss, call)
    call |= {name: np.array(call[name], np.float64) for name in slopes}
    names = slopes if wrt is None else (wrt,) if isinstance(wrt, str) else tuple(wrt)
    anywhere = _anywhere(loss)

    _, grads = loss.value_and_grad(**call, **extra, wrt=names)
    factor = np.asarray(extra.pop("grad_output", 1.0), np.float64)

    def objective(changed: Mapping[str, Any]) -> Array:
        return np.asarray(anywhere(**changed, **extra), np.float64)

    for name, grad in zip(names, grads, strict=True):
        what, compared = f"d/d{name}", 0
        for index, difference in _differences(loss, call, name, objective):
            total = np.sum(factor * difference)
            _compare(loss, what, index, np.asarray(grad)[index], total, rtol, atol)
            compared += 1
        _require(loss, what, compared, call[name].size)

    pred = spec.inputs[0].name
    if not spec.hess or pred not in names:
        return
    extra["grad_output"] = factor
    grad, hess = loss.grad_hess(**call, **extra)
    assert np.array_equal(grad, grads[names.index(pred)]), f"{loss!r}: two gradients differ"

    def slope(changed: Mapping[str, Any]) -> Array:
        return np.asarray(loss.grad_hess(**changed, **extra)[0])

    what, compared = f"d2/d{pred}2", 0
    for index, difference in _differences(loss, call, pred, slope):
        expected = difference[index]
        _compare(loss, what, index, np.asarray(hess)[index], expected, rtol, atol)
        compared += 1
    _require(loss, what, compared, call[pred].size)


def _anywhere(loss: Loss) -> Loss:
    """Return the loss that follows its formula where points of differences leave the domain."""
    spec = spec_of(loss)
    param = spec.params.get("out_of_range")
    if param is None or "allow" not in param.words:
        return loss
    made: Loss = spec.cls(**{**loss._params, "out_of_range": "allow"})
    return made


def _compare(
    loss: Loss, what: str, index: tuple[int, ...], got: Any, expected: Any, rtol: float, atol: float
) -> None:
    if not abs(got - expected) <= atol + rtol * abs(expected):
        at = list(map(int, index))
        raise AssertionError(f"{loss!r}: {what}{at} is {got!r}, by differences {expected!r}")


def _require(loss: Loss, what: str, compared: int, size: int) -> None:
    """Fail if there were elements and none of them could be compared."""
    if size and not compared:
        text = f"{loss!r}: {what} was not checked, all {size} elements are at kinks"
        raise AssertionError(text)


def _differences(
    loss: Loss,
    call: Mapping[str, Any],
    name: str,
    function: Callable[[Mapping[str, Any]], Array],
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield the derivative of `function` by every element of an argument, kinks left out."""
    here = _sides_of_kinks(loss, call)
    for index in np.ndindex(call[name].shape):
        step = STEP * 2.0 ** np.ceil(np.log2(max(abs(call[name][index]), 1.0)))
        total: Array = np.zeros(())
        for places, weight in _STENCIL:
            moved = call[name].copy()
            moved[index] += places * step
            changed = {**call, name: moved}
            there = _sides_of_kinks(loss, changed)
            if not np.array_equal(here, there):
                break
            total = total + weight * function(changed)
        else:
            yield index, total / (12 * step)


def _sides_of_kinks(loss: Loss, call: Mapping[str, Any]) -> Array:
    """Return on which side of its kinks each element or row is."""
    return np.sign(_core.kinks(loss, **call))
