"""Value and gradient of every loss as sums of exact terms, and the distance to them in ulp.

A formula takes the parameters and one sample as mpmath numbers, and gives the value and the
gradient with respect to each input, every number of them as its terms. Their sum is the truth, the
sum of their sizes what the error is measured against. A quantity that is one term, or a sum of
terms of one sign, is thus measured against itself. An empty tuple is a number that nothing is
asked of: a gradient too near a kink to say on which side of it the sample lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mpmath
import numpy as np

from .math_mpmath import PRECISION, log_factorial, sigmoid, softplus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    Terms = tuple[Any, ...]
    Quantities = dict[str, list[Terms]]

BITS = 53
FAR = 2000
"""Exponents are cut there, far outside float64."""

FORMULAS: dict[str, Callable[..., Quantities]] = {}


def formula(name: str) -> Callable[[Callable[..., Quantities]], Callable[..., Quantities]]:
    """Register the formula of the class `name`."""

    def register(function: Callable[..., Quantities]) -> Callable[..., Quantities]:
        FORMULAS[name] = function
        return function

    return register


def elementwise(value: Terms, **gradients: Terms) -> Quantities:
    return {"value": [value], **{name: [terms] for name, terms in gradients.items()}}


@formula("L1Loss")
def l1(_: Any, x: Any, y: Any) -> Quantities:
    slope = mpmath.sign(x - y)
    return elementwise((abs(x - y),), pred=(slope,), label=(-slope,))


@formula("L2Loss")
def l2(_: Any, x: Any, y: Any) -> Quantities:
    return elementwise(((x - y) ** 2 / 2,), pred=(x - y,), label=(y - x,))


@formula("HuberLoss")
def huber(params: Any, x: Any, y: Any) -> Quantities:
    rho = mpmath.mpf(params["rho"])
    distance = abs(x - y)
    inside = distance <= rho
    value = distance**2 / (2 * rho) if inside else distance - rho / 2
    slope = (x - y) / rho if inside else mpmath.sign(x - y)
    return elementwise((value,), pred=(slope,), label=(-slope,))


@formula("HingeLoss")
def hinge(params: Any, x: Any, y: Any) -> Quantities:
    gap = max(params["margin"] - x * y, mpmath.mpf(0))
    active = gap > 0
    return elementwise((gap,), pred=(-y * active,), label=(-x * active,))


@formula("SquaredHingeLoss")
def squared_hinge(params: Any, x: Any, y: Any) -> Quantities:
    gap = max(params["margin"] - x * y, mpmath.mpf(0))
    return elementwise((gap**2,), pred=(-2 * gap * y,), label=(-2 * gap * x,))


@formula("SigmoidBinaryCrossEntropyLoss")
def sigmoid_bce(_: Any, x: Any, z: Any) -> Quantities:
    value = (z * softplus(-x), (1 - z) * softplus(x))
    return elementwise(value, pred=((1 - z) * sigmoid(x), -z * sigmoid(-x)), label=(-x,))


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
    else:
        shifted = x + mpmath.mpf(1e-8)
        log = mpmath.log(shifted)
        value, by_pred, by_target = (x, -t * log), (mpmath.mpf(1), -t / shifted), (-log,)
    if params.get("compute_full") == "stirling" and t > 1:
        log = mpmath.log(t)
        value += (t * log, -t, mpmath.log(2 * mpmath.pi * t) / 2)
        by_target += (log, 1 / (2 * t))
    elif params.get("compute_full") is True:
        value += (log_factorial(t),)
        # The harmonic number of t, which is 0 at 0, minus Euler's constant.
        by_target += (mpmath.digamma(t + 1) + mpmath.euler, -mpmath.euler)
    return elementwise(value, pred=by_pred, target=by_target)


class Softmax(NamedTuple):
    """-log p of every class as terms of one sign, p, and 1 - p of the most likely class."""

    surprise: list[Terms]
    p: list[Any]
    largest: int
    rest: Any


def softmax(x: list[Any]) -> Softmax:
    largest = x.index(max(x))
    gaps = [x[largest] - v for v in x]
    shares = [mpmath.exp(-gap) for gap in gaps]
    total = mpmath.fsum(shares)
    others = mpmath.fsum(share for c, share in enumerate(shares) if c != largest)
    log_sum = mpmath.log1p(others)
    surprise = [(gap, log_sum) for gap in gaps]
    return Softmax(surprise, [share / total for share in shares], largest, others / total)


@formula("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(params: Any, x: list[Any], y: Any) -> Quantities:
    surprise, p, largest, rest = softmax(x)
    if params.get("sparse_label", True):
        label = int(y)
        slopes: list[Terms] = [(share,) for share in p]
        # No other class has more than half: its 1 - p does not cancel.
        slopes[label] = (-rest if label == largest else p[label] - 1,)
        return {"value": [surprise[label]], "pred": slopes}
    total = mpmath.fsum(y)
    value = tuple(v * term for v, terms in zip(y, surprise, strict=True) for term in terms)
    slopes = [(share * total, -v) for share, v in zip(p, y, strict=True)]
    return {"value": [value], "pred": slopes, "label": surprise}


@formula("KLDivLoss")
def kl_divergence(params: Any, x: list[Any], y: list[Any]) -> Quantities:
    heat, log_target = mpmath.mpf(params.get("temperature", 1.0)), params.get("log_target")
    logs = y if log_target else [mpmath.log(v) if v else mpmath.mpf(0) for v in y]
    y = [mpmath.exp(v) for v in y] if log_target else y
    if params.get("from_logits", True):
        surprise: list[Terms] = [(-v,) for v in x]
        slopes: list[Terms] = [(-v,) for v in y]
    else:
        surprise, p, *_ = softmax([v / heat for v in x])
        total = mpmath.fsum(y)
        slopes = [(heat * share * total, -heat * v) for share, v in zip(p, y, strict=True)]
    rows = list(zip(y, logs, surprise, strict=True))
    by_label = [(log, mpmath.mpf(1), *terms) if v else () for v, log, terms in rows]
    if log_target:
        by_label = [tuple(v * term for term in t) for v, t in zip(y, by_label, strict=True)]
    return {
        "value": [tuple(heat**2 * v * term for term in (log, *terms)) for v, log, terms in rows],
        "pred": slopes,
        "label": [tuple(heat**2 * term for term in terms) for terms in by_label],
    }


def undecided(terms: Terms, eps: float) -> bool:
    """Tell whether a sum is so near 0 that its promised 4 ulp let its sign go either way."""
    return bool(abs(mpmath.fsum(terms)) <= 4 * eps * size(terms))


def cut_off(terms: Terms) -> Terms:
    """Return terms of the same size whose sum is 0."""
    return size(terms) / 2, -size(terms) / 2


@formula("TripletLoss")
def triplet(params: Any, x: list[Any], p: list[Any], n: list[Any]) -> Quantities:
    near = [a - b for a, b in zip(p, x, strict=True)]
    far = [a - b for a, b in zip(n, x, strict=True)]
    terms = (mpmath.mpf(params["margin"]), *(v**2 for v in near), *(-(v**2) for v in far))
    active = mpmath.fsum(terms) > 0
    by = {
        "pred": [2 * (a - b) for a, b in zip(n, p, strict=True)],
        "positive": [2 * v for v in near],
        "negative": [-2 * v for v in far],
    }
    unknown = undecided(terms, params["eps"])
    slopes = {k: [() if unknown else (v * active,) for v in slope] for k, slope in by.items()}
    return {"value": [terms if active else cut_off(terms)], **slopes}


@formula("CosineEmbeddingLoss")
def cosine_embedding(params: Any, u: list[Any], v: list[Any], y: Any) -> Quantities:
    lengths = [mpmath.sqrt(mpmath.fsum(c**2 for c in w)) for w in (u, v)]
    if not all(lengths):
        zero: list[Terms] = [(mpmath.mpf(0),)] * len(u)
        value = (mpmath.mpf(1),) if y == 1 else (mpmath.mpf(max(0, -params["margin"])),)
        return {"value": [value], "input1": zero, "input2": zero}
    products = [a * b / (lengths[0] * lengths[1]) for a, b in zip(u, v, strict=True)]
    if y == 1:
        terms, side, unknown = (mpmath.mpf(1), *(-c for c in products)), -1, False
    else:
        terms = (-mpmath.mpf(params["margin"]), *products)
        side, unknown = int(mpmath.fsum(terms) > 0), undecided(terms, params["eps"])
    value = terms if side else cut_off(terms)

    def slope(a: list[Any], b: list[Any], length: Any, other: Any) -> list[Terms]:
        if unknown:
            return [()] * len(a)
        # The cosine is itself a sum of terms; what they cancel is lost to the gradient.
        cosine, most = mpmath.fsum(products), size(products)
        slopes = []
        for c, d in zip(a, b, strict=True):
            back, spread = c / length**2 * cosine, abs(c) / length**2 * (most - abs(cosine))
            direct = d / (length * other)
            slopes.append(tuple(side * t for t in (direct, -back, spread / 2, -spread / 2)))
        return slopes

    return {
        "value": [value],
        "input1": slope(u, v, *lengths),
        "input2": slope(v, u, *reversed(lengths)),
    }


@formula("SDMLLoss")
def sdml(params: Any, a: list[list[Any]], b: list[list[Any]]) -> Quantities:
    n, width = len(a), len(a[0])
    smoothing = mpmath.mpf(params["smoothing_parameter"])
    value: list[Terms] = []
    by_first: list[list[list[Any]]] = [[[] for _ in range(width)] for _ in range(n)]
    by_second: list[list[list[Any]]] = [[[] for _ in range(width)] for _ in range(n)]
    for i in range(n):
        between = [[p - q for p, q in zip(a[i], other, strict=True)] for other in b]
        distances = [mpmath.fsum(v**2 for v in row) for row in between]
        surprise, p, *_ = softmax([-d for d in distances])
        nearest = min(distances)
        for j in range(n):
            q = 1 - smoothing if i == j else smoothing / (n - 1)
            gap, log_sum = surprise[j]
            # The gap is a difference of distances.
            value.append((q * mpmath.log(q), q * (gap + nearest), -q * nearest, q * log_sum))
            for k, v in enumerate(between[j]):
                # log p is a difference of distances, whose rounding is the relative error of p.
                exponent = 2 * p[j] * v * (distances[j] + nearest)
                pull = (2 * q * v, -2 * p[j] * v, exponent, -exponent)
                by_first[i][k] += pull
                by_second[j][k] += (-t for t in pull)
    flat = [[tuple(terms) for row in rows for terms in row] for rows in (by_first, by_second)]
    return {"value": value, "x1": flat[0], "x2": flat[1]}


WHOLE = ("SDMLLoss",)
"""Losses whose samples are not on their own: the batch is the sample."""


def size(terms: Terms | list[Any]) -> Any:
    return abs(terms[0]) if len(terms) == 1 else mpmath.fsum(terms, absolute=True)


class Truth(NamedTuple):
    """Real numbers ``(high + low) * 2**exponent`` and the exponent of what errors count against.

    ``1 <= abs(high) < 2``, or 0. NaN stands for a number that nothing is asked of.
    """

    high: NDArray[Any]
    low: NDArray[Any]
    exponent: NDArray[Any]
    against: NDArray[Any]


def truth(
    loss: str, params: Mapping[str, Any], inputs: Mapping[str, NDArray[Any]], wrt: tuple[str, ...]
) -> dict[str, Truth]:
    """Compute the unreduced value of finite inputs, and its gradient with respect to some.

    The first input decides the dtype whose ulp make a sign uncertain.
    """
    params = {**params, "eps": float(np.finfo(next(iter(inputs.values())).dtype).eps)}
    samples: Any = zip(*(x.tolist() for x in inputs.values()), strict=True)
    if loss in WHOLE:
        samples = [[x.tolist() for x in inputs.values()]]
    found: dict[str, list[tuple[float, float, int, int]]] = {k: [] for k in ("value", *wrt)}
    with mpmath.workprec(PRECISION):
        for sample in samples:
            quantities = FORMULAS[loss](params, *map(to_mpf, sample))
            for name, numbers in found.items():
                numbers += map(split, quantities[name])
    return {name: Truth(*map(np.array, zip(*n, strict=True))) for name, n in found.items()}


def to_mpf(x: Any) -> Any:
    return [to_mpf(v) for v in x] if isinstance(x, list) else mpmath.mpf(x)


def split(terms: Terms) -> tuple[float, float, int, int]:
    if not terms:
        return np.nan, np.nan, 0, 0
    against = magnitude(size(terms))
    sign, mantissa, shift, bits = (terms[0] if len(terms) == 1 else mpmath.fsum(terms))._mpf_
    if not mantissa:
        return 0.0, 0.0, against, against
    cut = 2 * BITS - bits
    mantissa = mantissa << cut if cut > 0 else mantissa >> -cut
    side = -1.0 if sign else 1.0
    high = side * (mantissa >> BITS) * 2.0 ** (1 - BITS)
    low = side * (mantissa % 2**BITS) * 2.0 ** (1 - 2 * BITS)
    return high, low, min(max(shift + bits - 1, -FAR), FAR), against


def magnitude(x: Any) -> int:
    """Return the exponent of the largest power of two up to x."""
    _, mantissa, shift, bits = x._mpf_
    return min(max(shift + bits - 1, -FAR), FAR) if mantissa else -FAR


def ulp_error(y: NDArray[Any], exact: Truth) -> NDArray[np.float64]:
    """Measure results against the truth, in ulp of the sum of the sizes of its terms.

    The smallest subnormal number is one ulp below the normal numbers and at 0; infinity stands for
    the power of two after the largest finite number, and so does every truth beyond it.
    """
    info = np.finfo(y.dtype)
    high, low, exponent, against = (part.copy() for part in exact)
    beyond = exponent >= info.maxexp
    high[beyond], low[beyond], exponent[beyond] = np.sign(high[beyond]), 0, info.maxexp
    unit = np.where(beyond, info.maxexp - 1, np.maximum(against, info.minexp)) - info.nmant
    # A truth far below the unit is 0; seen from the others' exponent, differences are exact.
    nothing = exponent < unit - 2 * BITS
    high[nothing], low[nothing] = 0, 0
    exponent = np.where(high == 0, unit, exponent)
    wide = y.astype(np.float64).reshape(high.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(wide, -exponent)
        infinite = np.isinf(wide)
        scaled[infinite] = np.ldexp(np.sign(wide[infinite]), info.maxexp - exponent[infinite])
        error = np.ldexp(np.abs((scaled - high) - low), exponent - unit)
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(np.isnan(exact.high), 0.0, error)
