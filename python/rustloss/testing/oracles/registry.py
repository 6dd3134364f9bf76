"""The registry, and the one entry point: unreduced loss, then weights, then reduction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rustloss.testing.oracles.weighting import expand_sample_weight, reduce

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import ArrayLike, NDArray

    from rustloss.testing.oracles.weighting import Array


@dataclass(frozen=True)
class Unreduced:
    """A loss before weights and reduction.

    `backward(c)` is the gradient of ``sum(c * values)`` by every floating input, each in the
    input's own shape; `curvature(c)` the Hessian diagonal of the same sum by the prediction.
    """

    values: Array
    backward: Callable[[Array], dict[str, Array]]
    curvature: Callable[[Array], Array] | None = None
    sample_axis: int | None = 0
    """Axis of `values` that counts samples; None: all of it is one sample."""
    unit_axis: int = -1
    """Where a sample weight may have one more axis, of size 1."""
    keep: NDArray[np.bool_] | bool = True
    """False where an element is ignored."""
    class_weight: Array | float = 1.0
    """Already in `values`; it counts in the divisor of the weighted means."""
    invalid: NDArray[np.bool_] | bool = False
    """True where the label has no meaning: an error, unless the element's weight is zero."""
    target_lengths: Array | None = None


class Result(NamedTuple):
    """What the public calls return together; `grads` holds every floating input."""

    value: Array
    grads: dict[str, Array]
    hess: Array | None


Function = Callable[..., Unreduced]

ORACLES: dict[str, Function] = {}


def register(name: str) -> Callable[[Function], Function]:
    """Register the decorated function as the oracle of the class `name`."""

    def entered(function: Function) -> Function:
        ORACLES[name] = function
        return function

    return entered


def evaluate(
    name: str,
    params: Mapping[str, Any] | None,
    *inputs: ArrayLike | None,
    sample_weight: ArrayLike | None = None,
    grad_output: ArrayLike = 1.0,
    denominator: float | None = None,
    **named: Any,
) -> Result:
    """Evaluate one loss: `params` as its constructor takes them, the rest as its call does.

    A call argument that the constructor also has (the Poisson epsilon) wins over it, and None
    stands for absent.
    """
    options = dict(params or {})
    weight = options.pop("weight", None)
    reduction = options.pop("reduction", "sample")
    empty = options.pop("empty", "nan")
    options.update({key: value for key, value in named.items() if value is not None})
    with np.errstate(all="ignore"):
        unreduced = ORACLES[name](*inputs, **options)
        sample = expand_sample_weight(
            sample_weight, unreduced.values.shape, unreduced.sample_axis, unreduced.unit_axis
        )
        multiplier = np.where(unreduced.keep, sample * (1.0 if weight is None else weight), 0.0)
        if (unreduced.invalid & (multiplier != 0)).any():
            raise ValueError(f"{name}: label out of its range")
        value, coefficient = reduce(
            unreduced.values,
            multiplier,
            unreduced.keep * unreduced.class_weight * sample,
            reduction=reduction,
            sample_axis=unreduced.sample_axis,
            empty=empty,
            denominator=denominator,
            target_lengths=unreduced.target_lengths,
            grad_output=grad_output,
        )
        hess = None if unreduced.curvature is None else unreduced.curvature(coefficient)
        return Result(value, unreduced.backward(coefficient), hess)
