"""Losses on several devices: `pmap`, `shard_map`, explicit sharding.

Values and derivatives are compared with those of JAX's own functions in the same programs, and with
the calls on NumPy arrays.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

import rustloss as rl
from frameworks.jax_arrays import ROUNDING, same

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

from rustloss.jax import function  # noqa: E402  # it needs JAX

if len(jax.devices()) < 2:
    pytest.skip("needs two devices", allow_module_level=True)

if hasattr(jax, "shard_map"):
    shard_map = jax.shard_map
else:  # where it was before it had a place of its own
    experimental = pytest.importorskip("jax.experimental.shard_map")
    shard_map = functools.partial(experimental.shard_map, check_rep=False)

MESH = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("batch",))
SPLIT, WHOLE = jax.sharding.PartitionSpec("batch"), jax.sharding.PartitionSpec()


def test_pmap():
    loss, pred = rl.L2Loss(), np.arange(12.0).reshape(2, 3, 2)
    derive = jax.pmap(jax.value_and_grad(lambda pred: loss(pred, jnp.zeros((3, 2))).sum()))
    value, grad = derive(jnp.asarray(pred))
    assert_allclose(value, [loss(part, np.zeros((3, 2))).sum() for part in pred], ROUNDING)
    assert_allclose(grad, pred / 2, ROUNDING)


@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_shard_map(on_error):
    loss = function(rl.SoftmaxCELoss(), on_error=on_error)

    def part(pred: Any, label: Any) -> Any:
        return jax.lax.pmean(loss(pred, label).mean(), "batch")

    whole = shard_map(part, mesh=MESH, in_specs=(SPLIT, SPLIT), out_specs=WHOLE)
    pred = np.random.default_rng(0).normal(size=(4, 3))
    label = np.array([0, 1, 2, 0])
    value, grad = jax.jit(jax.value_and_grad(whole))(jnp.asarray(pred), jnp.asarray(label))
    expected = rl.SoftmaxCELoss(reduction="mean").value_and_grad(pred, label)
    assert_allclose(value, expected[0], ROUNDING)
    assert_allclose(grad, expected[1], ROUNDING)
    if on_error == "nan":
        # Were this an error of one device, the other would wait for it.
        assert np.isnan(whole(jnp.asarray(pred), jnp.array([0, 1, 2, 7])))


# Some inputs split over the devices, others whole on each


def divergence(pred: Any, label: Any) -> Any:
    return label * (jnp.log(label) - jax.nn.log_softmax(pred))


CLASSES = np.array([0, 2, 1, 1])
NUMBERS = np.random.default_rng(0).dirichlet(np.ones(3), 4)
PREDICTION = np.random.default_rng(1).normal(size=(4, 3))
WEIGHTS = np.array([1.0, 2.0, 0.5, 3.0])

LOSSES: dict[str, tuple[Any, Callable[..., Any], Any]] = {
    "L1": (rl.L1Loss, lambda x, y: abs(x - y), NUMBERS),
    "L2": (rl.L2Loss, lambda x, y: (x - y) ** 2 / 2, NUMBERS),
    "BCE": (rl.SigmoidBCELoss, optax.sigmoid_binary_cross_entropy, NUMBERS),
    "CE": (rl.SoftmaxCELoss, optax.softmax_cross_entropy_with_integer_labels, CLASSES),
    # Its elements depend on each other, which a rule of its own is for.
    "KL": (functools.partial(rl.KLDivLoss, from_logits=False), divergence, NUMBERS),
}
"""Losses, functions of JAX's own with their unreduced values, and labels."""

MIXED = (
    (WHOLE, SPLIT, WHOLE),
    (WHOLE, WHOLE, SPLIT),
    (SPLIT, WHOLE, WHOLE),
    (WHOLE, SPLIT, SPLIT),
)
"""Where prediction, label and weights are."""

over_losses = pytest.mark.parametrize("name", LOSSES)


def programs(name: str, reduction: str, specs: Any) -> Any:
    """Return the sum of a loss over all devices, the same by JAX's own functions, and inputs."""
    make, own, label = LOSSES[name]
    loss = make(reduction=reduction)

    def ours(pred: Any, label: Any, weight: Any) -> Any:
        return loss(pred, label, weight).sum()

    def theirs(pred: Any, label: Any, weight: Any) -> Any:
        unreduced = own(pred, label)
        return (unreduced * weight.reshape(-1, *[1] * (unreduced.ndim - 1))).sum()

    def over_devices(part: Any) -> Any:
        def summed(*inputs: Any) -> Any:
            return jax.lax.psum(part(*inputs), "batch")

        return shard_map(summed, mesh=MESH, in_specs=specs, out_specs=WHOLE)

    inputs = [
        jnp.asarray(array if spec == SPLIT else array[:2])
        for array, spec in zip((PREDICTION, label, WEIGHTS), specs, strict=True)
    ]
    return over_devices(ours), over_devices(theirs), inputs


