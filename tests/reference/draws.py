"""Random valid calls of every loss, for hypothesis: structure is drawn, numbers come from a seed.

All numbers are single-precision numbers, so that one call serves both precisions, and half of the
calls keep to a grid of eighths, where sums are exact and kinks are hit exactly.

Elementwise losses are drawn by what their oracle's decorator says, others by a function here that
knows the forms of their labels, and a loss without one by the strategy of ``rustloss.testing``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from rustloss import _core
from rustloss.testing import arguments
from rustloss.testing._registry import specs
from rustloss.testing.oracles.elementwise import ELEMENTWISE

if TYPE_CHECKING:
    from collections.abc import Callable

BAD_CLASS = 99
NEAR_KINK = 1e-5


@dataclass
class Call:
    """One call of one loss: `inputs` by name in call order, everything else by keyword."""

    params: dict[str, Any]
    inputs: dict[str, Any]
    shape: tuple[int, ...] = ()
    """Of the unreduced loss."""
    sample_axis: int | None = None
    spoil: Callable[[Any], None] = lambda _: None
    """Put NaN and invalid labels where the unreduced loss has weight zero."""
    unit_axis: int = -1
    named: dict[str, Any] = field(default_factory=dict)


class Draw:
    """Hypothesis's choices, and a seeded generator for the numbers."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any], *, smooth: bool) -> None:
        self.draw = draw
        self.smooth = smooth
        """Away from kinks and edges, where derivatives can be checked by differences."""
        self.random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.on_grid = not smooth and draw(st.booleans())

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def size(self, least: int = 0, most: int = 4) -> int:
        return int(self.draw(st.integers(max(least, self.smooth), most)))

    def between(self, low: float, high: float, shape: tuple[int, ...]) -> Any:
        if self.on_grid:
            steps = self.random.integers(int(low * 8), int(high * 8) + 1, shape)
            return np.asarray(steps / 8)
        return np.asarray(self.random.uniform(low, high, shape), np.float32).astype(np.float64)

    def numbers(self, domain: str, shape: tuple[int, ...]) -> Any:
        if domain == "sign":
            return np.asarray(2.0 * self.random.integers(0, 2, shape) - 1)
        if domain == "count":
            return np.asarray(self.random.integers(0, 5, shape) + 1.5 * self.smooth)
        edge = 0.125 * self.smooth
        low, high = {
            "real": (-4, 4),
            "unit": (edge, 1 - edge),
            "positive": (edge or 0.125, 3),
        }[domain]
        return self.between(low, high, shape)

    def axis(self, ndim: int, *, but: int | None = None) -> int:
        """Choose an axis, counted from either end."""
        free = [axis for axis in range(ndim) if axis != but]
        axis = self.pick(*free)
        return int(self.pick(axis, axis - ndim))

    def label_shape(self, label: Any) -> Any:
        """Write a label in one of the shapes that stand for its own."""
        if label.ndim == 0:
            return label
        at = self.pick(*range(label.ndim + 1))
        return self.pick(label, label.reshape(-1), np.expand_dims(label, at))


def elementwise(draw: Draw, name: str) -> Call:
    loss = ELEMENTWISE[name]
    params: dict[str, Any] = {}
    for key, choices in loss.choices.items():
        params[key] = draw.pick(*(choices if isinstance(choices, tuple) else choices(params)))
    shape = tuple(draw.size() for _ in range(draw.size(0, 3)))
    entries = {entry.name: entry for entry in specs()[name].inputs}
    inputs = {}
    for key, domain in loss.domains.items():
        entry = entries[key]
        if not entry.required and draw.pick(True, False):
            continue
        full = shape
        if entry.shape == "Broadcast":
            full = tuple(draw.pick(1, n) for n in shape[draw.size(0, len(shape)) :])
        kind = domain if isinstance(domain, str) else domain(params)
        numbers = draw.numbers(kind, full)
        inputs[key] = draw.label_shape(numbers) if entry.shape == "Same" else numbers

    def spoil(off: Any) -> None:
        for key, array in inputs.items():
            if entries[key].shape != "Broadcast":
                array.reshape(shape)[off] = np.nan

    sample_axis = None
    if shape:
        params["batch_axis"] = draw.axis(len(shape))
        sample_axis = params["batch_axis"] % len(shape)
    named = {key: params.pop(key) for key in loss.in_call}
    return Call(params, inputs, shape, sample_axis, spoil, named=named)


