"""``bench`` and ``accuracy``: how fast and how exact the losses are on this machine."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rustloss import _core, get_num_threads, num_threads
from rustloss._loss import Loss
from rustloss.cli._doctor import cpu, versions
from rustloss.cli._peers import PEERS, Array, differentiated
from rustloss.cli._text import UsageError, command, kind_of, pyplot, say, say_json, say_table
from rustloss.errors import ParameterError
from rustloss.testing import example, oracle
from rustloss.testing._bounds import BOUNDS, Absolute

#: Shapes of the first input by the family of the loss: (samples, frames, classes) of sequences.
SHAPES = {"elementwise": (1000, 1000), "pairwise": (256, 128), "sequence": (16, 150, 32)}
ROWS = (1000, 100)
#: Seconds for each contender of a row, and calls at the least.
SECONDS, LEAST = 0.3, 5
#: Relative to the largest number: one that differs more computes something else.
NEAR = 1e-3
#: Draws of which `accuracy` reports the worst.
DRAWS = 20
#: Of what it measures the error.
RESULTS = ("value", "gradient")
ABOUT = """\
Instruction set {isa}. Worst difference of {draws} draws from NumPy in double
precision, in ulp of the largest number of a result. The bound is documented for
all options, in ulp of the sum of the absolute terms: where terms cancel, an
error here may be above it. S is the largest logit less the smallest; the bounds
of CTC are absolute.
"""


def add(commands: Any) -> None:
    """Add the commands."""
    text = "time value and gradient of the losses, beside other libraries"
    bench = command(commands, "bench", text, _bench)
    bench.add_argument("--threads", type=int, metavar="N", help="by default as many as are set")
    text = "libraries to take part: numpy (plain formulas, double precision), torch, jax"
    bench.add_argument("--peers", nargs="+", default=[], choices=PEERS, metavar="NAME", help=text)
    bench.add_argument("--png", metavar="FILE", help="draw the times into a picture (matplotlib)")
    text = "measure how far single precision is from plain NumPy in double precision"
    accuracy = command(commands, "accuracy", text, _accuracy)
    for added in (bench, accuracy):
        added.add_argument("--losses", default="", metavar="PATTERN", help="a regular expression")


def _chosen(pattern: str) -> Iterator[Loss]:
    """Return the losses whose names the pattern is found in."""
    try:
        search = re.compile(pattern, re.IGNORECASE).search
    except re.error as error:
        raise UsageError(f"--losses: {error}") from error
    found = [row["name"] for row in _core.registry() if search(row["name"])]
    if not found:
        raise UsageError(f"--losses: no name of a loss has {pattern!r} in it")
    return (kind_of(name)(reduction="sum") for name in found)


def _inputs(loss: Loss, seed: int, shape: tuple[int, ...] | None = None) -> dict[str, Array]:
    """Return valid input of the loss, its numbers in single precision."""
    given = example(loss, shape, dtype=np.float32, seed=seed)
    return {k: x.astype(np.float32) if x.dtype.kind == "f" else x for k, x in given.items()}


def _flat(grads: Any) -> list[Array]:
    return list(grads) if isinstance(grads, tuple) else [grads]


def _bench(given: argparse.Namespace) -> int:
    threads = get_num_threads() if given.threads is None else given.threads
    losses = list(_chosen(given.losses))
    try:
        limit = num_threads(threads)
    except ParameterError as error:
        raise UsageError(f"--threads: {str(error).removeprefix('n: ')}") from error
    with limit:
        rows = [_row(loss, given.peers, threads) for loss in losses]
    about = {"cpu": cpu(), "threads": threads, "isa": _core.config()["isa"]}
    about |= versions(("rustloss", "numpy", *given.peers))
    if hasattr(
        os, "getloadavg"
    ):  # Times of a busy machine say little, of OpenMP's threads nothing.
        about["load"] = round(os.getloadavg()[0], 1)
    if given.png:
        _picture(rows, given.peers, about, given.png)
    if given.json:
        say_json({**about, "rows": rows})
        return 0
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    say("Microseconds for value and gradient in single precision: the least of some calls.\n")
    head = ["loss", "shape", "rustloss", *given.peers]
    if given.peers:
        head.append("fastest / rustloss")
    say_table(head, [_cells(row, given.peers) for row in rows])
    return 0


def _row(loss: Loss, peers: list[str], threads: int) -> dict[str, Any]:
    """Return the times of a loss and of its peers, in microseconds."""
    family = loss._spec["family"]
    inputs = _inputs(loss, 0, SHAPES.get(family, ROWS))
    name = type(loss).__name__
    found: dict[str, Any] = {"loss": name, "shape": [*next(iter(inputs.values())).shape]}
    found["rustloss"] = _least(lambda: loss.value_and_grad(**inputs))
    value, grads = loss.value_and_grad(**inputs)
    for peer in peers:
        run = PEERS[peer](loss, inputs, threads)
        if run is not None:
            same = _near([np.asarray(value), *_flat(grads)], run())
            found[peer] = _least(run) if same else "disagrees"
    return found


def _near(ours: list[Array], others: list[Array]) -> bool:
    pairs = zip(ours, others, strict=True)
    return all(np.abs(a - b).max() <= NEAR * np.abs(a).max() for a, b in pairs)


def _least(run: Callable[[], Any]) -> float:
    """Return the shortest time of a call in microseconds, after one that is not timed."""
    run()
    times: list[float] = []
    while len(times) < LEAST or sum(times) < SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times) * 1e6


def _times(row: dict[str, Any], names: list[str]) -> dict[str, float]:
    """Return the times of those that have one."""
    return {name: row[name] for name in names if isinstance(row.get(name), float)}


def _cells(row: dict[str, Any], peers: list[str]) -> list[str]:
    timed = _times(row, peers)
    cells = [
        row["loss"],
        "x".join(map(str, row["shape"])),
        f"{row['rustloss']:.0f}",
        *(f"{timed[peer]:.0f}" if peer in timed else row.get(peer, "-") for peer in peers),
    ]
    if peers:
        cells.append(f"{min(timed.values()) / row['rustloss']:.2f}" if timed else "-")
    return cells


def _picture(
    rows: list[dict[str, Any]], peers: list[str], about: dict[str, Any], path: str
) -> None:
    """Draw the times of all rows as bars."""
    plt = pyplot()
    figure = plt.figure(figsize=(8, 1 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="microseconds for value and gradient", xscale="log")
    names = ["rustloss", *peers]
    width = 0.8 / len(names)
    for shift, name in enumerate(names):
        timed = {at: row[name] for at, row in enumerate(rows) if _times(row, [name])}
        places = np.array([*timed]) + (shift + 0.5) * width - 0.4
        axes.barh(places, [*timed.values()], width, label=name)
    axes.set_yticks(range(len(rows)), [row["loss"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
    axes.set_title(f"{about['cpu']}, {about['threads']} threads", fontsize="medium")
    figure.savefig(path, format="png")


def _accuracy(given: argparse.Namespace) -> int:
    rows = [_errors(loss.replace(reduction="none")) for loss in _chosen(given.losses)]
    if given.json:
        say_json({"isa": _core.config()["isa"], "draws": DRAWS, "rows": rows})
        return 0
    say(ABOUT.format(isa=_core.config()["isa"], draws=DRAWS))
    head = ["loss", *(word for name in RESULTS for word in (name, "bound"))]
    say_table(head, [[row["loss"], *_beside_bounds(row)] for row in rows])
    return 0


def _beside_bounds(row: dict[str, Any]) -> Iterator[str]:
    """Return the cells of each error and its bound."""
    for name in RESULTS:
        yield f"{row[name]:.2f}"
        yield row["bounds"][name]


def _bounds(name: str) -> dict[str, str]:
    """Return the documented bounds of value and gradient in single precision."""
    bounds = zip(RESULTS, BOUNDS[name], strict=False)
    return {k: f"{b.float32:.0e}" if isinstance(b, Absolute) else str(b) for k, b in bounds}


def _errors(loss: Loss) -> dict[str, Any]:
    """Return the worst errors of value and gradient in single precision."""
    worst = dict.fromkeys(RESULTS, 0.0)
    for seed in range(DRAWS):
        inputs = _inputs(loss, seed)
        value, grads = loss.value_and_grad(**inputs)
        exact = oracle(loss).results(**inputs)
        worst["value"] = max(worst["value"], _ulps(np.asarray(value), exact.value))
        for grad, name in zip(_flat(grads), differentiated(loss), strict=True):
            worst["gradient"] = max(worst["gradient"], _ulps(grad, exact.grads[name]))
    name = type(loss).__name__
    return {"loss": name, **worst, "bounds": _bounds(name)}


def _ulps(single: Array, double: Array) -> float:
    """Return the largest difference, in the last place of the largest number."""
    unit = np.spacing(np.float32(np.abs(double).max(initial=0.0)))
    return float(np.abs(single - double).max(initial=0.0) / unit)
