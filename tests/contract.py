"""What the tests of all losses share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rustloss as rl
from rustloss.testing._registry import Geometry, differentiable, geometry, spec_of, specs

HALF_TYPES = [np.float16, ml_dtypes.bfloat16]
DTYPES = [*HALF_TYPES, np.float32, np.float64]
PER_SAMPLE = ["none", "sample", "sample_sum"]
"""Reductions that leave samples apart."""

over_losses = pytest.mark.parametrize("name", list(specs()))
# A row of these does not depend on other rows.
over_rowwise = pytest.mark.parametrize("name", [n for n, s in specs().items() if not s.row_coupled])


def everything(loss: rl.Loss, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return all that a loss can compute: value, gradient by every input, second derivative."""
    wrt = differentiable(loss, inputs)
    value, grads = loss.value_and_grad(**inputs, wrt=wrt, **options)
    found = {"value": value, **dict(zip(wrt, grads, strict=True))}
    if spec_of(loss).hess:
        found["hess"] = loss.grad_hess(**inputs, **options)[1]
    return found


def assert_same_bits(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        other = expected[name]
        assert type(array) is type(other), name
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        bits = f"u{array.dtype.itemsize}"
        same = np.ascontiguousarray(array).view(bits) == np.ascontiguousarray(other).view(bits)
        missing = np.isnan(array) & np.isnan(other)
        assert (same.reshape(array.shape) | missing).all(), (name, array, other)


def remade(loss: rl.Loss, **changes: Any) -> rl.Loss:
    """Return the loss with some parameters changed."""
    made: rl.Loss = spec_of(loss).cls(**{**loss._params, **changes})
    return made


def place_of(loss: rl.Loss, inputs: dict[str, Any]) -> Geometry:
    return geometry(loss, np.shape(inputs[spec_of(loss).inputs[0].name]))


def default_grads(loss: rl.Loss) -> list[str]:
    return [i.name for i in spec_of(loss).inputs if i.gradient == "Default"]


def batch_axis_of(loss: rl.Loss, inputs: dict[str, Any], name: str) -> int | None:
    """Return which axis of an input counts samples."""
    place, shape = place_of(loss, inputs), np.shape(inputs[name])
    if name == "label" and spec_of(loss).family == "sequence":
        return None if place.batch is None else int(loss._params["label_layout"].index("N"))
    if shape == place.shape:
        return place.batch
    return place.samples if shape == place.unreduced else 0 if shape == (place.n,) else None


def samples(loss: rl.Loss, inputs: dict[str, Any], chosen: slice) -> dict[str, Any]:
    """Return some samples of a call."""
    parts = {}
    for name, array in inputs.items():
        axis = batch_axis_of(loss, inputs, name)
        parts[name] = array if axis is None else array[(slice(None),) * axis + (chosen,)]
    return parts


def batch_axis_of_result(loss: rl.Loss, inputs: dict[str, Any], name: str) -> int | None:
    """Return which axis of a result of `everything` counts samples."""
    if name == "value":
        return place_of(loss, inputs).samples if loss.reduction == "none" else 0
    return batch_axis_of(loss, inputs, default_grads(loss)[0] if name == "hess" else name)


def losses_of(name: str) -> list[rl.Loss]:
    """Return a loss with its defaults, and one for each other value of its switches."""
    spec, found = spec_of(name), [spec_of(name).cls()]
    for key, param in spec.params.items():
        flags = (True, False) if param.kind in {"flag", "flag_or"} else ()
        found += [
            switched(spec.cls, {key: v}) for v in (*param.words, *flags) if v != param.default
        ]
    return found


def switched(cls: type[rl.Loss], params: dict[str, Any]) -> rl.Loss:
    """Make a loss with a switch, and with the other switch that this one needs, if it does."""
    try:
        return cls(**params)
    except rl.errors.ParameterError as error:
        needed = re.search(r"needs (\w+)=(True|False)", str(error))
        if needed is None:
            raise
        return cls(**{**params, needed[1]: needed[2] == "True"})


def weights_of_classes(loss: rl.Loss | str) -> list[str]:
    """Return the parameters that hold a weight for each class."""
    return [key for key, param in spec_of(loss).params.items() if param.kind == "weights"]
