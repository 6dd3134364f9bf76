"""``doctor``: what runs here, and whether it computes what it should."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

import rustloss
from rustloss import _core
from rustloss.cli._text import command, kind_of, say, say_json

#: Libraries that rustloss works with; they are not imported.
LIBRARIES = (
    *("torch", "jax", "tensorflow", "keras", "mxnet", "autograd"),
    *("xgboost", "lightgbm", "catboost", "scikit-learn"),
    *("pandas", "polars", "pyarrow", "matplotlib", "hypothesis", "ml_dtypes"),
)
#: What changes how the library runs.
VARIABLES = ("RUSTLOSS_ISA", "RUSTLOSS_NUM_THREADS", "RAYON_NUM_THREADS", "OMP_NUM_THREADS")


def add(commands: Any) -> None:
    """Add the command."""
    text = "report versions, CPU, threads and libraries, and test every loss"
    command(commands, "doctor", text, _run)


def _run(given: argparse.Namespace) -> int:
    wrong = self_test()
    found = {**facts(), "self_test": wrong or "passed"}
    if given.json:
        say_json(found)
    else:
        for name, value in found.items():
            say(f"{name}: {_text(value)}")
    return int(bool(wrong))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {of}" for name, of in value.items()) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, (list, tuple)) else str(value)


def facts() -> dict[str, Any]:
    """Return versions, CPU, threads, wheel tags and libraries."""
    config = rustloss.show_config()
    return {
        "rustloss": config["version"],
        "wheel": wheel_tags(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu(),
        "isa": config["isa"],
        "isa_available": config["isa_available"],
        "isa_untested": config["isa_untested"],
        "threads": config["num_threads"],
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "libraries": versions(LIBRARIES),
    }


def versions(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those of some packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def wheel_tags() -> list[str]:
    """Return the tags of the wheel that is installed; none of an installation of another kind."""
    try:
        text = importlib.metadata.distribution("rustloss").read_text("WHEEL")
    except importlib.metadata.PackageNotFoundError:
        text = None
    return re.findall(r"^Tag: (.+)$", text or "", re.MULTILINE)


def cpu() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def self_test() -> dict[str, str]:
    """Compare the derivatives of every loss with differences of its values.

    Returns
    -------
    dict
        What is wrong, by the name of the loss.
    """
    from rustloss.testing import check_gradient, example

    wrong = {}
    for row in _core.registry():
        loss = kind_of(row["name"])()
        inputs: dict[str, Any] = example(loss)
        # Labels may lie at the end of their domain, where there is no difference to take.
        moved = tuple(entry["name"] for entry in row["inputs"] if entry["gradient"] == "Default")
        try:
            check_gradient(loss, **inputs, wrt=moved)
        except Exception as error:  # noqa: BLE001  (whatever it is, the report says it)
            wrong[row["name"]] = f"{type(error).__name__}: {error}".partition("\n")[0]
    return wrong
