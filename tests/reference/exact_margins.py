"""Exact terms of the losses of vectors that ask for a margin; see `exact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mpmath

from .exact import ZERO, cut_off, doubtful, formula, size, undecided
from .exact_elementwise import sigmoid_bce

if TYPE_CHECKING:
    from .exact import Quantities, Terms


@formula("MultiMarginLoss")
def multi_margin(params: Any, x: list[Any], y: Any) -> Quantities:
    label, classes, p = int(y), len(x), params.get("p", 1)
    weight = mpmath.mpf(params["class_weight"][label]) if "class_weight" in params else 1
    share, margin = mpmath.mpf(weight) / classes, mpmath.mpf(params["margin"])
    value: list[Any] = []
    slopes: list[Terms] = [(ZERO,)] * classes
    bends: list[Terms] = [(ZERO,)] * classes
    own: list[tuple[Terms, Terms]] = []
    for c in set(range(classes)) - {label}:
        terms = (margin, x[c], -x[label])
        gap, unknown = mpmath.fsum(terms), undecided(terms, params["eps"])
        if gap > 0:
            value += [share * t * gap ** (p - 1) for t in terms]
            slopes[c] = (share,) if p == 1 else tuple(2 * share * t for t in terms)
            bends[c] = (ZERO,) if p == 1 else (2 * share,)
        if unknown:
            # What rounding makes of a gap that is nearly 0.
            value += doubtful([share * size(terms) * (params["eps"] * size(terms)) ** (p - 1)])
            slopes[c], bends[c] = (), () if p == 2 else (ZERO,)
        if gap > 0 or unknown:
            own.append((slopes[c], bends[c]))
    if any(not slope for slope, _ in own):
        slopes[label], bends[label] = (), () if p == 2 else (ZERO,)
    elif own:
        slopes[label] = tuple(-t for slope, _ in own for t in slope)
        bends[label] = tuple(t for _, bend in own for t in bend)
    return {"value": [tuple(value) or (ZERO,)], "pred": slopes, "hess": bends}


@formula("MultiLabelMarginLoss")
def multilabel_margin(params: Any, x: list[Any], y: list[Any]) -> Quantities:
    classes, label = len(x), [int(c) for c in y]
    label = label[: label.index(-1)] if -1 in label else label
    value: list[Any] = []
    counts, unknown = [0] * classes, [False] * classes
    for t in label:
        for i in set(range(classes)) - set(label):
            terms = (mpmath.mpf(1), x[i], -x[t])
            if mpmath.fsum(terms) > 0:
                value += terms
                counts[i] += 1
                counts[t] -= 1
            if undecided(terms, params["eps"]):
                value += cut_off(terms)
                unknown[i] = unknown[t] = True
    rows = zip(counts, unknown, strict=True)
    return {
        "value": [tuple(term / classes for term in value) or (ZERO,)],
        "pred": [() if is_unknown else (mpmath.mpf(n) / classes,) for n, is_unknown in rows],
        "hess": [(ZERO,)] * classes,
    }


@formula("MultiLabelSoftMarginLoss")
def multilabel_soft_margin(params: Any, x: list[Any], y: list[Any]) -> Quantities:
    weights = params.get("class_weight", [1.0] * len(x))
    classes = [
        (mpmath.mpf(w) / len(x), sigmoid_bce({}, a, b))
        for w, a, b in zip(weights, x, y, strict=True)
    ]

    def weighed(name: str) -> list[Terms]:
        return [tuple(share * term for term in of[name][0]) for share, of in classes]

    value = tuple(term for terms in weighed("value") for term in terms)
    return {"value": [value], **{name: weighed(name) for name in ("pred", "label", "hess")}}


@formula("TripletMarginLoss")
def triplet_margin(params: Any, x: list[Any], p: list[Any], n: list[Any]) -> Quantities:
    degree, epsilon = mpmath.mpf(params.get("p", 2.0)), mpmath.mpf(params.get("epsilon", 1e-6))

    def distance(a: list[Any], b: list[Any]) -> tuple[Any, list[Any]]:
        """Return the distance and its derivative by the first vector."""
        v = [s - t + epsilon for s, t in zip(a, b, strict=True)]
        length = mpmath.fsum(abs(d) ** degree for d in v) ** (1 / degree)
        slope = [mpmath.sign(d) * (abs(d) / length) ** (degree - 1) if d else ZERO for d in v]
        return length, slope

    (near, near_slope), (far, far_slope) = distance(x, p), distance(x, n)
    shares = {"pred": (1, -1), "positive": (-1, 0), "negative": (0, 1)}
    tied = False
    if params.get("swap"):
        between, between_slope = distance(p, n)
        tied = undecided((between, -far), params["eps"])
        if between < far:
            far, far_slope = between, between_slope
            shares = {"pred": (1, 0), "positive": (-1, -1), "negative": (0, 1)}
    terms = (mpmath.mpf(params["margin"]), near, -far)
    active = mpmath.fsum(terms) > 0
    unknown = tied or undecided(terms, params["eps"])
    rows = list(zip(near_slope, far_slope, strict=True))
    slopes = {
        name: [() if unknown else (a * s * active, b * t * active) for s, t in rows]
        for name, (a, b) in shares.items()
    }
    return {"value": [terms if active else cut_off(terms)], **slopes}
