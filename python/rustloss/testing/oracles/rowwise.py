"""Losses of one vector at a time. Formulas stand over the last axis; other axes are moved there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rustloss.testing.oracles.registry import Unreduced, register
from rustloss.testing.oracles.weighting import (
    array,
    axis_index,
    match_shape,
    sum_to_shape,
    times,
    weigh,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from rustloss.testing.oracles.weighting import Array


def softmax_terms(x: Array) -> tuple[Array, Array, Array]:
    """-log p, p and 1 - p for every class, none of them a difference of near-equal numbers.

    A single +inf takes all the probability; a row of nothing but -inf has no softmax (NaN).
    """
    if x.size == 0:
        if math.prod(x.shape[:-1]) > 0:
            raise ValueError("rows without classes")
        return x, x, x
    top = x.max(axis=-1, keepdims=True)
    below = np.where(np.isposinf(top), np.where(x == top, 0.0, -np.inf), x - top)
    share = np.exp(below)
    others = share @ (1.0 - np.eye(x.shape[-1]))
    largest = below.argmax(axis=-1, keepdims=True)
    log_sum = np.log1p(np.take_along_axis(others, largest, axis=-1))
    return log_sum - below, share / (share + others), others / (share + others)


def through_softmax(target: Array, p: Array, rest: Array) -> Array:
    """Gradient of sum_k target_k (-log p_k) by the logits: p sum(target) - target.

    Written p_k (sum of the other targets) - target_k (1 - p_k), which does not cancel.
    """
    return p * (target @ (1.0 - np.eye(target.shape[-1]))) - target * rest


class Rows(NamedTuple):
    """Predictions with their vectors along the last axis; a single vector is one row."""

    x: Array
    given: tuple[int, ...]
    vector_axis: int
    sample_axis: int

    def back(self, x: Array) -> Array:
        """Return what has a number for each prediction in the shape that was given."""
        return np.moveaxis(x, -1, self.vector_axis).reshape(self.given)

    def unreduced(
        self,
        values: Array,
        backward: Callable[[Array], dict[str, Array]],
        curvature: Callable[[Array], Array] | None = None,
        **more: Any,
    ) -> Unreduced:
        """Return a loss with one number for each row."""
        sample_axis = self.sample_axis - (self.sample_axis > self.vector_axis)
        more |= {"sample_axis": sample_axis, "unit_axis": self.vector_axis}
        return Unreduced(values, backward, curvature, **more)


def rows_of(pred: ArrayLike, axis: int, batch_axis: int) -> Rows:
    given = array(pred)
    x = given.reshape(1, -1) if given.ndim == 1 else given
    vector_axis = 1 if given.ndim == 1 else axis_index(axis, given.ndim)
    sample_axis = axis_index(batch_axis, x.ndim)
    if vector_axis == sample_axis:
        raise ValueError("axis and batch_axis are the same")
    return Rows(np.moveaxis(x, vector_axis, -1), given.shape, vector_axis, sample_axis)


class ClassLabels(NamedTuple):
    """The class of every row, 0 where there is none; which rows count; which labels are wrong."""

    chosen: NDArray[np.int64]
    keep: NDArray[np.bool_]
    invalid: NDArray[np.bool_]

    def cost(self, weights: Array) -> Array:
        """Return the weight of every row's class."""
        return np.where(self.invalid, 1.0, weights[self.chosen])


def class_labels(
    label: ArrayLike, rows: Rows, ignore_index: int | None, out_of_range: str
) -> ClassLabels:
    shape, classes = rows.x.shape[:-1], rows.x.shape[-1]
    index = match_shape(array(label), shape)
    keep = np.ones(shape, bool) if ignore_index is None else index != ignore_index
    if out_of_range == "clip":
        invalid = keep & np.isnan(index)
        index = np.clip(np.trunc(index), 0, classes - 1)
    else:
        invalid = keep & ~((index == np.trunc(index)) & (index >= 0) & (index < classes))
    return ClassLabels(np.where(keep & ~invalid, index, 0).astype(int), keep, invalid)


def costs_of(weights: ArrayLike | None, classes: int) -> Array:
    given = np.ones(classes) if weights is None else array(weights)
    if given.shape != (classes,):
        raise ValueError(f"{given.size} weights of {classes} classes")
    return given


def log_sum_exp(x: Array) -> Array:
    total: Array = np.logaddexp.reduce(x, axis=-1, initial=-np.inf)
    return total


@register("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    axis: int = -1,
    batch_axis: int = 0,
    sparse_label: bool = True,
    from_logits: bool = False,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
    class_weight: ArrayLike | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Unreduced:
    rows, target = rows_of(pred, axis, batch_axis), array(label)
    x, classes = rows.x, rows.x.shape[-1]
    surprise, p, rest = softmax_terms(x)
    if from_logits:
        surprise = -x
    cost = costs_of(class_weight, classes)

    more: dict[str, Any] = {}
    if sparse_label:
        labels = class_labels(target, rows, ignore_index, out_of_range)
        y, row_cost = np.eye(classes)[labels.chosen], labels.cost(cost)
        # a class of weight 0 removes a row of which nothing else is left
        removed = (row_cost == 0) & (label_smoothing == 0) & (z_loss == 0)
        more = {
            "keep": labels.keep & ~removed,
            "class_weight": row_cost,
            "invalid": labels.invalid,
        }
    else:
        shape = (1, classes) if len(rows.given) == 1 else rows.given
        y = np.moveaxis(match_shape(target, rows.given).reshape(shape), rows.vector_axis, -1)
    mixed = ((1 - label_smoothing) * y + label_smoothing / classes) * cost
    # the z-loss and its derivatives by Z
    z = log_sum_exp(x) if z_loss else np.zeros(x.shape[:-1])
    pull, bend = 2 * z_loss * z[..., None], 2 * z_loss

    def backward(c: Array) -> dict[str, Array]:
        by_logits = -mixed if from_logits else through_softmax(mixed, p, rest) + pull * p
        grads = {"pred": rows.back(weigh(c[..., None], by_logits))}
        if not sparse_label:
            by_label = weigh(c[..., None], (1 - label_smoothing) * times(cost, surprise))
            grads["label"] = rows.back(by_label).reshape(target.shape)
        return grads

    def curvature(c: Array) -> Array:
        total = mixed.sum(-1, keepdims=True) + pull
        bends = np.zeros_like(x) if from_logits else total * p * rest + bend * p**2
        return rows.back(weigh(c[..., None], bends))

    values = times(mixed, surprise).sum(axis=-1) + z_loss * z**2
    return rows.unreduced(values, backward, curvature, **more)


def of_classes(
    rows: Rows,
    labels: ClassLabels,
    cost: ArrayLike | None,
    values: Array,
    slopes: Array,
    bends: Any,
) -> Unreduced:
    """Return a loss of class labels by its derivatives, times the weight of the label's class."""
    row_cost = labels.cost(costs_of(cost, rows.x.shape[-1]))

    def back(c: Array, by_x: Array) -> Array:
        return rows.back(weigh((c * row_cost)[..., None], by_x))

    return rows.unreduced(
        weigh(row_cost, values),
        lambda c: {"pred": back(c, slopes)},
        lambda c: back(c, np.broadcast_to(bends, slopes.shape)),
        keep=labels.keep & (row_cost != 0),
        class_weight=row_cost,
        invalid=labels.invalid,
    )


def through_label(
    rows: Rows, labels: ClassLabels, function: Callable[[Array, Array, Array], tuple[Array, ...]]
) -> tuple[Array, Array, Array]:
    """Return a function of the label's probability p, and its first two derivatives by the logits.

    The function takes -log p, p and 1 - p; it returns its value and its derivatives by log p.
    """
    surprise, p, rest = softmax_terms(rows.x)
    at = labels.chosen[..., None]
    of_label = (np.take_along_axis(part, at, axis=-1) for part in (surprise, p, rest))
    value, first, second = function(*of_label)
    # log p has the derivatives `toward` and -p_k (1 - p_k) by logit k
    is_label = np.arange(rows.x.shape[-1]) == at
    toward = np.where(is_label, rest, -p)
    # the square alone may be too small for its type
    bends = second * toward * toward - first * p * rest
    return value[..., 0], first * toward, bends


@register("SoftmaxFocalLoss")
def softmax_focal(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    gamma: float = 2.0,
    alpha: ArrayLike | None = None,
    axis: int = -1,
    batch_axis: int = 0,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    labels = class_labels(label, rows, ignore_index, out_of_range)

    def focal(surprise: Array, p: Array, q: Array) -> tuple[Array, ...]:
        share, log_share = q**gamma, times(p, surprise)
        steep = gamma * q ** (gamma - 1) if gamma else np.zeros_like(q)
        first = -share - steep * log_share
        second = steep * (2 * p - log_share + (gamma - 1) * p * (log_share / q))
        # where p is 1 there are powers of 0 times 0
        certain = np.full_like(q, -float(gamma == 0)), np.zeros_like(q)
        first, second = np.where(q > 0, (first, second), certain)
        return times(share, surprise), first, second

    return of_classes(rows, labels, alpha, *through_label(rows, labels, focal))


@register("PolyLoss")
def poly(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    epsilon: float = 1.0,
    axis: int = -1,
    batch_axis: int = 0,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
    class_weight: ArrayLike | None = None,
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    labels = class_labels(label, rows, ignore_index, out_of_range)

    def poly_1(surprise: Array, p: Array, q: Array) -> tuple[Array, ...]:
        return surprise + epsilon * q, -1 - epsilon * p, -epsilon * p

    return of_classes(rows, labels, class_weight, *through_label(rows, labels, poly_1))


@register("CategoricalHingeLoss")
def categorical_hinge(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    margin: float = 1.0,
    axis: int = -1,
    batch_axis: int = 0,
    ignore_index: int | None = None,
    out_of_range: str = "raise",
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    labels = class_labels(label, rows, ignore_index, out_of_range)
    classes = rows.x.shape[-1]
    if classes == 0 and labels.chosen.size:
        raise ValueError("rows without classes")
    every = np.eye(classes)
    own = every[labels.chosen]
    rivals = np.where(own == 1, -np.inf, rows.x)
    gap = margin + rivals.max(axis=-1, initial=-np.inf) - np.where(own, rows.x, 0).sum(axis=-1)
    best = every[rivals.argmax(axis=-1)] if classes else own
    slopes = np.where(gap[..., None] > 0, best - own, 0.0)
    return of_classes(rows, labels, None, np.maximum(gap, 0.0), slopes, 0.0)


def numbers_of(label: ArrayLike, rows: Rows) -> Array:
    return match_shape(array(label), rows.x.shape[:-1])


def of_numbers(
    rows: Rows, label: ArrayLike, values: Array, slopes: Array, by_label: Array, bends: Any = None
) -> Unreduced:
    """Return a loss of one number for each row by its derivatives."""
    return rows.unreduced(
        values,
        lambda c: {
            "pred": rows.back(weigh(c[..., None], slopes)),
            "label": weigh(c, by_label).reshape(np.shape(label)),
        },
        None if bends is None else lambda c: rows.back(weigh(c[..., None], bends)),
    )


@register("MultiQuantileLoss")
def multi_quantile(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    quantiles: ArrayLike | None = None,
    axis: int = -1,
    batch_axis: int = 0,
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    count = rows.x.shape[-1]
    q = (np.arange(count) + 0.5) / count if quantiles is None else array(quantiles)
    if q.size != count or (count == 0 and rows.x.shape[:-1].count(0) == 0):
        raise ValueError(f"{q.size} quantiles of {count} predictions")
    error = numbers_of(label, rows)[..., None] - rows.x
    values = np.maximum(q * error, (q - 1) * error).sum(axis=-1) / count
    slopes = np.select([error > 0, error < 0], [-q, 1 - q], 0.0) / count
    return of_numbers(rows, label, values, slopes, -slopes.sum(axis=-1), np.zeros_like(slopes))


@register("CRPSLoss")
def crps(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    fair: bool = False,
    axis: int = -1,
    batch_axis: int = 0,
) -> Unreduced:
    rows = rows_of(pred, axis, batch_axis)
    members = rows.x.shape[-1]
    if members == 0 and rows.x.shape[:-1].count(0) == 0:
        raise ValueError("ensembles without members")
    # of one member there is no pair with another
    pairs = max(members * (members - 1), 1) if fair else members**2
    error = rows.x - numbers_of(label, rows)[..., None]
    apart = rows.x[..., :, None] - rows.x[..., None, :]
    values = np.abs(error).mean(axis=-1) - np.abs(apart).sum(axis=(-1, -2)) / (2 * pairs)
    by_label = -np.sign(error).mean(axis=-1)
    slopes = np.sign(error) / members - np.sign(apart).sum(axis=-1) / pairs
    return of_numbers(rows, label, values, slopes, by_label)


@register("KLDivLoss")
def kl_divergence(
    pred: ArrayLike,
    label: ArrayLike,
    *,
    from_logits: bool = True,
    axis: int = -1,
    batch_axis: int = 0,
    epsilon: float = 0.0,
    log_target: bool = False,
    temperature: float = 1.0,
    out_of_range: str = "raise",
) -> Unreduced:
    given, target = array(pred), array(label)
    class_axis = axis_index(axis, given.ndim)
    sample_axis = axis_index(batch_axis, given.ndim)
    # a single vector of log-probabilities has no classes to speak of
    if class_axis == sample_axis and not (given.ndim == 1 and from_logits):
        raise ValueError("axis and batch_axis are the same")
    x = np.moveaxis(given, class_axis, -1)
    if target.shape in ((x.shape[-1],), (1, x.shape[-1])) and target.size != given.size:
        labels = np.broadcast_to(target.reshape(-1), x.shape)
    else:
        labels = np.moveaxis(match_shape(target, given.shape), class_axis, -1)

    y = np.exp(labels) if log_target else labels
    log_y = labels if log_target else np.log(y + epsilon)
    surprise, p, rest = softmax_terms(x / temperature)
    if from_logits:
        surprise = -x
    if log_target:
        slope = times(y, labels + surprise + 1)
    else:
        ratio = np.where(y == 0, epsilon == 0, y / (y + epsilon))
        # of an impossible class any label but 0 has an infinite loss
        slope = np.where((y == 0) & (surprise == np.inf), np.inf, log_y + surprise + ratio)

    def backward(c: Array) -> dict[str, Array]:
        c = np.moveaxis(c, class_axis, -1)
        counts = (c != 0).any(axis=-1, keepdims=True)
        cy = weigh(c, y)
        by_logits = temperature * through_softmax(cy, p, rest)
        by_pred = -cy if from_logits else np.where(counts, by_logits, 0.0)
        by_label = weigh(c, temperature**2 * slope)
        if y.size == target.size:
            by_label = np.moveaxis(by_label, -1, class_axis)
        return {
            "pred": np.moveaxis(by_pred, -1, class_axis),
            "label": sum_to_shape(by_label, target.shape),
        }

    def curvature(c: Array) -> Array:
        c = np.moveaxis(c, class_axis, -1)
        counts = (c != 0).any(axis=-1, keepdims=True) & (not from_logits)
        bend = weigh(c, y).sum(axis=-1, keepdims=True) * p * rest
        return np.moveaxis(np.where(counts, bend, 0.0), -1, class_axis)

    values = temperature**2 * (times(y, log_y) + times(y, surprise))
    wrong = np.isnan(labels) if log_target else ~(labels >= 0)
    return Unreduced(
        np.moveaxis(values, -1, class_axis),
        backward,
        curvature,
        sample_axis,
        invalid=np.moveaxis(wrong, -1, class_axis) & (out_of_range == "raise"),
    )


@register("TripletLoss")
def triplet(
    pred: ArrayLike,
    positive: ArrayLike,
    negative: ArrayLike,
    *,
    margin: float = 1.0,
    batch_axis: int = 0,
) -> Unreduced:
    anchor, shapes = array(pred), [np.shape(v) for v in (pred, positive, negative)]
    near, far = (match_shape(array(v), anchor.shape) for v in (positive, negative))
    samples = axis_index(batch_axis, anchor.ndim) if anchor.ndim else 0
    every = tuple(axis for axis in range(anchor.ndim) if axis != samples)
    excess = margin + ((near - anchor) ** 2 - (far - anchor) ** 2).sum(axis=every)
    off = excess <= 0

    def backward(c: Array) -> dict[str, Array]:
        c = np.expand_dims(np.where(off, 0.0, c), every)
        slopes = [2 * (far - near), 2 * (near - anchor), -2 * (far - anchor)]
        grads = [weigh(c, s).reshape(n) for s, n in zip(slopes, shapes, strict=True)]
        return dict(zip(("pred", "positive", "negative"), grads, strict=True))

    sample_axis = 0 if anchor.ndim else None
    return Unreduced(np.where(off, 0.0, excess), backward, sample_axis=sample_axis)


def scaled(v: Array) -> tuple[Array, Array, Array]:
    """Return v by a power of two so small that no square overflows, the norm of that, v's own."""
    exponent = np.frexp(np.abs(v).max(axis=-1, keepdims=True))[1]
    small = np.ldexp(v, -exponent)
    norm = np.sqrt((small**2).sum(axis=-1, keepdims=True))
    return small, norm, np.ldexp(norm, exponent)


@register("CosineEmbeddingLoss")
def cosine_embedding(
    input1: ArrayLike,
    input2: ArrayLike,
    label: ArrayLike,
    *,
    batch_axis: int = 0,
    margin: float = 0.0,
    axis: int = -1,
    out_of_range: str = "raise",
) -> Unreduced:
    shapes = [np.shape(input1), np.shape(input2)]
    if not shapes[0]:
        raise ValueError("cosine needs vectors")
    u = np.atleast_2d(array(input1))
    v = match_shape(array(input2), shapes[0]).reshape(u.shape)
    sample_axis = axis_index(batch_axis, u.ndim)
    vector_axis = axis_index(axis, u.ndim) if len(shapes[0]) > 1 else 1
    if sample_axis == vector_axis:
        raise ValueError("batch_axis is the axis of the vectors")
    u, v = np.moveaxis(u, vector_axis, -1), np.moveaxis(v, vector_axis, -1)
    y = match_shape(array(label), u.shape[:-1])
    (u, u_norm, u_length), (v, v_norm, v_length) = scaled(u), scaled(v)
    zero = (u_norm == 0) | (v_norm == 0)
    product = (u * v).sum(axis=-1, keepdims=True)
    cosine = np.where(zero, 0.0, np.clip(product / (u_norm * v_norm), -1.0, 1.0))
    cos = cosine[..., 0]
    off = (y != 1) & (cos <= margin)
    values = np.where(y == 1, 1 - cos, np.where(off, 0.0, cos - margin))

    def backward(c: Array) -> dict[str, Array]:
        c = np.where(off, 0.0, np.where(y == 1, -c, c))[..., None]
        by_u = np.where(zero, 0.0, (v / v_norm - cosine * u / u_norm) / u_length)
        by_v = np.where(zero, 0.0, (u / u_norm - cosine * v / v_norm) / v_length)
        grads = [np.moveaxis(weigh(c, s), -1, vector_axis) for s in (by_u, by_v)]
        return {"input1": grads[0].reshape(shapes[0]), "input2": grads[1].reshape(shapes[1])}

    return Unreduced(
        values,
        backward,
        sample_axis=sample_axis - (sample_axis > vector_axis),
        unit_axis=vector_axis,
        invalid=(np.abs(y) != 1) & (out_of_range == "raise"),
    )
