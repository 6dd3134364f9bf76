"""Valid input of every loss, from a seed, and arrays of every layout."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from rustloss._loss import Loss
from rustloss.testing import _checks
from rustloss.testing._registry import (
    Geometry,
    class_count,
    geometry,
    inputs,
    of_any_classes,
    spec_of,
)

Array = NDArray[Any]

#: The layouts that `relayout` makes.
LAYOUTS = (
    "C",
    "F",
    "strided",
    "reversed",
    "read-only",
    "swapped",
    "misaligned",
    "broadcast",
)
#: Shapes of the first input that `example` chooses.
_SHAPES = {"pairwise": (4, 3), "sequence": (3, 9, 5)}


def relayout(numbers: Any, layout: str) -> Array:
    """Return an array of the same numbers that lies in memory in another way.

    Parameters
    ----------
    numbers : array_like
        The numbers.
    layout : str
        ``"C"`` or ``"F"``, contiguous; ``"strided"``, every second element along the last axis of
        a larger array; ``"reversed"``, a negative stride along each axis; ``"read-only"``;
        ``"swapped"``, the other byte order; ``"misaligned"``, one byte off; ``"broadcast"``, the
        first row of `numbers` for all rows, with a stride of 0.

    Returns
    -------
    ndarray

    Examples
    --------
    >>> from rustloss.testing import relayout
    >>> relayout([1.0, 2.0, 3.0], "reversed").strides
    (-8,)
    """
    array: Array = np.array(numbers)
    if layout == "C" or (layout in {"F", "reversed", "broadcast"} and array.ndim == 0):
        return array
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided":
        wide: Array = np.zeros((*array.shape, 2), array.dtype)
        wide[..., 0] = array
        return wide[..., 0]
    if layout == "reversed":
        flip = (slice(None, None, -1),) * array.ndim
        return array[flip].copy()[flip]
    if layout == "read-only":
        array.flags.writeable = False
        return array
    if layout == "swapped":
        return array.astype(array.dtype.newbyteorder("S")) if array.dtype.kind in "iuf" else array
    if layout == "misaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)
        moved: Array = np.ndarray(array.shape, array.dtype, memory.data, offset=1)
        moved[...] = array
        return moved
    if layout == "broadcast":
        return np.broadcast_to(array[:1], array.shape)
    raise ValueError(f"layout: expected one of {LAYOUTS}, got {layout!r}")


def overlapping(dtype: DTypeLike, shape: tuple[int, ...]) -> Array:
    """Return a writeable array all of whose elements are one and the same."""
    return as_strided(np.zeros(1, dtype), shape, (0,) * len(shape))


Size = int | tuple[int, ...]


class Source(Protocol):
    """Where numbers come from: what `numpy.random.Generator` has, as far as it is needed."""

    def normal(self, *, size: Size) -> Array:
        """Return real numbers, most of them of the size of 1."""

    def uniform(self, low: float, high: float, size: Size) -> Array:
        """Return numbers from `low` to `high`."""

    def random(self, size: Size) -> Array:
        """Return numbers from 0 to 1, to choose by."""

    def integers(self, low: int, high: int, size: Size) -> Array:
        """Return integers from `low` to below `high`."""

    def choice(self, choices: list[float]) -> float:
        """Return one of the numbers."""


#: What real numbers of a normal size are multiplied by.
SCALES = (1.0, 0.25, 8.0)


class Values:
    """Numbers of a domain.

    `smooth` keeps away from the edges of domains, and `grid` to multiples of 1/8, where sums are
    exact and kinks are hit. Real numbers are multiplied by one of the `scales`.
    """

    def __init__(
        self,
        rng: Source,
        *,
        smooth: bool = False,
        grid: bool = False,
        scales: tuple[float, ...] = SCALES,
    ) -> None:
        self.rng = rng
        self.smooth = smooth
        self.grid = grid
        self.scales = scales

    def _real(self, shape: tuple[int, ...], scales: tuple[float, ...] = SCALES) -> Array:
        x = self.rng.normal(size=shape)
        if self.smooth:
            # Vectors of almost no length bend too much for differences.
            return np.copysign(0.3 + np.abs(x), x)
        x *= self.rng.choice(list(scales))
        return np.round(8 * x) / 8 if self.grid else x

    def _unit(self, shape: tuple[int, ...]) -> Array:
        if self.smooth:
            return self.rng.uniform(0.1, 0.9, shape)
        x = self.rng.uniform(0.0, 1.0, shape)
        x = np.round(8 * x) / 8 if self.grid else x
        edge = self.rng.random(shape)
        return np.where(edge < 0.1, 0.0, np.where(edge > 0.9, 1.0, x))

    def _distribution(self, shape: tuple[int, ...], axis: int) -> Array:
        x = self.rng.uniform(0.2, 1.0, shape)
        if not self.smooth and shape[axis] > 1:
            x *= self.rng.random(shape) < 0.8
            x += x.sum(axis=axis, keepdims=True) == 0
        return np.asarray(x / x.sum(axis=axis, keepdims=True))

    def of(self, domain: str, shape: tuple[int, ...], axis: int | None = None) -> Array:
        """Return numbers of a domain; distributions lie along `axis`."""
        along = -1 if axis is None else axis
        if domain == "Sign":
            return np.where(self.rng.random(shape) < 0.5, 1.0, -1.0)
        if domain in {"Probability", "PredictedProbability"}:
            return self._unit(shape)
        if domain in {"Distribution", "SoftClasses"}:
            return self._distribution(shape, along)
        if domain == "LogDistribution":
            x = self._real(shape)
            return np.asarray(x - np.logaddexp.reduce(x, axis=along, keepdims=True))
        if domain == "Scalar":
            return np.asarray(self.rng.choice([1e-3, 0.125, 0.5]))
        x = self._real(shape, self.scales if domain == "Real" else SCALES)
        if domain in {"Positive", "NonNegative", "Variance", "Weight"}:
            x = np.abs(x)
        if domain == "Positive" or (domain == "Variance" and self.smooth):
            x = x + 0.125
        return np.asarray(x)


def _classes(values: Values, loss: Loss, place: Geometry) -> Array:
    assert place.classes is not None
    shape = place.unreduced if len(place.shape) > 1 else ()
    label = np.asarray(values.rng.integers(0, max(place.shape[place.classes], 1), shape))
    ignored = loss._params.get("ignore_index")
    if ignored is not None and not values.smooth:
        label = np.where(values.rng.random(shape) > 0.7, ignored, label)
    return label


#: The work of a loss grows with the classes of a label times those that are not.
_LARGEST_SET = 6


def _class_sets(values: Values, place: Geometry) -> Array:
    """Return some classes for each vector, and -1 up to its end."""
    assert place.classes is not None
    classes = place.shape[place.classes]
    rows = (*place.unreduced, classes) if len(place.shape) > 1 else (classes,)
    order = np.argsort(values.rng.random(rows), axis=-1, kind="stable")
    counts = values.rng.integers(0, min(classes, _LARGEST_SET) + 1, (*rows[:-1], 1))
    sets = np.where(np.arange(classes) < counts, order, -1)
    return np.moveaxis(sets, -1, place.classes)


def _tokens(values: Values, loss: Loss, place: Geometry) -> dict[str, Array]:
    assert place.classes is not None
    n, frames = place.n, place.shape[loss._params["layout"].index("T")]
    classes = place.shape[place.classes]
    blank = {"first": 0, "last": classes - 1}.get(loss._params["blank"], loss._params["blank"])
    # Two frames for each token are enough for any repeats.
    longest = max((frames - 1) // 2, 0)
    lengths = values.rng.integers(0, longest + 1, n)
    label = values.rng.integers(0, classes - 1, (n, longest))
    label += label >= blank
    label[np.arange(longest) >= lengths[:, None]] = -1
    if place.batch is None:
        label = label[0, : lengths[0]]
    elif loss._params["label_layout"] == "TN":
        label = label.T
    pred_lengths = values.rng.integers(2 * longest + 1, frames + 1, n)
    return {"label": label, "label_lengths": lengths, "pred_lengths": pred_lengths}


def inputs_of(
    loss: Loss,
    shape: tuple[int, ...],
    values: Values,
    *,
    optional: Collection[str] = (),
    dtype: DTypeLike = np.float64,
) -> dict[str, Array]:
    """Return arrays for a call: what it must have, and of the rest what is named."""
    place = geometry(loss, shape)
    tokens = _tokens(values, loss, place) if spec_of(loss).family == "sequence" else {}
    shapes = {"Weight": (place.n,), "PerVector": place.unreduced, "Scalar": ()}
    arrays: dict[str, Array] = {}
    for entry in inputs(loss):
        name = entry.name
        if not entry.required and name not in optional:
            continue
        if name in tokens:
            arrays[name] = tokens[name]
        elif entry.domain == "Classes":
            arrays[name] = _classes(values, loss, place)
        elif entry.domain == "ClassSets":
            arrays[name] = _class_sets(values, place)
        else:
            of = shapes.get(entry.shape, shape)
            along = place.classes if of == shape else None
            arrays[name] = values.of(entry.domain, of, along)
        if entry.gradient == "Default":
            arrays[name] = arrays[name].astype(dtype)
    return arrays


def example(
    loss: Loss,
    shape: int | tuple[int, ...] | None = None,
    *,
    dtype: DTypeLike = np.float64,
    seed: int = 0,
    optional: Collection[str] = (),
) -> dict[str, Array]:
    """Return valid input of a loss, the same for the same seed.

    Parameters
    ----------
    loss : Loss
        The loss; its parameters matter.
    shape : int or tuple of int, optional
        The shape of the first input; by default a few samples.
    dtype : dtype_like, default float64
        Of the predictions; whatever has a gradient by default counts as one.
    seed : int, default 0
        Of the random numbers.
    optional : collection of str, optional
        Names of optional inputs to give.

    Returns
    -------
    dict
        The arrays by argument name.

    Examples
    --------
    >>> import rustloss as rl
    >>> from rustloss.testing import example
    >>> inputs = example(rl.HuberLoss(), (2, 3), optional=["sample_weight"])
    >>> {name: array.shape for name, array in inputs.items()}
    {'pred': (2, 3), 'label': (2, 3), 'sample_weight': (2,)}
    >>> rl.HuberLoss()(**inputs).shape
    (2,)
    """
    spec = spec_of(_checks.instance(loss))
    inputs_there_are = [i.name for i in spec.inputs if i.domain != "Offsets"]
    _checks.names(optional, inputs_there_are, "optional", "names of inputs")
    sides = _usual_shape(loss) if shape is None else _checks.fixed_shape(shape)
    values = Values(np.random.default_rng(seed))
    return inputs_of(loss, sides, values, optional=optional, dtype=_checks.float_type(dtype))


def _usual_shape(loss: Loss) -> tuple[int, ...]:
    """Return a shape of a few samples, with as many classes as the loss has weights for."""
    spec = spec_of(loss)
    shape = _SHAPES.get(spec.family, (3, 4))
    if spec.family == "sequence":
        sizes = dict(zip("NTC", shape, strict=True))
        return tuple(sizes[axis] for axis in loss._params["layout"])
    return with_classes(loss, shape)


def with_classes(loss: Loss, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape whose axis of classes is as long as the parameters of the loss say."""
    count = class_count(spec_of(loss), loss._params)
    axis = None if count is None else geometry(of_any_classes(loss), shape).classes
    if axis is None or count is None:
        return shape
    return (*shape[:axis], count, *shape[axis + 1 :])


