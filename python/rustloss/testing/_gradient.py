"""Derivatives by differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rustloss import _core
from rustloss._loss import Loss
from rustloss.errors import DTypeError, ParameterError, ShapeError
from rustloss.testing import _checks
from rustloss.testing._registry import differentiable, spec_of
from rustloss.testing._ulp import told_apart

Array = NDArray[np.float64]

#: Relative to the derivative by differences.
RTOL = 5e-6
ATOL = 1e-10
#: A power of two, so that steps are exact.
STEP = 2.0**-10

#: Weights of f(x - 2h), f(x - h), f(x + h), f(x + 2h) in 12 h f'(x).
_STENCIL = ((-2, 1.0), (-1, -8.0), (1, 8.0), (2, -1.0))
#: Slopes on both sides of a point differ by this at a kink, of the larger one or by themselves.
_JUMP, _LEAST_JUMP = 1e-3, 1e-6


class _Slope(NamedTuple):
    """A derivative by one element, by differences."""

    at: tuple[int, ...]
    value: Any
    step: float


def check_gradient(
    function: Callable[..., Any],
    *args: Any,
    gradient: Callable[..., Any] | None = None,
    wrt: str | tuple[str, ...] | None = None,
    rtol: float = RTOL,
    atol: float = ATOL,
    **options: Any,
) -> None:
    """Check the gradient of a loss or of any other function against differences of values.

    Of a loss, the second derivative is checked too. Arrays are read as float64, but an array of
    integers that has no gradient, such as one of labels, stays what it is. An element whose points
    straddle a kink is left out. If that leaves nothing to compare, the check fails.

    Parameters
    ----------
    function : Loss or callable
        A loss; or a function that returns the tuple of value and gradient, the latter by its first
        argument, or a tuple of gradients by as many of the first arguments. A value that is an
        array counts as its sum.
    *args, **options
        For a loss what ``value_and_grad`` takes but `out`, `grad_out` and `wrt`; for another
        function its arguments, of which the differentiated ones are numbers or arrays.
    gradient : callable, optional
        A function of the same arguments that returns the gradient; `function` then returns the
        value alone.
    wrt : str or tuple of str, optional
        The arguments of a loss to vary; by default all that have a gradient.
    rtol, atol : float
        ``abs(gradient - difference) <= atol + rtol * abs(difference)`` must hold.

    Raises
    ------
    AssertionError
        If a derivative is wrong; the text names the argument, the index of the worst element, both
        numbers and the step. Also if an argument has no elements, or all of them are at kinks, as
        nothing was checked then.
    rustloss.errors.DTypeError
        If a function computes in less than float64, whose digits differences need.
    rustloss.errors.ParameterError
        If `wrt` names no argument.
    rustloss.errors.ShapeError
        If a gradient has not the shape of its argument.
    TypeError
        If a function returns anything but two results, no gradient, or more gradients than it has
        arguments.

    Examples
    --------
    >>> import numpy as np
    >>> import rustloss as rl
    >>> from rustloss.testing import check_gradient
    >>> check_gradient(rl.SigmoidBCELoss(), [[0.5, -1.0]], [[0.0, 0.75]], wrt="label")
    >>> check_gradient(lambda x: (np.sin(x), np.cos(x)), [0.5, 2.0])
    >>> check_gradient(np.exp, [0.5, 2.0], gradient=np.sinh)
    Traceback (most recent call last):
        ...
    AssertionError: exp: d/d[0] at [0] is 0.5210953, by differences 1.648721 (step 0.000488281); \
