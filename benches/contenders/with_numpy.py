"""Plain NumPy: value and gradient by hand, in the dtype of the input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import rustloss
from rustloss.testing.oracles import evaluate

from . import Array, Case, Contender, Result, is_real


def _per_sample(element: Array, slope: Array) -> Result:
    return element.mean(1), (slope / element.dtype.type(element.shape[1]),)


def l1(pred: Array, label: Array) -> Result:
    error = pred - label
    return _per_sample(np.abs(error), np.sign(error))


def l2(pred: Array, label: Array) -> Result:
    error = pred - label
    return _per_sample(error * error * error.dtype.type(0.5), error)


def huber(pred: Array, label: Array) -> Result:
    error = pred - label
    slope = np.clip(error, -1, 1)
    return _per_sample(slope * (error - slope / 2), slope)


def hinge(pred: Array, label: Array) -> Result:
    slack = np.maximum(1 - pred * label, 0)
    return _per_sample(slack, -label * (slack > 0))


def squared_hinge(pred: Array, label: Array) -> Result:
    slack = np.maximum(1 - pred * label, 0)
    return _per_sample(slack * slack, -2 * label * slack)


def _sigmoid_cross_entropy(pred: Array, target: Array) -> Result:
    small = np.exp(-np.abs(pred))
    value = np.maximum(pred, 0) - pred * target + np.log1p(small)
    return _per_sample(value, np.where(pred >= 0, 1, small) / (1 + small) - target)


def logistic(pred: Array, label: Array) -> Result:
    return _sigmoid_cross_entropy(pred, (label + 1) / 2)


def poisson(pred: Array, target: Array) -> Result:
    rate = np.exp(pred)
    return _per_sample(rate - target * pred, rate - target)


def gaussian(pred: Array, target: Array, var: Array) -> Result:
    error, size = pred - target, pred.dtype.type(pred.shape[1])
    slope = error / var
    value = ((np.log(var) + error * slope) / 2).mean(1)
    return value, (slope / size, (1 / var - slope * slope) / (2 * size))


def margin_ranking(first: Array, second: Array, label: Array) -> Result:
    gap = label * (second - first)
    slope = label * (gap > 0) / label.dtype.type(label.shape[1])
    return np.maximum(gap, 0).mean(1), (-slope, slope)


def hinge_embedding(pred: Array, label: Array) -> Result:
    alike, gap = label == 1, 1 - pred
    slope = np.where(alike, pred.dtype.type(1), -(gap > 0).astype(pred.dtype))
    return _per_sample(np.where(alike, pred, np.maximum(gap, 0)), slope)


def multi_margin(pred: Array, label: Array) -> Result:
    rows, size = np.arange(len(pred)), pred.dtype.type(pred.shape[1])
    gap = 1 + pred - pred[rows, label][:, None]
    gap[rows, label] = 0
    grad = (gap > 0) / size
    grad[rows, label] = -grad.sum(1)
    return np.maximum(gap, 0).mean(1), (grad,)


def _log_softmax(pred: Array, axis: int = 1) -> Array:
    shifted: Array = pred - pred.max(axis, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis, keepdims=True))
    return shifted


def softmax_ce(pred: Array, label: Array) -> Result:
    log_prob, index = _log_softmax(pred), np.expand_dims(label, 1)
    value = -np.take_along_axis(log_prob, index, 1)
    grad = np.exp(log_prob, out=log_prob)
    np.put_along_axis(grad, index, np.take_along_axis(grad, index, 1) - 1, 1)
    grad /= value[0].size
    return value.reshape(len(value), -1).mean(1), (grad,)


def smoothed_ce(pred: Array, label: Array) -> Result:
    smoothing, classes = 0.1, pred.shape[1]
    log_prob, rows = _log_softmax(pred), np.arange(len(pred))
    value = (smoothing - 1) * log_prob[rows, label] - smoothing * log_prob.mean(1)
    grad = np.exp(log_prob, out=log_prob)
    grad -= pred.dtype.type(smoothing / classes)
    grad[rows, label] -= pred.dtype.type(1 - smoothing)
    return value, (grad,)


def weighted_ce(pred: Array, label: Array) -> Result:
    value, (grad,) = softmax_ce(pred, label)
    weight = np.linspace(0.5, 1.5, pred.shape[1], dtype=pred.dtype)[label]
    grad *= weight[:, None]
    return value * weight, (grad,)


def _of_label(pred: Array, label: Array) -> tuple[Array, Array, Array]:
    """Return log p and p of every row's label, and the gradient of -log p."""
    log_prob, index = _log_softmax(pred), label[:, None]
    own = np.take_along_axis(log_prob, index, 1)
    grad, p = np.exp(log_prob, out=log_prob), np.exp(own)
    np.put_along_axis(grad, index, p - 1, 1)
    return own[:, 0], p[:, 0], grad