@dataclass
class Vectors:
    """Predictions in vectors along an axis, and what has one number for each vector."""

    pred: Any
    params: dict[str, int]
    shape: tuple[int, ...]
    """Of what has one number for each vector."""
    vector_axis: int
    sample_axis: int

    @property
    def width(self) -> int:
        return int(self.pred.shape[self.vector_axis])

    def spoil(self, off: Any) -> None:
        """Put NaN into some vectors."""
        if self.pred.ndim == 1:
            self.pred[off.repeat(self.width)] = np.nan
        else:
            np.moveaxis(self.pred, self.vector_axis, -1)[off] = np.nan

    def call(self, params: dict[str, Any], label: Any, spoil: Callable[[Any], None]) -> Call:
        inputs = {"pred": self.pred, "label": label}
        unit_axis = 1 if self.pred.ndim == 1 else self.vector_axis
        params = {**self.params, **params}
        return Call(params, inputs, self.shape, self.sample_axis, spoil, unit_axis)


def vectors(draw: Draw) -> Vectors:
    width = draw.size(1, 5)
    ndim = draw.size(1, 4)
    if ndim == 1:
        return Vectors(draw.numbers("real", (width,)), {}, (1,), 0, 0)
    axis = draw.axis(ndim)
    batch_axis = draw.axis(ndim, but=axis % ndim)
    along, samples = axis % ndim, batch_axis % ndim
    shape = tuple(draw.size() for _ in range(ndim - 1))
    pred = draw.numbers("real", (*shape[:along], width, *shape[along:]))
    params = {"axis": axis, "batch_axis": batch_axis}
    return Vectors(pred, params, shape, along, samples - (samples > along))


def class_weights(draw: Draw, classes: int) -> Any:
    """Draw weights of classes, some of them 0."""
    return draw.random.integers(0, 4, classes) / 2


def class_labels(draw: Draw, rows: Vectors, params: dict[str, Any]) -> Call:
    """Draw labels that are one class, the options of theirs, and the rest of the call."""
    label = draw.random.integers(0, rows.width, rows.shape)
    if draw.pick(True, False):
        params["ignore_index"] = -1
        label[draw.random.random(rows.shape) < 0.3] = -1
    if draw.pick(True, False):
        params["out_of_range"] = "clip"
        label = label + draw.pick(0.0, 0.75) * (label >= 0)
    whole = (label == np.trunc(label)).all()
    kinds = (np.int64, np.int8, np.float32, np.float64) if whole else (np.float32, np.float64)
    written = draw.label_shape(label.astype(draw.pick(*kinds)))

    def spoil(off: Any) -> None:
        rows.spoil(off)
        written.reshape(rows.shape)[off] = BAD_CLASS

    return rows.call(params, written, spoil)


def softmax_cross_entropy(draw: Draw) -> Call:
    params: dict[str, Any] = {
        "from_logits": draw.pick(False, True),
        "sparse_label": draw.pick(True, False),
        "label_smoothing": draw.pick(0.0, 0.125),
    }
    if not params["from_logits"]:
        params["z_loss"] = draw.pick(0.0, 0.25)
    rows = vectors(draw)
    if draw.pick(True, False):
        params["class_weight"] = class_weights(draw, rows.width)
    if params["sparse_label"]:
        return class_labels(draw, rows, params)
    label = draw.label_shape(draw.numbers("unit", rows.pred.shape))
    return rows.call(params, label, rows.spoil)


def softmax_focal(draw: Draw) -> Call:
    params: dict[str, Any] = {"gamma": draw.pick(0.0, 0.5, 1.0, 2.0, 5.0)}
    rows = vectors(draw)
    if draw.pick(True, False):
        params["alpha"] = class_weights(draw, rows.width)
    return class_labels(draw, rows, params)


def poly(draw: Draw) -> Call:
    params: dict[str, Any] = {"epsilon": draw.pick(-1.0, 0.0, 1.0, 10.0)}
    rows = vectors(draw)
    if draw.pick(True, False):
        params["class_weight"] = class_weights(draw, rows.width)
    return class_labels(draw, rows, params)


def categorical_hinge(draw: Draw) -> Call:
    return class_labels(draw, vectors(draw), {"margin": draw.pick(1.0, 0.0, 0.375, -0.5)})


def multi_margin(draw: Draw) -> Call:
    params: dict[str, Any] = {"p": draw.pick(1, 2), "margin": draw.pick(1.0, 0.0, 0.375, -0.5)}
    rows = vectors(draw)
    if draw.pick(True, False):
        params["class_weight"] = class_weights(draw, rows.width)
    return class_labels(draw, rows, params)


