"""Losses of one vector at a time. Formulas stand over the last axis; other axes are moved there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from .oracle import Unreduced, oracle
from .weighting import array, axis_index, match_shape, sum_to_shape, times, weigh

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .weighting import Array


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


@oracle("SoftmaxCrossEntropyLoss")
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
) -> Unreduced:
    given, target = array(pred), array(label)
    # a single vector of classes is one row
    logits = given.reshape(1, -1) if given.ndim == 1 else given
    class_axis = 1 if given.ndim == 1 else axis_index(axis, given.ndim)
    sample_axis = axis_index(batch_axis, logits.ndim)
    if class_axis == sample_axis:
        raise ValueError("axis and batch_axis are the same")
    x = np.moveaxis(logits, class_axis, -1)
    classes = x.shape[-1]
    surprise, p, rest = softmax_terms(x)
    if from_logits:
        surprise = -x
    cost = np.ones(classes) if class_weight is None else array(class_weight)

    keep: NDArray[np.bool_] = np.ones(x.shape[:-1], dtype=bool)
    invalid = ~keep
    if sparse_label:
        index = match_shape(target, x.shape[:-1])
        if ignore_index is not None:
            keep = index != ignore_index
        if out_of_range == "clip":
            invalid = keep & np.isnan(index)
            index = np.clip(np.trunc(index), 0, classes - 1)
        else:
            invalid = keep & ~((index == np.trunc(index)) & (index >= 0) & (index < classes))
        chosen = np.where(keep & ~invalid, index, 0).astype(int)
        y = np.eye(classes)[chosen]
    else:
        y = np.moveaxis(match_shape(target, given.shape).reshape(logits.shape), class_axis, -1)
    row_cost = np.ones(x.shape[:-1]) if class_weight is None else times(y, cost).sum(axis=-1)
    mixed = ((1 - label_smoothing) * y + label_smoothing / classes) * cost

    def backward(c: Array) -> dict[str, Array]:
        by_logits = -mixed if from_logits else through_softmax(mixed, p, rest)
        grads = {"pred": weigh(c[..., None], by_logits)}
        if not sparse_label:
            grads["label"] = weigh(c[..., None], (1 - label_smoothing) * times(cost, surprise))
        shapes = {"pred": given.shape, "label": target.shape}
        return {k: np.moveaxis(g, -1, class_axis).reshape(shapes[k]) for k, g in grads.items()}

    def curvature(c: Array) -> Array:
        bend = np.zeros_like(x) if from_logits else mixed.sum(-1, keepdims=True) * p * rest
        return np.moveaxis(weigh(c[..., None], bend), -1, class_axis).reshape(given.shape)

    return Unreduced(
        times(mixed, surprise).sum(axis=-1),
        backward,
        curvature,
        sample_axis=sample_axis - (sample_axis > class_axis),
        unit_axis=class_axis,
        keep=keep,
        class_weight=np.where(invalid, 1.0, row_cost),
        invalid=invalid,
    )


@oracle("KLDivLoss")
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


@oracle("TripletLoss")
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


@oracle("CosineEmbeddingLoss")
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
