"""What the registry says of a loss, and where the axes of its calls are, as the core has it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import rustloss
from rustloss import _core
from rustloss._adapter import DISCRETE
from rustloss._loss import Loss

#: What a loss is given by: an instance, its class, or the name of that.
LossLike = Loss | type[Loss] | str

OPTIONAL_REDUCTIONS = {"target_mean": "sequence"}
REDUCTIONS = (
    "none",
    "sample",
    "sample_sum",
    "sum",
    "mean",
    "batch_mean",
    "weighted_mean",
    "sample_weighted_mean",
    *OPTIONAL_REDUCTIONS,
)


@dataclass(frozen=True)
class Input:
    """An array argument."""

    name: str
    domain: str
    #: The rule by which its shape follows from that of the first input.
    shape: str
    required: bool
    gradient: str

    @property
    def may_repeat(self) -> bool:
        """Whether one row may stand for all, whatever the other arguments hold."""
        return self.shape != "Own"

    @property
    def is_discrete(self) -> bool:
        """Whether it holds class indices, tokens or lengths: numbers without a slope."""
        return self.domain in DISCRETE


@dataclass(frozen=True)
class Param:
    """A constructor parameter: its default, the name of its kind, and what belongs to the kind."""

    default: Any
    kind: str
    words: tuple[str | int, ...] = ()
    least: int | None = None
    bound: str = ""


@dataclass(frozen=True)
class Spec:
    """One loss of the registry."""

    name: str
    family: str
    inputs: tuple[Input, ...]
    params: Mapping[str, Param]
    unreduced: str
    hess: bool
    kinks: str

    @property
    def cls(self) -> type[Any]:
        """The class of this name; what its constructor takes is its own."""
        cls: type[Loss] = getattr(rustloss, self.name)
        return cls

    @property
    def reductions(self) -> tuple[str, ...]:
        """The reductions that the loss has."""
        return tuple(
            r for r in REDUCTIONS if OPTIONAL_REDUCTIONS.get(r, self.family) == self.family
        )

    @property
    def optional(self) -> tuple[str, ...]:
        """The optional inputs that are drawn; offsets belong to flat labels, which are not."""
        return tuple(i.name for i in self.inputs if not i.required and i.domain != "Offsets")

    @property
    def row_coupled(self) -> bool:
        """Whether a sample's loss depends on other samples."""
        return self.family == "pairwise"


@functools.cache
def specs() -> Mapping[str, Spec]:
    """Every loss by its name."""
    return {
        row["name"]: Spec(
            row["name"],
            row["family"],
            tuple(Input(**i) for i in row["inputs"]),
            {name: Param(**p) for name, p in row["params"].items()},
            row["unreduced"],
            row["hess"],
            row["kinks"],
        )
        for row in _core.registry()
    }


def spec_of(loss: LossLike) -> Spec:
    """Return what the registry says of a loss, of its class, or of the class of that name."""
    found = getattr(rustloss, loss, None) if isinstance(loss, str) else loss
    cls = found if isinstance(found, type) else type(found)
    for base in cls.__mro__:
        if issubclass(base, Loss) and base.__name__ in specs():
            return specs()[base.__name__]
    raise TypeError(f"loss: expected a loss of this library, its class or its name, got {loss!r}")


class Geometry(NamedTuple):
    """Where the axes of one call are, for a first input of `shape`."""

    shape: tuple[int, ...]
    #: The axis of the samples, None where all is one sample.
    batch: int | None
    #: The axis of the classes or of the vectors, if there is one.
    classes: int | None
    #: The shape of the unreduced loss E.
    unreduced: tuple[int, ...]
    #: The axis of the samples in E, None where all is one sample.
    samples: int | None
    #: Where a weight may have one more axis, of size 1.
    unit: int

    @property
    def n(self) -> int:
        """The number of samples."""
        return 1 if self.samples is None else self.unreduced[self.samples]


def geometry(loss: Loss, shape: tuple[int, ...]) -> Geometry:
    """Return where the axes of a call are."""
    given: list[tuple[tuple[int, ...], str] | None] = [(shape, "float64")]
    axes = loss._signature(given + [None] * (len(loss._inputs) - 1))
    return Geometry(
        shape,
        axes["first_samples"],
        axes["vectors"],
        axes["unreduced"],
        axes["samples"],
        axes["unit"],
    )


def inputs(loss: Loss) -> tuple[Input, ...]:
    """Return the inputs of a loss as its parameters make them."""
    return tuple(Input(**row) for row in loss._inputs)


def input_of(loss: Loss, name: str) -> Input:
    """Return the input of that name as the parameters make it."""
    return next(i for i in inputs(loss) if i.name == name)


#: More axes than these are not drawn.
MOST_AXES = 4
#: Kinds of parameters with one number for each class.
_OF_CLASSES = {"weights", "probabilities"}


def class_count(spec: Spec, params: Mapping[str, Any]) -> int | None:
    """Return how many classes parameters are for, None if any number will do."""
    given = (params.get(name) for name, p in spec.params.items() if p.kind in _OF_CLASSES)
    return next((np.size(numbers) for numbers in given if numbers is not None), None)


def of_any_classes(loss: Loss) -> Loss:
    """Return the loss without the parameters that are for a number of classes."""
    spec = spec_of(loss)
    if class_count(spec, loss._params) is None:
        return loss
    without = {name: None for name, p in spec.params.items() if p.kind in _OF_CLASSES}
    made: Loss = spec.cls(**{**loss._params, **without})
    return made


def ndims(loss: Loss) -> tuple[int, ...]:
    """Return the numbers of axes that the first input may have, up to `MOST_AXES`."""
    found, loss = [], of_any_classes(loss)
    for ndim in range(MOST_AXES + 1):
        try:
            geometry(loss, (3,) * ndim)
        except rustloss.errors.ArgumentError:
            continue
        found.append(ndim)
    return tuple(found)


def differentiable(loss: Loss, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the inputs of a call that have a gradient."""
    names = (i.name for i in inputs(loss) if i.gradient != "Never")
    return tuple(name for name in names if given.get(name) is not None)