def one_number(draw: Draw, rows: Vectors, params: dict[str, Any]) -> Call:
    """Draw a label that is one number for each vector, and the rest of the call."""
    label = draw.label_shape(draw.numbers("real", rows.shape))

    def spoil(off: Any) -> None:
        rows.spoil(off)
        label.reshape(rows.shape)[off] = np.nan

    return rows.call(params, label, spoil)


def multi_quantile(draw: Draw) -> Call:
    rows = vectors(draw)
    params = {}
    if draw.pick(True, False):
        params["quantiles"] = np.sort(draw.numbers("unit", (rows.width,)))
    return one_number(draw, rows, params)


def crps(draw: Draw) -> Call:
    return one_number(draw, vectors(draw), {"fair": draw.pick(False, True)})


def kl_divergence(draw: Draw) -> Call:
    ndim = draw.size(1, 3)
    from_logits = ndim == 1 or draw.pick(True, False)
    params: dict[str, Any] = {"from_logits": from_logits, "axis": draw.axis(ndim)}
    class_axis = params["axis"] % ndim
    params["batch_axis"] = draw.axis(ndim, but=class_axis if ndim > 1 else None)
    params["log_target"] = draw.pick(False, True)
    if not params["log_target"]:
        params["epsilon"] = draw.pick(0.0, 0.0625)
    if not from_logits:
        params["temperature"] = draw.pick(1.0, 0.75, 2.5)
    shape = tuple(draw.size(1) if axis == class_axis else draw.size() for axis in range(ndim))
    domain = "real" if params["log_target"] else "unit"
    pred, label = draw.numbers("real", shape), draw.numbers(domain, shape)
    inputs = {"pred": pred, "label": draw.label_shape(label)}
    is_shared = ndim == 2 and class_axis == 1 and draw.pick(True, False)
    if is_shared:
        shared = draw.numbers(domain, (shape[1],))
        inputs["label"] = draw.pick(shared, shared[None])

    def spoil(off: Any) -> None:
        if not is_shared:
            inputs["label"].reshape(shape)[off] = np.nan
        if not params["from_logits"]:
            off = np.broadcast_to(off.all(axis=class_axis, keepdims=True), shape)
        pred[off] = np.nan

    return Call(params, inputs, shape, params["batch_axis"] % ndim, spoil)


def cosine_embedding(draw: Draw) -> Call:
    lead = tuple(draw.size() for _ in range(draw.size(0, 2)))
    shape = lead or (1,)
    # no margin that a cosine on the grid can equal, up to rounding
    params: dict[str, Any] = {"margin": draw.pick(0.1875, -0.3125)}
    params["axis"] = draw.axis(len(lead) + 1)
    vector_axis = params["axis"] % (len(lead) + 1)
    full = (*lead[:vector_axis], draw.size(1), *lead[vector_axis:])
    sample_axis = 0
    if lead:
        params["batch_axis"] = draw.axis(len(full), but=vector_axis)
        sample_axis = params["batch_axis"] % len(full)
        sample_axis -= sample_axis > vector_axis
    inputs = {key: draw.numbers("real", full) for key in ("input1", "input2")}
    for vectors in inputs.values():
        # Of a short vector the gradient is the difference of numbers far larger than the call's.
        vectors += np.copysign(0.125, vectors)

    def vectors_of(key: str) -> Any:
        return np.moveaxis(inputs[key], vector_axis, -1)

    if not draw.smooth:
        for key in ("input1", "input2"):
            vectors_of(key)[np.asarray(draw.random.random(lead) < 0.1)] = 0.0
    label = draw.numbers("sign", shape)
    inputs["label"] = draw.label_shape(label.astype(draw.pick(np.int64, np.float32)))

    def spoil(off: Any) -> None:
        vectors_of("input1")[off if lead else off[0]] = np.nan
        inputs["label"].reshape(shape)[off] = BAD_CLASS

    unit_axis = vector_axis if lead else 1
    return Call(params, inputs, shape, sample_axis, spoil, unit_axis)


