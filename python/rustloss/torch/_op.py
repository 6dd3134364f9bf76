"""A call of a loss as one operator of torch, `rustloss::call`, for all that traces or transforms.

Its arguments say all there is to know, as text: the loss and its parameters, the method, the names
of the tensors, and of those the ones whose gradients are wanted.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import optimization_hint

import rustloss
from rustloss._adapter import is_elementwise
from rustloss._loss import Loss, Signature
from rustloss.errors import ParameterError
from rustloss.torch._arrays import to_numpy, to_tensor

#: Arguments of a call that are not among the inputs of the loss.
_OPTIONS = ("grad_output", "denominator")
_APART = frozenset({"none", "sample", "sample_sum", "sample_weighted_mean"})
#: What stands for the size of an axis of which nothing is known.
_ANY_SIZE = 2

torch.library.define(
    "rustloss::call",
    "(str loss, str method, str[] names, str[] wrt, Tensor[] inputs) -> Tensor[]",
)


@dataclass(frozen=True, eq=False)
class Traits:
    """What the adapter has to know of a loss; there is one object for all losses that are equal."""

    loss: Loss
    #: The loss and its parameters as text, which `parse` reads.
    text: str
    #: Its inputs, in their order.
    names: tuple[str, ...]
    #: Those of them that may be given by position.
    positional: tuple[str, ...]
    #: The inputs that have a gradient.
    differentiable: tuple[str, ...]
    #: Whether no element of the prediction has a share in another one's gradient.
    elementwise: bool
    #: Whether a sample's loss depends on other samples.
    coupled: bool
    #: Whether the reduction leaves samples apart: most losses have an array as value then.
    apart: bool

    def __reduce__(self) -> tuple[Any, ...]:
        return traits, (self.loss,)


@dataclass(frozen=True)
class Call:
    """A call of a loss without its tensors."""

    traits: Traits
    #: What the tensors are, in their order.
    names: tuple[str, ...]
    #: Those of which a gradient is wanted.
    wrt: tuple[str, ...] = ()

    @functools.cached_property
    def leads(self) -> bool:
        """Whether the tensors are the first inputs of the loss, in their order, by position."""
        return self.names == self.traits.positional[: len(self.names)]

    @functools.cached_property
    def differentiated(self) -> list[int]:
        """Where among the tensors those are of which a gradient is wanted."""
        return [*map(self.names.index, self.wrt)]

    @functools.cached_property
    def gradients(self) -> list[int | None]:
        """Where the gradient of each tensor is among those that are wanted."""
        return [self.wrt.index(name) if name in self.wrt else None for name in self.names]

    def wanted(self, needed: Sequence[bool]) -> Call:
        """Return the call with the inputs in `wrt` for which `needed` is true.

        Raises
        ------
        ParameterError
            If one of them has no gradient.
        """
        wrt = tuple(name for name, needs in zip(self.names, needed, strict=True) if needs)
        for name in wrt:
            if name not in self.traits.differentiable:
                text = f"{name}: expected a tensor that needs no gradient, as there is none by it"
                raise ParameterError(f"{text}; pass {name}.detach()", name)
        return Call(self.traits, self.names, wrt)


@functools.lru_cache(maxsize=1024)
def traits(loss: Loss) -> Traits:
    """Return what the adapter has to know of a loss."""
    spec, inputs = loss._spec, loss._inputs
    return Traits(
        loss,
        json.dumps([spec["name"], dict(loss._params)]),
        tuple(row["name"] for row in inputs),
        tuple(row["name"] for row in inputs if row["domain"] != "Offsets"),
        tuple(row["name"] for row in inputs if row["gradient"] != "Never"),
        is_elementwise(loss),
        spec["family"] == "pairwise",
        loss.reduction in _APART,
    )


@functools.lru_cache(maxsize=1024)
def parse(text: str) -> Loss:
    """Return the loss that `Traits.text` stands for."""
    name, params = json.loads(text)
    loss: Loss = getattr(rustloss, name)(**params)
    return loss


def run(
    call: Call, method: str, tensors: Sequence[Tensor], upstream: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Call the operator: the value, the gradients by `wrt`, or gradient and second derivative."""
    names, inputs = [*call.names], [*tensors]
    if upstream is not None:
        names, inputs = [*names, "grad_output"], [*inputs, upstream]
    return tuple(torch.ops.rustloss.call(call.traits.text, method, names, [*call.wrt], inputs))


