"""Exact terms of the losses of a batch against a batch; see `exact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mpmath

from .exact import ONE, doubtful, formula, size
from .exact_rowwise import softmax

if TYPE_CHECKING:
    from .exact import Quantities, Terms


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
