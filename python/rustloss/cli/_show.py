"""``list`` and ``show``: which losses there are, and what one of them is."""

from __future__ import annotations

import argparse
import inspect
import math
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from rustloss import _core, plot
from rustloss._loss import Loss
from rustloss.cli._text import (
    UsageError,
    command,
    kind_of,
    loss_of,
    plain,
    pyplot,
    say,
    say_json,
    say_table,
)

#: Lines of a curve in the terminal, its columns at most and beside the margin.
HEIGHT, WIDTH, MARGIN = 15, 72, 11


def add(commands: Any) -> None:
    """Add the commands."""
    command(commands, "list", "list the losses", _list)
    show = command(
        commands, "show", "show a loss: formula, parameters, curve of value and gradient", _show
    )
    show.add_argument("loss", metavar="LOSS", help="a name, or like 'HuberLoss(rho=2.0)'")
    show.add_argument("--png", metavar="FILE", help="draw the curve into a picture (matplotlib)")


def _list(given: argparse.Namespace) -> int:
    rows = [
        {
            "name": row["name"],
            "family": row["family"],
            "inputs": [entry["name"] for entry in row["inputs"]],
            "about": plain(inspect.getdoc(kind_of(row["name"])) or "").partition("\n")[0],
        }
        for row in _core.registry()
    ]
    if given.json:
        say_json(rows)
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        say(f"{row['name']:{width}}  {row['about']}")
    return 0


def _show(given: argparse.Namespace) -> int:
    loss = loss_of(given.loss)
    spec = loss._spec
    curve = _curve(loss)
    if given.png and curve is None:
        raise UsageError(f"--png: {spec['name']} is not a function of one number and its defaults")
    if given.png:
        figure = pyplot().figure(layout="constrained")
        plot.curve(loss, ax=figure.add_subplot())
        figure.savefig(given.png, format="png")
    if given.json:
        text = inspect.getdoc(type(loss)) or ""
        facts = {key: spec[key] for key in ("name", "family", "inputs", "hess", "kinks")}
        sampled = {} if curve is None else {name: line.tolist() for name, line in curve.items()}
        say_json({**facts, "params": dict(loss._params), "about": text, "curve": sampled})
        return 0
    say(f"{_call(loss)}\n")
    say(_prose(loss))
    say("")
    say_table(["parameter", "here"], [[name, str(of)] for name, of in loss._params.items()])
    if curve is not None and not given.png:
        for name in ("value", "gradient"):
            say(f"\n{name} by {loss._inputs[0]['name']}")
            for line in drawing(curve["x"].tolist(), curve[name].tolist()):
                say(line)
    return 0


def _call(loss: Loss) -> str:
    """Return how a loss is made, with the defaults; the types are in the docstring."""
    name, signature = type(loss).__name__, inspect.signature(type(loss))
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    words = str(inspect.Signature(parameters))
    return textwrap.fill(f"{name}{words}", WIDTH, subsequent_indent=" " * (len(name) + 1))


def _prose(loss: Loss) -> str:
    """Return the docstring of a loss up to its examples."""
    return plain(inspect.getdoc(type(loss)) or "").partition("\n\nExamples\n")[0]


def _curve(loss: Loss) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]] | None:
    """Return a curve of the loss, None if it is no function of one prediction."""
    columns = min(WIDTH, max(shutil.get_terminal_size().columns - MARGIN - 2, 20))
    try:
        return plot.sample(loss, points=columns)
    except TypeError:
        return None


def drawing(x: Sequence[float], y: Sequence[float]) -> list[str]:
    """Return a curve as lines of text, one column for each point.

    Parameters
    ----------
    x, y : sequence of float
        The points, by ascending x. Those whose y is not finite are left out.

    Examples
    --------
    >>> from rustloss.cli._show import drawing
    >>> len(drawing([0.0, 1.0, 2.0], [0.0, 1.0, 4.0]))
    17
    """
    finite = [value for value in y if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    step = (high - low) / (HEIGHT - 1) or 1.0
    rows = [[" "] * len(y) for _ in range(HEIGHT)]
    for column, value in enumerate(y):
        if math.isfinite(value):
            rows[round((high - value) / step)][column] = "*"
    marks = {0: high, HEIGHT - 1: low}
    lines = [
        f"{marks[i]:{MARGIN}.4g} |{''.join(row)}"
        if i in marks
        else f"{'':{MARGIN}} |{''.join(row)}"
        for i, row in enumerate(rows)
    ]
    ends = f"{x[0]:<{len(x) // 2}g}{x[-1]:>{len(x) - len(x) // 2}g}"
    return [
        *(line.rstrip() for line in lines),
        f"{'':{MARGIN}} +{'-' * len(x)}",
        f"{'':{MARGIN}}  {ends}",
    ]
