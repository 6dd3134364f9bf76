"""Time value and gradient of 10^3 to 10^8 elements on one thread and on several.

A size that has no room in memory is left out. README.md says what limits the speedup.
"""

from __future__ import annotations

import argparse
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import ratios
import records
import rustloss as rl
from contenders import Contender
from contenders.table import setting
from contenders.timing import hurry, measure
from peers import limit_threads

Array = npt.NDArray[Any]

SIZES = tuple(10**power for power in range(3, 9))
COLUMNS = 100
"""The classes of a row; elementwise losses do not care."""
FRAMES, LABELS = 20, 10
"""A CTC sample of as many frames has few enough elements for the smallest size."""
COPIES = 4
"""Arrays of the first input's size that a case may need, in single precision."""


def _real(rng: np.random.Generator, rows: int) -> tuple[Array, ...]:
    return _normal(rng, rows), _normal(rng, rows)


def _binary(rng: np.random.Generator, rows: int) -> tuple[Array, ...]:
    return _normal(rng, rows), (_normal(rng, rows) > 0).astype(np.float32)


def _classes(rng: np.random.Generator, rows: int) -> tuple[Array, ...]:
    return 3 * _normal(rng, rows), rng.integers(0, COLUMNS, rows)


def _sequences(rng: np.random.Generator, rows: int) -> tuple[Array, ...]:
    # Ten rows of 100 numbers are a sample of 20 frames and 50 classes, the last one the blank.
    pred = _normal(rng, rows).reshape(-1, FRAMES, 50)
    return pred, rng.integers(0, 49, (len(pred), LABELS))


def _normal(rng: np.random.Generator, rows: int) -> Array:
    """Return random numbers that repeat after a million, since to draw them takes time."""
    some = rng.standard_normal((min(rows, 10_000), COLUMNS), dtype=np.float32)
    return np.tile(some, (rows // len(some), 1))


CASES: dict[str, tuple[rl.Loss, Callable[[np.random.Generator, int], tuple[Array, ...]]]] = {
    "L2": (rl.L2Loss(), _real),
    "SigmoidBCE": (rl.SigmoidBinaryCrossEntropyLoss(), _binary),
    "SoftmaxCE": (rl.SoftmaxCrossEntropyLoss(), _classes),
    "CTC": (rl.CTCLoss(), _sequences),
}
"""Two losses that wait for memory, two that compute."""


def sizes(most: int) -> Iterator[int]:
    """Yield the sizes up to the largest one that have room in memory."""
    room = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (4 * COPIES)
    return (size for size in SIZES if size <= min(most, room))


def nanoseconds(name: str, size: int, threads: int) -> dict[str, float]:
    """Return the time for an element on one thread and on several, which take turns."""
    loss, make = CASES[name]
    inputs = make(np.random.default_rng(20), size // COLUMNS)

    def run(count: int) -> None:
        rl.set_num_threads(count)
        loss.value_and_grad(*inputs)

    timed = {"one": 1, "several": threads}
    found = measure(
        [Contender(n, functools.partial(run, t), lambda r: r) for n, t in timed.items()]
    )
    return {n: float(f"{timing.minimum / size * 1e9:.4g}") for n, timing in found.items()}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--quick", action="store_true", help="few samples, up to 10^6 elements")
    parser.add_argument("--record", action="store_true", help="keep the times for README.md")
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("--record keeps what many samples say, and --quick takes few")
    if arguments.threads < 2:
        parser.error("--threads: one thread has nothing to be compared with")
    limit_threads(arguments.threads)
    if arguments.quick:
        hurry()
    rows: list[dict[str, Any]] = []
    print("case        elements  ns/element, 1 thread  on several  speedup  serial share")
    for name in CASES:
        for size in sizes(10**6 if arguments.quick else SIZES[-1]):
            times = nanoseconds(name, size, arguments.threads)
            rows.append({"case": name, "elements": size, **times})
            speedup, serial = ratios.speedup(rows[-1], arguments.threads)
            numbers = f"{times['one']:20.3f} {times['several']:11.3f} {speedup:8.2f} {serial:13.0%}"
            print(f"{name:11} {size:8.0e} {numbers}", flush=True)
    if arguments.record:
        about = setting(arguments.threads)
        records.save("scaling", {**about, "threads": arguments.threads, "rows": rows})


if __name__ == "__main__":
    main()
