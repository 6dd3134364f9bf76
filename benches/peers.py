"""Time value and gradient of every loss beside the same loss in other libraries.

Every library found in the running interpreter takes part, the others are printed as missing.
README.md explains the method and how to read the table.
"""

from __future__ import annotations

import argparse
import os


def limit_threads(count: int) -> None:
    """Hold every library to ``count`` threads."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(count)
    if hasattr(os, "sched_setaffinity"):
        # XLA has no setting of its own: it takes a thread for each CPU it may run on.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="", metavar="PATTERN", help="regular expression")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--record", action="store_true", help="keep the times for README's table")
    parser.add_argument("--quick", action="store_true", help="take few samples, to try things out")
    arguments = parser.parse_args()
    if arguments.record and arguments.quick:
        parser.error("--record keeps what many samples say, and --quick takes few")
    limit_threads(arguments.threads)
    # Only now: the libraries read the number of threads when they are imported.
    from contenders.table import run
    from contenders.timing import hurry

    if arguments.quick:
        hurry()
    run(arguments.cases, arguments.threads, markdown=arguments.markdown, recorded=arguments.record)


if __name__ == "__main__":
    main()
