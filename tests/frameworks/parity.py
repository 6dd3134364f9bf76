"""What the suites share: random numbers, one call of ours, and the comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import rustloss as rl

FLOAT32 = 5e-6
FLOAT64 = 1e-12


class Draw:
    """Structure is hypothesis's choice, numbers come from a generator whose seed it chooses.

    All numbers are single-precision numbers, so that both precisions see the same call.
    """

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.random = np.random.default_rng(self.data.draw(st.integers(0, 2**32 - 1), label="seed"))
        self.on_grid = self.pick(False, True)
        """Numbers are multiples of 1/8: sums are exact, and kinks are hit."""

    def pick(self, *choices: Any) -> Any:
        return self.data.draw(st.sampled_from(choices))

    def size(self, least: int = 1, most: int = 4) -> int:
        return int(self.data.draw(st.integers(least, most)))

    def shape(self, least: int = 1, most: int = 4) -> tuple[int, ...]:
        return tuple(self.size() for _ in range(self.size(least, most)))

    def axis(self, ndim: int, *, but: int | None = None) -> int:
        """Choose an axis, counted from either end."""
        axis = self.pick(*(axis for axis in range(ndim) if axis != but))
        return int(self.pick(axis, axis - ndim))

    def rarely(self) -> bool:
        return bool(self.random.random() < 0.08)

    def numbers(self, shape: tuple[int, ...], low: float = -4, high: float = 4) -> Any:
        """Return numbers of either sort between two multiples of 1/8."""
        if self.on_grid:
            return self.random.integers(round(low * 8), round(high * 8) + 1, shape) / 8
        return single(self.random.uniform(low, high, shape))

    def signs(self, shape: tuple[int, ...]) -> Any:
        return 2.0 * self.random.integers(0, 2, shape) - 1

    def probabilities(self, shape: tuple[int, ...], axis: int) -> Any:
        """Return rows that sum to 1 up to rounding, all positive."""
        share = self.random.uniform(0.25, 1, shape)
        return single(share / share.sum(axis, keepdims=True))


def single(x: Any) -> Any:
    """Round to single precision; keep double as the type."""
    return np.asarray(x, np.float32).astype(np.float64)


@dataclass
class Call:
    """One call of ours: parameters, inputs by name, and the inputs whose gradient is wanted."""

    params: dict[str, Any]
    inputs: dict[str, Any]
    wrt: tuple[str, ...]
    sample_weight: Any = None
    grad_output: Any = None
    skip: dict[str, Any] = field(default_factory=dict)
    """Where the other library is wrong: masks by input name, and ``"value"``."""

    @property
    def scale(self) -> float:
        """The most by which weights and the arriving gradient multiply an error."""
        factors = (self.params.get("weight"), self.sample_weight, self.grad_output)
        return math.prod(max(1.0, np.abs(x).max()) for x in factors if x is not None)


def ours(name: str, call: Call, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """Return value and gradients of rustloss with every floating input as `dtype`."""
    inputs = {
        key: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x
        for key, x in call.inputs.items()
    }
    loss = getattr(rl, name)(**call.params)
    value, grads = loss.value_and_grad(
        **inputs,
        sample_weight=call.sample_weight,
        grad_output=call.grad_output,
        wrt=call.wrt,
    )
    return value, dict(zip(call.wrt, grads, strict=True))


def compare(
    call: Call, got: tuple[Any, dict[str, Any]], want: tuple[Any, dict[str, Any]], tolerance: float
) -> None:
    """Assert that values and gradients agree outside the masks, shapes included.

    `tolerance` is relative, and absolute for a loss without weights.
    """
    floor = tolerance * call.scale
    pairs = {"value": (got[0], want[0])}
    pairs |= {key: (got[1][key], want[1][key]) for key in call.wrt}
    for key, (x, y) in pairs.items():
        mask = call.skip.get(key, np.zeros(np.shape(y), bool))
        assert np.shape(x) == np.shape(y), key
        assert_allclose(x[~mask], y[~mask], rtol=tolerance, atol=floor, err_msg=key)
