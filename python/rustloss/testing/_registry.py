"""What the registry says of a loss, and where the axes of its calls are."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import rustloss
from rustloss import _core
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
    required: bool
    gradient: str

    @property
    def may_repeat(self) -> bool:
        """Whether one row may stand for all, whatever the other arguments hold."""
        return self.domain not in {"Tokens", "Lengths"}


@dataclass(frozen=True)
class Param:
    """A constructor parameter: its default, the name of its kind, and what belongs to the kind."""

    default: Any
    kind: str
    detail: Any


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
    def rule(self) -> str:
        """Which rule of shapes the calls follow.

        That is the family; row-wise losses follow the one of their label's domain.
        """
        if self.family != "rowwise":
            return self.family
        rules = {"Classes": "classes", "Distribution": "divergence", "Sign": "angle"}
        found = [rules[i.domain] for i in self.inputs if i.domain in rules]
        return found[0] if found else "distance"

    @property
    def reductions(self) -> tuple[str, ...]:
        """The reductions that the loss has."""
        return tuple(
            r for r in REDUCTIONS if OPTIONAL_REDUCTIONS.get(r, self.family) == self.family
        )

    @property
    def row_coupled(self) -> bool:
        """Whether a sample's loss depends on other samples."""
        return self.family == "pairwise"


def _param(row: Mapping[str, Any]) -> Param:
    found = re.fullmatch(r"(\w+)(?:\((.*)\))?", row["kind"], re.DOTALL)
    assert found, row
    kind, detail = found.groups()
    if detail is not None and kind != "Float":
        detail = ast.literal_eval(detail)
    return Param(row["default"], kind, detail)


@functools.cache
def specs() -> Mapping[str, Spec]:
    """Every loss by its name."""
    return {
        row["name"]: Spec(
            row["name"],
            row["family"],
            tuple(Input(**i) for i in row["inputs"]),
            {name: _param(p) for name, p in row["params"].items()},
            row["unreduced"],
            row["hess"],
            row["kinks"],
        )
        for row in _core.registry()
    }


def spec_of(loss: LossLike) -> Spec:
    """Return what the registry says of a loss, of its class, or of the class of that name."""
    if isinstance(loss, str):
        loss = getattr(rustloss, loss)
    cls = loss if isinstance(loss, type) else type(loss)
    for base in cls.__mro__:
        if base.__name__ in specs():
            return specs()[base.__name__]
    raise TypeError(f"expected a loss of this library, got {loss!r}")


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
    """Return where the axes of a call are; the one place that knows the rules of shapes."""
    rule, ndim = spec_of(loss).rule, len(shape)
    if rule == "sequence":
        batch = loss.layout.index("N") if "N" in loss.layout else None
        classes = loss.layout.index("C")
        per_sample: tuple[int, ...] = () if batch is None else (shape[batch],)
        return Geometry(shape, batch, classes, per_sample, None if batch is None else 0, 1)
    if ndim == 0:
        return Geometry(shape, None, None, (), None, 0)
    batch = loss.batch_axis % ndim
    if rule == "elementwise":
        return Geometry(shape, batch, None, shape, batch, ndim)
    if rule == "divergence":
        return Geometry(shape, batch, loss.axis % ndim, shape, batch, ndim)
    if rule == "distance":
        return Geometry(shape, batch, None, (shape[batch],), 0, 1)
    if rule == "pairwise":
        n = shape[batch]
        return Geometry(shape, batch, 1 - batch, (n, n), 0, 2)
    if ndim == 1:
        return Geometry(shape, None, 0, (1,), 0, 1)
    classes = loss.axis % ndim
    unreduced = shape[:classes] + shape[classes + 1 :]
    return Geometry(shape, batch, classes, unreduced, batch - (batch > classes), classes)


#: The numbers of axes that the first input of each rule may have.
NDIMS = {
    "elementwise": (0, 4),
    "classes": (1, 4),
    "divergence": (2, 4),
    "angle": (1, 4),
    "distance": (0, 4),
    "pairwise": (2, 2),
    "sequence": (3, 3),
}


def is_sparse(loss: Loss, domain: str) -> bool:
    """Whether an input of this domain holds class indices or tokens: numbers without a slope."""
    return domain in {"Tokens", "Lengths"} or (domain == "Classes" and loss.sparse_label)


def differentiable(loss: Loss, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the inputs of a call that have a gradient."""
    return tuple(
        i.name
        for i in spec_of(loss).inputs
        if i.gradient != "Never" and given.get(i.name) is not None and not is_sparse(loss, i.domain)
    )


def domain_of(loss: Loss, entry: Input) -> str:
    """Return what an input may hold, which the parameters of some losses change."""
    first = spec_of(loss).inputs[0].name
    params = loss._params
    if entry.name == first:
        if params.get("from_sigmoid"):
            return "Probability"
        if spec_of(loss).family == "elementwise" and params.get("from_logits") is False:
            return "Positive"
        if spec_of(loss).rule == "divergence" and not params["from_logits"]:
            return "Real"
    if entry.name == "label" and params.get("label_format") == "binary":
        return "Probability"
    if entry.name == "label" and params.get("log_target"):
        return "LogDistribution"
    return entry.domain