@over_losses
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_inputs_that_differ_in_what_they_vary_over(name, reduction):
    for specs in MIXED:
        ours, theirs, inputs = programs(name, reduction, specs)
        wrt = (0,) if name == "CE" else (0, 1)
        found = jax.jit(jax.value_and_grad(ours, wrt))(*inputs)
        expected = jax.jit(jax.value_and_grad(theirs, wrt))(*inputs)
        for array, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert_allclose(array, other, ROUNDING, ROUNDING, err_msg=str(specs))


def forward(total: Any, pred: Any, *others: Any) -> Any:
    return jax.jvp(lambda x: total(x, *others), (pred,), (pred,))


@over_losses
def test_forward_mode(name):
    for specs in MIXED:
        *totals, inputs = programs(name, "sum", specs)
        found, expected = (jax.jit(functools.partial(forward, total))(*inputs) for total in totals)
        assert_allclose(found, expected, ROUNDING, ROUNDING)


def second(total: Any, pred: Any, *others: Any) -> Any:
    """Return the second derivative along a direction, without `vmap`: JAX 0.8 cannot sum in it."""
    return jax.grad(lambda x: (jax.grad(total)(x, *others) * jnp.cos(pred)).sum())(pred)


@pytest.mark.parametrize("name", ["L2", "BCE"])
def test_second_derivatives(name):
    for specs in MIXED:
        *totals, inputs = programs(name, "sum", specs)
        found, expected = (jax.jit(functools.partial(second, total))(*inputs) for total in totals)
        assert_allclose(found, expected, ROUNDING, ROUNDING)


@over_losses
def test_gradients_inside(name):
    """Where inputs have types that say over what they vary, JAX sums gradients of whole ones."""
    make, own, label = LOSSES[name]
    loss = make(reduction="sum")
    found, expected = (
        shard_map(jax.grad(f), mesh=MESH, in_specs=(WHOLE, SPLIT), out_specs=WHOLE)(
            jnp.asarray(PREDICTION[:2]), jnp.asarray(label)
        )
        for f in (loss, lambda x, y: own(x, y).sum())
    )
    assert_allclose(found, expected, ROUNDING, ROUNDING)


@over_losses
def test_methods_give_the_gradients_of_each_device(name):
    make, _, label = LOSSES[name]
    loss = make(reduction="sample")
    derive = shard_map(
        loss.value_and_grad, mesh=MESH, in_specs=(WHOLE, SPLIT), out_specs=(SPLIT, SPLIT)
    )
    found = derive(jnp.asarray(PREDICTION[:2]), jnp.asarray(label))
    same(found, loss.value_and_grad(np.tile(PREDICTION[:2], (2, 1)), label))


# Explicit sharding


needs_explicit = pytest.mark.skipif(
    not (hasattr(jax.sharding, "reshard") and hasattr(jax, "set_mesh")),
    reason="needs explicit sharding as it is since JAX 0.7",
)


def explicit() -> Any:
    return jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))


@needs_explicit
@over_losses
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_explicit_sharding(name, reduction):
    make, _, label = LOSSES[name]
    loss = make(reduction=reduction)
    expected = loss.value_and_grad(PREDICTION, label)
    mesh = explicit()
    split, whole = (jax.sharding.NamedSharding(mesh, spec) for spec in (SPLIT, WHOLE))
    for places in ((split, split), (split, None), (None, split), (whole, split)):
        given = [
            jnp.asarray(array) if place is None else jax.device_put(array, place)
            for array, place in zip((PREDICTION, label), places, strict=True)
        ]
        same(loss(*given), expected[0])
        same(jax.jit(loss.value_and_grad)(*given), expected)


@needs_explicit
@over_losses
def test_gradients_are_sharded_as_what_they_are_by(name):
    make, own, label = LOSSES[name]
    loss = make(reduction="none")
    mesh = explicit()
    with jax.set_mesh(mesh):
        pred = jax.device_put(PREDICTION, jax.sharding.NamedSharding(mesh, SPLIT))
        weights = np.asarray(loss(PREDICTION, label))
        derive = jax.jit(jax.grad(lambda x: (loss(x, jnp.asarray(label)) * weights).sum()))
        found = derive(pred)
        assert jax.typeof(found).sharding == jax.typeof(pred).sharding
    expected = jax.grad(lambda x: (own(x, label) * weights).sum())(jnp.asarray(PREDICTION))
    assert_allclose(found, expected, ROUNDING, ROUNDING)
