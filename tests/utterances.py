"""Batches of utterances: what the tests of CTC share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import rustloss as rl

LOSS = {np.float64: 1e-12, np.float32: 2e-7}
"""The documented bounds, relative to max(1, loss);"""
GRADIENT = {np.float64: 1e-11, np.float32: 2e-6}
"""and of the gradient, absolute. Posteriors are parts of gradients."""
over_precisions = [np.float64, np.float32]


@dataclass(frozen=True)
class Utterances:
    """A batch, samples first, in double precision."""

    pred: Any
    labels: list[Any]
    lengths: Any
    blank: int = 0

    @property
    def samples(self) -> int:
        return len(self.pred)

    @property
    def longest(self) -> int:
        return max(map(len, self.labels), default=0)

    def of(self, dtype: Any) -> Utterances:
        """Round the numbers to an element type."""
        return replace(self, pred=self.pred.astype(dtype))

    def padded(self, padding: Any = -1) -> Any:
        """Return the labels side by side."""
        rows = np.full((self.samples, self.longest), padding, dtype=np.int64)
        for row, label in zip(rows, self.labels, strict=True):
            row[: len(label)] = label
        return rows

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of a call."""
        return {"pred": self.pred, "label": self.padded(), "pred_lengths": self.lengths}

    def take(self, chosen: Any) -> Utterances:
        """Return some of the samples."""
        labels = [self.labels[n] for n in chosen]
        return replace(self, pred=self.pred[chosen], labels=labels, lengths=self.lengths[chosen])


def one(pred: Any, label: Any, blank: int = 0) -> Utterances:
    """Return a batch of one sample."""
    pred = np.asarray(pred, dtype=np.float64)[None]
    return Utterances(pred, [np.asarray(label, np.int64)], np.array([pred.shape[1]]), blank)


def frames_needed(label: Any) -> int:
    return len(label) + int((label[1:] == label[:-1]).sum())


def random_utterances(
    rng: np.random.Generator, samples: int, frames: int, classes: int, longest: int, scale: float
) -> Utterances:
    """Draw a batch in which every label fits into its frames."""
    blank = int(rng.integers(classes))
    others = np.delete(np.arange(classes), blank)
    labels = []
    for _ in range(samples):
        label = rng.choice(others, rng.integers(longest + 1))
        while frames_needed(label) > frames:
            label = label[:-1]
        labels.append(label)
    lengths = np.array([rng.integers(frames_needed(label), frames + 1) for label in labels])
    pred = rng.normal(size=(samples, frames, classes)) * scale
    return Utterances(pred, labels, lengths.astype(np.int64), blank)


@st.composite
def utterances(draw: st.DrawFn, max_frames: int = 12) -> Utterances:
    """Draw shapes, and a seed for the numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames = draw(st.integers(1, max_frames))
    samples, classes = draw(st.integers(1, 4)), draw(st.integers(2, 20))
    longest = draw(st.integers(0, frames))
    scale = draw(st.sampled_from([1.0, 5.0, 30.0]))
    return random_utterances(rng, samples, frames, classes, longest, scale)


def everything(loss: rl.CTCLoss, **inputs: Any) -> dict[str, Any]:
    """Return all that the loss can compute of a batch; what counts samples comes first."""
    axis = loss.layout.index("N") if "N" in loss.layout else None
    value, grad = loss.value_and_grad(**inputs)
    found = {"grad": grad, "posteriors": loss.posteriors(**inputs)}
    alignment = loss.align(**inputs)
    for name in ("index", "log_prob", "posterior"):
        found[name] = getattr(alignment, name)
    if axis is None:
        return {"value": value[None], **{name: array[None] for name, array in found.items()}}
    return {"value": value, **{name: np.moveaxis(a, axis, 0) for name, a in found.items()}}
