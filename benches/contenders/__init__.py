"""The libraries that ``benches/peers.py`` times, and what they share: cases and contenders.

Every ``with_<library>`` module has one short function per row of the table, written as a user of
that library would write it for speed, and ``contenders(case)``, which readies a case's inputs in
the library's own arrays. ``with_numpy`` doubles as the float64 reference: its functions keep their
input's dtype.

Every row is timed in float32 and C order at all its shapes. At one of them element types and
layouts vary too: these are parameters of a case, and every contender gets its arrays as they are.

A loss of the registry without a row here has cases all the same: on inputs of
``rustloss.testing``, against its oracle there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

import rustloss
from rustloss import _core, testing

Array = npt.NDArray[Any]
Result = tuple[Array, tuple[Array, ...]]
"""Per-sample values (N,), and one gradient for each differentiable input."""


@dataclass(frozen=True)
class Contender:
    """One library's way to one case: ``run`` is timed, ``fetch`` turns its result into NumPy."""

    name: str
    run: Callable[[], Any]
    fetch: Callable[[Any], Result]


_Maker = Callable[[np.random.Generator, tuple[int, ...]], tuple[Array, ...]]
_COMMON = ((8, 8), (128, 128), (1000, 1000))
_LAYOUTS = ("F", "mixed", "axis=1")
"""In Fortran's order; the first array in C order and the others in Fortran's; samples on axis 1."""
_OF_ONE_MATRIX = ("F", "axis=1")


@dataclass(frozen=True)
class Row:
    """What the table times of a loss: its class's name and parameters, inputs, shapes."""

    loss: str
    make: _Maker
    params: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = _COMMON
    differentiable: tuple[int, ...] = (0,)
    """Where the inputs with a gradient stand."""
    layouts: tuple[str, ...] = _LAYOUTS
    """The layouts beside C order that make a difference."""
    half_types: tuple[str, ...] = ("float16", "bfloat16")
    """Those that have room for inputs and gradients."""
    varied: tuple[tuple[int, ...], ...] = ()
    """The shapes at which types and layouts vary, by default the last one."""

    def variants(self, shape: tuple[int, ...]) -> Iterator[tuple[str, str]]:
        """Yield the element types and layouts of a shape."""
        yield "float32", "C"
        if shape in (self.varied or self.shapes[-1:]):
            yield from ((dtype, "C") for dtype in self.half_types)
            yield from (("float32", layout) for layout in self.layouts)


