"""Ratios of recorded times: of the fastest peer and rustloss, of one thread and several."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

Case = dict[str, Any]


def fastest(case: Case) -> tuple[str, float]:
    """Return the fastest peer, and how many times as long as rustloss it takes."""
    peer = min(case["peers"], key=case["peers"].get)
    return peer, case["peers"][peer] / case["rustloss"]


def kind(case: Case) -> str:
    """Return what is special about a case's arrays: the layout, or else the element type."""
    return str(case["dtype"] if case["layout"] == "C" else case["layout"])


def compared(cases: Iterable[Case]) -> list[Case]:
    """Return the cases that some peer has, the worst ones first."""
    return sorted((case for case in cases if case["peers"]), key=lambda case: fastest(case)[1])


def mean(cases: Iterable[Case]) -> float:
    """Return the geometric mean of the ratios."""
    return statistics.geometric_mean(fastest(case)[1] for case in cases)


def by_family(cases: Iterable[Case]) -> dict[str, dict[str, list[Case]]]:
    """Return the cases that some peer has by family and kind, the worst ones first."""
    found: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in compared(cases):
        found[case["family"]][kind(case)].append(case)
    return found


def speedup(row: dict[str, Any], threads: int) -> tuple[float, float]:
    """Return how much faster several threads are, and which share of the work that makes serial.

    The share is Amdahl's: of work that took no longer on several threads it would be 1.
    """
    gain = row["one"] / row["several"]
    return gain, (threads / gain - 1) / (threads - 1)
