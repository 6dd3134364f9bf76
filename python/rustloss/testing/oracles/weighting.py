"""Weights, label shapes and reductions: the rules that all losses share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Array = NDArray[np.float64]

PER_SAMPLE = ("sample", "sample_sum", "sample_weighted_mean")
WEIGHTED = ("weighted_mean", "sample_weighted_mean")


def array(value: ArrayLike) -> Array:
    """Read anything as float64."""
    return np.asarray(value, dtype=np.float64)


def weigh(weight: Array, x: Array) -> Array:
    """Weight times x, where a zero weight removes x whatever x is."""
    return np.where(weight == 0, 0.0, weight * x)


def times(a: Array, b: Array) -> Array:
    """Product in which 0 * inf is 0; a NaN stays."""
    vanishes = ((a == 0) & np.isinf(b)) | ((b == 0) & np.isinf(a))
    return np.where(vanishes, 0.0, a * b)


def axis_index(axis: int, ndim: int) -> int:
    """Return the axis counted from the front."""
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} of an array with {ndim} axes")
    return axis % ndim


def match_shape(value: Array, shape: tuple[int, ...]) -> Array:
    """Give a label the shape it stands for: equal up to axes of size 1, or flat in C order."""
    flat = value.ndim == 1 and value.size == math.prod(shape)
    same = [n for n in value.shape if n != 1] == [n for n in shape if n != 1]
    if not (flat or same):
        raise ValueError(f"label of shape {value.shape} where {shape} was expected")
    matched: Array = value.reshape(shape)
    return matched


def sum_to_shape(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Undo `match_shape` or broadcasting on the way back: copies add up."""
    if gradient.size == math.prod(shape):
        return gradient.reshape(shape)
    lead = gradient.ndim - len(shape)
    copied = tuple(lead + i for i, n in enumerate(shape) if n == 1)
    total: Array = gradient.sum(axis=tuple(range(lead)) + copied).reshape(shape)
    return total


def expand_sample_weight(
    sample_weight: ArrayLike | None,
    shape: tuple[int, ...],
    sample_axis: int | None,
    unit_axis: int,
) -> Array:
    """Spread `sample_weight` over the unreduced loss. First match wins.

    A scalar; one per sample along the batch axis; an array with the loss's axes that broadcasts to
    it; the same with one more axis of size 1, at `unit_axis`.
    """
    weight = array(1.0 if sample_weight is None else sample_weight)
    if not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError("sample_weight must be finite and not negative")
    if weight.ndim == 0:
        return np.broadcast_to(weight, shape)
    if sample_axis is not None and weight.shape == (shape[sample_axis],):
        along = [1] * len(shape)
        along[sample_axis] = weight.size
        return np.broadcast_to(weight.reshape(along), shape)
    at = axis_index(unit_axis, len(shape) + 1)
    for target in (shape, (*shape[:at], 1, *shape[at:])):
        fits = weight.ndim == len(target) and all(
            have in (1, want) for have, want in zip(weight.shape, target, strict=True)
        )
        if fits:
            return np.broadcast_to(weight, target).reshape(shape)
    raise ValueError(f"sample_weight of shape {weight.shape} for a loss of shape {shape}")


def reduce(
    values: Array,
    multiplier: Array,
    weights: Array,
    *,
    reduction: str,
    sample_axis: int | None,
    empty: str,
    denominator: float | None,
    target_lengths: Array | None,
    grad_output: Any,
) -> tuple[Array, Array]:
    """Return the reduced value, and d(sum of value * grad_output)/d(values).

    `multiplier` is what an element is multiplied by, `weights` its part in the divisor of a
    weighted mean.
    """
    every = tuple(range(values.ndim))
    batch = 1 if sample_axis is None else values.shape[sample_axis]
    axes = every
    if reduction == "none":
        axes = ()
    elif reduction in PER_SAMPLE:
        axes = tuple(axis for axis in every if axis != sample_axis)
    elements = math.prod(values.shape[axis] for axis in axes)

    if reduction in ("none", "sum", "sample_sum"):
        divisor = array(1.0)
    elif reduction in ("sample", "mean"):
        divisor = array(elements)
    elif reduction == "batch_mean":
        divisor = array(batch)
    elif reduction in WEIGHTED:
        divisor = weights.sum(axis=axes)
    elif reduction == "target_mean" and target_lengths is not None:
        multiplier = multiplier / np.maximum(target_lengths, 1)
        divisor = array(batch)
    else:
        raise ValueError(f"unknown reduction {reduction!r}")
    if denominator is not None:
        if reduction != "mean":
            raise ValueError("denominator replaces the divisor of 'mean' only")
        divisor = array(denominator)

    # elements that all weigh nothing have the weighted mean 0; no elements have the mean `empty`,
    # weighted or not, so that without weights "weighted_mean" is "mean"
    outweighed = reduction in WEIGHTED and elements > 0
    nothing = 0.0 if outweighed or empty == "zero" else math.nan
    value = np.where(divisor == 0, nothing, weigh(multiplier, values).sum(axis=axes) / divisor)
    share = np.where(divisor == 0, 0.0, 1.0 / divisor)
    per_value = np.broadcast_to(array(grad_output) * share, value.shape)
    return value, multiplier * np.expand_dims(per_value, axes)
