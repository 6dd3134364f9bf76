"""Time rustloss in two environments in turns: this one, and another with an earlier wheel.

``python benches/pair.py OTHER_PYTHON`` runs every case of the table in both, one sample each a
round, and prints the minima and their ratio, the worst first. Above 1, this one is slower.
"""

from __future__ import annotations

import argparse
import math
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import rustloss as rl
from contenders import cases, with_rustloss
from contenders.timing import CASE_SECONDS, PAUSE_SECONDS, SAMPLE_SECONDS
from peers import limit_threads


def prepare(name: str) -> Callable[[], object] | None:
    """Return the call of a case, None where an earlier wheel lacks the loss or its option."""
    case = next(case for case in cases() if case.name == name)
    try:
        (contender,) = with_rustloss.contenders(case)
    except (AttributeError, rl.errors.ArgumentError):
        return None
    return contender.run


def work(threads: int) -> None:
    """Answer each name of a case that comes in by the seconds of one call, again and again."""
    with_rustloss.set_threads(threads)
    found, run = "", None
    for line in sys.stdin:
        name = line.strip()
        if name != found:
            found, run = name, prepare(name)
        if not run:
            print(math.nan, flush=True)
            continue
        # The first sample is untimed, as in `measure`.
        for _ in range(2):
            calls, start = 0, time.perf_counter()
            while (seconds := time.perf_counter() - start) < SAMPLE_SECONDS or not calls:
                run()
                calls += 1
        print(seconds / calls, flush=True)


@contextmanager
def worker(python: str, threads: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process that `work`s."""
    command = [python, __file__, "--work", "--threads", str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    ) as process:
        yield process
        process.kill()


def ask(process: subprocess.Popen[str], name: str) -> float:
    """Return the seconds of one call in a worker."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(name + "\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", nargs="?", help="the interpreter of the other environment")
    parser.add_argument("--cases", default="", metavar="PATTERN", help="regular expression")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    limit_threads(arguments.threads)
    if arguments.work:
        work(arguments.threads)
        return
    rows = []
    with (
        worker(sys.executable, arguments.threads) as here,
        worker(arguments.other, arguments.threads) as there,
    ):
        for name in (case.name for case in cases() if re.search(arguments.cases, case.name)):
            samples: tuple[list[float], list[float]] = ([], [])
            end = time.perf_counter() + 2 * CASE_SECONDS
            while time.perf_counter() < end or len(samples[0]) < 2:
                for times, process in zip(samples, (here, there), strict=True):
                    time.sleep(PAUSE_SECONDS)
                    times.append(ask(process, name))
            ours, theirs = map(min, samples)
            if math.isnan(theirs):
                continue
            rows.append((ours / theirs, name, ours, theirs))
    print("| case | now, us | before, us | ratio |\n| --- | ---: | ---: | ---: |")
    for ratio, name, ours, theirs in sorted(rows, reverse=True):
        print(f"| {name} | {ours * 1e6:,.4g} | {theirs * 1e6:,.4g} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