def softmax_focal(pred: Array, label: Array) -> Result:
    log_p, p, grad = _of_label(pred, label)
    rest = 1 - p
    grad *= (rest * (rest - 2 * p * log_p))[:, None]
    return -rest * rest * log_p, (grad,)


def poly(pred: Array, label: Array) -> Result:
    log_p, p, grad = _of_label(pred, label)
    grad *= (1 + p)[:, None]
    return 1 - p - log_p, (grad,)


def categorical_hinge(pred: Array, label: Array) -> Result:
    rows = np.arange(len(pred))
    others = pred.copy()
    others[rows, label] = -np.inf
    best = others.argmax(1)
    gap = 1 + others[rows, best] - pred[rows, label]
    grad = np.zeros_like(pred)
    grad[rows, best] = gap > 0
    grad[rows, label] = -grad[rows, best]
    return np.maximum(gap, 0), (grad,)


def multi_quantile(pred: Array, label: Array) -> Result:
    count = pred.shape[1]
    q = ((np.arange(count) + 0.5) / count).astype(pred.dtype)
    error = label[:, None] - pred
    return _per_sample(np.maximum(q * error, (q - 1) * error), (error < 0) - q)


def crps(pred: Array, label: Array) -> Result:
    members = pred.shape[1]
    order = pred.argsort(1)
    ordered = np.take_along_axis(pred, order, 1)
    # Less minus more members, over the number of pairs.
    rank = ((2 * np.arange(members) - members + 1) / members**2).astype(pred.dtype)
    error = ordered - label[:, None]
    value = np.abs(error).mean(1) - (ordered * rank).sum(1)
    grad = np.empty_like(pred)
    np.put_along_axis(grad, order, np.sign(error) / pred.dtype.type(members) - rank, 1)
    return value, (grad,)


def kl(pred: Array, label: Array) -> Result:
    return _per_sample(label * (np.log(label) - pred), -label)


def kl_logits(pred: Array, label: Array) -> Result:
    log_prob = _log_softmax(pred)
    grad = np.exp(log_prob) * label.sum(1, keepdims=True) - label
    return _per_sample(label * (np.log(label) - log_prob), grad)


def triplet(anchor: Array, positive: Array, negative: Array) -> Result:
    to_positive, to_negative = positive - anchor, negative - anchor
    value = 1 + (to_positive**2 - to_negative**2).sum(1)
    active = 2 * (value > 0)[:, None].astype(value.dtype)
    grads = (active * (negative - positive), active * to_positive, -active * to_negative)
    return np.maximum(value, 0), grads


def triplet_margin(anchor: Array, positive: Array, negative: Array) -> Result:
    to_positive, to_negative = anchor - positive + 1e-6, anchor - negative + 1e-6
    near = np.sqrt((to_positive**2).sum(1, keepdims=True))
    far = np.sqrt((to_negative**2).sum(1, keepdims=True))
    value = 1 + near - far
    active = (value > 0).astype(value.dtype)
    near_slope, far_slope = active * to_positive / near, active * to_negative / far
    return np.maximum(value[:, 0], 0), (near_slope - far_slope, -near_slope, far_slope)


def cosine(first: Array, second: Array, label: Array) -> Result:
    norms = [np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    units = first / norms[0], second / norms[1]
    cos = (units[0] * units[1]).sum(1)
    value = np.where(label == 1, 1 - cos, np.maximum(cos, 0))
    slope = np.where(label == 1, -1, cos > 0).astype(cos.dtype)[:, None]
    toward = (units[1] - cos[:, None] * units[0]) / norms[0]
    toward_second = (units[0] - cos[:, None] * units[1]) / norms[1]
    return value, (slope * toward, slope * toward_second)


def sdml(first: Array, second: Array) -> Result:
    count = len(first)
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)
    log_prob = _log_softmax(2 * first @ second.T - squares)
    target = np.full_like(log_prob, 0.3 / (count - 1))
    np.fill_diagonal(target, 0.7)
    value = (target * (np.log(target) - log_prob)).mean(1)
    # d(value)/d(distance) = (target - prob) / count, a distance moves as 2 (first - second).
    pull = (target - np.exp(log_prob)) * (2 / count)
    pull = pull.astype(first.dtype)
    grad_first = pull.sum(1)[:, None] * first - pull @ second
    grad_second = pull.sum(0)[:, None] * second - pull.T @ first
    return value, (grad_first, grad_second)


