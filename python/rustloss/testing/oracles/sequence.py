"""CTC by the textbook: forward and backward sums in log space, one sample at a time."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from rustloss.testing.oracles.registry import Unreduced, register
from rustloss.testing.oracles.weighting import array

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from rustloss.testing.oracles.weighting import Array

LAYOUTS = {"NTC": (0, 1, 2), "TNC": (1, 0, 2)}


def log_softmax(x: Array) -> Array:
    """Logarithm of the softmax over the last axis; -inf stays impossible."""
    below = x - x.max(axis=-1, keepdims=True)
    return np.where(np.isneginf(x), -np.inf, below - np.log(np.exp(below).sum(-1, keepdims=True)))


def lattice(label: NDArray[np.int64], blank: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the class of every state, and whether a path may enter it from two states before."""
    states = np.full(2 * len(label) + 1, blank)
    states[1::2] = label
    # a label may follow the label before it directly, unless the two are equal
    skip = np.zeros(len(states), dtype=bool)
    skip[3::2] = label[1:] != label[:-1]
    return states, skip


def step(row: Array, may_skip: NDArray[np.bool_], add: np.ufunc) -> Array:
    """Go to the next frame, putting together what arrives at a state with `add`."""
    one = np.concatenate(([-np.inf], row[:-1]))
    two = np.where(may_skip, np.concatenate(([-np.inf, -np.inf], row))[: len(row)], -np.inf)
    return np.asarray(add(add(row, one), two))


def posteriors(log_probs: Array, label: NDArray[np.int64], blank: int) -> tuple[float, Array]:
    """Return log P(label) of one sample, and P(state | label) for every frame and state.

    The sums of a frame are kept relative to the largest: over thousands of frames they keep digits.
    """
    states, skip = lattice(label, blank)
    frames, size = len(log_probs), len(states)
    emit = log_probs[:, states]
    back_skip = np.concatenate((skip[2:], [False, False]))[:size][::-1]

    ahead, behind = np.full((2, frames, size), -np.inf)
    ahead[0, :2] = emit[0, :2]
    behind[-1, -2:] = 0.0
    total = 0.0
    for t in range(frames):
        if t > 0:
            ahead[t] = step(ahead[t - 1], skip, np.logaddexp) + emit[t]
        largest = ahead[t].max()
        if largest == -np.inf:
            return -np.inf, np.zeros((frames, size))
        ahead[t] -= largest
        total += largest
    for t in range(frames - 2, -1, -1):
        row = step((behind[t + 1] + emit[t + 1])[::-1], back_skip, np.logaddexp)[::-1]
        behind[t] = row - max(row.max(), np.finfo(np.float64).min)
    total += float(np.logaddexp.reduce(ahead[-1, -2:]))
    if total == -np.inf:
        return total, np.zeros((frames, size))
    joint = ahead + behind
    return total, np.exp(joint - np.logaddexp.reduce(joint, axis=1, keepdims=True))


def best_score(log_probs: Array, label: NDArray[np.int64], blank: int) -> float:
    """Return the logarithm of the probability of the most probable path of one sample."""
    states, skip = lattice(label, blank)
    row = np.full(len(states), -np.inf)
    row[:2] = log_probs[0, states[:2]]
    for frame in log_probs[1:]:
        row = step(row, skip, np.maximum) + frame[states]
    return float(row[-2:].max())


def label_rows(label: Any, samples: int, lengths: Any, offsets: Any, transposed: bool) -> list[Any]:
    """Split labels into one array a sample: padded, flat with lengths or offsets, or listed."""
    if isinstance(label, list) and any(isinstance(row, np.ndarray) for row in label):
        return [array(row) for row in label]
    table = array(label)
    lengths = None if lengths is None else np.asarray(lengths).astype(int)
    if offsets is not None:
        bounds = np.asarray(offsets)
        return [table[i:j] for i, j in itertools.pairwise(bounds)]
    if table.ndim == 1 and lengths is not None and samples > 0:
        ends = np.cumsum(lengths)
        return [table[j - n : j] for j, n in zip(ends, lengths, strict=True)]
    rows = table.T if transposed else table
    if lengths is not None:
        return [row[:n] for row, n in zip(rows, lengths, strict=True)]
    return [row[: np.argmax(row == -1)] if (row == -1).any() else row for row in rows]


@register("CTCLoss")
def ctc(
    pred: ArrayLike,
    label: Any,
    pred_lengths: ArrayLike | None = None,
    label_lengths: ArrayLike | None = None,
    *,
    layout: str = "NTC",
    label_layout: str = "NT",
    blank: str | int = "last",
    input: str = "logits",  # noqa: A002 - the option's public name
    infeasible: str = "inf",
    label_offsets: ArrayLike | None = None,
    memory_limit: int = 0,
    batch_axis: int = 0,
) -> Unreduced:
    # The layout says which axis counts samples.
    del memory_limit, batch_axis
    given = array(pred)
    single = layout == "TC"
    x = given[None] if single else np.transpose(given, LAYOUTS[layout])
    samples, frames, classes = x.shape
    silent = {"last": classes - 1, "first": 0}[blank] if isinstance(blank, str) else blank
    lengths = np.broadcast_to(frames if pred_lengths is None else np.asarray(pred_lengths), samples)
    if single and label_offsets is None:
        label = np.asarray(label)[None]
        label_lengths = None if label_lengths is None else np.reshape(label_lengths, (1,))
    rows = label_rows(label, samples, label_lengths, label_offsets, label_layout == "TN")

    values = np.zeros(samples)
    slopes = np.zeros_like(x)
    invalid = np.zeros(samples, dtype=bool)
    for n, (row, count) in enumerate(zip(rows, lengths, strict=True)):
        known = (row >= 0) & (row < classes) & (row == np.trunc(row)) & (row != silent)
        invalid[n] = not known.all()
        if invalid[n]:
            continue
        symbols, inside = row.astype(np.int64), x[n, : int(count)]
        if len(symbols) + (symbols[1:] == symbols[:-1]).sum() > count:
            total = -np.inf
        elif count == 0:
            total = 0.0
        elif not (inside < np.inf).all():
            total = np.nan
            slopes[n, : int(count)] = np.nan
        else:
            log_probs = log_softmax(inside) if input == "logits" else inside
            total, posterior = posteriors(log_probs, symbols, silent)
            if total > -np.inf:
                occupancy = np.zeros_like(log_probs)
                np.add.at(occupancy.T, lattice(symbols, silent)[0], posterior.T)
                own = 0.0 if input == "log_probs" else np.exp(log_probs)
                slopes[n, : int(count)] = own - occupancy
        if total == -np.inf and infeasible == "raise":
            raise ValueError(f"sample {n}: the label needs more than {int(count)} frames")
        impossible = 0.0 if infeasible == "zero" else np.inf
        # rounding may leave a sure model a hair above certainty
        floor = 0.0 if input == "logits" else -np.inf
        values[n] = impossible if total == -np.inf else np.maximum(-total, floor)

    def backward(c: Array) -> dict[str, Array]:
        by_x = np.where(c[..., None, None] == 0, 0.0, np.reshape(c, (-1, 1, 1)) * slopes)
        return {"pred": by_x[0] if single else np.transpose(by_x, LAYOUTS[layout])}

    target_lengths = np.array([len(row) for row in rows], dtype=np.float64)
    shape = () if single else (samples,)
    return Unreduced(
        values.reshape(shape),
        backward,
        sample_axis=None if single else 0,
        invalid=invalid.reshape(shape),
        target_lengths=target_lengths.reshape(shape),
    )