def layout_for(loss: Loss, name: str, layout: str) -> str:
    """Return the layout, or ``"C"`` if it would change numbers that others must fit."""
    fits = layout != "broadcast" or all(
        i.may_repeat for i in spec_of(loss).inputs if i.name == name
    )
    return layout if fits else "C"


def weight_shapes(loss: Loss, place: Geometry) -> list[tuple[int, ...]]:
    """Return shapes that `sample_weight` may have: for all, per sample, and up to one per element.

    A loss of pairs has weights for rows alone.
    """
    rank = len(place.unreduced)
    shapes: list[tuple[int, ...]] = [(), (place.n,)]
    if spec_of(loss).row_coupled:
        return [*shapes, (place.n, 1)]
    for kept in range(2**rank):
        shape = tuple(n if kept >> axis & 1 else 1 for axis, n in enumerate(place.unreduced))
        shapes += [shape, (*shape[: place.unit], 1, *shape[place.unit :])]
    return shapes


def broadcast_weight(weight: Any, place: Geometry) -> Array:
    """Return a sample weight for every element of the unreduced loss."""
    weight = np.asarray(weight, np.float64)
    if place.unreduced and weight.shape == (place.n,):
        along = [1] * len(place.unreduced)
        along[place.samples or 0] = place.n
        weight = weight.reshape(along)
    elif weight.ndim > len(place.unreduced):
        weight = weight.squeeze(min(place.unit, weight.ndim - 1))
    return np.broadcast_to(weight, place.unreduced)
