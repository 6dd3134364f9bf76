"""Value and derivatives of every loss as sums of exact terms, and the distance to them in ulp.

A formula takes the parameters and one sample as mpmath numbers, and gives the value, the gradient
with respect to each input and the second derivative with respect to the prediction, every number
of them as its terms. Their sum is the truth, the sum of their sizes what the error is measured
against. A quantity that is one term, or a sum of
terms of one sign, is thus measured against itself. An empty tuple is a number that nothing is
asked of: a gradient too near a kink to say on which side of it the sample lies.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import mpmath
import numpy as np

from .math_mpmath import PRECISION, log_factorial, sigmoid, softplus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

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


ZERO, ONE = mpmath.mpf(0), mpmath.mpf(1)


def elementwise(value: Terms, **derivatives: Terms) -> Quantities:
    return {"value": [value], **{name: [terms] for name, terms in derivatives.items()}}


def undecided(terms: Terms, eps: float) -> bool:
    """Tell whether a sum is so near 0 that its promised 4 ulp let its sign go either way."""
    return bool(abs(mpmath.fsum(terms)) <= 4 * eps * size(terms))


def cut_off(terms: Terms) -> Terms:
    """Return terms of the same size whose sum is 0."""
    return size(terms) / 2, -size(terms) / 2


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


class Softmax(NamedTuple):
    """-log p of every class as terms of one sign, p, and 1 - p of the most likely class.

    The logarithm of the sum of the exponentials is the sum of `log_sum`.
    """

    surprise: list[Terms]
    p: list[Any]
    largest: int
    rest: Any
    log_sum: Terms

    def complement(self, label: int) -> Any:
        """Return 1 - p of a class."""
        return self.rest if label == self.largest else 1 - self.p[label]

    def through(self, label: int, slope: Terms, bend: Terms) -> dict[str, list[Terms]]:
        """Return the derivatives of a loss by its own two by log p of the label."""
        toward = [-share for share in self.p]
        toward[label] = self.complement(label)
        bends = [terms[0] for terms in self.curvature(ONE)]
        rows = list(zip(toward, bends, strict=True))
        return {
            "pred": [tuple(term * way for term in slope) for way, _ in rows],
            "hess": [
                (*(term * way**2 for term in bend), *(-term * turn for term in slope))
                for way, turn in rows
            ],
        }

    def curvature(self, total: Any) -> list[Terms]:
        """Return `total` p (1 - p)."""
        # No other class has more than half: its 1 - p does not cancel.
        bends = [total * share * (1 - share) for share in self.p]
        bends[self.largest] = total * self.p[self.largest] * self.rest
        return [(bend,) for bend in bends]


def softmax(x: list[Any]) -> Softmax:
    largest = x.index(max(x))
    gaps = [x[largest] - v for v in x]
    shares = [mpmath.exp(-gap) for gap in gaps]
    total = mpmath.fsum(shares)
    others = mpmath.fsum(share for c, share in enumerate(shares) if c != largest)
    log_sum = mpmath.log1p(others)
    surprise = [(gap, log_sum) for gap in gaps]
    p = [share / total for share in shares]
    return Softmax(surprise, p, largest, others / total, (x[largest], log_sum))


@formula("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(params: Any, x: list[Any], y: Any) -> Quantities:
    classes, is_sparse = len(x), params.get("sparse_label", True)
    smoothing = mpmath.mpf(params.get("label_smoothing", 0.0))
    costs = [mpmath.mpf(w) for w in params.get("class_weight", [1.0] * classes)]
    y = [ONE if c == y else ZERO for c in range(classes)] if is_sparse else y
    if smoothing:
        y = [(1 - smoothing) * v + smoothing / classes for v in y]
    y = [v * w if v else v for v, w in zip(y, costs, strict=True)]
    if params.get("from_logits"):
        surprise: list[Terms] = [(-v,) for v in x]
        slopes: list[Terms] = [(-v,) for v in y]
        hess: list[Terms] = [(ZERO,)] * classes
    else:
        total, of_row = mpmath.fsum(y), softmax(x)
        surprise, hess = of_row.surprise, of_row.curvature(total)
        slopes = [
            (share * total, -v) if v else (share * total,)
            for share, v in zip(of_row.p, y, strict=True)
        ]
        if is_sparse and not smoothing:
            label = y.index(total)
            slopes[label] = (-of_row.complement(label) * total,)
    value = tuple(v * term for v, terms in zip(y, surprise, strict=True) if v for term in terms)
    if z_loss := mpmath.mpf(params.get("z_loss", 0.0)):
        value += tuple(z_loss * a * b for a in of_row.log_sum for b in of_row.log_sum)
        pull = [2 * z_loss * term for term in of_row.log_sum]
        rows = zip(slopes, of_row.p, strict=True)
        slopes = [(*terms, *(term * share for term in pull)) for terms, share in rows]
        turns = zip(hess, of_row.curvature(ONE), of_row.p, strict=True)
        hess = [
            (*terms, *(term * turn for term in pull), 2 * z_loss * share**2)
            for terms, (turn,), share in turns
        ]
    quantities = {"value": [value or (ZERO,)], "pred": slopes, "hess": hess}
    if not is_sparse:
        rates = [(1 - smoothing) * w for w in costs]
        rows = zip(rates, surprise, strict=True)
        quantities["label"] = [tuple(rate * t for t in terms) for rate, terms in rows]
    return quantities


@formula("SoftmaxFocalLoss")
def softmax_focal(params: Any, x: list[Any], y: Any) -> Quantities:
    of_row, label, gamma = softmax(x), int(y), mpmath.mpf(params["gamma"])
    weight = mpmath.mpf(params["alpha"][label]) if "alpha" in params else ONE
    surprise, p, q = of_row.surprise[label], of_row.p[label], of_row.complement(label)
    # The derivatives by log p of the label.
    steep = gamma * p * q ** (gamma - 1)
    slope = (-(q**gamma), *(-steep * term for term in surprise))
    bend = (2 * steep, *(-steep * term for term in surprise))
    bend += tuple(steep * (gamma - 1) * p / q * term for term in surprise)

    def weighed(terms: Terms) -> Terms:
        return tuple(weight * term for term in terms)

    value = tuple(q**gamma * term for term in surprise)
    return {
        "value": [weighed(value)],
        **of_row.through(label, weighed(slope), weighed(bend)),
    }


@formula("PolyLoss")
def poly(params: Any, x: list[Any], y: Any) -> Quantities:
    of_row, label, epsilon = softmax(x), int(y), mpmath.mpf(params["epsilon"])
    p, q = of_row.p[label], of_row.complement(label)
    weight = mpmath.mpf(params["class_weight"][label]) if "class_weight" in params else ONE
    value = tuple(weight * term for term in (*of_row.surprise[label], epsilon * q))
    slope, bend = (-weight, -weight * epsilon * p), (-weight * epsilon * p,)
    return {"value": [value], **of_row.through(label, slope, bend)}


@formula("KLDivLoss")
def kl_divergence(params: Any, x: list[Any], y: list[Any]) -> Quantities:
    heat, log_target = mpmath.mpf(params.get("temperature", 1.0)), params.get("log_target")
    epsilon = mpmath.mpf(params.get("epsilon", 0.0))
    logs = y if log_target else [mpmath.log(v + epsilon) if v else ZERO for v in y]
    y = [mpmath.exp(v) for v in y] if log_target else y
    if params.get("from_logits", True):
        surprise: list[Terms] = [(-v,) for v in x]
        slopes: list[Terms] = [(-v,) for v in y]
        hess: list[Terms] = [(ZERO,)] * len(x)
    else:
        of_row = softmax([v / heat for v in x])
        surprise, total = of_row.surprise, mpmath.fsum(y)
        slopes = [(heat * share * total, -heat * v) for share, v in zip(of_row.p, y, strict=True)]
        hess = of_row.curvature(total)
    rows = list(zip(y, logs, surprise, strict=True))
    by_label = [(log, v / (v + epsilon), *terms) if v else () for v, log, terms in rows]
    if log_target:
        by_label = [tuple(v * term for term in t) for v, t in zip(y, by_label, strict=True)]
    return {
        "value": [tuple(heat**2 * v * term for term in (log, *terms)) for v, log, terms in rows],
        "pred": slopes,
        "label": [tuple(heat**2 * term for term in terms) for terms in by_label],
        "hess": hess,
    }


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


@formula("CategoricalHingeLoss")
def categorical_hinge(params: Any, x: list[Any], y: Any) -> Quantities:
    label = int(y)
    best = max((c for c in range(len(x)) if c != label), key=lambda c: x[c])
    terms = (mpmath.mpf(params["margin"]), x[best], -x[label])
    slopes: list[Terms] = [(ZERO,)] * len(x)
    if undecided(terms, params["eps"]):
        slopes[best] = slopes[label] = ()
    elif mpmath.fsum(terms) > 0:
        slopes[best], slopes[label] = (ONE,), (-ONE,)
    value = terms if mpmath.fsum(terms) > 0 else cut_off(terms)
    return {"value": [value], "pred": slopes, "hess": [(ZERO,)] * len(x)}


@formula("MultiQuantileLoss")
def multi_quantile(params: Any, x: list[Any], y: Any) -> Quantities:
    count = len(x)
    quantiles = [mpmath.mpf(2 * i + 1) / (2 * count) for i in range(count)]
    if "quantiles" in params:
        quantiles = [mpmath.mpf(q) for q in params["quantiles"]]
    rows = [(y - v, q / count, (1 - q) / count) for v, q in zip(x, quantiles, strict=True)]
    slopes = [-low if gap > 0 else high if gap < 0 else ZERO for gap, low, high in rows]
    return {
        "value": [tuple(max(low * gap, -high * gap) for gap, low, high in rows)],
        "pred": [(slope,) for slope in slopes],
        "label": [tuple(-slope for slope in slopes)],
        "hess": [(ZERO,)] * count,
    }


@formula("CRPSLoss")
def crps(params: Any, x: list[Any], y: Any) -> Quantities:
    count = len(x)
    ordered = sorted(x)
    # The sum over pairs of members: each gap lies between those below and those above it.
    gaps = [b - a for a, b in itertools.pairwise(ordered)]
    apart = mpmath.fsum(gap * (i + 1) * (count - i - 1) for i, gap in enumerate(gaps))
    score = mpmath.fsum(abs(v - y) for v in x) / count - apart / count**2
    is_fair = params.get("fair") and count > 1
    pairs = count * (count - 1) if is_fair else count**2
    ranks = [bisect_left(ordered, v) - (count - bisect_right(ordered, v)) for v in x]
    sides = [mpmath.sign(v - y) for v in x]
    return {
        "value": [(score, -apart / (count**2 * (count - 1))) if is_fair else (score,)],
        "pred": [
            (side / count, -mpmath.mpf(rank) / pairs)
            for side, rank in zip(sides, ranks, strict=True)
        ],
        "label": [(-mpmath.fsum(sides) / count,)],
    }


@formula("CosineEmbeddingLoss")
def cosine_embedding(params: Any, u: list[Any], v: list[Any], y: Any) -> Quantities:
    lengths = [mpmath.sqrt(mpmath.fsum(c**2 for c in w)) for w in (u, v)]
    if not all(lengths):
        zero: list[Terms] = [(ZERO,)] * len(u)
        value = (ONE,) if y == 1 else (mpmath.mpf(max(0, -params["margin"])),)
        return {"value": [value], "input1": zero, "input2": zero}
    products = [a * b / (lengths[0] * lengths[1]) for a, b in zip(u, v, strict=True)]
    if y == 1:
        terms, side, unknown = (ONE, *(-c for c in products)), -1, False
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


def doubtful(terms: Iterable[Any]) -> Terms:
    """Return terms of the same size that cancel: what is lost to the rounding of others."""
    return tuple(side * term / 2 for term in terms for side in (1, -1))


@formula("InfoNCELoss")
def info_nce(params: Any, a: list[list[Any]], b: list[list[Any]]) -> Quantities:
    n, heat = len(a), mpmath.mpf(params["temperature"])
    is_cosine, symmetric = params["similarity"] == "cosine", params["symmetric"]
    lengths = [[ONE] * n, [ONE] * n]
    if is_cosine:
        lengths = [[mpmath.sqrt(mpmath.fsum(v**2 for v in x)) for x in batch] for batch in (a, b)]
        a, b = (
            [[v / length for v in x] for x, length in zip(batch, of, strict=True)]
            for batch, of in zip((a, b), lengths, strict=True)
        )
    products = [[[p * q for p, q in zip(x, y, strict=True)] for y in b] for x in a]
    cosines = [[mpmath.fsum(terms) for terms in row] for row in products]
    # A similarity is known to its rounding only, which counts 1 / temperature times in p.
    doubts = [[size(terms) / heat for terms in row] for row in products]
    share = mpmath.mpf(0.5) if symmetric else ONE
    value: list[list[Any]] = [[] for _ in range(n)]
    by: list[list[list[Any]]] = [[[] for _ in range(n)] for _ in range(n)]
    for turned in (False, True)[: 1 + symmetric]:
        for i in range(n):
            line = [(j, i) if turned else (i, j) for j in range(n)]
            of_line, doubt = (
                softmax([cosines[r][c] / heat for r, c in line]),
                [doubts[r][c] for r, c in line],
            )
            p, top = of_line.p, of_line.largest
            gap, log_sum = of_line.surprise[i]
            unsure = [p[j] * (doubt[j] + doubt[top]) for j in range(n) if j != top]
            if i != top:
                value[i].append(share * gap)
                unsure.append(doubt[i] + doubt[top])
            value[i] += (share * log_sum, *doubtful(share * v for v in unsure))
            mean = mpmath.fsum(v * w for v, w in zip(p, doubt, strict=True))
            for j, (r, c) in enumerate(line):
                slope, unsure_slope = p[j], p[j] * (doubt[j] + mean)
                if j == i:
                    slope = -(of_line.rest if i == top else 1 - p[i])
                    others = [p[k] * (doubt[k] + doubt[i]) for k in range(n) if k != i]
                    unsure_slope = p[i] * mpmath.fsum(others)
                by[r][c].append((share * slope, share * unsure_slope))

    def pulls(own: int, other: int, *, turned: bool) -> list[list[Any]]:
        """Return the terms of the gradient by one vector that another accounts for."""
        r, c = (other, own) if turned else (own, other)
        u, v = (b[c], a[r]) if turned else (a[r], b[c])
        scale = 1 / (heat * lengths[turned][own])
        found = []
        for x, y in zip(u, v, strict=True):
            direct = [scale * y]
            if is_cosine:
                lost = abs(scale * x) * (doubts[r][c] * heat - abs(cosines[r][c]))
                direct += (-scale * x * cosines[r][c], *doubtful([lost]))
            terms = [slope * t for slope, _ in by[r][c] for t in direct]
            terms += doubtful(unsure * abs(t) for _, unsure in by[r][c] for t in direct)
            found.append(terms)
        return found

    def gradient(*, turned: bool) -> list[Terms]:
        return [
            tuple(term for terms in of_number for term in terms)
            for own in range(n)
            for of_number in zip(
                *(pulls(own, other, turned=turned) for other in range(n)), strict=True
            )
        ]

    return {
        "value": [tuple(terms) for terms in value],
        "x1": gradient(turned=False),
        "x2": gradient(turned=True),
    }


@formula("CTCLoss")
def ctc(_: Any, frames: list[list[Any]], label: list[Any]) -> Quantities:
    tokens = [int(v) for v in label if v >= 0]
    blank, length = len(frames[0]) - 1, len(tokens)
    states = [tokens[s // 2] if s % 2 else blank for s in range(2 * length + 1)]
    skips = [s >= 2 and states[s] not in (blank, states[s - 2]) for s in range(len(states))]
    p = [softmax(row).p for row in frames]

    def before(row: list[Any], s: int) -> Any:
        arrived = row[s] + (row[s - 1] if s else ZERO)
        return arrived + row[s - 2] if skips[s] else arrived

    def after(row: list[Any], s: int) -> Any:
        left = row[s] + (row[s + 1] if s + 1 < len(row) else ZERO)
        return left + row[s + 2] if s + 2 < len(row) and skips[s + 2] else left

    every = range(len(states))
    # A path begins as if it came from the first state, and ends in one of the last two.
    ahead = [[p[0][states[s]] if s < 2 else ZERO for s in every]]
    for shares in p[1:]:
        ahead.append([before(ahead[-1], s) * shares[states[s]] for s in every])
    behind = [[ONE if s >= len(states) - 2 else ZERO for s in every]]
    for shares in p[:0:-1]:
        moved = [v * shares[c] for v, c in zip(behind[-1], states, strict=True)]
        behind.append([after(moved, s) for s in every])
    total = mpmath.fsum(ahead[-1][-2:])
    slopes: list[Terms] = []
    for shares, come, go in zip(p, ahead, reversed(behind), strict=True):
        paths = [a * b / total for a, b in zip(come, go, strict=True)]
        for c, share in enumerate(shares):
            taken = mpmath.fsum(v for v, state in zip(paths, states, strict=True) if state == c)
            slopes.append((share, -taken))
    loss = -mpmath.log(total)
    # The value is measured in ulp of max(1, loss).
    spare = max(ONE - loss, ZERO) / 2
    return {"value": [(loss, spare, -spare)], "pred": slopes}


WHOLE = ("SDMLLoss", "InfoNCELoss")
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
    loss: str, params: Mapping[str, Any], inputs: Mapping[str, NDArray[Any]], asked: Iterable[str]
) -> dict[str, Truth]:
    """Compute what is asked for, of finite inputs: "value", the gradient by an input, "hess".

    The first input decides the dtype whose ulp make a sign uncertain.
    """
    params = {**params, "eps": float(np.finfo(next(iter(inputs.values())).dtype).eps)}
    samples: Any = zip(*(x.tolist() for x in inputs.values()), strict=True)
    if loss in WHOLE:
        samples = [[x.tolist() for x in inputs.values()]]
    found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in asked}
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
