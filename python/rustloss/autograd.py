"""Losses in functions that HIPS autograd differentiates.

A loss called with an array that autograd traces is one more function that it knows, differentiated
twice if the second derivative of an element depends on that element alone.

Examples
--------
>>> import rustloss as rl
>>> from autograd import grad, numpy as np
>>> X, y = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 0.0])
>>> risk = lambda w: rl.SigmoidBCELoss(reduction="mean")(X @ w, y)
>>> print(grad(risk)(np.zeros(2)))
[0.5 0.5]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from autograd.extend import defvjp_argnums, primitive

from rustloss._adapter import refuse_outputs, second_order
from rustloss.errors import CallError, ParameterError

if TYPE_CHECKING:
    from rustloss import Loss

__all__ = ["call"]


def call(loss: Loss, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call a loss with arrays that autograd traces.

    Parameters
    ----------
    loss : rustloss.Loss
        The loss.
    method : str
        ``"__call__"``, as autograd makes the derivatives itself.
    args, kwargs
        What the method takes.

    Returns
    -------
    autograd.extend.Box
        The value, traced.

    Raises
    ------
    rustloss.errors.CallError
        For another method.
    NotImplementedError
        When a second derivative that the loss does not have is asked for.
    rustloss.errors.ParameterError
        If an input without a gradient, such as a weight, is traced.
    """
    if method != "__call__":
        text = f"{method} of arrays that autograd traces is not traced"
        raise CallError(f"{text}; call the loss, and have autograd differentiate that")
    inputs, options, *_ = loss._bind(method, args, kwargs)
    refuse_outputs(options)
    return _value(loss, options, tuple(inputs), *inputs.values())


@primitive  # type: ignore[untyped-decorator]  # autograd has no types
def _value(loss: Loss, options: dict[str, Any], names: tuple[str, ...], *inputs: Any) -> Any:
    return loss(**dict(zip(names, inputs, strict=True)), **options)


@primitive  # type: ignore[untyped-decorator]  # autograd has no types
def _slope(
    loss: Loss,
    options: dict[str, Any],
    names: tuple[str, ...],
    wrt: str,
    grad_output: Any,
    *inputs: Any,
) -> Any:
    """Return the gradient by one input."""
    given = dict(zip(names, inputs, strict=True))
    slope = np.asarray(loss.grad(**given, **options, wrt=wrt, grad_output=grad_output))
    return slope.astype(np.asarray(given[wrt]).dtype, copy=False)


def _through_value(
    argnums: tuple[int, ...], _: Any, args: tuple[Any, ...], __: Any
) -> Callable[[Any], Any]:
    """Return the vector-Jacobian products of `_value`."""
    loss, options, names, *inputs = args
    rules = {row["name"]: row["gradient"] for row in loss._inputs}
    wanted = [names[argnum - 3] for argnum in argnums]
    for name in wanted:
        if rules[name] == "Never":
            remedy = "take it out of what autograd differentiates"
            raise ParameterError(f"{name}: there is no gradient by it; {remedy}", name)
    return lambda g: tuple(_slope(loss, options, names, wrt, g, *inputs) for wrt in wanted)


def _through_slope(
    argnums: tuple[int, ...], _: Any, args: tuple[Any, ...], __: Any
) -> Callable[[Any], Any]:
    """Return the vector-Jacobian products of `_slope`: by `grad_output` and the prediction."""
    loss, options, names, wrt, grad_output, *inputs = args
    first = loss._inputs[0]["name"]
    wanted = ["grad_output" if argnum == 4 else names[argnum - 5] for argnum in argnums]
    for name in wanted:
        if wrt != first or name not in {first, "grad_output"}:
            text = f"there is no second derivative by {wrt} and {name}"
            raise NotImplementedError(f"{type(loss).__name__}: {text}")

    def backward(direction: Any) -> Any:
        given = dict(zip(names, inputs, strict=True)) | options
        found = second_order(loss, grad_output=grad_output, direction=direction, **given)
        results = dict(zip((first, "grad_output"), found, strict=True))
        return tuple(results[name] for name in wanted)

    return backward


defvjp_argnums(_value, _through_value)
defvjp_argnums(_slope, _through_slope)