def info_nce(first: Array, second: Array) -> Result:
    norms = [np.sqrt((x**2).sum(1, keepdims=True)) for x in (first, second)]
    units = first / norms[0], second / norms[1]
    heat = first.dtype.type(0.07)
    logits = units[0] @ units[1].T / heat
    log_prob = _log_softmax(logits), _log_softmax(logits, axis=0)
    value = -(np.diag(log_prob[0]) + np.diag(log_prob[1])) / 2
    slope = (np.exp(log_prob[0]) + np.exp(log_prob[1])) / 2
    slope[np.diag_indices_from(slope)] -= 1
    slope /= heat
    toward = slope @ units[1], slope.T @ units[0]
    grads = [
        (g - u * (g * u).sum(1, keepdims=True)) / norm
        for g, u, norm in zip(toward, units, norms, strict=True)
    ]
    return value, tuple(grads)


def _log_sum(*terms: Array) -> Array:
    top = np.maximum(np.maximum.reduce(terms), -1e30)
    total = sum(np.exp(term - top) for term in terms)
    with np.errstate(divide="ignore"):
        return np.asarray(top + np.log(total))


def _lattice(emission: Array, skip: Array) -> Array:
    """Return log alpha, (frames, samples, states); every frame's own emission is in it."""
    alpha = np.full_like(emission, -np.inf)
    alpha[0, :, :2] = emission[0, :, :2]
    blocked = np.where(skip, 0, -np.inf).astype(emission.dtype)
    for t in range(1, len(alpha)):
        last = alpha[t - 1]
        one = np.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-np.inf)
        two = np.pad(last[:, :-2], ((0, 0), (2, 0)), constant_values=-np.inf)
        alpha[t] = _log_sum(last, one, two + blocked) + emission[t]
    return alpha


def ctc(pred: Array, label: Array) -> Result:
    samples, length = label.shape
    states = np.full((samples, 2 * length + 1), pred.shape[2] - 1)
    states[:, 1::2] = label
    log_prob = _log_softmax(pred, axis=2)
    emission = np.take_along_axis(log_prob, states[:, None, :], 2).transpose(1, 0, 2)
    skip = np.zeros(states.shape, bool)
    skip[:, 3::2] = label[:, 1:] != label[:, :-1]
    # Seen from the end the lattice is the same, with the states in reverse: a skip into s becomes
    # one into the state two before it.
    skip_back = np.zeros_like(skip)
    skip_back[:, 2:] = skip[:, :1:-1]
    alpha = _lattice(emission, skip)
    beta = _lattice(emission[::-1, :, ::-1], skip_back)[::-1, :, ::-1]
    total = _log_sum(alpha[-1, :, -1], alpha[-1, :, -2])
    occupancy = np.exp(alpha + beta - emission - total[:, None])
    grad = np.exp(log_prob)
    sample = np.arange(samples)
    for s in range(states.shape[1]):
        grad[sample, :, states[:, s]] -= occupancy[:, :, s].T
    return -total, (grad,)


LOSSES: dict[str, Callable[..., Result]] = {
    "L1": l1,
    "L2": l2,
    "Huber": huber,
    "Hinge": hinge,
    "SquaredHinge": squared_hinge,
    "Logistic": logistic,
    "SigmoidBCE": _sigmoid_cross_entropy,
    "PoissonNLL": poisson,
    "SoftmaxCE": softmax_ce,
    "SoftmaxCE-smoothed": smoothed_ce,
    "SoftmaxCE-weighted": weighted_ce,
    "SoftmaxFocal": softmax_focal,
    "Poly": poly,
    "CategoricalHinge": categorical_hinge,
    "MultiQuantile": multi_quantile,
    "CRPS": crps,
    "KLDiv": kl,
    "KLDiv-logits": kl_logits,
    "GaussianNLL": gaussian,
    "MarginRanking": margin_ranking,
    "HingeEmbedding": hinge_embedding,
    "MultiMargin": multi_margin,
    "MultiLabelSoftMargin": _sigmoid_cross_entropy,
    "TripletMargin": triplet_margin,
    "Triplet": triplet,
    "CosineEmbedding": cosine,
    "SDML": sdml,
    "InfoNCE": info_nce,
    "CTC": ctc,
}


def reference(case: Case) -> Result:
    """Return the case's value and gradients in float64, from the oracle if not from here."""
    inputs = [x.astype(np.float64) if is_real(x) else x for x in case.inputs()]
    if case.title in LOSSES:
        return LOSSES[case.title](*inputs)
    value, grads, _ = evaluate(case.row.loss, case.params, *inputs)
    names = [entry["name"] for entry in getattr(rustloss, case.row.loss)()._inputs]
    return value, tuple(grads[names[at]] for at in case.differentiable)


def contenders(case: Case) -> list[Contender]:
    """Return the NumPy contender, if the loss is among those written for speed."""
    if case.title not in LOSSES:
        return []
    loss, inputs = LOSSES[case.title], case.inputs()
    return [Contender("numpy", lambda: loss(*inputs), lambda result: result)]