the worst of 2 that are wrong, of 2
    """
    _checks.a_callable(function, "function")
    if gradient is not None:
        _checks.a_callable(gradient, "gradient")
    if gradient is None and isinstance(function, Loss):
        _check_loss(function, args, options, wrt, rtol, atol)
    elif wrt is not None:
        raise ParameterError("wrt: expected for a loss alone, got it for another function", "wrt")
    else:
        _check_function(function, gradient, args, options, rtol, atol)


def _check_function(
    function: Callable[..., Any],
    gradient: Callable[..., Any] | None,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    rtol: float,
    atol: float,
) -> None:
    given = list(args)
    for i in range(1 if gradient else len(given)):
        is_of_labels = i > 0 and isinstance(given[i], np.ndarray) and given[i].dtype.kind in "biu"
        if np.asarray(given[i]).dtype.kind in "biuf" and not is_of_labels:
            given[i] = np.array(given[i], np.float64)
    who = getattr(function, "__name__", repr(function))
    if gradient is None:
        found = _gradient_of(who, function(*given, **options))
    else:
        found = gradient(*given, **options)
    grads = found if isinstance(found, tuple) else (found,)
    if not 1 <= len(grads) <= len(given):
        text = (
            f"expected 1 to {len(given)} gradients, as many as arguments at most, got {len(grads)}"
        )
        raise TypeError(f"gradient: {text}")
    for i, grad in enumerate(map(np.asarray, grads)):
        given[i] = np.array(given[i], np.float64)
        if grad.shape != given[i].shape:
            text = f"gradient[{i}]: expected shape {given[i].shape}, got {grad.shape}"
            raise ShapeError(text, "gradient")

        def total(x: Array, i: int = i) -> float:
            result = function(*given[:i], x, *given[i + 1 :], **options)
            value = np.asarray(result[0] if gradient is None else result)
            if value.dtype.kind == "f" and value.dtype.itemsize < 8:
                text = f"value: expected float64, whose digits differences need, got {value.dtype}"
                raise DTypeError(text, "value")
            return float(value.sum())

        _compare(f"{who}: d/d[{i}]", grad, _smooth_slopes(total, given[i], rtol, atol), rtol, atol)


def _gradient_of(who: str, found: Any) -> Any:
    """Return the second of the two results of a function."""
    if isinstance(found, tuple) and len(found) == 2:
        return found[1]
    kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else type(found).__name__
    text = "expected it to return a tuple of two, value and gradient, or gradient=g beside it"
    raise TypeError(f"function: {text}, got {kind} from {who}")


def _smooth_slopes(
    total: Callable[[Array], float], x: Array, rtol: float, atol: float
) -> Iterator[_Slope]:
    """Yield the derivatives of a function of which nothing is known, kinks left out."""
    here = total(x.copy())
    for index in np.ndindex(x.shape):
        step = _step(float(x[index]))

        def at(places: float, index: tuple[int, ...] = index, step: float = step) -> float:
            moved = x.copy()
            moved[index] += places * step
            return total(moved)

        values = {places: at(places) for places in (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)}
        coarse = sum(weight * values[places] for places, weight in _STENCIL) / (12 * step)
        fine = sum(weight * values[places / 2] for places, weight in _STENCIL) / (6 * step)
        # Slopes ahead and behind, over the whole step and half of it; a straight line through
        # their differences leads to the jump at the point itself.
        jumps = [(values[k] - 2 * here + values[-k]) / (k * step) for k in (1.0, 0.5)]
        steepest = max(abs(values[k] - here) / step for k in (-1.0, 1.0))
        is_kink = abs(2 * jumps[1] - jumps[0]) > max(_JUMP * steepest, _LEAST_JUMP)
        # The two differ where a kink lies between the points, or the function bends too much.
        if not is_kink and abs(fine - coarse) <= atol + rtol * abs(fine):
            yield _Slope(index, fine, step / 2)


def _check_loss(
    loss: Loss,
    args: tuple[Any, ...],
    options: Mapping[str, Any],
    wrt: str | tuple[str, ...] | None,
    rtol: float,
    atol: float,
) -> None:
    spec = spec_of(loss)
    call = {i.name: a for i, a in zip(spec.inputs, args, strict=False) if a is not None}
    call |= options
    extra = {k: call.pop(k) for k in ("grad_output", "denominator") if k in call}
    slopes = differentiable(loss, call)
    call |= {name: np.array(call[name], np.float64) for name in slopes}
    names = slopes if wrt is None else (wrt,) if isinstance(wrt, str) else tuple(wrt)
    if not names:
        raise ParameterError(f"wrt: expected names of {slopes}, got {wrt!r}", "wrt")
    allowing = anywhere(loss)

    _, grads = loss.value_and_grad(**call, **extra, wrt=names)
    factor = np.asarray(extra.pop("grad_output", 1.0), np.float64)

    def objective(changed: Mapping[str, Any]) -> Array:
        return np.asarray(allowing(**changed, **extra), np.float64)

    for name, grad in zip(names, grads, strict=True):
        totals = (
            slope._replace(value=np.sum(factor * slope.value))
            for slope in _differences(loss, call, name, objective)
        )
        _compare(f"{loss!r}: d/d{name}", np.asarray(grad), totals, rtol, atol)

    pred = spec.inputs[0].name
    if not spec.hess or pred not in names:
        return
    extra["grad_output"] = factor
    grad, hess = loss.grad_hess(**call, **extra)
    assert np.array_equal(grad, grads[names.index(pred)]), f"{loss!r}: two gradients differ"

    def slope(changed: Mapping[str, Any]) -> Array:
        return np.asarray(loss.grad_hess(**changed, **extra)[0])

    bends = (
        bend._replace(value=bend.value[bend.at]) for bend in _differences(loss, call, pred, slope)
    )
    _compare(f"{loss!r}: d2/d{pred}2", np.asarray(hess), bends, rtol, atol)


def anywhere(loss: Loss) -> Loss:
    """Return the loss that follows its formula where moved inputs leave its domain."""
    spec = spec_of(loss)
    param = spec.params.get("out_of_range")
    if param is None or "allow" not in param.words:
        return loss
    made: Loss = spec.cls(**{**loss._params, "out_of_range": "allow"})
    return made


def _compare(
    what: str, derivatives: Array, slopes: Iterator[_Slope], rtol: float, atol: float
) -> None:
    """Fail if a derivative is wrong, or if there is no slope to compare one with."""
    compared, wrong, worst, text = 0, 0, -1.0, ""
    for index, expected, step in slopes:
        compared += 1
        got = derivatives[index]
        error, bound = abs(got - expected), atol + rtol * abs(expected)
        if error <= bound:
            continue
        wrong += 1
        # A NaN is worse than any number, and so is any error where none is allowed.
        excess = float(error / bound) if bound > 0 and np.isfinite(error) else np.inf
        if excess > worst:
            worst, at = excess, list(map(int, index))
            is_, should = told_apart(got, expected)
            text = f"at {at} is {is_}, by differences {should} (step {step:g})"
    if wrong:
        raise AssertionError(f"{what} {text}; the worst of {wrong} that are wrong, of {compared}")
    if not compared:
        count = derivatives.size
        why = f"all {count} elements are at kinks" if count else "there is no element"
        raise AssertionError(f"{what} was not checked, {why}")


def _step(x: float) -> float:
    return float(STEP * 2.0 ** np.ceil(np.log2(max(abs(x), 1.0))))


def _differences(
    loss: Loss,
    call: Mapping[str, Any],
    name: str,
    function: Callable[[Mapping[str, Any]], Array],
) -> Iterator[_Slope]:
    """Yield the derivative of `function` by every element of an argument, kinks left out."""
    here = _sides_of_kinks(loss, call)
    for index in np.ndindex(call[name].shape):
        step = _step(float(call[name][index]))
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
            yield _Slope(index, total / (12 * step), step)


def _sides_of_kinks(loss: Loss, call: Mapping[str, Any]) -> Array:
    """Return on which side of its kinks each element or row is."""
    return np.sign(_core.kinks(loss, **call))
