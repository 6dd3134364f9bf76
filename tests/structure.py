"""Check what no compiler does in the Rust sources: where `unsafe` stands, no cycle of modules.

    python tests/structure.py

Tests inside the sources, which may use anything, do not count.
"""

import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

SRC = Path(__file__).parents[1] / "src"

# The most lines with `unsafe` in src; to be lowered where there are fewer.
MOST_UNSAFE = 48
# The folders and the files that may have it; CONTRIBUTING says why.
MAY_BE_UNSAFE = (
    "array/",
    "python/",
    "simd/",
    "threads/",
    "drive/operand.rs",
    "losses/sequence/ctc/compute.rs",
    "losses/sequence/ctc/gradient_sink.rs",
    "losses/sequence/frames/array.rs",
    "losses/sequence/frames/pass.rs",
)

USE = re.compile(r"^\s*(pub(?:\([a-z]+\))?\s+)?use\s+([^;]+);", re.MULTILINE)
PATH = re.compile(r"\b(?:crate|super|self)(?:::[A-Za-z_]\w*)+")


def source(file: Path) -> str:
    """Return the text of a file without its tests, comments and words in quotes."""
    text = re.split(
        r"^#\[cfg\(test\)\]\nmod \w+ \{", file.read_text(), maxsplit=1, flags=re.MULTILINE
    )[0]
    text = re.sub(r"//.*", "", text)
    return re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)


def unsafe_lines() -> list[str]:
    """List the lines with `unsafe` that are not comments."""
    lines = []
    for file in sorted(SRC.rglob("*.rs")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if "unsafe" in line and not line.lstrip().startswith("//"):
                lines.append(f"{file.relative_to(SRC).as_posix()}:{number}")
    return lines


def expanded(tree: str) -> Iterator[list[str]]:
    """Yield the paths of a use declaration."""
    tree = tree.strip()
    head, brace, rest = tree.partition("{")
    if not brace:
        yield [part.strip() for part in tree.split(" as ")[0].split("::")]
        return
    depth, item = 0, ""
    for char in rest[: rest.rindex("}")] + ",":
        depth += {"{": 1, "}": -1}.get(char, 0)
        if char == "," and depth == 0:
            if item.strip():
                yield from expanded(head + item)
            item = ""
        else:
            item += char


class Crate:
    """The modules, what they make public of others, and which uses which."""

    def __init__(self) -> None:
        # Test modules that are files have no part in this, nor has the crate's list of modules.
        files = [file for file in SRC.rglob("*.rs") if file.stem not in ("tests", "testing", "lib")]
        self.text = {self.module(file): source(file) for file in files}
        self.text[()] = ""
        self.exports = {module: dict(self.reexports(module)) for module in self.text}

    @staticmethod
    def module(file: Path) -> tuple[str, ...]:
        parts = file.relative_to(SRC).with_suffix("").parts
        return parts[:-1] if parts[-1] == "mod" else parts

    def absolute(self, module: tuple[str, ...], path: list[str]) -> tuple[str, ...] | None:
        """Resolve a path in a module from the root of the crate; none if it leads out of it."""
        first, *rest = path
        if first == "crate":
            return tuple(rest)
        if first == "self":
            return module + tuple(rest)
        if first == "super":
            while path and path[0] == "super":
                module, path = module[:-1], path[1:]
            return module + tuple(path)
        return module + tuple(path) if (*module, first) in self.text else None

    def reexports(self, module: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for public, tree in USE.findall(self.text[module]):
            for path in expanded(tree) if public else ():
                if target := self.absolute(module, path):
                    yield path[-1], target

    def home(self, path: tuple[str, ...]) -> tuple[str, ...]:
        """Find the module in which what stands at a path is defined."""
        module: tuple[str, ...] = ()
        for name in path:
            if (*module, name) in self.text:
                module += (name,)
            elif target := self.exports[module].get(name):
                return self.home(target)
            else:
                break
        return module

    def uses(self, module: tuple[str, ...]) -> set[tuple[str, ...]]:
        """Find the modules that a module uses, without those that it only makes public."""
        text = self.text[module]
        paths: list[list[str]] = []
        for public, tree in USE.findall(text):
            paths += [] if public else expanded(tree)
        paths += [path.split("::") for path in PATH.findall(USE.sub("", text))]
        found = [self.absolute(module, path) for path in paths]
        return {self.home(path) for path in found if path is not None}

    def edges(self) -> dict[tuple[str, ...], dict[str, dict[str, str]]]:
        """Tell for each directory which of its modules uses which, and where.

        A directory's own file, which lists its modules and holds what they share, is above them.
        """
        edges: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
        for module in self.text:
            for used in self.uses(module):
                common = 0
                while module[common : common + 1] == used[common : common + 1] != ():
                    common += 1
                if common < len(module) and common < len(used):
                    row = edges.setdefault(module[:common], {}).setdefault(module[common], {})
                    row.setdefault(used[common], f"{'::'.join(module)} uses {'::'.join(used)}")
        return edges


def cycle(edges: dict[str, dict[str, str]]) -> list[str]:
    """Find the uses that make up a cycle, if there is one."""
    done: set[str] = set()

    def visit(at: str, path: list[str]) -> list[str]:
        if at in path:
            ring = [*path[path.index(at) :], at]
            return [edges[a][b] for a, b in itertools.pairwise(ring)]
        if at in done:
            return []
        for used in edges.get(at, {}):
            if found := visit(used, [*path, at]):
                return found
        done.add(at)
        return []

    for start in edges:
        if found := visit(start, []):
            return found
    return []


def main() -> int:
    problems = []
    lines = unsafe_lines()
    print(f"{len(lines)} lines with unsafe, of at most {MOST_UNSAFE}")
    if len(lines) > MOST_UNSAFE:
        problems.append("too many lines with unsafe:\n  " + "\n  ".join(lines))
    if astray := [line for line in lines if not line.startswith(MAY_BE_UNSAFE)]:
        problems.append("unsafe where CONTRIBUTING has none:\n  " + "\n  ".join(astray))
    for directory, edges in Crate().edges().items():
        if found := cycle(edges):
            name = "::".join(("crate", *directory))
            problems.append(f"a cycle among the modules of {name}:\n  " + "\n  ".join(found))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
