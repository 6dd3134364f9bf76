"""Losses of one element at a time: value, slope by every input, curvature by the prediction.

Kinks as Gluon has them: the slope of |x| at 0 is 0, of max(0, x) at 0 is 0, of Huber at rho is 1;
the second derivative is 0 at each.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rustloss.testing.oracles.registry import Unreduced, register
from rustloss.testing.oracles.weighting import (
    Array,
    array,
    axis_index,
    match_shape,
    sum_to_shape,
    times,
    weigh,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

Point = tuple[Array, dict[str, Array], Array]
"""Value, slopes by input name, curvature."""
Formula = Callable[..., Point]
Domain = str | Callable[[dict[str, Any]], str]
"""real, sign (-1 or 1), unit (0 to 1), count or positive; it may depend on the parameters."""
Choices = tuple[Any, ...] | Callable[[dict[str, Any]], tuple[Any, ...]]


@dataclass(frozen=True)
class Elementwise:
    """What random tests need to know of a loss: its inputs' domains, its parameters' choices."""

    domains: dict[str, Domain]
    choices: dict[str, Choices]
    in_call: tuple[str, ...]


ELEMENTWISE: dict[str, Elementwise] = {}


def elementwise(
    name: str,
    domains: dict[str, Domain] | None = None,
    in_call: tuple[str, ...] = (),
    **choices: Choices,
) -> Callable[[Formula], Formula]:
    """Make an oracle of a formula for single elements.

    Its positional arguments are the inputs, the first two of one shape (prediction and label), the
    others broadcast to it; its keyword-only arguments are parameters. Inputs are real unless
    `domains` narrows them; tests draw parameters from `choices`, which may depend on those before,
    and give the ones `in_call` to the call.
    """

    def entered(formula: Formula) -> Formula:
        signature = inspect.signature(formula).parameters.values()
        names = [p.name for p in signature if p.kind is p.POSITIONAL_OR_KEYWORD]
        every: dict[str, Domain] = {**dict.fromkeys(names, "real"), **(domains or {})}
        ELEMENTWISE[name] = Elementwise(every, choices, in_call)

        @register(name)
        def unreduced(
            *inputs: ArrayLike | None,
            batch_axis: int = 0,
            out_of_range: str = "raise",
            **options: Any,
        ) -> Unreduced:
            # Labels outside their domain follow the formula in any case.
            del out_of_range
            named = {key: options.pop(key) for key in names if key in options}
            named |= dict(zip(names, inputs, strict=False))
            given = {key: array(x) for key, x in named.items() if x is not None}
            pred, label = names[:2]
            shape = given[pred].shape
            spread = {
                key: match_shape(x, shape) if key in {label, "label"} else np.broadcast_to(x, shape)
                for key, x in given.items()
            }
            values, slopes, curvature = formula(**spread, **options)

            def backward(c: Array) -> dict[str, Array]:
                return {
                    key: sum_to_shape(weigh(c, slope), given[key].shape)
                    for key, slope in slopes.items()
                    if key in given
                }

            sample_axis = axis_index(batch_axis, len(shape)) if shape else None
            return Unreduced(values, backward, lambda c: weigh(c, curvature), sample_axis)

        return formula

    return entered


def sigmoid(x: Array) -> Array:
    """Logistic function without overflow, accurate in both tails."""
    tail = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, tail) / (1.0 + tail)


def softplus(x: Array) -> Array:
    """log(1 + e^x)."""
    return np.logaddexp(0.0, x)


def digamma(x: Array) -> Array:
    """Slope of log Gamma(x), for x >= 1: Stirling's series at x + 10, and down from there."""
    y = x + 10
    series = np.polynomial.Polynomial(
        [0, -1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760]
    )
    return np.log(y) - 0.5 / y + series(1 / y**2) - sum(1 / (x + k) for k in range(10))


@elementwise("L1Loss")
def l1(pred: Array, label: Array) -> Point:
    error = pred - label
    return np.abs(error), {"pred": np.sign(error), "label": -np.sign(error)}, np.zeros_like(error)


