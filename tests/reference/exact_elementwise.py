"""Exact terms of the losses of one element at a time; see `exact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mpmath
import numpy as np

from .exact import ONE, ZERO, cut_off, formula, undecided
from .math_mpmath import log_factorial, sigmoid, softplus

if TYPE_CHECKING:
    from .exact import Quantities, Terms


def elementwise(value: Terms, **derivatives: Terms) -> Quantities:
    return {"value": [value], **{name: [terms] for name, terms in derivatives.items()}}


@formula("L1Loss")
def l1(_: Any, x: Any, y: Any) -> Quantities:
    slope = mpmath.sign(x - y)
    return elementwise((abs(x - y),), pred=(slope,), label=(-slope,), hess=(ZERO,))


@formula("L2Loss")
def l2(_: Any, x: Any, y: Any) -> Quantities:
    return elementwise(((x - y) ** 2 / 2,), pred=(x - y,), label=(y - x,), hess=(ONE,))


@formula("HuberLoss")
def huber(params: Any, x: Any, y: Any) -> Quantities:
    rho = mpmath.mpf(params["rho"])
    distance = abs(x - y)
    inside = distance <= rho
    value = distance**2 / (2 * rho) if inside else distance - rho / 2
    slope = (x - y) / rho if inside else mpmath.sign(x - y)
    # A distance that rounds to rho has the second derivative of the kink, which is 0.
    unknown = 0 < abs(distance - rho) <= params["eps"] * rho
    hess = () if unknown else (1 / rho if distance < rho else ZERO,)
    return elementwise((value,), pred=(slope,), label=(-slope,), hess=hess)


@formula("HingeLoss")
def hinge(params: Any, x: Any, y: Any) -> Quantities:
    gap = max(params["margin"] - x * y, ZERO)
    active = gap > 0
    return elementwise((gap,), pred=(-y * active,), label=(-x * active,), hess=(ZERO,))


@formula("SquaredHingeLoss")
def squared_hinge(params: Any, x: Any, y: Any) -> Quantities:
    gap = max(params["margin"] - x * y, ZERO)
    hess = 2 * y**2 * (gap > 0)
    return elementwise((gap**2,), pred=(-2 * gap * y,), label=(-2 * gap * x,), hess=(hess,))


@formula("SigmoidBinaryCrossEntropyLoss")
def sigmoid_bce(params: Any, x: Any, z: Any, pos_weight: Any = None) -> Quantities:
    weight = ONE if pos_weight is None else pos_weight
    yes, no = weight * z, 1 - z
    if params.get("clamp"):
        return clamped_bce(x, z, weight)
    if params.get("from_sigmoid"):
        return bce_of_probabilities(params.get("epsilon", 0.0), x, z, weight)
    costs = softplus(-x), softplus(x)
    bend = sigmoid(x) * sigmoid(-x)
    return elementwise(
        (yes * costs[0], no * costs[1]),
        pred=(no * sigmoid(x), -yes * sigmoid(-x)),
        label=(-x,) if pos_weight is None else (weight * costs[0], -costs[1]),
        pos_weight=(z * costs[0],),
        hess=(yes * bend, no * bend),
    )


def bce_of_probabilities(epsilon: float, x: Any, z: Any, weight: Any) -> Quantities:
    hit, miss = x + mpmath.mpf(epsilon), 1 - x + mpmath.mpf(epsilon)
    # A certain and right prediction has the term of its own class alone.
    sides = [(w, p, way) for w, p, way in ((weight * z, hit, -1), (1 - z, miss, 1)) if w]
    uncertain = hit and miss
    return elementwise(
        tuple(-w * mpmath.log(p) for w, p, _ in sides) or (ZERO,),
        pred=tuple(way * w / p for w, p, way in sides) or (ZERO,),
        label=(mpmath.log(miss), -weight * mpmath.log(hit)) if uncertain else (),
        pos_weight=(-z * mpmath.log(hit),) if uncertain else (),
        hess=tuple(w / p**2 for w, p, _ in sides) or (ZERO,),
    )


def clamped_bce(x: Any, z: Any, weight: Any) -> Quantities:
    hit, miss = (
        max(mpmath.log(p), mpmath.mpf(-100)) if p else mpmath.mpf(-100) for p in (x, 1 - x)
    )
    spread = max(x * (1 - x), mpmath.mpf(float(np.float32(1e-12))))
    yes, no = weight * z, 1 - z
    return elementwise(
        (-yes * hit, -no * miss),
        pred=(-yes * (1 - x) / spread, no * x / spread),
        label=(mpmath.log(1 - x), -weight * mpmath.log(x)) if 0 < x < 1 else (),
        pos_weight=(-z * hit,),
        hess=(yes * ((1 - x) / spread) ** 2, no * (x / spread) ** 2),
    )


@formula("LogisticLoss")
def logistic(params: Any, x: Any, y: Any) -> Quantities:
    signed = params.get("label_format") != "binary"
    quantities = sigmoid_bce(params, x, (y + 1) / 2 if signed else y)
    return {**quantities, "label": [(-x / 2 if signed else -x,)]}


@formula("PoissonNLLLoss")
def poisson_nll(params: Any, x: Any, t: Any) -> Quantities:
    value: Terms
    by_pred: Terms
    by_target: Terms
    if params.get("from_logits", True):
        value, by_pred, by_target = (mpmath.exp(x), -t * x), (mpmath.exp(x), -t), (-x,)
        hess = mpmath.exp(x)
    else:
        shifted = x + mpmath.mpf(1e-8)
        log = mpmath.log(shifted)
        value, by_pred, by_target = (x, -t * log), (ONE, -t / shifted), (-log,)
        hess = t / shifted**2
    if params.get("compute_full") == "stirling" and t > 1:
        log = mpmath.log(t)
        value += (t * log, -t, mpmath.log(2 * mpmath.pi * t) / 2)
        by_target += (log, 1 / (2 * t))
    elif params.get("compute_full") is True:
        value += (log_factorial(t),)
        # The harmonic number of t, which is 0 at 0, minus Euler's constant.
        by_target += (mpmath.digamma(t + 1) + mpmath.euler, -mpmath.euler)
    return elementwise(value, pred=by_pred, target=by_target, hess=(hess,))


@formula("GaussianNLLLoss")
def gaussian_nll(params: Any, x: Any, t: Any, var: Any) -> Quantities:
    epsilon = mpmath.mpf(params["epsilon"])
    v = max(var, epsilon)
    square = (x - t) ** 2
    full = (mpmath.log(2 * mpmath.pi) / 2,) if params.get("full") else ()
    by_var = (1 / (2 * v), -square / (2 * v**2)) if var > epsilon else (ZERO,)
    return elementwise(
        (mpmath.log(v) / 2, square / (2 * v), *full),
        pred=((x - t) / v,),
        target=((t - x) / v,),
        # A variance that rounds to epsilon is at the kink.
        var=() if 0 < abs(var - epsilon) <= params["eps"] * epsilon else by_var,
        hess=(1 / v,),
    )


@formula("MarginRankingLoss")
def margin_ranking(params: Any, a: Any, b: Any, y: Any) -> Quantities:
    margin = mpmath.mpf(params["margin"])
    terms = (margin, -y * a, y * b)
    active, unknown = mpmath.fsum(terms) > 0, undecided(terms, params["eps"])
    slopes = {"input1": (-y,), "input2": (y,), "label": (-a, b)}
    return elementwise(
        terms if active else cut_off(terms),
        **{k: () if unknown else tuple(t * active for t in of) for k, of in slopes.items()},
        hess=(ZERO,),
    )


@formula("HingeEmbeddingLoss")
def hinge_embedding(params: Any, x: Any, y: Any) -> Quantities:
    gap = max(params["margin"] - x, ZERO)
    value, slope = (x, 1) if y == 1 else (gap, -(gap > 0))
    return elementwise((value,), pred=(mpmath.mpf(slope),), hess=(ZERO,))
