"""Where measurements are kept: `make readme` and the site show what stands in ``results``."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    """Return a record, empty if there is none yet."""
    path = RESULTS / f"{name}.json"
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record


def save(name: str, record: dict[str, Any]) -> None:
    """Keep a record."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def versions(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of those modules that are installed."""
    installed = importlib.metadata.packages_distributions()
    names = {module: installed[module][0] for module in modules if module in installed}
    return {module: importlib.metadata.version(name) for module, name in names.items()}
