"""What the adapters of frameworks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rustloss._frameworks import framework
from rustloss.errors import OutputError

if TYPE_CHECKING:
    from rustloss import Loss

#: The domains of indices and lengths: numbers without a slope.
DISCRETE = frozenset({"Classes", "ClassSets", "Tokens", "Lengths", "Offsets"})


def foreign(given: dict[str, Any]) -> dict[str, Any]:
    """Return those of some arguments that are of a framework."""
    return {
        name: value
        for name, value in given.items()
        if framework(type(value))  # type: ignore[arg-type]  # a class is hashable
    }


def refuse_outputs(options: dict[str, Any]) -> None:
    """Raise `OutputError` if a call names memory for its results."""
    for name in ("out", "grad_out", "hess_out"):
        if options.get(name) is not None:
            text = f"{name}: results of this call are new arrays of its framework; leave it out"
            raise OutputError(text, name)


def second_order(loss: Loss, *, grad_output: Any, direction: Any, **given: Any) -> tuple[Any, Any]:
    """Return what flows back through the gradient by the prediction.

    Parameters
    ----------
    loss : Loss
        The loss.
    grad_output : ndarray
        What arrived at the value, in its shape.
    direction : ndarray
        What arrives at the gradient, in the prediction's shape.
    **given
        The inputs and the other options of the call.

    Returns
    -------
    by_pred, by_grad_output : ndarray
        The second derivative times `direction`, and the gradient of each number of the value along
        `direction`.

    Raises
    ------
    NotImplementedError
        If elements of the prediction depend on each other in the second derivative, of which the
        loss has the diagonal at most.
    """
    first = loss._inputs[0]["name"]
    shape = np.shape(given[first])
    row = loss._signature([(shape, str(direction.dtype)), *[None] * (len(loss._inputs) - 1)])
    if not (row["hessian"] == "zero" or (row["hessian"] == "diagonal" and is_elementwise(loss))):
        text = "expected a loss whose second derivative is a diagonal"
        raise NotImplementedError(f"{text}, got {loss!r}")
    _, hess = loss.grad_hess(**given, grad_output=grad_output)
    along = loss.grad(**given, wrt=first) * direction
    if row["value"] == ():
        summed = tuple(range(len(shape)))
    elif loss.reduction == "none":
        summed = () if row["unreduced"] == shape else (row["vectors"],)
    else:
        summed = tuple(axis for axis in range(len(shape)) if axis != row["first_samples"])
    arrived = np.asarray(grad_output)
    by_grad_output = along.sum(axis=summed, dtype=arrived.dtype).reshape(arrived.shape)
    return hess * direction, by_grad_output


def is_elementwise(loss: Loss) -> bool:
    """Return whether every element of the prediction has a loss of its own."""
    return bool(loss._spec["family"] == "elementwise")
