"""Losses of one vector at a time that ask for a margin; see `rowwise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rustloss.testing.oracles.elementwise import sigmoid, softplus
from rustloss.testing.oracles.registry import Unreduced, register
from rustloss.testing.oracles.rowwise import class_labels, costs_of, of_classes, rows_of
from rustloss.testing.oracles.weighting import array, match_shape, times, weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from rustloss.testing.oracles.weighting import Array


@register("MultiMarginLoss")
def multi_margin(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    p: int = 1,
    margin: float = 1.0,
    axis: int = -1,
    batch_axis: int = 0,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
    class_weight: ArrayLike | None = None,
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    labels = class_labels(label, rows, ignore_index, out_of_range)
    classes = rows.x.shape[-1]
    if classes == 0 and labels.chosen.size:
        raise ValueError("rows without classes")
    own = np.eye(classes)[labels.chosen]
    gap = margin + rows.x - (rows.x * own).sum(axis=-1, keepdims=True)
    is_open = (gap > 0) & (own == 0)
    values = np.where(is_open, gap**p, 0.0).sum(axis=-1) / max(classes, 1)
    rise = np.where(is_open, p * gap ** (p - 1), 0.0) / max(classes, 1)
    bend = np.where(is_open, p * (p - 1.0), 0.0) / max(classes, 1)
    slopes = rise - own * rise.sum(axis=-1, keepdims=True)
    bends = bend + own * bend.sum(axis=-1, keepdims=True)
    return of_classes(rows, labels, class_weight, values, slopes, bends)


@register("MultiLabelMarginLoss")
def multilabel_margin(
    pred: ArrayLike, label: ArrayLike, *, axis: int = -1, batch_axis: int = 0
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    x, classes = rows.x, rows.x.shape[-1]
    if classes == 0 and x.shape[:-1].count(0) == 0:
        raise ValueError("rows without classes")
    whole = (1, classes) if len(rows.given) == 1 else rows.given
    sets = np.moveaxis(match_shape(array(label), rows.given).reshape(whole), rows.vector_axis, -1)
    listed = np.cumprod(sets != -1, axis=-1) == 1
    is_class = (sets == np.trunc(sets)) & (sets >= 0) & (sets < classes)
    # How often each class is of the label.
    chosen = np.where(listed & is_class, sets, 0).astype(int)
    counts = (np.eye(classes)[chosen] * (listed & is_class)[..., None]).sum(axis=-2)
    gap = 1 + x[..., None, :] - x[..., :, None]
    pairs = counts[..., :, None] * (counts == 0)[..., None, :] * (gap > 0)
    values = times(pairs, gap).sum(axis=(-1, -2)) / max(classes, 1)
    slopes = (pairs.sum(axis=-2) - pairs.sum(axis=-1)) / max(classes, 1)
    return rows.unreduced(
        values,
        lambda c: {"pred": rows.back(weigh(c[..., None], slopes))},
        lambda c: rows.back(weigh(c[..., None], np.zeros_like(x))),
        invalid=(listed & ~is_class).any(axis=-1),
    )


@register("MultiLabelSoftMarginLoss")
def multilabel_soft_margin(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    axis: int = -1,
    batch_axis: int = 0,
    out_of_range: str = "raise",
    class_weight: ArrayLike | None = None,
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    x, target = rows.x, array(label)
    classes = x.shape[-1]
    if classes == 0 and x.shape[:-1].count(0) == 0:
        raise ValueError("rows without classes")
    whole = (1, classes) if len(rows.given) == 1 else rows.given
    y = np.moveaxis(match_shape(target, rows.given).reshape(whole), rows.vector_axis, -1)
    cost = costs_of(class_weight, classes) / max(classes, 1)
    values = times(cost, times(y, softplus(-x)) + times(1 - y, softplus(x))).sum(axis=-1)
    slopes = (1 - y) * sigmoid(x) - y * sigmoid(-x)
    bends = sigmoid(x) * sigmoid(-x)

    def backward(c: Array) -> dict[str, Array]:
        by_label = rows.back(weigh(c[..., None] * cost, -x))
        return {
            "pred": rows.back(weigh(c[..., None] * cost, slopes)),
            "label": by_label.reshape(target.shape),
        }

    wrong = ~((y >= 0) & (y <= 1)).all(axis=-1)
    return rows.unreduced(
        values,
        backward,
        lambda c: rows.back(weigh(c[..., None] * cost, bends)),
        invalid=wrong & (out_of_range == "raise"),
    )


@register("TripletMarginLoss")
def triplet_margin(
    pred: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float = 1.0,
    p: float = 2.0,
    epsilon: float = 1e-6,
    swap: bool = False,
    axis: int = -1,
    batch_axis: int = 0,
) -> Unreduced:
    given = {"pred": pred, "positive": positive, "negative": negative}
    rows = rows_of(pred, axis, batch_axis)

    def vectors(x: ArrayLike) -> Array:
        lined_up = match_shape(array(x), rows.given)
        return rows_of(lined_up, axis, batch_axis).x

    anchor, near, far = map(vectors, given.values())

    def distance(a: Array, b: Array) -> tuple[Array, Array]:
        """Return the distance and its derivative by the first vector."""
        v = a - b + epsilon
        length: Array = np.linalg.norm(v, ord=p, axis=-1, keepdims=True)
        share = np.divide(np.abs(v), length, out=np.zeros_like(v), where=(length > 0) & (v != 0))
        slope = np.sign(v) * np.where(share > 0, share ** (p - 1), 0.0)
        return length[..., 0], slope

    to_near, near_slope = distance(anchor, near)
    to_far, far_slope = distance(anchor, far)
    between, swap_slope = distance(near, far)
    swapped = np.asarray(swap & (between < to_far))
    excess = margin + to_near - np.where(swapped, between, to_far)
    off, swapped = (excess <= 0)[..., None], swapped[..., None]
    slopes = {
        "pred": near_slope - np.where(swapped, 0.0, far_slope),
        "positive": -near_slope - np.where(swapped, swap_slope, 0.0),
        "negative": np.where(swapped, swap_slope, far_slope),
    }

    def backward(c: Array) -> dict[str, Array]:
        c = np.where(off, 0.0, c[..., None])
        return {k: rows.back(weigh(c, s)).reshape(np.shape(given[k])) for k, s in slopes.items()}

    return rows.unreduced(np.maximum(excess, 0.0), backward)
