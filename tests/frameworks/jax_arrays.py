"""Calls of losses on JAX arrays, for the tests of the adapter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rustloss as rl
from contract import assert_same_bits
from rustloss.testing import example
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import spec_of

jax = pytest.importorskip("jax")
jnp = jax.numpy

ROUNDING = 1e-12
"""Of sums and products in double precision, in another order."""


def smooth(loss: rl.Loss, seed: int = 0) -> dict[str, Any]:
    """Return input away from kinks and from the edges of domains, optional inputs included."""
    shape = np.shape(example(loss)[spec_of(loss).inputs[0].name])
    optional = {"sample_weight"} | {i.name for i in spec_of(loss).inputs if i.gradient != "Never"}
    return inputs_of(
        loss, shape, Values(np.random.default_rng(seed), smooth=True), optional=optional
    )


def on_jax(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: jnp.asarray(array) for name, array in inputs.items()}


def of_inputs(loss: Any, inputs: dict[str, Any], wrt: tuple[str, ...]) -> Any:
    """Return the loss as a function of some inputs, and these."""
    arrays = on_jax(inputs)

    def value(*given: Any) -> Any:
        return loss(**arrays | dict(zip(wrt, given, strict=True)))

    return value, tuple(arrays[name] for name in wrt)


def as_numpy(found: Any) -> Any:
    return jax.tree.map(np.asarray, found)


def same(found: Any, expected: Any) -> None:
    """Compare results bit by bit; numbers of NumPy are arrays for JAX."""
    assert_same_bits(
        dict(enumerate(jax.tree.leaves(as_numpy(found)))),
        dict(enumerate(map(np.asarray, jax.tree.leaves(expected)))),
    )
