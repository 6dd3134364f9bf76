"""One case: check that the contenders agree, then time them in turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import Array, Case, Contender, Result

SAMPLE_SECONDS = 8e-3
"""A sample repeats the call until it lasts about this long, after as many untimed calls."""
CASE_SECONDS = 2.0
ROUNDS = (7, 40)
PAUSE_SECONDS = 15e-3
"""Rest before each sample: OpenMP workers spin for some time after the last contender's work."""

VALUE_TOLERANCE = 1e-4
GRADIENT_TOLERANCE = 1e-2
"""Largest error, relative to the largest element, with which a contender is timed.

It is there to catch one that computes something else. Peers' float32 CTC needs this much room.
"""
HALF_TOLERANCES = {"float16": 16 * 2.0**-10, "bfloat16": 16 * 2.0**-7}
"""Half types have room for peers that round every step: 16 times the distance of numbers at 1."""
HALF_TIES = 0.01
"""The share of their elements that may meet at a kink, where libraries choose different slopes."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    minimum: float
    median: float


def gradient_error(result: Result, reference: Result) -> float:
    """Return the largest absolute error of all gradients."""
    pairs = zip(result[1], reference[1], strict=True)
    return float(max(np.abs(got - want).max() for got, want in pairs))


def agrees(result: Result, reference: Result, dtype: str) -> bool:
    """Tell whether shapes are the same and values and gradients near the reference."""
    room = HALF_TOLERANCES.get(dtype, 0.0)

    def near(got: Array, want: Array, tolerance: float) -> bool:
        if got.shape != want.shape:
            return False
        far = np.abs(got - want) > max(tolerance, room) * np.abs(want).max()
        return bool(far.mean() <= (HALF_TIES if room else 0.0))

    grads = zip(result[1], reference[1], strict=True)
    return near(result[0], reference[0], VALUE_TOLERANCE) and all(
        near(got, want, GRADIENT_TOLERANCE) for got, want in grads
    )


def copying(case: Case, threads: int) -> Contender:
    """Return a plain copy that reads and writes as many bytes as the case: the memory limit."""
    inputs = case.inputs()
    moved = sum(x.nbytes for x in inputs) + sum(inputs[at].nbytes for at in case.differentiable)
    source = np.ones(moved // 2, np.uint8)
    target = np.zeros_like(source)
    if source.nbytes < 1 << 20 or threads == 1:
        return Contender("copy", lambda: np.copyto(target, source), lambda _: (target, ()))
    pool = ThreadPoolExecutor(threads)
    parts = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    return Contender(
        "copy", lambda: list(pool.map(lambda part: np.copyto(*part), parts)), lambda _: (target, ())
    )


def adding(case: Case) -> Contender:
    """Return ``numpy.add`` of arrays like the first input: the least that a NumPy call costs."""
    first, second = case.inputs()[0], case.inputs()[0]
    return Contender("numpy.add", lambda: np.add(first, second), lambda result: (result, ()))


def hurry() -> None:
    """Take one sample of everything from now on, to try things out: its times say little."""
    global CASE_SECONDS, ROUNDS
    CASE_SECONDS, ROUNDS = 0.05, (1, 1)


def _seconds(run: Callable[[], Any], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def measure(contenders: Sequence[Contender]) -> dict[str, Timing]:
    """Time all contenders in one interleaved loop, one sample each a round."""
    first = {c.name: _seconds(c.run, 1) for c in contenders}
    # Seconds for one call need no repeats to lose, and would take minutes.
    samples = {name: [seconds] if seconds > CASE_SECONDS else [] for name, seconds in first.items()}
    turns = [c for c in contenders if not samples[c.name]]
    calls = {c.name: math.ceil(SAMPLE_SECONDS / _seconds(c.run, 2)) for c in turns}
    turn = sum(2 * calls[c.name] * first[c.name] + PAUSE_SECONDS for c in turns)
    rounds = min(max(math.ceil(CASE_SECONDS / turn), ROUNDS[0]), ROUNDS[1]) if turns else 0
    for _ in range(rounds):
        for contender in turns:
            time.sleep(PAUSE_SECONDS)
            # Untimed: wakes the contender's own threads, brings its arrays back into the cache and
            # the CPUs back to their clock, which takes milliseconds after a pause.
            _seconds(contender.run, calls[contender.name])
            samples[contender.name].append(_seconds(contender.run, calls[contender.name]))
    return {name: Timing(min(times), statistics.median(times)) for name, times in samples.items()}
