"""The oracles that are shipped are those of every loss, and have nothing of the library in them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import rustloss as rl
from contract import everything, losses_of, over_losses
from rustloss.testing import example, oracle, ulp_distance
from rustloss.testing import oracles as package
from rustloss.testing._registry import spec_of
from rustloss.testing.oracles.elementwise import digamma

SOURCES = sorted(Path(package.__file__).parent.glob("*.py"))
TOLERANCE = 1e-13
"""Relative to the largest number of the call, whose terms may cancel."""
DIGAMMA = 4.0
"""Ulp: of two logarithms and a sum of ten terms."""


@over_losses
def test_oracle_takes_what_the_loss_takes(name):
    for loss in losses_of(name):
        inputs = example(loss, optional=spec_of(name).optional)
        found = everything(loss, inputs, grad_output=0.5)
        result = oracle(loss).results(**inputs, grad_output=0.5)
        expected = {"value": result.value, **result.grads}
        if result.hess is not None:
            expected["hess"] = result.hess
        assert found.keys() == expected.keys()
        for key, array in found.items():
            sizes = abs(expected[key])
            scale = sizes.max(initial=1.0, where=np.isfinite(sizes))
            np.testing.assert_allclose(array, expected[key], rtol=0, atol=TOLERANCE * scale)
        np.testing.assert_array_equal(oracle(loss)(**inputs), result.value)


def test_oracle_binds_like_the_loss():
    loss = rl.SigmoidBCELoss(reduction="mean")
    args = ([0.5, -1.0], [0.0, 1.0], [1.0, 2.0], [3.0])
    assert ulp_distance(oracle(loss)(*args, denominator=7.0), loss(*args, denominator=7.0)) <= 4
    with pytest.raises(rl.errors.CallError, match="label: missing"):
        oracle(loss)([0.5])
    with pytest.raises(TypeError, match="expected a loss of this library"):
        oracle(len)  # type: ignore[arg-type]


def test_oracles_import_numpy_alone():
    allowed = {"__future__", "collections", "dataclasses", "inspect", "itertools", "math"}
    allowed |= {"numpy", "typing"}
    for source in SOURCES:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        imported = {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {
            alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names
        }
        own = {module for module in imported if module.startswith("rustloss.testing.oracles")}
        assert {module.partition(".")[0] for module in imported - own} <= allowed, source.name


def test_digamma():
    x = np.concatenate([np.linspace(1, 20, 200), np.geomspace(20, 1e15, 50)])
    exact = np.array([float(mpmath.digamma(v)) for v in x])
    # Next to its zero the error is that of terms of size 1.
    assert (abs(digamma(x) - exact) <= DIGAMMA * np.spacing(np.maximum(abs(exact), 1.0))).all()


def test_testing_is_there_when_it_is_asked_for():
    code = (
        "import sys, rustloss as rl\n"
        "assert 'rustloss.testing' not in sys.modules and 'hypothesis' not in sys.modules\n"
        "assert 'testing' in rl.__all__ and 'testing' in dir(rl)\n"
        "print(rl.testing.oracle(rl.L1Loss())([1.0], [3.0]))\n"
        "assert 'hypothesis' not in sys.modules and 'mpmath' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[2.]\n"
    with pytest.raises(AttributeError, match="module 'rustloss' has no attribute 'spam'"):
        rl.spam  # type: ignore[attr-defined]  # noqa: B018
