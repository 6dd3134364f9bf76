"""Losses of a batch against a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rustloss.testing.oracles.registry import Unreduced, register
from rustloss.testing.oracles.rowwise import softmax_terms, through_softmax
from rustloss.testing.oracles.weighting import array, axis_index, times, weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rustloss.testing.oracles.weighting import Array


def batches(x1: ArrayLike, x2: ArrayLike, samples: int) -> tuple[Array, Array]:
    """Return both matrices with the samples first."""
    first, second = array(x1), array(x2)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"two matrices of one shape, not {first.shape} and {second.shape}")
    return np.moveaxis(first, samples, 0), np.moveaxis(second, samples, 0)


@register("SDMLLoss")
def sdml(
    x1: ArrayLike,
    x2: ArrayLike,
    *,
    smoothing_parameter: float = 0.3,
    memory_limit: int = 0,
    batch_axis: int = 0,
) -> Unreduced:
    del memory_limit
    samples = axis_index(batch_axis, 2)
    a, b = batches(x1, x2, samples)
    n = len(a)
    if n == 1:
        raise ValueError("one sample has nothing to be told from")
    q = np.full((n, n), smoothing_parameter / max(n - 1, 1))
    np.fill_diagonal(q, 1 - smoothing_parameter)
    between = a[:, None, :] - b[None, :, :]
    surprise, p, rest = softmax_terms(-(between**2).sum(axis=-1))

    def backward(c: Array) -> dict[str, Array]:
        counts = (c != 0).any(axis=1, keepdims=True)
        by_distance = -np.where(counts, through_softmax(weigh(c, q), p, rest), 0.0)
        pull = weigh(by_distance[..., None], 2 * between)
        return {
            "x1": np.moveaxis(pull.sum(axis=1), 0, samples),
            "x2": np.moveaxis(-pull.sum(axis=0), 0, samples),
        }

    return Unreduced(times(q, np.log(q)) + times(q, surprise), backward)


def directions(x: Array) -> tuple[Array, Array]:
    """Return vectors of length 1, or 0 of no length, and the length of each before."""
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    scaled = x / np.where(largest == 0, 1.0, largest)
    length = np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    return scaled / np.where(length == 0, 1.0, length), length * largest


@register("InfoNCELoss")
def info_nce(
    x1: ArrayLike,
    x2: ArrayLike,
    *,
    temperature: float = 0.07,
    similarity: str = "cosine",
    symmetric: bool = True,
    memory_limit: int = 0,
    batch_axis: int = 0,
) -> Unreduced:
    del memory_limit
    samples = axis_index(batch_axis, 2)
    a, b = batches(x1, x2, samples)
    lengths = np.ones((len(a), 1)), np.ones((len(b), 1))
    if similarity == "cosine":
        (a, lengths_a), (b, lengths_b) = directions(a), directions(b)
        lengths = lengths_a, lengths_b
    similarities = (a[:, None, :] * b[None, :, :]).sum(axis=-1)
    logits = similarities / temperature
    own = np.eye(len(a), dtype=bool)
    sides = [softmax_terms(logits)]
    if symmetric:
        sides.append(softmax_terms(logits.T))
    share = 1 / len(sides)

    def slope(u: Array, v: Array, by: Array, cosines: Array, length: Array) -> Array:
        """Return the gradient by the vectors u, from the one by all similarities to v."""
        if similarity == "cosine":
            toward = v[None, :, :] - cosines[..., None] * u[:, None, :]
        else:
            toward = np.broadcast_to(v, (len(u), *v.shape))
        total = weigh(by[..., None], toward).sum(axis=1) / temperature
        known = np.where(length == 0, 1.0, length)
        return np.moveaxis(np.where(length == 0, 0.0, total / known), 0, samples)

    def backward(c: Array) -> dict[str, Array]:
        parts = [weigh(share * c[:, None], np.where(own, -rest, p)) for _, p, rest in sides]
        by = parts[0] + (parts[1].T if symmetric else 0.0)
        return {
            "x1": slope(a, b, by, similarities, lengths[0]),
            "x2": slope(b, a, by.T, similarities.T, lengths[1]),
        }

    values = np.sum([np.diag(surprise) for surprise, _, _ in sides], axis=0)
    return Unreduced(share * values, backward)
