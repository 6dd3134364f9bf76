"""Which libraries are here, and the table of all cases."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import ratios
import records
from rustloss import _core
from rustloss.cli._doctor import cpu

from . import Case, Contender, with_numpy
from . import cases as all_cases
from .timing import Timing, adding, agrees, copying, gradient_error, measure

MODULES = {
    "rustloss": "rustloss",
    "numpy": "numpy",
    "torch": "torch",
    "jax": "optax",
    "mxnet": "mxnet",
}
"""Each library and the package whose absence makes it missing."""
PEERS = ["numpy", "torch", "torch.compile", "jax", "mxnet"]
FAMILIES = {entry["name"]: entry["family"] for entry in _core.registry()}
SMALL = 64
"""Up to this many elements a case is also held against ``numpy.add``."""


def load(threads: int) -> dict[str, ModuleType]:
    """Import the module of every library that is installed, and tell it the number of threads."""
    found = {}
    for name, package in MODULES.items():
        if importlib.util.find_spec(package) is not None:
            found[name] = importlib.import_module(f"{__package__}.with_{name}")
            if hasattr(found[name], "set_threads"):
                found[name].set_threads(threads)
    return found


def header(libraries: dict[str, ModuleType], threads: int) -> str:
    """Return CPU, threads, load, and the version of every library, or that it is missing."""
    versions = [f"Python {platform.python_version()}"]
    for name in [*MODULES, "optax"]:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            versions.append(f"{name} missing")
    if "torch" in libraries and not compiler():
        versions.append("torch.compile missing (no C++ compiler)")
    load = f"load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return f"{cpu()}, {threads} threads, {load}; {', '.join(versions)}"


def compiler() -> bool:
    """Tell whether ``torch.compile`` finds the compiler that it needs."""
    return any(shutil.which(name) for name in ("c++", "g++", "clang++"))


def duration(seconds: float) -> str:
    """Return microseconds with three digits."""
    return f"{seconds * 1e6:.3g}" if seconds < 1e-3 else f"{seconds * 1e6:,.0f}"


def ready(case: Case, libraries: dict[str, ModuleType]) -> list[Contender]:
    """Return the contenders of all libraries."""
    found = [c for module in libraries.values() for c in module.contenders(case)]
    return [c for c in found if c.name != "torch.compile" or compiler()]


@dataclass(frozen=True)
class Measured:
    """What came out of one case, by the names of contenders and yardsticks."""

    case: Case
    times: dict[str, Timing]
    errors: dict[str, float]
    notes: dict[str, str]

    @property
    def peers(self) -> list[str]:
        """The other libraries that were timed."""
        return [name for name in PEERS if name in self.times]

    def record(self) -> dict[str, Any]:
        """Return the minima in microseconds, as README and the site show them."""
        micros = {name: float(f"{t.minimum * 1e6:.4g}") for name, t in self.times.items()}
        return {
            "case": self.case.name,
            "loss": self.case.row.loss,
            "family": FAMILIES[self.case.row.loss],
            "dtype": self.case.dtype,
            "layout": self.case.layout,
            "rustloss": micros["rustloss"],
            "peers": {name: micros[name] for name in self.peers},
            "copy": micros["copy"],
        }


def measured(case: Case, libraries: dict[str, ModuleType], threads: int) -> Measured:
    """Check and time one case."""
    reference = with_numpy.reference(case)
    errors, able, notes = {}, [], {}
    for contender in ready(case, libraries):
        try:
            result = contender.fetch(contender.run())
        except (RuntimeError, TypeError):
            notes[contender.name] = "refuses"
            continue
        if agrees(result, reference, case.dtype):
            able.append(contender)
            errors[contender.name] = gradient_error(result, reference)
        else:
            notes[contender.name] = "disagrees"
    del reference
    yardsticks = [copying(case, threads)]
    if case.inputs()[0].size <= SMALL:
        yardsticks.append(adding(case))
    return Measured(case, measure([*able, *yardsticks]), errors, notes)


def row(result: Measured) -> list[str]:
    """Return the cells of one case."""
    times, errors, peers = result.times, result.errors, result.peers

    def cell(name: str) -> str:
        if name not in times:
            return result.notes.get(name, "missing")
        return f"{duration(times[name].minimum)} ({duration(times[name].median)})"

    fastest = min(peers, key=lambda name: times[name].minimum, default="")

    def against(name: str) -> str:
        return ratio(times, name, "rustloss") if name in times else ""

    return [
        result.case.name,
        *map(cell, ["rustloss", *PEERS, "copy"]),
        f"{fastest} {ratio(times, fastest, 'rustloss')}" if peers else "missing",
        ratio(times, "rustloss", "copy"),
        ratio(times, "rustloss", "numpy.add"),
        f"{errors['rustloss']:.0e}" if "rustloss" in errors else "",
        f"{errors[fastest]:.0e}" if peers else "",
    ]


def ratio(times: dict[str, Timing], over: str, under: str) -> str:
    """Return the ratio of two minima, empty where one of them was not timed."""
    if over not in times or under not in times:
        return ""
    return f"{times[over].minimum / times[under].minimum:.2f}"


COLUMNS = [
    "case",
    "rustloss",
    *PEERS,
    "copy",
    "fastest / rustloss",
    "rustloss / copy",
    "rustloss / add",
    "error",
    "error of fastest",
]
WIDTHS = [38, *[17] * 7, 20, 15, 14, 6, 16]


def line(cells: list[str], *, markdown: bool) -> str:
    """Return one line of the table."""
    if markdown:
        return f"| {' | '.join(cells)} |"
    return " ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def summary(cases: list[dict[str, Any]]) -> Iterator[str]:
    """Yield lines: the means of families and kinds of arrays, then all ratios, the worst first."""
    yield "\nFastest peer / rustloss, geometric means:"
    for family, kinds in ratios.by_family(cases).items():
        means = (f"{kind} {ratios.mean(some):.2f} ({len(some)})" for kind, some in kinds.items())
        yield f"{family}: {', '.join(means)}"
    yield "\nThe worst first:"
    for case in ratios.compared(cases):
        peer, ratio = ratios.fastest(case)
        yield f"{ratio:.2f} {case['case']} ({peer})"


def setting(threads: int) -> dict[str, Any]:
    """Return what is recorded of the machine and the libraries."""
    versions = records.versions([*MODULES, "optax"])
    return {
        "machine": f"{cpu()}, {threads} threads",
        "versions": versions | {"Python": platform.python_version()},
    }


def keep(cases: list[dict[str, Any]], threads: int, *, renew: bool) -> None:
    """Record the cases, or renew those in the record."""
    known = records.load("speed")["cases"] if renew else []
    found = {case["case"]: case for case in [*known, *cases]}
    listed = [found[case.name] for case in all_cases() if case.name in found]
    records.save("speed", {**setting(threads), "cases": listed})


def run(pattern: str, threads: int, *, markdown: bool, recorded: bool) -> None:
    """Print the header, every case as it is done, and what they come to; record them if asked."""
    if recorded and pattern and not setting(threads).items() <= records.load("speed").items():
        sys.exit("--record --cases: the record is of another machine or of other versions")
    libraries = load(threads)
    print(header(libraries, threads))
    print("Microseconds a call, value and gradient: minimum (median).\n")
    print(line(COLUMNS, markdown=markdown))
    if markdown:
        print(line(["---", *["---:"] * (len(COLUMNS) - 1)], markdown=True))
    done = []
    for case in all_cases():
        if re.search(pattern, case.name):
            done.append(measured(case, libraries, threads))
            print(line(row(done[-1]), markdown=markdown), flush=True)
    timed = [result.record() for result in done if "rustloss" in result.times]
    print(*summary(timed), sep="\n")
    if recorded:
        keep(timed, threads, renew=bool(pattern))
