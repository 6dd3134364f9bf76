"""Measure the worst error of the vector math and of every loss, beside PyTorch's where it is.

Errors are in ulp of the sum of the absolute terms against mpmath, over the points of the accuracy
tests. S is the largest minus the smallest logit of a row.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

import rustloss
from rustloss import _core

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from reference import math_mpmath
from reference.points import CASES, DTYPES, Case, run

Array = npt.NDArray[Any]
FUNCTION_POINTS = 4000
FUNCTION_BOUNDS = dict.fromkeys(math_mpmath.FUNCTIONS, 2) | {"lgamma": 4, "log_factorial": 4}
COLUMNS = [
    "",
    "bound, value",
    "bound, gradient",
    *(
        f"{library}{dtype} {what}"
        for library in ("", "torch ")
        for dtype in ("f32", "f64")
        for what in ("value", "gradient")
    ),
    "of the bound",
]
WIDTHS = [36, 12, 15, *[18] * 8, 12]


class Torch:
    """The same losses in PyTorch: its own where it has one, else as its users write them."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.functions = importlib.import_module("torch.nn.functional")
        self.torch.set_num_threads(1)

    def run(self, case: Case, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute the unreduced value and the gradients."""
        tensors = {name: self.torch.from_numpy(x) for name, x in inputs.items()}
        for name in case.wrt:
            tensors[name].requires_grad_()
        value = getattr(self, case.loss)(case.params, *tensors.values())
        wanted = [tensors[name] for name in case.wrt]
        grads = self.torch.autograd.grad(value.sum(), wanted, materialize_grads=True)
        results = {"value": value, **dict(zip(case.wrt, grads, strict=True))}
        return {name: x.detach().numpy() for name, x in results.items()}

    def math(self, name: str, x: Array) -> Array | None:
        """Compute a function, if PyTorch has it."""
        functions: dict[str, Callable[[Any], Any]] = {
            name: getattr(self.torch, name)
            for name in ("exp", "expm1", "log", "log1p", "sigmoid", "lgamma")
        }
        functions |= {
            "softplus": self.functions.softplus,
            "log_sigmoid": self.functions.logsigmoid,
        }
        if name not in functions:
            return None
        y: Array = functions[name](self.torch.from_numpy(x)).numpy()
        return y

    def L1Loss(self, _: Any, x: Any, y: Any) -> Any:
        return self.functions.l1_loss(x, y, reduction="none")

    def L2Loss(self, _: Any, x: Any, y: Any) -> Any:
        return 0.5 * self.functions.mse_loss(x, y, reduction="none")
