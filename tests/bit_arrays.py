"""The arrays of the calls whose bits `bits.py` records.

None comes from the library. All numbers come from uniform ones by operations that IEEE 754 rounds
exactly, so that NumPy's version and the CPU do not matter.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bit_calls import ELEMENTS, LIMITS, TABLE, Options

Array = NDArray[Any]


class Uniform:
    """Numbers from a seed, by exact arithmetic alone."""

    def __init__(self, seed: str) -> None:
        digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
        self.rng = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))

    def unit(self, shape: tuple[int, ...]) -> Array:
        return np.asarray(self.rng.random(shape))

    def whole(self, shape: tuple[int, ...], end: int) -> Array:
        return np.asarray(np.floor(self.unit(shape) * end))

    def of(self, kind: str, shape: tuple[int, ...], axis: int) -> Array:
        """Return numbers of a kind; distributions lie along `axis`."""
        if kind in {"real", "number"}:
            return 4 * (self.unit(shape) + self.unit(shape) + self.unit(shape) - 1.5)
        if kind in {"sign", "pair sign"}:
            return np.where(self.unit(shape) < 0.5, -1.0, 1.0)
        if kind == "unit":
            return np.clip(1.5 * self.unit(shape) - 0.25, 0.0, 1.0)
        if kind == "count":
            return np.where(self.unit(shape) < 0.5, self.whole(shape, 9), 9 * self.unit(shape))
        if kind == "log":
            x = -8 * self.unit(shape)
            return np.where(self.unit(shape) < 0.05, -np.inf, x)
        if kind == "classes":  # of each vector some, and -1 behind them
            order = np.argsort(self.unit(shape), axis=axis)
            counts = self.whole(np.sum(order, axis=axis, keepdims=True).shape, shape[axis] + 1)
            places = np.cumsum(np.ones_like(order), axis=axis) - 1
            return np.where(places < counts, order, -1.0)
        if kind == "weight":
            x = self.unit(shape)
            return np.where(x < 0.2, 0.0, 4 * x)
        assert kind == "distribution", kind
        # Sums of small whole numbers are exact in any order.
        x = self.whole(shape, 8)
        return np.asarray(x / np.maximum(x.sum(axis=axis, keepdims=True), 1))


def varied(x: Array, numbers: str, dtype: str, axis: int | None, draw: Uniform) -> Array:
    """Return `x` on a grid, over many magnitudes, or with the special values of `dtype` in it."""
    largest, least = LIMITS[dtype]
    if numbers == "grid":
        return np.asarray(np.rint(8 * x) / 8)
    if numbers == "wide":
        return np.ldexp(x, draw.whole(x.shape, 61).astype(np.int64) - 30)
    if numbers == "huge":
        return x / 6 * largest
    if numbers != "special" or not x.size:
        return x
    inf, nan, root = np.inf, np.nan, math.sqrt(largest)
    specials = (inf, -inf, nan, 0.0, -0.0, least, -3 * least, largest, -largest, root, 90.0)
    if axis is None or not x.ndim:
        where = np.flatnonzero(draw.unit((x.size,)) < 0.2)
        x.flat[where] = np.resize(specials, where.size)
        return x
    # One in most rows, so that it is not the same NaN in all of them; then rows of nothing else.
    lines = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    places = draw.whole((len(lines),), x.shape[axis]).astype(np.int64)
    for row, (line, place) in enumerate(zip(lines, places, strict=True)):
        kind = (row + place) % (len(specials) + 4)
        if kind < len(specials):
            line[place] = specials[kind]
        elif kind < len(specials) + 3:
            line[:] = (-inf, inf, largest)[kind - len(specials)]
    moved = np.moveaxis(x, axis, -1)
    return np.moveaxis(lines.reshape(moved.shape), -1, axis)


def typed(x: Array, dtype: str) -> Array:
    if dtype[0] in "iu":
        # Negative numbers have no unsigned type, and NaN no integer one.
        x = np.clip(np.nan_to_num(x, nan=1.0), -(2.0**40), 2.0**40).astype(np.int64)
    return x.astype(dtype)


def ordered(x: Array, order: str) -> Array:
    """Return the same numbers, or the first row for all rows, in another memory order."""
    if order == "F":
        return np.asfortranarray(x)
    if order == "strided":
        wide = np.zeros((*x.shape, 2), x.dtype)
        wide[..., 0] = x
        return wide[..., 0]
    if order == "reversed":
        flip = (slice(None, None, -1),) * x.ndim
        return x[flip].copy()[flip]
    if order == "broadcast" and x.ndim:
        return np.broadcast_to(x[:1], x.shape)
    return x


@dataclass(frozen=True)
class Place:
    """A shape with its class and batch axes, as "3x7x5:1:0" has them."""

    shape: tuple[int, ...]
    axis: int = -1
    batch: int = 0

    @classmethod
    def parse(cls, text: str) -> Place:
        shape, axis, batch = (text + "::").split(":")[:3]
        sizes = () if shape == "0d" else tuple(map(int, shape.split("x")))
        return cls(sizes, int(axis or -1), int(batch or 0))

    def unreduced(self, rule: str) -> tuple[int, ...]:
        n = self.shape[self.batch] if self.shape else 1
        axis = self.axis % max(len(self.shape), 1)
        return {
            "element": self.shape,
            "row": self.shape[:axis] + self.shape[axis + 1 :],
            "sample": (n,),
            "pair": (n, n),
        }[rule]


def weights(kind: str, unreduced: tuple[int, ...], n: int, dtype: str, draw: Uniform) -> Any:
    if kind in {"half", "one"}:
        return 0.5 if kind == "half" else typed(np.full((1,), 2.5), dtype)
    if kind in {"sample", "zeros"}:
        return typed(draw.of("weight", (n,), -1) * (kind == "sample"), "float32")
    if kind == "column":
        last = (*(1 for _ in unreduced[1:]), *unreduced[-1:])
        return typed(draw.of("weight", last, -1), "int64")
    x = draw.of("weight", unreduced, -1)
    return typed(x, dtype) if kind == "element" else x * 1e39


def arrays(name: str, options: Options, draw: Uniform) -> dict[str, Any]:
    """Return the arrays of a call, and its optional inputs."""
    if name == "CTCLoss":
        return utterances(options, draw)
    entry, place = TABLE[name], Place.parse(options["shape"])
    dtype, unreduced = options["dtype"], place.unreduced(entry.unreduced)
    n = place.unreduced("sample")[0]
    # Where elements stand by themselves, special ones may be many.
    line = None if entry.unreduced == "element" and entry.shapes is ELEMENTS else place.axis
    found: dict[str, Any] = {}
    for key, kind_of in entry.inputs.items():
        kind, is_label = kind_of(options), key in {"label", "target"}
        shape = unreduced if kind in {"class", "pair sign", "number"} else place.shape
        if kind == "class":
            x = classes(place, options, draw)
        else:
            x = draw.of(kind, shape, place.axis)
            if kind in {"real", "number", "log"} or options.get("out_of_range") == "allow":
                x = varied(x, options["numbers"], dtype, None if is_label else line, draw)
        own, order = dtype, options["order"]
        if is_label:
            own, order = options["label_dtype"], options["label_order"]
            if own == "same" or (kind == "distribution" and own[0] in "iu"):
                own = dtype
        x = ordered(typed(x, own), order)
        if order == "keepdims" and kind == "class":
            x = np.expand_dims(x, place.axis)
        found[key] = x.reshape(-1, x.shape[-1])[0] if order == "shared" and x.size else x
    if options["sample_weight"] != "none":
        found["sample_weight"] = weights(options["sample_weight"], unreduced, n, dtype, draw)
    if options.get("pos_weight", "none") != "none":
        found["pos_weight"] = weights(options["pos_weight"], place.shape, n, dtype, draw)
    if "epsilon" in entry.options and options["epsilon"] != "none":
        found["epsilon"] = options["epsilon"]
    return found


def classes(place: Place, options: Options, draw: Uniform) -> Array:
    count, shape = place.shape[place.axis], place.unreduced("row")
    x = draw.whole(shape, count)
    if options.get("out_of_range") == "clip":
        x = np.where(draw.unit(shape) < 0.2, x - 0.25 * count - 0.5, x + 0.25 * count)
    if "ignore_index" in options:
        x = np.where(draw.unit(shape) < 0.2, options["ignore_index"], x)
    return np.asarray(x)


def utterances(options: Options, draw: Uniform) -> dict[str, Any]:
    """Return the arrays of a call of CTC."""
    n, frames, count, longest = map(int, options["shape"].split("x"))
    n = 1 if options["layout"] == "TC" else n
    numbers, dtype = options["numbers"], options["dtype"]
    x = draw.of("real", (n, frames, count), -1)
    if options["input"] != "logits":
        x = -np.abs(x)
    if numbers in {"masked", "far"}:
        mask = -np.inf if numbers == "masked" else -LIMITS[dtype][0]
        x = np.where(draw.unit(x.shape) < 0.1, mask, x)
    elif numbers == "special":
        # In a few frames: a single NaN settles a whole sample.
        chosen = draw.unit((n, frames)) < 2 / (n * frames + 1)
        x[chosen] = varied(x[chosen], numbers, dtype, -1, draw)
    else:
        x = varied(x, numbers, dtype, -1, draw)
    pred = typed(x, dtype)
    pred = pred[0] if options["layout"] == "TC" else pred
    pred = np.moveaxis(pred, 0, 1).copy() if options["layout"] == "TNC" else pred
    blank = {"last": count - 1, "first": 0}.get(options["blank"], options["blank"])
    label = draw.whole((n, longest), max(count - 1, 1))
    label += label >= blank
    lengths = draw.whole((n,), longest + 1).astype(np.int64)
    label = typed(label, options["label_dtype"])
    rows = [row[:size] for row, size in zip(label, lengths, strict=True)]
    given: dict[str, Any] = {"pred": ordered(pred, options["order"])}
    if options["labels"] == "lists":
        given["label"] = [row.tolist() for row in rows]
    elif options["labels"].startswith("flat"):
        given["label"] = np.concatenate([label[0, :0], *rows]) if n else label.reshape(-1)
    else:
        label = np.where(np.arange(longest) < lengths[:, None], label, -1)
        transposed = options["label_layout"] == "TN" and options["layout"] != "TC"
        label = label[0] if options["layout"] == "TC" else label
        given["label"] = label.T if transposed else label
    if options["labels"] in {"lengths", "flat+lengths"}:
        given["label_lengths"] = lengths
    if options["labels"] == "flat+offsets":
        given["label_offsets"] = np.append(0, np.cumsum(lengths))
    if options["pred_lengths"] == "given":
        given["pred_lengths"] = frames - draw.whole((n,), frames // 4 + 1).astype(np.int64)
    if options["sample_weight"] != "none":
        given["sample_weight"] = weights(options["sample_weight"], (n,), n, dtype, draw)
    return given
