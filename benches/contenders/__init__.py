"""The libraries that ``benches/peers.py`` times, and what they share: cases and contenders.

Every ``with_<library>`` module has one short function per loss, written as a user of that library
would write it for speed, and ``contenders(case)``, which readies a case's inputs in the library's
own arrays. ``with_numpy`` doubles as the float64 reference: its functions keep their input's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Result = tuple[Array, tuple[Array, ...]]
"""Per-sample values (N,), and one gradient for each differentiable input."""


@dataclass(frozen=True)
class Contender:
    """One library's way to one case: ``run`` is timed, ``fetch`` turns its result into NumPy."""

    name: str
    run: Callable[[], Any]
    fetch: Callable[[Any], Result]


@dataclass(frozen=True)
class Case:
    """One loss at one shape. Inputs are the loss's arguments in order, float32 and integers."""

    loss: str
    shape: tuple[int, ...]
    differentiable: int = 1

    @property
    def name(self) -> str:
        """Return the text that ``--cases`` matches and the table prints."""
        return f"{self.loss} {'x'.join(map(str, self.shape))}"

    def inputs(self) -> tuple[Array, ...]:
        """Return the same inputs on every call."""
        return _MAKERS[self.loss](np.random.default_rng(20), self.shape)


def _normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape, dtype=np.float32)


def _with_label(label: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> _Maker:
    return lambda rng, shape: (_normal(rng, *shape), label(rng, shape).astype(np.float32))


def _signs(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.choice([-1.0, 1.0], shape)


def _classification(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    rows = shape[:1] + shape[2:]
    return _normal(rng, *shape) * 3, rng.integers(0, shape[1], rows)


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


_Maker = Callable[[np.random.Generator, tuple[int, ...]], tuple[Array, ...]]
_MAKERS: dict[str, _Maker] = {
    "L1": _with_label(lambda rng, shape: rng.standard_normal(shape)),
    "L2": _with_label(lambda rng, shape: rng.standard_normal(shape)),
    "Huber": _with_label(lambda rng, shape: rng.standard_normal(shape)),
    "Hinge": _with_label(_signs),
    "SquaredHinge": _with_label(_signs),
    "Logistic": _with_label(_signs),
    "SigmoidBCE": _with_label(lambda rng, shape: rng.integers(0, 2, shape)),
    "PoissonNLL": _with_label(lambda rng, shape: rng.poisson(2.0, shape)),
    "SoftmaxCE": _classification,
    "KLDiv": _divergence,
    "KLDiv-logits": _divergence,
    "Triplet": _triplet,
    "CosineEmbedding": _cosine,
    "SDML": _neighbours,
    "CTC": _transcription,
}

_COMMON = [(8, 8), (128, 128), (1000, 1000)]
_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "SoftmaxCE": [(128, 10), (1024, 1000), (256, 32000), (16, 1000, 64, 16), *_COMMON],
    "SDML": [(8, 8), (64, 256), (256, 4096)],
    "CTC": [
        (150, 16, 32, 30),
        (500, 16, 64, 80),
        (200, 8, 5000, 30),
        (1500, 1, 32, 300),
        (50, 64, 80, 12),
    ],
}
_DIFFERENTIABLE = {"Triplet": 3, "CosineEmbedding": 2, "SDML": 2}


def cases() -> Iterator[Case]:
    """Yield every case of the table; a CTC shape is (frames, samples, classes, label length)."""
    for loss in _MAKERS:
        for shape in _SHAPES.get(loss, _COMMON):
            yield Case(loss, shape, _DIFFERENTIABLE.get(loss, 1))