@torch.library.impl("rustloss::call", "CPU")
def _call(
    text: str, method: str, names: list[str], wrt: list[str], inputs: list[Tensor]
) -> list[Tensor]:
    arguments: dict[str, Any] = dict(zip(names, map(to_numpy, names, inputs), strict=True))
    if method == "grad":
        arguments["wrt"] = tuple(wrt)
    results = to_tensor(getattr(parse(text), method)(**arguments))
    return list(results) if isinstance(results, tuple) else [results]


class _Known(NamedTuple):
    """An input without its data, as a signature reads it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def signature(call: Call, tensors: Sequence[Tensor]) -> Signature:
    """Return the signature of a call on tensors whose sizes may be symbols."""
    return _signature(call.traits.text, call.names, tensors)


def _signature(text: str, names: Sequence[str], tensors: Sequence[Tensor]) -> Signature:
    given = zip(names, tensors, strict=True)
    return parse(text).signature(
        **{name: _Known(_sizes(x.shape), x.dtype) for name, x in given if name not in _OPTIONS}
    )


def _sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    return tuple(
        n if isinstance(n, int) else optimization_hint(n, fallback=_ANY_SIZE) for n in shape
    )


class Places(NamedTuple):
    """Which axes of the first input, and of the unreduced loss, the axes of the value are.

    None is an axis that the value has of its own, of size 1.
    """

    first: tuple[int | None, ...]
    unreduced: tuple[int | None, ...]
    #: The shape of the unreduced loss.
    shape: tuple[int, ...]


def places(text: str, shape: Sequence[Any]) -> Places:
    """Return where the axes of the value come from, for a first input of that shape.

    Each axis is marked by a size that no other has, and found by it in the value's shape. The axis
    of the classes keeps its size, as parameters may depend on it.
    """
    sizes = _sizes(shape)
    plain = _axes(text, sizes)
    classes = plain["vectors"]
    free = max(sizes, default=0) + 2
    marks = [n if axis == classes else free + axis for axis, n in enumerate(sizes)]
    found = _axes(text, marks)

    def among(row: Sequence[int]) -> tuple[int | None, ...]:
        return tuple(row.index(n) if n in row else None for n in found["value"])

    return Places(among(marks), among(found["unreduced"]), plain["unreduced"])


def _axes(text: str, sizes: Sequence[int]) -> dict[str, Any]:
    loss = parse(text)
    return loss._signature([(sizes, "float64"), *[None] * (len(loss._inputs) - 1)])


@functools.lru_cache(maxsize=1024)
def mean(traits: Traits, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what the mean of a value sends back to its elements, for a first input of a shape."""
    rest = [None] * (len(traits.names) - 1)
    row = traits.loss._signature([(shape, dtype.name), *rest])
    return np.array(1 / max(math.prod(row["value"]), 1), row["value_dtype"])


@torch.library.register_fake("rustloss::call")
def _fake(
    text: str, method: str, names: list[str], wrt: list[str], inputs: list[Tensor]
) -> list[Tensor]:
    made, first, found = (
        _signature(text, names, inputs),
        inputs[0],
        dict(zip(names, inputs, strict=True)),
    )
    if method == "__call__":
        where = places(text, first.shape).first
        shape = [1 if axis is None else first.shape[axis] for axis in where]
        return [first.new_empty(shape, dtype=getattr(torch, made.value.dtype))]
    return [
        first.new_empty(found[name].shape, dtype=getattr(torch, made.grads[name].dtype))
        for name in (wrt if method == "grad" else [names[0]] * 2)
    ]


@torch.library.register_vmap("rustloss::call")
def _vmap(
    info: Any,
    in_dims: Sequence[Any],
    text: str,
    method: str,
    names: list[str],
    wrt: list[str],
    inputs: list[Tensor],
) -> tuple[list[Tensor], list[int]]:
    """Call once for each slice: the losses know nothing of an axis before their own."""
    dims = in_dims[-1]
    slices = [
        [x if dim is None else x.select(dim, i) for x, dim in zip(inputs, dims, strict=True)]
        for i in range(info.batch_size)
    ]
    rows = (torch.ops.rustloss.call(text, method, names, wrt, row) for row in slices)
    results = [torch.stack(column) for column in zip(*rows, strict=True)]
    return results, [0] * len(results)
