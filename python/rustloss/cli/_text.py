"""What the commands share: losses by their text, tables, JSON, mistakes."""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any

import rustloss
from rustloss import _core
from rustloss._loss import Loss


class UsageError(Exception):
    """A command that cannot be meant."""


def loss_of(text: str) -> Loss:
    """Return the loss that a text like ``HuberLoss`` or ``HuberLoss(rho=2)`` stands for.

    Raises
    ------
    UsageError
        If there is no such loss, or the text is anything but a name with parameters.
    """
    parts = _parts(text)
    if parts is None:
        raise UsageError(f"expected a loss like HuberLoss(rho=2.0), got {text!r}")
    name, given, named = parts
    try:
        made: Loss = kind_of(name)(*given, **named)
    except TypeError as error:
        raise UsageError(f"{text}: {error}") from error
    return made


def _parts(text: str) -> tuple[str, list[Any], dict[str, Any]] | None:
    """Return name and arguments of a constructor's call, or None if the text is something else."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
        given = [ast.literal_eval(argument) for argument in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (ValueError, SyntaxError):
        return None
    return (call.func.id, given, named) if isinstance(call.func, ast.Name) else None


def kind_of(name: str) -> type[Any]:
    """Return the class of a loss, by its name in any case, perhaps without Loss at its end."""
    registered = {row["name"] for row in _core.registry()}
    named = vars(rustloss)
    names = {n.lower(): n for n, of in named.items() if getattr(of, "__name__", "") in registered}
    wanted = name.lower()
    for candidate in (wanted, f"{wanted}loss"):
        if candidate in names:
            kind: type[Any] = named[names[candidate]]
            return kind
    short = {n.removesuffix("loss"): of for n, of in names.items()}
    near = difflib.get_close_matches(wanted.removesuffix("loss"), short)
    meant = f"; near it: {', '.join(short[n] for n in near)}" if near else ""
    raise UsageError(f"there is no loss {name}{meant}; `rustloss list` has the names")


Runs = Callable[[argparse.Namespace], int]


def command(
    commands: Any, name: str, text: str, run: Runs, *, details: str = ""
) -> argparse.ArgumentParser:
    """Add a command with the option that all of them have."""
    added: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=f"{text[0].upper()}{text[1:]}.\n{details}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.add_argument("--json", action="store_true", help="print JSON")
    added.set_defaults(run=run)
    return added


def say(text: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{text}\n")


def say_json(data: Any, stream: IO[str] | None = None) -> None:
    """Print what JSON can say of some data; what is not finite is null."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, default=str)
    (stream or sys.stdout).write(f"{text}\n")


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not abs(data) < float("inf") else data


def plain(text: str) -> str:
    """Return a docstring without the marks around its formulas."""
    return text.replace("``", "")


def say_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns below each other: the first one to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join([row[0].ljust(len(first)), *others]).rstrip())


def pyplot() -> Any:
    """Return matplotlib for pictures in files.

    Raises
    ------
    UsageError
        If it is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UsageError("--png needs matplotlib: pip install 'rustloss[plot]'") from error
    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt
