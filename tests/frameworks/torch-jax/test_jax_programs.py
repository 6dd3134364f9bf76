"""Losses in programs of JAX: mapped, in loops, in another process.

Values and gradients are compared with the calls on NumPy arrays.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import PER_SAMPLE, over_losses
from frameworks.jax_arrays import ROUNDING, on_jax, same, smooth
from rustloss import errors
from rustloss.testing._registry import differentiable, spec_of

jax = pytest.importorskip("jax")
jnp = jax.numpy

# Mapped calls


@over_losses
def test_vmap(name):
    for reduction in spec_of(name).reductions:
        loss = spec_of(name).cls(reduction=reduction)
        calls = [smooth(loss, seed) for seed in range(3)]
        wrt = differentiable(loss, calls[0])
        derive = functools.partial(loss.value_and_grad, wrt=wrt)
        for shared in (set[str](), calls[0].keys() - {wrt[0]}):
            given = [call | {key: calls[0][key] for key in shared} for call in calls]
            if len({np.shape(call[key]) for call in given for key in call}) > len(given[0]):
                continue  # label sequences of other lengths
            expected = jax.tree.map(lambda *parts: np.stack(parts), *(derive(**c) for c in given))
            stacked = {
                key: given[0][key] if key in shared else np.stack([call[key] for call in given])
                for key in given[0]
            }
            axes = {key: None if key in shared else 0 for key in stacked}
            mapped = jax.vmap(lambda inputs, derive=derive: derive(**inputs), in_axes=(axes,))
            same(mapped(on_jax(stacked)), expected)


@over_losses
def test_vmap_of_single_samples(name):
    """They are computed as the one batch that they were taken from."""
    if spec_of(name).family == "pairwise":
        pytest.skip("a sample's loss depends on the others")
    for reduction in (r for r in spec_of(name).reductions if r in PER_SAMPLE):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = smooth(loss)
        wrt = differentiable(loss, inputs)
        samples = len(inputs[spec_of(loss).inputs[0].name])
        axes = {key: 0 if np.shape(x)[:1] == (samples,) else None for key, x in inputs.items()}

        def derive(inputs: Any, loss: Any = loss, wrt: Any = wrt, axes: Any = axes) -> Any:
            given = {key: x if axes[key] is None else x[None] for key, x in inputs.items()}
            return loss.value_and_grad(**given, wrt=wrt)

        value, grads = jax.vmap(derive, in_axes=(axes,))(on_jax(inputs))
        expected, whole = loss.value_and_grad(**inputs, wrt=wrt)
        same(value[:, 0], expected)
        for key, grad, x in zip(wrt, grads, whole, strict=True):
            if axes[key] is not None:
                same(grad[:, 0], x)


def test_vmap_of_vmap():
    loss = rl.SoftmaxCELoss(reduction="mean")
    pred = np.random.default_rng(0).normal(size=(2, 3, 4, 5))
    label = np.random.default_rng(1).integers(0, 5, (3, 4))
    derive = jax.vmap(jax.vmap(loss.value_and_grad), in_axes=(0, None))
    value, grad = derive(jnp.asarray(pred), jnp.asarray(label))
    for i in range(2):
        for j in range(3):
            same((value[i, j], grad[i, j]), loss.value_and_grad(pred[i, j], label[j]))
    nothing = jax.vmap(loss)(jnp.zeros((0, 4, 5)), jnp.zeros((0, 4), int))
    assert nothing.shape == (0,)


def test_jacobians():
    loss = rl.SigmoidBCELoss(reduction="none")
    pred, label = np.linspace(-2, 2, 6).reshape(2, 3), np.full((2, 3), 0.25)
    expected = np.diag(loss.grad(pred, label).ravel()).reshape(2, 3, 2, 3)
    for jacobian in (jax.jacrev, jax.jacfwd):
        found = jacobian(lambda x: loss(x, label))(jnp.asarray(pred))
        assert_allclose(found, expected, ROUNDING)


# Programs


def test_scan_and_remat():
    loss = rl.HuberLoss()
    pred, label = np.linspace(-3, 3, 12).reshape(4, 3), np.zeros((4, 3))

    def total(pred: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            return carry + loss(*rows).sum(), None

        return jax.lax.scan(
            jax.checkpoint(step), 0.0, (pred[:, None], jnp.asarray(label)[:, None])
        )[0]

    value, grad = jax.jit(jax.value_and_grad(total))(jnp.asarray(pred))
    assert_allclose(value, loss(pred, label).sum(), ROUNDING)
    assert_allclose(grad, loss.grad(pred, label), ROUNDING)


def test_donated_input():
    loss = rl.L2Loss(reduction="none")
    pred = jnp.arange(1000.0)
    step = jax.jit(lambda pred, label: pred - loss.grad(pred, label), donate_argnums=0)
    assert_array_equal(step(pred, np.zeros(1000)), np.zeros(1000))


def test_transposed_operands():
    loss, pred = rl.SoftmaxCELoss(), np.random.default_rng(0).normal(size=(5, 3))
    found = jax.jit(lambda pred: loss(pred.T, np.array([0, 2, 4])))(jnp.asarray(pred))
    same(found, loss(np.ascontiguousarray(pred.T), np.array([0, 2, 4])))


def test_a_program_runs_in_another_process(tmp_path):
    loss = rl.HuberLoss(rho=2.0)
    jax_export = pytest.importorskip("jax.export")
    checks = [jax_export.DisabledSafetyCheck.custom_call("rustloss")]
    array = jax.ShapeDtypeStruct((3,), "float64")
    program = jax_export.export(jax.jit(loss), disabled_checks=checks)(array, array)
    (tmp_path / "program").write_bytes(program.serialize())
    script = (
        "import sys, pathlib, rustloss.jax; from jax import export, numpy as jnp;"
        "program = pathlib.Path(sys.argv[1], 'program').read_bytes();"
        "print(export.deserialize(bytearray(program)).call(jnp.arange(3.0), jnp.zeros(3)))"
    )
    run = [sys.executable, "-c", script, str(tmp_path)]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(loss(np.arange(3.0), np.zeros(3)))


def test_symbols_in_shapes_are_refused():
    jax_export = pytest.importorskip("jax.export")
    (batch,) = jax_export.symbolic_shape("b")
    array = jax.ShapeDtypeStruct((batch, 3), "float64")
    loss = rl.L2Loss()
    for function in (loss, jax.grad(lambda pred, label: loss(pred, label).sum())):
        with pytest.raises(errors.ShapeError, match=r"pred: expected .* got \(b, 3\); export one"):
            jax_export.export(jax.jit(function))(array, array)
