"""Interrupt long calls: how long it takes from SIGINT to KeyboardInterrupt.

Not collected by pytest, which runs a short form of it (`test_threads.py`). Prints the worst case
and how many calls were late; the exit status is 1 if any was, or if a call ended wrongly: not at
all, with its inputs changed, or so that the next call is wrong.

    python tests/interrupts.py [--rounds 5] [--cases ctc] [--threads 2]
"""

from __future__ import annotations

import argparse
import functools
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import rustloss as rl

# What the documentation promises.
LATEST_SECONDS = 0.2
# When the signal comes after the start of a call; all calls would take far longer.
DELAYS = (0.03, 0.2)

# It sends the signal from another process, since a thread of this one may have to wait for its
# interpreter. Its clock is the system's.
SENDER = """
import os, signal, sys, time
for line in sys.stdin:
    time.sleep(float(line))
    print(time.monotonic(), flush=True)
    os.kill(os.getppid(), signal.SIGINT)
"""

Arguments = tuple[Any, ...]


@functools.cache
def utterances(samples: int, frames: int, labels: int) -> Arguments:
    rng = np.random.default_rng(samples)
    pred = rng.normal(size=(samples, frames, 16)).astype("f4")
    # No two neighbours are equal, so that every label sequence has a path.
    steps = rng.integers(1, 15, (samples, labels))
    return pred, (np.cumsum(steps, axis=1) % 15).astype("i4")


MANY, LONG = (64, 6_000, 5_000), (1, 60_000, 30_000)
# Their results have a number for each frame and label.
FEWER, SHORTER = (24, 6_000, 2_500), (1, 20_000, 10_000)


@functools.cache
def rows() -> Arguments:
    rng = np.random.default_rng(1)
    pred = np.broadcast_to(rng.normal(size=20_000).astype("f4"), (400_000, 20_000))
    return pred, rng.integers(0, 20_000, len(pred), "i4")


@functools.cache
def elements() -> Arguments:
    rng = np.random.default_rng(2)
    shape = (10_000_000, 1_000)
    pred, label = rng.normal(size=1_000).astype("f4"), rng.random(1_000).astype("f4")
    return np.broadcast_to(pred, shape), np.broadcast_to(label, shape)


@functools.cache
def pairs() -> Arguments:
    rng = np.random.default_rng(3)
    return tuple(rng.normal(size=(3_000, 2_048)).astype("f4") for _ in range(2))


CASES: dict[str, tuple[Callable[..., Any], Callable[[], Arguments]]] = {
    "ctc value, many": (rl.CTCLoss(), lambda: utterances(*MANY)),
    "ctc value, long": (rl.CTCLoss(), lambda: utterances(*LONG)),
    "ctc gradient, many": (rl.CTCLoss().value_and_grad, lambda: utterances(*MANY)),
    "ctc gradient, long": (rl.CTCLoss().value_and_grad, lambda: utterances(*LONG)),
    "ctc posteriors, many": (rl.CTCLoss().posteriors, lambda: utterances(*FEWER)),
    "ctc posteriors, long": (rl.CTCLoss().posteriors, lambda: utterances(*SHORTER)),
    "ctc alignment, many": (rl.CTCLoss().align, lambda: utterances(*MANY)),
    "ctc alignment, long": (rl.CTCLoss().align, lambda: utterances(*LONG)),
    "sdml gradient": (rl.SDMLLoss().value_and_grad, pairs),
    "softmax value": (rl.SoftmaxCELoss(reduction="mean"), rows),
    "elementwise value": (rl.SigmoidBCELoss(reduction="mean"), elements),
}


def small(arguments: Arguments) -> Arguments:
    """Return the arguments of a short call of the same kind."""
    if arguments[0].ndim == 3:
        return arguments[0][:2, :40], arguments[1][:2, :12]
    return tuple(array[:40] for array in arguments)


def bits(result: Any) -> list[bytes]:
    if isinstance(result, tuple | list):
        return [part for one in result for part in bits(one)]
    if isinstance(result, np.ndarray | np.generic):
        return [result.tobytes()]
    return bits([getattr(result, name) for name in ("index", "log_prob", "posterior")])


def contents(arguments: Arguments) -> list[bytes]:
    """Return the memory behind the arguments, of which views may repeat parts."""
    return [(a if a.base is None else a.base).tobytes() for a in arguments]


class Sender:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SENDER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # So that a Ctrl-C at the keyboard does not end it.
            start_new_session=True,
        )

    def interrupt(self, call: Callable[[], Any], delay: float) -> float | None:
        """Return the seconds from the signal to the exception, or None if the call came first."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        ended = False
        try:
            self.process.stdin.write(f"{delay}\n")
            self.process.stdin.flush()
            call()
            ended = True
            # The signal is on its way.
            time.sleep(60)
        except KeyboardInterrupt:
            raised = time.monotonic()
        sent = float(self.process.stdout.readline())
        return None if ended else raised - sent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--cases", default="", metavar="PATTERN", help="regular expression")
    parser.add_argument("--threads", type=int, default=rl.get_num_threads(), metavar="N")
    parser.add_argument("--latest", type=float, default=LATEST_SECONDS, metavar="SECONDS")
    options = parser.parse_args()
    rl.set_num_threads(options.threads)
    # A shell has its background processes ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sender, rng = Sender(), np.random.default_rng(0)
    times, faults = [], []
    for name, (call, make) in CASES.items():
        if not re.search(options.cases, name):
            continue
        arguments = make()
        before, expected = contents(arguments), bits(call(*small(arguments)))
        own = []
        for _ in range(options.rounds):
            late = sender.interrupt(functools.partial(call, *arguments), rng.uniform(*DELAYS))
            if late is None:
                faults.append(f"{name}: the call ended before the signal came")
                continue
            own.append(late)
            if contents(arguments) != before:
                faults.append(f"{name}: an input has changed")
            if bits(call(*small(arguments))) != expected:
                faults.append(f"{name}: the next call is wrong")
        times += own
        print(f"{name:24}", *(f"{1e3 * late:6.0f}" for late in own), "ms", flush=True)
    late = sum(time > options.latest for time in times)
    print(*faults, sep="\n", end="\n" if faults else "")
    print(f"{len(times)} interrupts, worst {1e3 * max(times, default=0):.0f} ms, {late} late")
    return int(bool(late or faults or not times))


if __name__ == "__main__":
    sys.exit(main())