def ctc(draw: Draw) -> Call:
    samples, frames, classes = draw.size(), draw.size(1, 6), draw.size(2, 4)
    width = draw.size(0, 3)
    blank = draw.pick("last", "first", 0)
    params: dict[str, Any] = {
        "layout": draw.pick("NTC", "TNC"),
        "label_layout": draw.pick("NT", "TN"),
        "blank": blank,
        "input": "logits" if draw.smooth else draw.pick("logits", "log_probs", "log_probs_torch"),
        "infeasible": "zero" if draw.smooth else draw.pick("inf", "zero"),
    }
    label = draw.random.integers(0, classes - 1, (samples, width)) + (blank != "last")
    logits = draw.numbers("real", (samples, frames, classes))
    pred = logits.transpose(1, 0, 2) if params["layout"] == "TNC" else logits
    inputs: dict[str, Any] = {"pred": pred, "label": label}
    if draw.pick(True, False):
        lengths = draw.random.integers(draw.smooth * frames, frames + 1, samples)
        inputs["pred_lengths"] = lengths.astype(draw.pick(np.int64, np.float32))
    counts = draw.random.integers(0, width + 1, samples)
    if draw.pick(True, False):
        inputs["label_lengths"] = counts
    else:
        label[np.arange(width) >= counts[:, None]] = -1
    inputs["label"] = label.T if params["label_layout"] == "TN" else label

    def spoil(off: Any) -> None:
        logits[off] = np.nan
        label[off] = BAD_CLASS

    return Call(params, inputs, (samples,), 0, spoil)


OTHERS: dict[str, Callable[[Draw], Call]] = {
    "SoftmaxCrossEntropyLoss": softmax_cross_entropy,
    "KLDivLoss": kl_divergence,
    "CosineEmbeddingLoss": cosine_embedding,
    "SoftmaxFocalLoss": softmax_focal,
    "PolyLoss": poly,
    "CategoricalHingeLoss": categorical_hinge,
    "MultiMarginLoss": multi_margin,
    "MultiQuantileLoss": multi_quantile,
    "CRPSLoss": crps,
    "CTCLoss": ctc,
}
LOSSES = tuple(specs())


def single(x: Any) -> Any:
    """Round to single precision; keep double as the type, and whole numbers as they are."""
    return x.astype(np.float32).astype(np.float64) if x.dtype.kind == "f" else x


def by_strategy(draw: Draw, name: str) -> Call:
    """Draw a call of a loss of which nothing is known but its entry in the registry."""
    loss, inputs = draw.draw(arguments(name, smooth=draw.smooth))
    if "epsilon" in loss._params:
        # No sum with it is exact, and next to a kink rounding decides on the side.
        assume((np.abs(_core.kinks(loss, **inputs)) > NEAR_KINK).all())
    # Labels are valid, and oracles know no other way to treat those that are not.
    params = {k: v for k, v in loss._params.items() if k != "out_of_range"}
    inputs = {key: single(np.asarray(x)) for key, x in inputs.items()}
    named = {key: inputs.pop(key) for key in ("sample_weight",) if key in inputs}
    return Call(params, inputs, named=named)


def sample_weight(draw: Draw, call: Call) -> Any:
    """Draw a sample weight in one of its shapes; zeros may hide invalid elements."""
    kind = draw.pick("none", "scalar", "sample", "full", "spread", "unit")
    if kind == "none":
        return None
    if kind == "scalar":
        return draw.pick(2, 0.5)
    if kind == "sample" and call.sample_axis is not None:
        shape: tuple[int, ...] = (call.shape[call.sample_axis],)
        along = [1] * len(call.shape)
        along[call.sample_axis] = shape[0]
    else:
        along = list(call.shape)
        if kind == "spread":
            along = [draw.pick(1, n) for n in call.shape]
        shape = tuple(along)
        # with these axes it would be one weight a sample
        if call.sample_axis is not None and len(shape) == 1:
            along = [call.shape[0]]
            shape = (call.shape[0],)
        if kind == "unit":
            at = call.unit_axis % (len(shape) + 1)
            shape = (*shape[:at], 1, *shape[at:])
    weight = draw.random.integers(0, 4, shape) * draw.pick(1, 0.25)
    if draw.pick(True, False):
        off = np.broadcast_to(weight.reshape(along) == 0, call.shape)
        if not draw.smooth and off.any():
            call.spoil(off)
    return weight if weight.dtype.kind == "f" else weight.astype(draw.pick(np.int32, np.uint8))


def call(draw: Draw, name: str) -> Call:
    """Draw a whole call: inputs, parameters, weights, reduction."""
    if name not in OTHERS and name not in ELEMENTWISE:
        return by_strategy(draw, name)
    drawn = OTHERS[name](draw) if name in OTHERS else elementwise(draw, name)
    drawn.params["weight"] = draw.pick(specs()[name].cls().weight, 0.5, 2.0)
    drawn.params["empty"] = draw.pick("nan", "zero")
    drawn.params["reduction"] = draw.pick(*specs()[name].reductions)
    drawn.named["sample_weight"] = sample_weight(draw, drawn)
    if drawn.params["reduction"] == "mean" and draw.pick(True, False):
        drawn.named["denominator"] = draw.pick(3, 12.5)
    return drawn
