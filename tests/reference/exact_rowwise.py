"""Exact terms of the losses of one vector at a time, and the softmax; see `exact`.

MultiMarginLoss, MultiLabelMarginLoss, MultiLabelSoftMarginLoss and TripletMarginLoss are in
`exact_margins`.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

import mpmath

from .exact import ONE, ZERO, cut_off, formula, size, undecided

if TYPE_CHECKING:
    from .exact import Quantities, Terms


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
    # Down to an epsilon of -1 neither changes its sign, and errors count against the sum itself.
    total = mpmath.fsum((*of_row.surprise[label], epsilon * q))
    if 0 < q < 0.5:
        # With so many bits that what is left of the logarithm without q has all of its own.
        with mpmath.workprec(mpmath.mp.prec - 2 * int(mpmath.log(q, 2))):
            total = (1 + epsilon) * q + (-mpmath.log1p(-q) - q)
    value = (weight * total,)
    slope, bend = (-weight * ((1 + epsilon) - epsilon * q),), (-weight * epsilon * p,)
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