@elementwise("L2Loss")
def l2(pred: Array, label: Array) -> Point:
    error = pred - label
    return 0.5 * error**2, {"pred": error, "label": -error}, np.ones_like(error)


@elementwise("HuberLoss", rho=(0.5, 1.0, 2.0))
def huber(pred: Array, label: Array, *, rho: float = 1.0) -> Point:
    error = pred - label
    size = np.abs(error)
    value = np.where(size > rho, size - rho / 2, error * (error / (2 * rho)))
    slope = np.where(size > rho, np.sign(error), error / rho)
    curvature = np.where(size < rho, 1.0 / rho, 0.0)
    return value, {"pred": slope, "label": -slope}, curvature


@elementwise("HingeLoss", {"label": "sign"}, margin=(0.5, 1.0, 2.0))
def hinge(pred: Array, label: Array, *, margin: float = 1.0) -> Point:
    short = margin - times(pred, label)
    off = short <= 0
    slopes = {"pred": np.where(off, 0.0, -label), "label": np.where(off, 0.0, -pred)}
    return np.where(off, 0.0, short), slopes, np.zeros_like(short)


@elementwise("SquaredHingeLoss", {"label": "sign"}, margin=(0.5, 1.0, 2.0))
def squared_hinge(pred: Array, label: Array, *, margin: float = 1.0) -> Point:
    short = margin - times(pred, label)
    off = short <= 0
    short = np.where(off, 0.0, short)
    slopes = {"pred": -2 * times(short, label), "label": -2 * times(short, pred)}
    return short**2, slopes, np.where(off, 0.0, 2 * label**2)


@elementwise(
    "LogisticLoss",
    {"label": lambda p: "unit" if p["label_format"] == "binary" else "sign"},
    label_format=("signed", "binary"),
)
def logistic(pred: Array, label: Array, *, label_format: str = "signed") -> Point:
    if label_format not in ("signed", "binary"):
        raise ValueError(f"label_format {label_format!r}")
    scale = 0.5 if label_format == "signed" else 1.0
    target = (label + 1) / 2 if label_format == "signed" else label
    value, slopes, curvature = binary_cross_entropy(pred, target)
    return value, {"pred": slopes["pred"], "label": scale * slopes["label"]}, curvature


@elementwise(
    "SigmoidBinaryCrossEntropyLoss",
    {
        "pred": lambda p: "unit" if p["from_sigmoid"] else "real",
        "label": "unit",
        "pos_weight": "positive",
    },
    from_sigmoid=(False, True),
    epsilon=lambda p: (0.0, 0.0625) if p["from_sigmoid"] else (0.0,),
    clamp=lambda p: (False, True) if p["from_sigmoid"] and p["epsilon"] == 0 else (False,),
)
def binary_cross_entropy(
    pred: Array,
    label: Array,
    pos_weight: Array | None = None,
    *,
    from_sigmoid: bool = False,
    epsilon: float = 0.0,
    clamp: bool = False,
) -> Point:
    if clamp:
        cost_positive = np.minimum(-np.log(pred), 100.0)
        cost_negative = np.minimum(-np.log1p(-pred), 100.0)
        spread = np.maximum(pred * (1 - pred), float(np.float32(1e-12)))
        slope_positive, slope_negative = -(1 - pred) / spread, pred / spread
        bend_positive, bend_negative = slope_positive**2, slope_negative**2
    elif from_sigmoid:
        hit, miss = pred + epsilon, 1 - pred + epsilon
        cost_positive = -np.log(hit)
        cost_negative = -np.log1p(-pred) if epsilon == 0 else -np.log(miss)
        slope_positive, slope_negative = -1 / hit, 1 / miss
        bend_positive, bend_negative = 1 / hit**2, 1 / miss**2
    else:
        cost_positive, cost_negative = softplus(-pred), softplus(pred)
        slope_positive, slope_negative = -sigmoid(-pred), sigmoid(pred)
        bend_positive = bend_negative = sigmoid(pred) * sigmoid(-pred)
    weight = np.ones_like(pred) if pos_weight is None else pos_weight
    positive, negative = weight * label, 1 - label
    value = times(positive, cost_positive) + times(negative, cost_negative)
    by_label = times(weight, cost_positive) - cost_negative
    if clamp:
        by_label = np.log1p(-pred) - times(weight, np.log(pred))
    if pos_weight is None and not from_sigmoid:
        by_label = -pred
    slopes = {
        "pred": times(positive, slope_positive) + times(negative, slope_negative),
        "label": by_label,
        "pos_weight": times(label, cost_positive),
    }
    curvature = times(positive, bend_positive) + times(negative, bend_negative)
    return value, slopes, curvature


