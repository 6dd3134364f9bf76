"""Record time and memory of CTC over long speech: value and gradient, and the alignment.

Each runs in a process of its own. Its memory is what the call adds to the most that was in use
before it, results included and inputs not. Time grows with the square of the minutes. The load is
what the system says before the first call: how many programs want a processor.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

import records
import rustloss as rl
from contenders.table import setting

#: Of a minute.
FRAMES, LABELS = 3000, 500
CLASSES = 64
LIMIT = 512 << 20
THREADS = 2
WAYS: dict[str, Callable[..., object]] = {
    "loss and gradient": rl.CTCLoss.value_and_grad,
    "alignment": rl.CTCLoss.align,
}


def peak() -> int:
    """Return the most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def run(way: str, minutes: int) -> dict[str, float]:
    """Return the seconds and the MiB that one call takes."""
    rng = np.random.default_rng(0)
    frames = rng.standard_normal((minutes * FRAMES, CLASSES), np.float32)
    labels = rng.integers(0, CLASSES - 1, minutes * LABELS)
    loss = rl.CTCLoss("TC", memory_limit=LIMIT)
    with rl.num_threads(THREADS):
        WAYS[way](loss, frames[:100], labels[:10])
        before, start = peak(), time.perf_counter()
        WAYS[way](loss, frames, labels)
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 1), "MiB": round((peak() - before) / 2**20)}


def main() -> None:
    """Measure one way if it is named, or else both, and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=60, help="of speech")
    parser.add_argument("--way", choices=WAYS, help="measure one, and record nothing")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(run(arguments.way, arguments.minutes)))
        return
    load, found = round(os.getloadavg()[0], 1), {}
    for way in WAYS:
        options = ["--minutes", str(arguments.minutes), "--way", way]
        found[way] = json.loads(subprocess.check_output([sys.executable, __file__, *options]))
        print(way, found[way], flush=True)
    record = {
        **setting(THREADS),
        "load": load,
        "minutes": arguments.minutes,
        "frames": arguments.minutes * FRAMES,
        "labels": arguments.minutes * LABELS,
        "classes": CLASSES,
        "memory_limit": LIMIT,
        "ways": found,
    }
    record["versions"] = {
        name: record["versions"][name] for name in ("rustloss", "numpy", "Python")
    }
    records.save("long_alignment", record)


if __name__ == "__main__":
    main()
