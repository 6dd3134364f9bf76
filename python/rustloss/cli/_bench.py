"""``bench`` and ``accuracy``: how fast and how exact the losses are on this machine."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rustloss import _core, get_num_threads, num_threads
from rustloss._loss import Loss
from rustloss.cli._doctor import cpu, versions
from rustloss.cli._text import UsageError, command, kind_of, pyplot, say, say_json, say_table
from rustloss.testing import example, oracle

#: The losses of torch.nn that compute the same, with the inputs in the same order.
TORCH = {
    "L1Loss": "L1Loss",
    "HuberLoss": "SmoothL1Loss",
    "SigmoidBinaryCrossEntropyLoss": "BCEWithLogitsLoss",
    "PoissonNLLLoss": "PoissonNLLLoss",
    "GaussianNLLLoss": "GaussianNLLLoss",
    "MarginRankingLoss": "MarginRankingLoss",
    "HingeEmbeddingLoss": "HingeEmbeddingLoss",
    "SoftmaxCrossEntropyLoss": "CrossEntropyLoss",
    "KLDivLoss": "KLDivLoss",
    "CosineEmbeddingLoss": "CosineEmbeddingLoss",
    "TripletMarginLoss": "TripletMarginLoss",
    "MultiMarginLoss": "MultiMarginLoss",
    "MultiLabelMarginLoss": "MultiLabelMarginLoss",
}
#: Shapes of the first input by the family of the loss: (samples, frames, classes) of sequences.
SHAPES = {"elementwise": (1000, 1000), "pairwise": (256, 128), "sequence": (16, 150, 32)}
ROWS = (1000, 100)
#: Seconds for each contender of a row, and calls at the least.
SECONDS, LEAST = 0.3, 5
#: Relative to the largest number: one that differs more computes something else.
NEAR = 1e-3
#: Draws of which `accuracy` reports the worst.
DRAWS = 20

Array = np.ndarray[Any, np.dtype[Any]]


def add(commands: Any) -> None:
    """Add the commands."""
    text = "time value and gradient of the losses, beside PyTorch if it is installed"
    bench = command(commands, "bench", text, _bench)
    bench.add_argument("--threads", type=int, metavar="N", help="by default as many as are set")
    bench.add_argument("--png", metavar="FILE", help="draw the times into a picture (matplotlib)")
    text = "measure how far single precision is from plain NumPy in double precision"
    accuracy = command(commands, "accuracy", text, _accuracy)
    for added in (bench, accuracy):
        added.add_argument("--losses", default="", metavar="PATTERN", help="a regular expression")


def _chosen(pattern: str) -> Iterator[Loss]:
    """Return the losses whose names the pattern is found in."""
    try:
        found = [row["name"] for row in _core.registry() if re.search(pattern, row["name"])]
    except re.error as error:
        raise UsageError(f"--losses: {error}") from error
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
    torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None
    if torch is not None:
        torch.set_num_threads(threads)
    with num_threads(threads):
        rows = [_row(loss, torch) for loss in losses]
    about = {"cpu": cpu(), "threads": threads, "isa": _core.config()["isa"]}
    about |= versions(("rustloss", "numpy", "torch"))
    if hasattr(
        os, "getloadavg"
    ):  # Times of a busy machine say little, of OpenMP's threads nothing.
        about["load"] = round(os.getloadavg()[0], 1)
    if given.png:
        _picture(rows, about, given.png)
    if given.json:
        say_json({**about, "rows": rows})
        return 0
    say(", ".join(f"{name} {value}" for name, value in about.items()))
    say("Microseconds for value and gradient in single precision: the least of some calls.\n")
    head = ["loss", "shape", "rustloss", "torch", "torch / rustloss"]
    say_table(head, [_cells(row) for row in rows])
    return 0


def _row(loss: Loss, torch: Any) -> dict[str, Any]:
    """Return the times of a loss and of its peer, in microseconds."""
    family = loss._spec["family"]
    inputs = _inputs(loss, 0, SHAPES.get(family, ROWS))
    name = type(loss).__name__
    found: dict[str, Any] = {"loss": name, "shape": [*next(iter(inputs.values())).shape]}
    found["rustloss"] = _least(lambda: loss.value_and_grad(**inputs))
    if torch is not None and name in TORCH:
        value, grads = loss.value_and_grad(**inputs)
        run = _with_torch(torch, loss, inputs)
        same = _near([np.asarray(value), *_flat(grads)], run())
        found["torch"] = _least(run) if same else "disagrees"
    return found


def _with_torch(torch: Any, loss: Loss, inputs: dict[str, Array]) -> Callable[[], list[Array]]:
    """Return a call of torch's loss of that name: its value and gradients."""
    peer = getattr(torch.nn, TORCH[type(loss).__name__])(reduction="sum")
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    leaves = [tensors[name].requires_grad_() for name in _differentiated(loss)]

    def run() -> list[Array]:
        value = peer(*tensors.values())
        grads = torch.autograd.grad(value, leaves)
        return [x.detach().numpy() for x in (value, *grads)]

    return run


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