@dataclass(frozen=True)
class Case:
    """One row at one shape. Inputs are the loss's arguments in order, numbers and integers."""

    title: str
    row: Row
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: str = "C"

    @property
    def name(self) -> str:
        """Return the text that ``--cases`` matches and the table prints."""
        special = [self.dtype] * (self.dtype != "float32") + [self.layout] * (self.layout != "C")
        return " ".join([self.title, "x".join(map(str, self.shape)), *special])

    @property
    def params(self) -> dict[str, Any]:
        """Return the loss's parameters; functions give theirs from the number of classes."""
        given = self.row.params.items()
        return {key: value(self.shape[1]) if callable(value) else value for key, value in given}

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Return where the inputs with a gradient stand."""
        return self.row.differentiable

    def inputs(self) -> tuple[Array, ...]:
        """Return the same inputs on every call, samples first.

        With samples on axis 1 in C order they lie as in Fortran's order with samples first.
        """
        made = self.row.make(np.random.default_rng(20), self.shape)
        first, *others = (self._typed(x) for x in made)
        if self.layout in ("F", "axis=1"):
            first = np.asfortranarray(first)
        if self.layout != "C":
            others = [np.asfortranarray(x) for x in others]
        return (first, *others)

    def _typed(self, array: Array) -> Array:
        if not is_real(array):
            return array
        return array.astype(ml_dtypes.bfloat16 if self.dtype == "bfloat16" else self.dtype)


def is_real(array: Array) -> bool:
    """Tell numbers from classes."""
    return array.dtype.kind not in "iu"


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def _with_label(label: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> _Maker:
    return lambda rng, shape: (_normal(rng, *shape), label(rng, shape).astype(np.float32))


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice([-1.0, 1.0], shape)


def _classification(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    rows = shape[:1] + shape[2:]
    return _normal(rng, *shape) * 3, rng.integers(0, shape[1], rows)


def _class_sets(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    order = rng.permuted(np.broadcast_to(np.arange(shape[1]), shape), axis=1)
    return _normal(rng, *shape), np.where(np.arange(shape[1]) < 4, order, -1)


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return _normal(rng, *shape), _normal(rng, *shape), np.exp(_normal(rng, *shape))


def _ranking(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (*(_normal(rng, *shape) for _ in range(2)), _signs(rng, shape).astype(np.float32))


def _forecast(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return _normal(rng, *shape), _normal(rng, *shape[:1])


def _divergence(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    pred, label = (_normal(rng, *shape).astype(np.float64) for _ in range(2))
    pred -= np.log(np.exp(pred).sum(1, keepdims=True))
    label = np.exp(label) / np.exp(label).sum(1, keepdims=True)
    return pred.astype(np.float32), label.astype(np.float32)


def _triplet(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    scale = np.float32(shape[1] ** -0.5)
    return tuple(_normal(rng, *shape) * scale for _ in range(3))


def _cosine(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (*(_normal(rng, *shape) for _ in range(2)), _signs(rng, shape[:1]).astype(np.float32))


def _neighbours(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    # Distances near 2, so that no row of the softmax is one-hot.
    scale = np.float32(shape[1] ** -0.5)
    return _normal(rng, *shape) * scale, _normal(rng, *shape) * scale


def _class_weights(classes: int) -> Array:
    return np.linspace(0.5, 1.5, classes)


def _transcription(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    frames, samples, classes, length = shape
    # The last class is the blank.
    return _normal(rng, samples, frames, classes), rng.integers(0, classes - 1, (samples, length))


_REAL = _with_label(lambda rng, shape: rng.standard_normal(shape))
_SIGNED = _with_label(_signs)

ROWS: dict[str, Row] = {
    "L1": Row("L1Loss", _REAL),
    "L2": Row("L2Loss", _REAL),
    "Huber": Row("HuberLoss", _REAL),
    "Hinge": Row("HingeLoss", _SIGNED),
    "SquaredHinge": Row("SquaredHingeLoss", _SIGNED),
    "Logistic": Row("LogisticLoss", _SIGNED),
    "SigmoidBCE": Row(
        "SigmoidBinaryCrossEntropyLoss", _with_label(lambda rng, shape: rng.integers(0, 2, shape))
    ),
    "PoissonNLL": Row("PoissonNLLLoss", _with_label(lambda rng, shape: rng.poisson(2.0, shape))),
    "SoftmaxCE": Row(
        "SoftmaxCrossEntropyLoss",
        _classification,
        {"axis": 1},
        (
            *((128, 10), (1024, 1000), (4096, 100), (8192, 50)),
            *((256, 32000), (16, 1000, 64, 16), *_COMMON),
        ),
        layouts=_OF_ONE_MATRIX,
        varied=((1024, 1000), (256, 32000)),
    ),
    "SoftmaxCE-smoothed": Row(
        "SoftmaxCrossEntropyLoss",
        _classification,
        {"label_smoothing": 0.1},
        ((1024, 1000), (4096, 100), (8192, 50)),
        layouts=_OF_ONE_MATRIX,
    ),
    "SoftmaxCE-weighted": Row(
        "SoftmaxCrossEntropyLoss",
        _classification,
        {"class_weight": _class_weights},
        ((1024, 1000), (4096, 100), (8192, 50)),
        layouts=_OF_ONE_MATRIX,
    ),
    "SoftmaxFocal": Row(
        "SoftmaxFocalLoss",
        _classification,
        shapes=((128, 10), (1024, 1000)),
        layouts=_OF_ONE_MATRIX,
    ),
    "Poly": Row(
        "PolyLoss", _classification, shapes=((128, 10), (1024, 1000)), layouts=_OF_ONE_MATRIX
    ),
    "CategoricalHinge": Row(
        "CategoricalHingeLoss",
        _classification,
        shapes=((128, 10), (1024, 1000)),
        layouts=_OF_ONE_MATRIX,
    ),
    "MultiQuantile": Row(
        "MultiQuantileLoss", _forecast, shapes=((128, 9), (10_000, 99)), layouts=_OF_ONE_MATRIX
    ),
    "CRPS": Row("CRPSLoss", _forecast, shapes=((128, 10), (10_000, 50)), layouts=_OF_ONE_MATRIX),
    "KLDiv": Row("KLDivLoss", _divergence),
    "KLDiv-logits": Row("KLDivLoss", _divergence, {"from_logits": False}),
    "GaussianNLL": Row("GaussianNLLLoss", _gaussian, differentiable=(0, 2)),
    "MarginRanking": Row("MarginRankingLoss", _ranking, differentiable=(0, 1)),
    "HingeEmbedding": Row("HingeEmbeddingLoss", _SIGNED),
    "MultiMargin": Row(
        "MultiMarginLoss", _classification, shapes=((128, 10), (1024, 1000)), layouts=_OF_ONE_MATRIX
    ),
    "MultiLabelMargin": Row("MultiLabelMarginLoss", _class_sets, shapes=((128, 10), (1024, 100))),
    "MultiLabelSoftMargin": Row(
        "MultiLabelSoftMarginLoss", _with_label(lambda rng, shape: rng.integers(0, 2, shape))
    ),
    "TripletMargin": Row("TripletMarginLoss", _triplet, differentiable=(0, 1, 2)),
    "Triplet": Row("TripletLoss", _triplet, differentiable=(0, 1, 2)),
    "CosineEmbedding": Row("CosineEmbeddingLoss", _cosine, differentiable=(0, 1)),
    "SDML": Row("SDMLLoss", _neighbours, {}, ((8, 8), (64, 256), (256, 4096)), (0, 1), ("F",)),
    "InfoNCE": Row(
        "InfoNCELoss", _neighbours, {}, ((8, 8), (256, 128), (1024, 512)), (0, 1), ("F",)
    ),
    # (frames, samples, classes, label length)
    "CTC": Row(
        "CTCLoss",
        _transcription,
        {},
        (
            (150, 16, 32, 30),
            (500, 16, 64, 80),
            (200, 8, 5000, 30),
            (1500, 1, 32, 300),
            (50, 64, 80, 12),
        ),
        layouts=(),
        varied=((500, 16, 64, 80),),
    ),
}
"""By the title that is printed, which is also the key of the peers' functions."""


def _of_registry(entry: Mapping[str, Any]) -> Row:
    """Return a row for a loss that has none."""
    loss = getattr(rustloss, entry["name"])()

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        arrays = testing.example(loss, shape, seed=int(rng.integers(2**31))).values()
        return tuple(x.astype(np.float32) if is_real(x) else x for x in arrays)

    usual = next(iter(testing.example(loss).values())).shape
    places = enumerate(entry["inputs"])
    with_gradient = tuple(at for at, i in places if i["gradient"] == "Default")
    flat = entry["family"] == "elementwise"
    return Row(
        entry["name"],
        make,
        shapes=_COMMON if len(usual) == 2 else (usual,),
        differentiable=with_gradient,
        layouts=_LAYOUTS if flat else (),
        half_types=("bfloat16",),
    )


def cases() -> Iterator[Case]:
    """Yield every case of the table, then those of losses that have no row in it."""
    known = {row.loss for row in ROWS.values()}
    new = [entry for entry in _core.registry() if entry["name"] not in known]
    for title, row in {**ROWS, **{entry["name"]: _of_registry(entry) for entry in new}}.items():
        for shape in row.shapes:
            yield from (Case(title, row, shape, *variant) for variant in row.variants(shape))
