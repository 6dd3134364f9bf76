"""Which libraries are here, and the table of all cases."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import records
from rustloss.cli._doctor import cpu

from . import Case, Contender, cases, with_numpy
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
            "rustloss": micros["rustloss"],
            "peers": {name: micros[name] for name in self.peers},
            "copy": micros["copy"],
        }


def measured(case: Case, libraries: dict[str, ModuleType], threads: int) -> Measured:
    """Check and time one case."""
    reference = with_numpy.reference(case)
    errors, able, notes = {}, [], {}
    for contender in ready(case, libraries):
        result = contender.fetch(contender.run())
        if agrees(result, reference):
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
WIDTHS = [24, *[17] * 7, 20, 15, 14, 6, 16]


def line(cells: list[str], *, markdown: bool) -> str:
    """Return one line of the table."""
    if markdown:
        return f"| {' | '.join(cells)} |"
    return " ".join(cell.rjust(width) for cell, width in zip(cells, WIDTHS, strict=True))


def run(pattern: str, threads: int, *, markdown: bool, recorded: bool) -> None:
    """Print the header, then every case as it is done; record them all if that is asked for."""
    libraries = load(threads)
    print(header(libraries, threads))
    print("Microseconds a call, value and gradient: minimum (median).\n")
    print(line(COLUMNS, markdown=markdown))
    if markdown:
        print(line(["---", *["---:"] * (len(COLUMNS) - 1)], markdown=True))
    done = []
    for case in cases():
        if re.search(pattern, case.name):
            done.append(measured(case, libraries, threads))
            print(line(row(done[-1]), markdown=markdown), flush=True)
    if recorded:
        found = records.versions([*MODULES, "optax"])
        record = {
            "machine": f"{cpu()}, {threads} threads",
            "versions": found | {"Python": platform.python_version()},
            "cases": [result.record() for result in done if "rustloss" in result.times],
        }
        records.save("speed", record)
