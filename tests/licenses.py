"""Collect the licences of the crates that are linked into the wheel, or check that they are there.

python tests/licenses.py          # fails if Cargo.lock has moved on
python tests/licenses.py --write  # renews THIRD-PARTY-LICENSES.txt
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTICES = ROOT / "THIRD-PARTY-LICENSES.txt"
#: Of a choice of licences, the first of these is taken.
PREFERRED = ["LICENSE-MIT*", "LICENSE.MIT*", "LICENSE*", "COPYING*"]


def cargo(*arguments: str) -> str:
    """Return what cargo prints."""
    command = ["cargo", *arguments, "--locked", "--features", "python"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout


def linked() -> list[str]:
    """Return name and version of the crates in the library, on whatever platform."""
    edges = ["--edges", "normal,no-proc-macro", "--target", "all"]
    lines = cargo("tree", *edges, "--prefix", "none", "--format", "{p}").splitlines()
    crates = {" ".join(line.split()[:2]) for line in lines}
    return sorted(crate for crate in crates if not crate.startswith("rustloss "))


def text(package: dict[str, Any]) -> str:
    """Return the licence of a crate as it came with it."""
    folder = Path(package["manifest_path"]).parent
    files = (path for pattern in PREFERRED for path in sorted(folder.glob(pattern)))
    if found := next(files, None):
        return found.read_text(encoding="utf-8").strip()
    return f"(The crate has no file of its own for its licence, {package['license']}.)"


def notices(crates: list[str]) -> Iterator[str]:
    """Yield a section for each crate."""
    packages = json.loads(cargo("metadata", "--format-version", "1"))["packages"]
    by_crate = {f"{package['name']} v{package['version']}": package for package in packages}
    for crate in crates:
        package = by_crate[crate]
        head = f"{crate} ({package['license']})\n{package['repository']}"
        yield f"{'=' * 80}\n{head}\n\n{text(package)}\n"


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    crates = linked()
    if parser.parse_args().write:
        NOTICES.write_text("\n".join(notices(crates)), encoding="utf-8")
    lines = NOTICES.read_text(encoding="utf-8").splitlines()
    if missing := [crate for crate in crates if not any(line.startswith(crate) for line in lines)]:
        sys.exit(f"not in {NOTICES.name}, which `make licenses` renews: {', '.join(missing)}")


if __name__ == "__main__":
    main()
