"""Hash every output of the library, so that two builds can be compared bit by bit.

Not collected by pytest. A change that must not alter results is checked by a recording before it
and one after it; a recording takes some minutes.

    python tests/bits.py record old.txt         # with the old wheel installed
    python tests/bits.py record new.txt         # with the new one
    python tests/bits.py compare old.txt new.txt

The comparison lists what differs, is missing or is new, and exits with 1 if there is anything.
`--losses PATTERN` records a part. Both recordings must come from one version of `bit_calls.py` and
`bit_arrays.py`, since the options of a loss are drawn together.

Each line of a recording is an instruction set, a call, and a hash of each output: dtype, shape and
bytes, with one NaN for all NaNs; first of the arrays that went in, which tells if these differ. An
exception is an output too, by the name of its class. An option that a call does not name has the
first value of its row in the table, and is not passed, so that a wheel which does not know it can
be recorded as well. Every call runs with one, two and three threads; other bits than those of one
thread are outputs of their own, like `grad@3`, and make `record` exit with 1.

Only public classes of the library are used. What the table does not know of is reported as not
covered.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import os
import re
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import rustloss as rl
from bit_arrays import Place, Uniform, arrays, ordered, varied
from bit_calls import TABLE, Options, identity, plan

with contextlib.suppress(ImportError):
    import ml_dtypes  # noqa: F401 (gives NumPy bfloat16)

THREADS = (1, 2, 3)
#: How many calls of a loss `compare` names.
NAMED = 8


def made(name: str, options: Options) -> rl.Loss:
    """Return the loss itself; what has its default is not passed."""
    entry, place = TABLE[name], dict[str, int]()
    defaults = {key: values[0] for key, values in entry.params.items()}
    params = {k: options[k] for k in options if k in entry.known}
    params = {k: v for k, v in params.items() if v != defaults.get(k, ...)}
    reduction = options["reduction"].partition("/")[0]
    common = {"reduction": reduction, "empty": options["empty"], "weight": options["weight"]}
    defaults = {"reduction": "sample", "empty": "nan", "weight": "default"}
    params |= {key: value for key, value in common.items() if value != defaults[key]}
    if name != "CTCLoss":
        where = Place.parse(options["shape"])
        place = {"axis": where.axis} if where.axis != -1 else {}
        place |= {"batch_axis": where.batch} if where.batch else {}
        ramp = np.arange(where.shape[where.axis]) % 5 / 4.0
        for key in params.keys() & {"class_weight", "alpha", "quantiles"}:
            params[key] = ramp if params[key] == "ramp" else 0 * ramp
    loss: rl.Loss = getattr(rl, name)(**params, **place)
    return loss


def outputs(loss: rl.Loss, options: Options, given: dict[str, Any], seed: str) -> dict[str, Any]:
    """Return all outputs of a call, or the name of an exception, each under its name."""
    found: dict[str, Any] = {}

    def keep(names: tuple[str, ...], call: Callable[[], Any]) -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 (an exception is an output)
            found[names[0]] = type(error).__name__
            return
        parts = result if isinstance(result, tuple) and len(names) > 1 else (result,)
        for name, part in zip(names, parts, strict=True):
            several = part if isinstance(part, tuple) else (part,)
            found.update((f"{name}{i or ''}", np.asarray(x)) for i, x in enumerate(several))

    divisor = options["reduction"].partition("/")[2]
    call = given | ({"denominator": float(divisor)} if divisor else {})
    keep(("value",), lambda: loss(**call))
    slope = dict(call)
    if options["grad_output"] == "half":
        slope["grad_output"] = -0.5
    elif options["grad_output"] != "none":
        draw = Uniform(f"{seed} grad_output")
        x = draw.of("real", np.shape(found["value"]), -1)
        special = options["grad_output"]
        slope["grad_output"] = varied(x, special, "float64", None, draw)
    keep(("hess_grad", "hess"), lambda: loss.grad_hess(**slope))
    wrt = options.get("wrt")
    if wrt is not None:
        slope["wrt"] = tuple(filter(None, wrt.split("+"))) if "+" in wrt else wrt
    keep(("vg_value", "grad"), lambda: loss.value_and_grad(**slope))
    keep(("grad_only",), lambda: loss.grad(**slope))
    if options["out"] != "fresh" and "grad" in found and isinstance(found["grad"], np.ndarray):
        into = dict(slope)
        first = next(iter(given))
        if options["out"] == "inplace":
            into[first] = into["grad_out"] = given[first].copy(order="K")
        else:
            grads = tuple(found[k] for k in found if re.fullmatch(r"grad\d*", k))
            grads = tuple(ordered(np.zeros_like(x, order="C"), options["out"]) for x in grads)
            single = len(grads) == 1 and not isinstance(slope.get("wrt"), tuple)
            into["grad_out"] = grads[0] if single else grads
        keep(("into_value", "into_grad"), lambda: loss.value_and_grad(**into))
    if isinstance(loss, rl.CTCLoss):
        path = {k: v for k, v in given.items() if k != "sample_weight"}
        keep(("posteriors",), lambda: loss.posteriors(**path))

        def align() -> Any:
            alignment = loss.align(**path)
            return alignment.index, alignment.log_prob, alignment.posterior

        keep(("index", "log_prob", "posterior"), align)
    return found


Content = tuple[str, bytes]


def content(x: Any) -> Content:
    """Return a description and the bytes of an output, the same for all NaNs."""
    if isinstance(x, str):
        return f"!{x}", b""
    x = np.asarray(x)
    if x.dtype.kind not in "biu":
        nans = np.isnan(x)
        if nans.any():
            x = np.where(nans, np.array(np.nan, x.dtype), x)
    return f"{x.dtype.name}{list(x.shape)}", x.tobytes()


def same(x: Any, y: Any) -> bool:
    """Return whether two outputs are, at first without a look for NaNs."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        alike = x.dtype == y.dtype and x.shape == y.shape
        return alike and (x.tobytes() == y.tobytes() or content(x) == content(y))
    return content(x) == content(y)


