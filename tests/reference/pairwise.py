"""Losses of a batch against a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .oracle import Unreduced, oracle
from .rowwise import softmax_terms, through_softmax
from .weighting import array, axis_index, times, weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from .weighting import Array


def batches(x1: ArrayLike, x2: ArrayLike, samples: int) -> tuple[Array, Array]:
    """Return both matrices with the samples first."""
    first, second = array(x1), array(x2)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"two matrices of one shape, not {first.shape} and {second.shape}")
    return np.moveaxis(first, samples, 0), np.moveaxis(second, samples, 0)


@oracle("SDMLLoss")
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