@elementwise(
    "PoissonNLLLoss",
    {"pred": lambda p: "real" if p["from_logits"] else "positive", "target": "count"},
    in_call=("epsilon",),
    from_logits=(True, False),
    compute_full=(False, True, "stirling"),
    epsilon=(None, 0.125),
)
def poisson(
    pred: Array,
    target: Array,
    *,
    from_logits: bool = True,
    compute_full: bool | str = False,
    epsilon: float = 1e-8,
) -> Point:
    if from_logits:
        rate, log_rate = np.exp(pred), pred
        slope, curvature = rate - target, rate
    else:
        shifted = pred + epsilon
        rate, log_rate = pred, np.log(shifted)
        slope = 1 - times(target, 1 / shifted)
        curvature = times(target, 1 / shifted**2)
    # the rate outgrows its logarithm: at an infinite rate the loss is infinite too
    value = np.where(np.isposinf(rate), rate, rate - times(target, log_rate))
    by_target = -log_rate
    if compute_full == "stirling":
        large = target > 1
        t = np.where(large, target, 1.0)
        value += np.where(large, t * np.log(t) - t + 0.5 * np.log(2 * np.pi * t), 0.0)
        by_target += np.where(large, np.log(t) + 0.5 / t, 0.0)
    elif compute_full is True:
        value += np.vectorize(math.lgamma, otypes=[np.float64])(target + 1)
        by_target += digamma(target + 1)
    return value, {"pred": slope, "target": by_target}, curvature


@elementwise("GaussianNLLLoss", {"var": "positive"}, full=(False, True), epsilon=(1e-6, 0.5))
def gaussian_nll(
    pred: Array, target: Array, var: Array, *, full: bool = False, epsilon: float = 1e-6
) -> Point:
    v, error = np.maximum(var, epsilon), pred - target
    value = np.log(v) / 2 + error**2 / (2 * v) + (math.log(2 * math.pi) / 2 if full else 0.0)
    by_var = np.where(var > epsilon, 1 / (2 * v) - error**2 / (2 * v**2), 0.0)
    return value, {"pred": error / v, "target": -error / v, "var": by_var}, 1 / v


@elementwise("MarginRankingLoss", {"label": "sign"}, margin=(0.0, 0.5, -1.0))
def margin_ranking(input1: Array, input2: Array, label: Array, *, margin: float = 0.0) -> Point:
    gap = margin - label * (input1 - input2)
    active = gap > 0
    slopes = {
        "input1": np.where(active, -label, 0.0),
        "input2": np.where(active, label, 0.0),
        "label": np.where(active, input2 - input1, 0.0),
    }
    return np.where(active, gap, 0.0), slopes, np.zeros_like(gap)


@elementwise("HingeEmbeddingLoss", {"label": "sign"}, margin=(0.5, 1.0, -1.0))
def hinge_embedding(pred: Array, label: Array, *, margin: float = 1.0) -> Point:
    gap = margin - pred
    near, far = label != -1, (label != 1) & (gap > 0)
    value = np.where(near, pred, 0.0) + np.where(far, gap, 0.0)
    return value, {"pred": 1.0 * near - 1.0 * far}, np.zeros_like(value)