def hashed(contents: Iterable[Content]) -> str:
    digest = hashlib.blake2b(digest_size=6)
    for description, data in contents:
        if description.startswith("!"):
            return description
        digest.update(description.encode())
        digest.update(data)
    return digest.hexdigest()


def hashes(name: str, options: Options) -> dict[str, str]:
    """Make one call in every way, and return the hashes of its outputs."""
    call = identity(name, options)
    given = arrays(name, options, Uniform(call))
    flat = (x for value in given.values() for x in (value if type(value) is list else [value]))
    found = {"inputs": hashed(map(content, flat))}
    try:
        loss = made(name, options)
    except Exception as error:  # noqa: BLE001 (an exception is an output)
        return found | {"loss": f"!{type(error).__name__}"}
    single: dict[str, Any] = {}
    for threads in THREADS:
        with rl.num_threads(threads):
            own = outputs(loss, options, given, call)
        if threads == 1:
            single = own
            found |= {key: hashed([content(x)]) for key, x in own.items()}
            continue
        for key in own | single:
            x = own.get(key, "absent")
            if not same(x, single.get(key, "absent")):
                found[f"{key}@{threads}"] = hashed([content(x)])
    return found


def lines(pattern: str) -> Iterator[str]:
    """Yield the lines of this process's instruction set."""
    isa = rl.show_config()["isa"]
    for name in TABLE:
        if not re.search(pattern, name) or not hasattr(rl, name):
            continue
        for options in plan(name):
            if options["dtype"] == "bfloat16" and "bfloat16" not in np.sctypeDict:
                continue
            parts = " ".join(f"{key}={value}" for key, value in hashes(name, options).items())
            yield f"{isa}\t{identity(name, options)}\t{parts}"


def not_covered() -> Iterator[str]:
    """Yield the losses, and the parameters of losses, that the table does not have."""
    common = {"axis", "batch_axis", "weight", *inspect.signature(rl.Loss).parameters}
    for key in rl.__all__:
        cls = getattr(rl, key)
        if not isinstance(cls, type) or not issubclass(cls, rl.Loss) or cls is rl.Loss:
            continue
        if cls.__name__ not in TABLE:
            yield cls.__name__
        elif cls.__name__ == key:
            params = set(inspect.signature(cls).parameters)
            yield from (f"{key}({p})" for p in sorted(params - common - TABLE[key].known))


def record(file: Path, pattern: str) -> int:
    """Write the lines of all instruction sets, each from a process of its own."""

    def child(isa: str) -> tuple[int, str]:
        command = [sys.executable, __file__, "lines", "--losses", pattern]
        env = {**os.environ, "RUSTLOSS_ISA": isa}
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stdout

    levels = rl.show_config()["isa_available"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(levels, pool.map(child, levels), strict=True))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(text for _, text in results.values()))
    faults = []
    for isa, (status, text) in results.items():
        found = text.splitlines()
        last = found[-1].split("\t")[1] if found else "the start"
        faults += [f"{isa}: exit status {status} after {last}"] if status else []
        faults += [f"threads matter: {line}" for line in found if "@" in line]
        print(f"{isa}: {len(found)} calls")
    for note in (*(f"not covered: {what}" for what in not_covered()), *faults):
        print(note)
    return int(bool(faults))


