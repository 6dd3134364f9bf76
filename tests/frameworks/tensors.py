"""Calls of losses on tensors, for the tests of the adapter."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import spec_of

torch = pytest.importorskip("torch")

from rustloss.torch import LossModule  # noqa: E402

SHAPES = {"pairwise": (3, 2), "sequence": (2, 5, 3)}

#: Of a loss that is computed in another order.
FLOAT64 = 1e-12

over_reductions = pytest.mark.parametrize("reduction", ["none", "sample", "mean"])


def loss_of(name: str, reduction: str = "sample") -> rl.Loss:
    loss: rl.Loss = spec_of(name).cls(reduction=reduction)
    return loss


def arrays_of(loss: rl.Loss, *, weighted: bool = False, dtype: Any = np.float64) -> dict[str, Any]:
    """Return inputs away from kinks, the same for the same loss."""
    spec = spec_of(loss)
    values = Values(np.random.default_rng(zlib.crc32(spec.name.encode())), smooth=True)
    optional = ["sample_weight"] if weighted else []
    return inputs_of(loss, SHAPES.get(spec.family, (3, 4)), values, optional=optional, dtype=dtype)


def tensors_of(loss: rl.Loss, **options: Any) -> dict[str, Any]:
    return {name: torch.tensor(x) for name, x in arrays_of(loss, **options).items()}


def function_of(loss: rl.Loss, inputs: dict[str, Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return the loss as a function of what has a gradient by default, and that."""
    module = LossModule(loss)
    names = [i.name for i in spec_of(loss).inputs if i.gradient == "Default"]

    def function(*tensors: Any) -> Any:
        return module(**{**inputs, **dict(zip(names, tensors, strict=True))})

    return function, [inputs[name].requires_grad_() for name in names]


def of_first(loss: rl.Loss, inputs: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
    """Return the loss as a function of its first input, and that."""
    module, first = LossModule(loss), spec_of(loss).inputs[0].name
    return lambda x: module(**{**inputs, first: x}), inputs[first]


def has_second_order(loss: rl.Loss) -> bool:
    """Whether the whole second derivative is known: elements apart, or all of it zero."""
    kind = loss.signature(**arrays_of(loss)).hess
    return kind == "zero" or (kind == "diagonal" and spec_of(loss).family == "elementwise")
