"""Exact terms of CTC, from the sums over its paths; see `exact`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mpmath

from .exact import ONE, ZERO, formula
from .exact_rowwise import softmax

if TYPE_CHECKING:
    from .exact import Quantities, Terms


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
