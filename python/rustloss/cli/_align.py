"""``align``: which frames of the emissions belong to which label."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

from rustloss.cli._tables import opened
from rustloss.cli._text import UsageError, command, loss_of, say_json
from rustloss.errors import CallError
from rustloss.sequence import CTCLoss, Span

DETAILS = """
FILE is an .npz file with pred, of shape (frames, classes) or (samples, frames, classes), and label,
or NAME=FILE.npy for each; lengths are pred_lengths and label_lengths. What pred holds, and which
class is the blank, says the loss.

  rustloss align emissions.npz --loss "CTCLoss(blank='first', input='log_probs')" --seconds 0.02
  rustloss align pred=emissions.npy label=text.npy --vocabulary letters.txt --textgrid > a.TextGrid

A sample whose label no path gives has no spans: the standard error names it, and the exit code is
1. The other samples are printed all the same.
"""


def add(commands: Any) -> None:
    """Add the command."""
    text = "align emissions with their labels by CTC: print the frames of every label"
    added = command(commands, "align", text, _run, details=DETAILS)
    text = "an .npz file, - for one on the standard input, or NAME=FILE.npy for each array"
    added.add_argument("files", metavar="FILE", nargs="+", help=text)
    added.add_argument("--loss", default="CTCLoss", help="the CTC loss, by default CTCLoss")
    added.add_argument(
        "--seconds", type=float, metavar="S", help="the length of a frame; else times are frames"
    )
    added.add_argument(
        "--vocabulary", metavar="FILE", help="the names of the classes, one on each line"
    )
    added.add_argument("--textgrid", action="store_true", help="print Praat's TextGrid, not JSON")


def _run(given: argparse.Namespace) -> int:
    loss = loss_of(given.loss)
    if not isinstance(loss, CTCLoss):
        raise UsageError(f"--loss: expected a CTCLoss, got {loss!r}")
    if given.seconds is not None and not 0 < given.seconds < float("inf"):
        raise UsageError(f"--seconds: expected a length above 0, got {given.seconds}")
    if given.json and given.textgrid:
        raise UsageError("expected --json or --textgrid, not both")
    names = {row["name"] for row in loss._inputs} - {"sample_weight", "label_offsets"}
    with opened(given.files, rows=None, inputs=names, columns={}) as source:
        inputs: dict[str, Any] = next(source.chunks, {})
    if "pred" not in inputs or "label" not in inputs:
        raise UsageError(f"expected pred and label, got {', '.join(inputs) or 'neither'}")
    if np.ndim(inputs["pred"]) == 2 and loss.layout == "NTC":
        loss = CTCLoss(**{**loss._params, "layout": "TC"})
    try:
        alignment = loss.align(**inputs)
    except CallError as error:
        raise UsageError(str(error)) from error
    classes = _vocabulary(given.vocabulary)
    frames = inputs["pred"].shape[loss.layout.index("T")]
    labels = _labels(loss, inputs["label"], inputs.get("label_lengths"))
    samples = [
        [_span(span, int(row[span.index]), classes, given.seconds) for span in found]
        for found, row in zip(alignment.spans(), labels, strict=True)
    ]
    if given.textgrid:
        sys.stdout.write(textgrid(samples, frames * (given.seconds or 1)))
    else:
        say_json(samples)
    return _complain(loss.replace(infeasible="inf", reduction="sample", weight=None)(**inputs))


def _vocabulary(path: str | None) -> list[str] | None:
    try:
        return None if path is None else Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise OSError(f"{path}: expected text in UTF-8: {error}") from error


def _complain(losses: Any) -> int:
    """Say which samples have no path, by their losses, and return the exit code."""
    bad = np.flatnonzero(~np.isfinite(losses))
    for sample, loss in zip(bad, np.ravel(losses)[bad], strict=True):
        why = "pred has NaN" if np.isnan(loss) else "no path through its frames gives its label"
        sys.stderr.write(f"rustloss: error: sample {sample} has no spans: {why}\n")
    return int(len(bad) > 0)


def _labels(loss: CTCLoss[Any], label: Any, lengths: Any) -> Any:
    """Return the labels of every sample, perhaps with padding behind them."""
    if loss.layout == "TC":
        return [label]
    if np.ndim(label) == 1:  # one sequence behind another
        return np.split(label, np.cumsum(lengths)[:-1])
    return label.T if loss.label_layout == "TN" else label


def _span(
    span: Span, token: int, classes: list[str] | None, seconds: float | None
) -> dict[str, Any]:
    if classes is not None and token >= len(classes):
        raise UsageError(f"--vocabulary: has {len(classes)} lines, and a label is {token}")
    return {
        "class": token,
        **({} if classes is None else {"text": classes[token]}),
        "start": span.start * (seconds or 1),
        "end": span.end * (seconds or 1),
        "log_prob": span.log_prob,
        "posterior": span.posterior,
    }


def textgrid(samples: list[list[dict[str, Any]]], end: float) -> str:
    """Return spans as Praat's TextGrid: a tier for each sample, with empty intervals between.

    Parameters
    ----------
    samples : list of list of dict
        The spans, by ascending start.
    end : float
        Where all tiers end.

    Examples
    --------
    >>> from rustloss.cli._align import textgrid
    >>> grid = textgrid([[{"class": 7, "start": 1, "end": 3}]], 4)
    >>> [line.strip() for line in grid.splitlines() if "text =" in line]
    ['text = ""', 'text = "7"', 'text = ""']
    """
    lines = [
        'File type = "ooTextFile"',
        'Object class = "TextGrid"',
        "",
        "xmin = 0",
        f"xmax = {end}",
        "tiers? <exists>",
        f"size = {len(samples)}",
        "item []:",
    ]
    for i, spans in enumerate(samples, 1):
        intervals = _filled(spans, end)
        lines += [
            f"    item [{i}]:",
            '        class = "IntervalTier"',
            f'        name = "sample {i - 1}"',
            "        xmin = 0",
            f"        xmax = {end}",
            f"        intervals: size = {len(intervals)}",
        ]
        for j, (start, stop, text) in enumerate(intervals, 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{j}]:",
                f"            xmin = {start}",
                f"            xmax = {stop}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _filled(spans: list[dict[str, Any]], end: float) -> list[tuple[float, float, str]]:
    """Return intervals without gaps from 0 to the end."""
    intervals: list[tuple[float, float, str]] = []
    at: float = 0
    for span in spans:
        if span["start"] > at:
            intervals.append((at, span["start"], ""))
        intervals.append((span["start"], span["end"], str(span.get("text", span["class"]))))
        at = span["end"]
    return intervals + [(at, end, "")] * (at < end)