def _cells(row: dict[str, Any]) -> list[str]:
    peer = row.get("torch", "-")
    timed = isinstance(peer, float)
    return [
        row["loss"],
        "x".join(map(str, row["shape"])),
        f"{row['rustloss']:.0f}",
        f"{peer:.0f}" if timed else peer,
        f"{peer / row['rustloss']:.2f}" if timed else "",
    ]


def _picture(rows: list[dict[str, Any]], about: dict[str, Any], path: str) -> None:
    """Draw the times of all rows as bars."""
    plt = pyplot()
    figure = plt.figure(figsize=(8, 1 + 0.4 * len(rows)), layout="constrained")
    axes = figure.add_subplot(xlabel="microseconds for value and gradient", xscale="log")
    places = np.arange(len(rows))
    for shift, who in ((-0.2, "rustloss"), (0.2, "torch")):
        timed = [(at, row[who]) for at, row in zip(places, rows, strict=True) if _is_time(row, who)]
        if timed:
            at, times = zip(*timed, strict=True)
            axes.barh(np.array(at) + shift, times, 0.4, label=who)
    axes.set_yticks(places, [row["loss"] for row in rows])
    axes.invert_yaxis()
    axes.legend()
    axes.set_title(f"{about['cpu']}, {about['threads']} threads", fontsize="medium")
    figure.savefig(path, format="png")


def _is_time(row: dict[str, Any], who: str) -> bool:
    return isinstance(row.get(who), float)


def _accuracy(given: argparse.Namespace) -> int:
    rows = [_errors(loss.replace(reduction="none")) for loss in _chosen(given.losses)]
    if given.json:
        say_json({"isa": _core.config()["isa"], "draws": DRAWS, "rows": rows})
        return 0
    say(f"Instruction set {_core.config()['isa']}. Worst difference of {DRAWS} draws from NumPy in")
    say("double precision, in ulp of the largest number of a result.\n")
    say_table(
        ["loss", "value", "gradient"],
        [[row["loss"], f"{row['value']:.2f}", f"{row['gradient']:.2f}"] for row in rows],
    )
    return 0


def _errors(loss: Loss) -> dict[str, Any]:
    """Return the worst errors of value and gradient in single precision."""
    worst = {"value": 0.0, "gradient": 0.0}
    for seed in range(DRAWS):
        inputs = _inputs(loss, seed)
        value, grads = loss.value_and_grad(**inputs)
        exact = oracle(loss).results(**inputs)
        worst["value"] = max(worst["value"], _ulps(np.asarray(value), exact.value))
        for grad, name in zip(_flat(grads), _differentiated(loss), strict=True):
            worst["gradient"] = max(worst["gradient"], _ulps(grad, exact.grads[name]))
    return {"loss": type(loss).__name__, **worst}


def _differentiated(loss: Loss) -> list[str]:
    """Return the inputs that the gradient of a call is by."""
    return [row["name"] for row in loss._inputs if row["gradient"] == "Default"]


def _ulps(single: Array, double: Array) -> float:
    """Return the largest difference, in the last place of the largest number."""
    unit = np.spacing(np.float32(np.abs(double).max(initial=0.0)))
    return float(np.abs(single - double).max(initial=0.0) / unit)
