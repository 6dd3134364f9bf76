"""Look for AVX, AVX-512 and their like outside of dispatched functions; and the reverse.

A wheel must run on every x86-64, and so a function may use such instructions only if it is called
after the CPU was asked for them. Here these are the shells of `simd::dispatch` and what is compiled
into them, all of which have a module of `simd` in their symbol.

A formula that a shell calls, as it was not inlined, is not compiled for the instruction set: it
takes up to 50 times as long. One with a fused multiply-add gives itself away by calling the C
library for it, where every set that asks for one has an instruction. Only formulas that want it on
every CPU may call.

Both need the symbols of the library, which wheels have until they are stripped.

    python tests/instructions.py dist/wheels/rustloss-0.1.0-cp311-abi3-manylinux2014_x86_64.whl
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Beside the shells, functions of libraries that ask the CPU by themselves before they are called.
DISPATCHED = re.compile(
    r"\brustloss::simd::(\w+::)?x86::"
    r"|^half::binary16::arch::x86::\w+_f16c$"
    r"|^compiler_builtins::math::libm_math::arch::x86::fma::fmaf?_with_fma4?$"
)
#: Who may call for a fused multiply-add: shells of the baseline, and the C library's own functions.
CALLERS = re.compile(r"\brustloss::simd::baseline\b|^compiler_builtins::|^fmaf?$")
SYMBOL = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\t(\S+)")
# VEX and EVEX instructions begin with a v; the rest belongs to BMI and its companions.
WIDE = re.compile(
    r"v(?!err$|erw$|mcall$)|k(mov|or|and|xor|not|test|add|shift|unpck)"
    r"|(andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|lzcnt|popcnt)[wlq]?$"
)


def by_function(disassembly: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield every line of code with the symbol of its function."""
    symbol = ""
    for line in disassembly:
        if header := SYMBOL.match(line):
            symbol = header[1]
        else:
            yield symbol, line


def wide_functions(disassembly: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield symbol and name of every wide instruction."""
    for symbol, line in by_function(disassembly):
        if (found := INSTRUCTION.match(line)) and WIDE.match(found[1]):
            yield symbol, found[1]


def output(*command: str) -> list[list[str]]:
    """Run a command, and return the words of each line that it prints."""
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [line.split() for line in text.splitlines()]


def mul_add_references(library: Path) -> list[str]:
    """Return what the disassembly of a library shows where it refers to `fma` or `fmaf`."""
    names = ("fma", "fmaf")
    defined = {w[0].lstrip("0") for w in output("nm", str(library)) if w[-1] in names}
    slots = []
    for words in output("readelf", "--relocs", "--wide", str(library)):
        target = words[4].partition("@")[0] if len(words) > 4 else "".join(words[3:])
        if target in names or target in defined:
            slots.append(words[0].lstrip("0"))
    return [f"# {slot} " for slot in slots] + [f"<{name}>" for name in names]


def callers(disassembly: Iterable[str], references: list[str]) -> set[str]:
    """Return the functions that refer to a fused multiply-add of the C library."""
    lines = by_function(disassembly)
    return {symbol for symbol, line in lines if any(name in line for name in references)}


def disassembled(library: Path) -> Iterator[str]:
    """Yield the lines of a library's disassembly."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", str(library)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        yield from running.stdout
    if running.returncode:
        sys.exit(f"objdump failed on {library}")


def main() -> None:
    """Print what was found, and fail if any of it is in the wrong place."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        library = Path(archive.extract(name, folder))
        disassembly = list(disassembled(library))
        found = Counter(wide_functions(disassembly))
        calling = callers(disassembly, mul_add_references(library))
    inside = sum(n for (symbol, _), n in found.items() if DISPATCHED.search(symbol))
    outside = {where: n for where, n in found.items() if not DISPATCHED.search(where[0])}
    print(f"{inside} wide instructions in dispatched functions, {sum(outside.values())} elsewhere")
    if not inside:
        sys.exit("none in dispatched functions: are there symbols?")
    for (symbol, instruction), n in sorted(outside.items()):
        print(f"{symbol}: {instruction} ({n})")
    calling = {symbol for symbol in calling if not CALLERS.search(symbol)}
    for symbol in sorted(calling):
        print(f"{symbol}: not compiled for the instruction set that calls it")
    sys.exit(bool(outside or calling))


if __name__ == "__main__":
    main()