Recording = dict[str, dict[str, str]]


def read(file: Path) -> Recording:
    """Return the hashes of each call, the instruction set in front of it."""
    rows = (line.split("\t") for line in file.read_text().splitlines())
    return {f"{isa} {call}": dict(p.split("=") for p in parts.split()) for isa, call, parts in rows}


def change(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Return the outputs that differ, with the exceptions among them."""
    found = []
    for key in old | new:
        before, after = old.get(key, "!absent"), new.get(key, "!absent")
        if before != after:
            ways = [x[1:] if x.startswith("!") else "bits" for x in (before, after)]
            found.append(key if ways == ["bits", "bits"] else f"{key}:{'->'.join(ways)}")
    # A loss that cannot be made has no other output.
    return [key for key in found if key.startswith("loss:")] or found


def options_of(call: str) -> dict[str, str]:
    isa, _, *given = call.split(" ")
    return dict(pair.split("=") for pair in given) | {"isa": isa}


def describe(changed: dict[str, str], calls: Iterable[str], named: int | None) -> Iterator[str]:
    """Yield which outputs and options the changed calls of a loss have, then the calls."""
    outputs = Counter(word for words in changed.values() for word in words.split())
    yield "  outputs: " + ", ".join(f"{key} {n}" for key, n in outputs.most_common(12))
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    parts: dict[str, Counter[str]] = defaultdict(Counter)
    known = {call: options_of(call) for call in calls}
    keys = {key for options in known.values() for key in options}
    for call, options in known.items():
        for key in keys:
            totals[key][options.get(key, "default")] += 1
            parts[key][options.get(key, "default")] += call in changed
    # First the options that tell changed calls from others best.
    shares = {k: [parts[k][value] / n for value, n in totals[k].items()] for k in keys}
    for key in sorted(keys, key=lambda k: (min(shares[k]) - max(shares[k]), k))[:6]:
        counts = (f"{v} {n}/{totals[key][v]}" for v, n in parts[key].most_common() if n)
        yield f"  {key}: " + ", ".join(counts)
    yield from (f"    {call}: {words}" for call, words in list(changed.items())[:named])
    if named is not None and len(changed) > named:
        yield f"    and {len(changed) - named} more (--all)"


def compare(old: Recording, new: Recording, named: int | None) -> int:
    """Print what differs between two recordings, and return the exit status."""
    losses: dict[str, list[str]] = defaultdict(list)
    for call in old | new:
        losses[call.split(" ")[1]].append(call)
    total = 0
    for name, calls in losses.items():
        groups: dict[str, dict[str, str]] = {"differ": {}, "are missing": {}, "are new": {}}
        for call in calls:
            if call not in new:
                groups["are missing"][call] = "all"
            elif call not in old:
                groups["are new"][call] = "all"
            elif old[call] != new[call]:
                groups["differ"][call] = " ".join(change(old[call], new[call]))
        for what, changed in groups.items():
            total += len(changed)
            if changed:
                print(f"{name}: {len(changed)} of {len(calls)} calls {what}")
                print(*describe(changed, calls, named), sep="\n")
    print(f"{total} of {len(old | new)} calls differ, are missing or are new")
    return int(total > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="write the hashes of all instruction sets")
    recording.add_argument("file", type=Path)
    own = commands.add_parser("lines", help="print those of this process's instruction set")
    for command in (recording, own):
        command.add_argument("--losses", default="", metavar="PATTERN", help="regular expression")
    comparison = commands.add_parser("compare", help="list what differs; exits with 1 if any does")
    comparison.add_argument("old", type=Path)
    comparison.add_argument("new", type=Path)
    comparison.add_argument("--all", action="store_true", help="name every call that differs")
    options = parser.parse_args()
    if options.command == "compare":
        named = None if options.all else NAMED
        return compare(read(options.old), read(options.new), named)
    if options.command == "record":
        return record(options.file, options.losses)
    warnings.simplefilter("ignore")
    with np.errstate(all="ignore"):
        for line in lines(options.losses):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
