"""``eval``: the losses of the samples of a file."""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from typing import Any

import numpy as np

from rustloss._loss import Loss
from rustloss._mean import Mean
from rustloss.cli._tables import STREAMS, Chunk, Source, Values, opened
from rustloss.cli._text import UsageError, command, loss_of, say, say_json
from rustloss.errors import ArgumentError, CallError, ParameterError, ShapeError

#: Reductions that leave samples apart.
APART = ("sample", "sample_sum", "sample_weighted_mean")
#: Samples of a chunk, unless the command says so.
ROWS = 8192

DETAILS = """
FILE is a table whose columns have the names of the loss's inputs (pred, label, sample_weight ...):
.npz, .parquet, .feather or .arrow; - is the standard input. Or it is NAME=FILE.npy for each input.
Samples are along the first axis. Memory does not grow with their number, but a NumPy array in
Fortran's order is read as a whole.

  rustloss eval SoftmaxCELoss predictions.npz
  rustloss eval 'HuberLoss(rho=2)' pred=p.npy label=y.npy -o losses.npy
  rustloss eval SigmoidBCELoss scores.parquet --column pred=logit --column label=clicked

The summary is about all losses, but the least and the greatest are of those that are finite. With
-o - it goes to the standard error.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "compute the loss of every sample in a file"
    added = command(commands, "eval", text, _run, details=DETAILS)
    added.add_argument("loss", metavar="LOSS", help="a name, or like 'HuberLoss(rho=2.0)'")
    text = "a table, - for the standard input, or NAME=FILE.npy for each input"
    added.add_argument("files", metavar="FILE", nargs="+", help=text)
    added.add_argument(
        "--column",
        metavar="INPUT=NAME",
        action="append",
        default=[],
        help="the column of an input that has another name in the table",
    )
    added.add_argument("-o", "--output", metavar="FILE", help=".npy, .csv or .parquet; - is CSV")
    text = f"samples at a time ({ROWS})"
    added.add_argument("--rows", metavar="N", type=int, default=ROWS, help=text)
    added.add_argument(
        "--format", choices=STREAMS, default=STREAMS[0], help="of the standard input (npz)"
    )


def _run(given: argparse.Namespace) -> int:
    loss = loss_of(given.loss)
    _check(loss, given)
    names = {row["name"]: row["domain"] for row in loss._inputs}
    table = opened(
        given.files,
        rows=given.rows,
        inputs=names,
        ragged=[name for name, domain in names.items() if domain == "Tokens"],
        columns=dict(_pair(text) for text in given.column),
        stream=given.format,
    )
    values = Values(given.output) if given.output else None
    try:
        with table as source:
            summary = _over(source, loss, values)
        if values:
            values.close()
    except BaseException:
        if values:
            values.discard()
        raise
    _report(summary, loss, given)
    return 0


def _over(source: Source, loss: Loss, values: Values | None) -> Summary:
    """Compute the losses chunk by chunk."""
    summary = Summary()
    progress = Progress(source.length)
    try:
        for chunk in source.chunks:
            found = _losses(loss, chunk, summary.samples)
            summary.add(found, chunk.get("sample_weight"))
            if values:
                values.write(found)
            progress.show(summary.samples)
    finally:
        progress.end()
    return summary


def _check(loss: Loss, given: argparse.Namespace) -> None:
    if loss._spec["family"] == "pairwise":
        text = "compares all samples with each other, which a file read in chunks does not allow"
        raise UsageError(f"{loss!r} {text}")
    if loss.reduction not in APART:
        text = f"expected one that leaves samples apart, of {APART}, got {loss.reduction!r}"
        raise UsageError(f"reduction: {text}; the summary has the means")
    layouts = [loss._params.get(name, "N") for name in ("layout", "label_layout")]
    if loss.batch_axis != 0 or not all(layout.startswith("N") for layout in layouts):
        raise UsageError(f"expected samples along the first axis, got {loss!r}")
    if given.rows < 1:
        raise UsageError(f"--rows: expected at least 1, got {given.rows}")


def _pair(text: str) -> tuple[str, str]:
    name, separator, column = text.partition("=")
    if not (name and separator and column):
        raise UsageError(f"--column: expected INPUT=NAME, got {text!r}")
    return name, column


def _losses(loss: Loss, chunk: Chunk, done: int) -> np.ndarray[Any, Any]:
    """Return the losses of a chunk, before which so many samples are done."""
    try:
        return np.asarray(loss(**chunk))
    except CallError as error:
        raise UsageError(f"{error}; the file has {', '.join(chunk) or 'none of them'}") from error
    except ParameterError:
        raise
    except MemoryError as error:
        raise MemoryError(_in_file(str(error), None, done)) from error
    except ArgumentError as error:
        if error.index is None:
            where = f"in the samples from {done} on" if done else "in the first samples"
            raise type(error)(f"{where}, {error}", error.argument) from error
        text = _in_file(str(error), error.argument, done)
        index = (error.index[0] + done, *error.index[1:]) if error.index else ()
        raise type(error)(text, error.argument, index, error.value) from error


def _in_file(text: str, argument: str | None, done: int) -> str:
    """Return a text about a chunk with the numbers that its samples have in the file."""
    place = rf"\bsample |^{argument}\[" if argument else r"\bsample "
    return re.sub(rf"({place})(\d+)", lambda m: f"{m[1]}{int(m[2]) + done}", text)


class Summary:
    """What is said of all samples in the end."""

    def __init__(self) -> None:
        self._losses, self._weights = Mean(), Mean()
        self._least, self._greatest = math.inf, -math.inf
        self._odd = 0

    @property
    def samples(self) -> int:
        """How many there are."""
        return self._losses.count

    def add(self, values: np.ndarray[Any, Any], weight: Any) -> None:
        """Add the losses of samples, and their weights if they have any."""
        self._losses.update(values)
        if weight is not None:
            weights = np.asarray(weight, np.float64)
            if weights.ndim > 1:
                raise ShapeError("sample_weight: expected one for each sample", "sample_weight")
            self._weights.update(np.broadcast_to(weights, values.shape))
        finite = values[np.isfinite(values)]
        self._odd += len(values) - len(finite)
        self._least = min(self._least, float(np.min(finite, initial=math.inf)))
        self._greatest = max(self._greatest, float(np.max(finite, initial=-math.inf)))

    def numbers(self) -> dict[str, Any]:
        """Return the numbers by their names."""
        mean, is_any = self._losses.result(), self._odd < self.samples
        found = {
            "samples": self.samples,
            "mean": mean,
            "least": self._least if is_any else math.nan,
            "greatest": self._greatest if is_any else math.nan,
            "not finite": self._odd,
        }
        if self._weights.count:
            weight = self._weights.result()
            found["weighted mean"] = mean / weight if weight else 0.0
        return found


def _report(summary: Summary, loss: Loss, given: argparse.Namespace) -> None:
    numbers = summary.numbers()
    stream = sys.stderr if given.output == "-" else sys.stdout
    if given.json:
        named = {name.replace(" ", "_"): value for name, value in numbers.items()}
        say_json({"loss": repr(loss), **named}, stream)
    elif given.output == "-":
        sys.stderr.write(" ".join(f"{name}={value}" for name, value in numbers.items()) + "\n")
    else:
        width = max(map(len, numbers))
        for name, value in numbers.items():
            say(f"{name:{width}}  {value:.9g}")


class Progress:
    """A line about how far it is, where somebody looks at the standard error."""

    #: Seconds between two looks of it.
    _PAUSE = 0.1
    _WIDTH = 30

    def __init__(self, length: int | None) -> None:
        self._length = length
        self._is_seen = sys.stderr.isatty()
        self._last = time.monotonic()

    def show(self, done: int) -> None:
        """Show how many samples are done, if that was not shown just now."""
        if not self._is_seen or time.monotonic() - self._last < self._PAUSE:
            return
        self._last = time.monotonic()
        bar = ""
        if self._length:
            full = self._WIDTH * done // self._length
            bar = f"[{'#' * full}{'.' * (self._WIDTH - full)}] {100 * done // self._length}% "
        sys.stderr.write(f"\r{bar}{done} samples")
        sys.stderr.flush()

    def end(self) -> None:
        """Clear the line."""
        if self._is_seen:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
