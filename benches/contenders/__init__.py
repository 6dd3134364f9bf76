"""The libraries that ``benches/peers.py`` times, and what they share: cases and contenders.

Every ``with_<library>`` module has one short function per row of the table, written as a user of
that library would write it for speed, and ``contenders(case)``, which readies a case's inputs in
the library's own arrays. ``with_numpy`` doubles as the float64 reference: its functions keep their
input's dtype.

A loss of the registry without a row here has cases all the same: on inputs of
``rustloss.testing``, against its oracle there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

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


@dataclass(frozen=True)
class Row:
    """What the table times of a loss: its class's name and parameters, inputs, shapes."""

    loss: str
    make: _Maker
    params: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = _COMMON
    differentiable: tuple[int, ...] = (0,)
    """Where the inputs with a gradient stand."""


@dataclass(frozen=True)
class Case:
    """One row at one shape. Inputs are the loss's arguments in order, float32 and integers."""

    title: str
    row: Row
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """Return the text that ``--cases`` matches and the table prints."""
        return f"{self.title} {'x'.join(map(str, self.shape))}"

    @property
    def differentiable(self) -> tuple[int, ...]:
        """Return where the inputs with a gradient stand."""
        return self.row.differentiable

    def inputs(self) -> tuple[Array, ...]:
        """Return the same inputs on every call."""
        return self.row.make(np.random.default_rng(20), self.shape)


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
        ((128, 10), (1024, 1000), (256, 32000), (16, 1000, 64, 16), *_COMMON),
    ),
    "SoftmaxFocal": Row("SoftmaxFocalLoss", _classification, shapes=((128, 10), (1024, 1000))),
    "Poly": Row("PolyLoss", _classification, shapes=((128, 10), (1024, 1000))),
    "CategoricalHinge": Row(
        "CategoricalHingeLoss", _classification, shapes=((128, 10), (1024, 1000))
    ),
    "MultiQuantile": Row("MultiQuantileLoss", _forecast, shapes=((128, 9), (10_000, 99))),
    "CRPS": Row("CRPSLoss", _forecast, shapes=((128, 10), (10_000, 50))),
    "KLDiv": Row("KLDivLoss", _divergence),
    "KLDiv-logits": Row("KLDivLoss", _divergence, {"from_logits": False}),
    "GaussianNLL": Row("GaussianNLLLoss", _gaussian, differentiable=(0, 2)),
    "MarginRanking": Row("MarginRankingLoss", _ranking, differentiable=(0, 1)),
    "HingeEmbedding": Row("HingeEmbeddingLoss", _SIGNED),
    "MultiMargin": Row("MultiMarginLoss", _classification, shapes=((128, 10), (1024, 1000))),
    "MultiLabelMargin": Row("MultiLabelMarginLoss", _class_sets, shapes=((128, 10), (1024, 100))),
    "MultiLabelSoftMargin": Row(
        "MultiLabelSoftMarginLoss", _with_label(lambda rng, shape: rng.integers(0, 2, shape))
    ),
    "TripletMargin": Row("TripletMarginLoss", _triplet, differentiable=(0, 1, 2)),
    "Triplet": Row("TripletLoss", _triplet, differentiable=(0, 1, 2)),
    "CosineEmbedding": Row("CosineEmbeddingLoss", _cosine, differentiable=(0, 1)),
    "SDML": Row("SDMLLoss", _neighbours, {}, ((8, 8), (64, 256), (256, 4096)), (0, 1)),
    "InfoNCE": Row("InfoNCELoss", _neighbours, {}, ((8, 8), (256, 128), (1024, 512)), (0, 1)),
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
    ),
}
"""By the title that is printed, which is also the key of the peers' functions."""


def _of_registry(entry: Mapping[str, Any]) -> Row:
    """Return a row for a loss that has none."""
    loss = getattr(rustloss, entry["name"])()

    def make(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        arrays = testing.example(loss, shape, seed=int(rng.integers(2**31))).values()
        return tuple(x.astype(np.float32) if x.dtype.kind == "f" else x for x in arrays)

    usual = next(iter(testing.example(loss).values())).shape
    places = enumerate(entry["inputs"])
    with_gradient = tuple(at for at, i in places if i["gradient"] == "Default")
    shapes = _COMMON if len(usual) == 2 else (usual,)
    return Row(entry["name"], make, shapes=shapes, differentiable=with_gradient)


def cases() -> Iterator[Case]:
    """Yield every case of the table, then those of losses that have no row in it."""
    known = {row.loss for row in ROWS.values()}
    new = [entry for entry in _core.registry() if entry["name"] not in known]
    for title, row in {**ROWS, **{entry["name"]: _of_registry(entry) for entry in new}}.items():
        for shape in row.shapes:
            yield Case(title, row, shape)
