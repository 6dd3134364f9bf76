"""Derivatives of losses on JAX arrays, of first and second order, and those that are refused.

They are compared with the gradients of the calls on NumPy arrays, with finite differences and with
JAX's own functions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose

from contract import PER_SAMPLE, losses_of, over_losses, remade
from frameworks.jax_arrays import ROUNDING, of_inputs, smooth
from rustloss import errors
from rustloss.testing._registry import differentiable, spec_of, specs
from rustloss.testing._registry import inputs as registered_inputs

jax = pytest.importorskip("jax")
check_grads = pytest.importorskip("jax.test_util").check_grads
jnp = jax.numpy

DIFFERENCE = 1e-5
"""Of central differences in double precision with JAX's step, at points away from kinks."""

ELEMENTWISE = [name for name, spec in specs().items() if spec.family == "elementwise"]
OTHERS = [name for name in specs() if name not in ELEMENTWISE]
over_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)


@over_losses
def test_gradients_of_jax(name):
    """Reverse mode gives what `grad` gives for the same gradient of the value."""
    own = losses_of(name)
    for loss in [*own, *(remade(own[0], reduction=r) for r in spec_of(name).reductions)]:
        inputs = smooth(loss)
        wrt = differentiable(loss, inputs)
        function, arrays = of_inputs(loss, inputs, wrt)
        value, pullback = jax.vjp(function, *arrays)
        head = np.random.default_rng(1).normal(size=value.shape)
        expected = loss.grad(**inputs, wrt=wrt, grad_output=head)
        for found, other in zip(pullback(jnp.asarray(head)), expected, strict=True):
            assert_allclose(found, other, ROUNDING, ROUNDING, err_msg=str(loss))


SHARED = [
    (name, entry.name)
    for name in specs()
    for entry in registered_inputs(losses_of(name)[0])
    if entry.shape in {"Broadcast", "SameOrOneVector"} and entry.gradient != "Never"
]


@pytest.mark.parametrize(("name", "shared"), SHARED)
def test_one_vector_for_all_samples(name, shared):
    for reduction in ("none", "sample", "mean"):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = smooth(loss)
        inputs[shared] = inputs[shared][(0,) * (inputs[shared].ndim - 1)]
        function, arrays = of_inputs(loss, inputs, (shared,))
        value, pullback = jax.vjp(function, *arrays)
        head = np.random.default_rng(1).normal(size=value.shape)
        expected = loss.grad(**inputs, wrt=shared, grad_output=head)
        assert_allclose(pullback(jnp.asarray(head))[0], expected, ROUNDING, ROUNDING)


def is_forward(value: Any, arrays: Any) -> bool:
    try:
        jax.jvp(value, arrays, arrays)
    except TypeError as error:
        if "custom_vjp" not in str(error):
            raise
        return False
    return True


@over_losses
def test_forward_mode(name):
    spec, refused = spec_of(name), set()
    # Differences move labels off the two numbers that some losses allow.
    may_allow = "out_of_range" in spec.params and "allow" in spec.params["out_of_range"].words
    options = {"out_of_range": "allow"} if may_allow else {}
    for reduction in spec.reductions:
        loss = spec.cls(**options, reduction=reduction)
        inputs = smooth(loss)
        value, arrays = of_inputs(loss, inputs, differentiable(loss, inputs))
        if is_forward(value, arrays):
            check_grads(value, arrays, order=1, atol=DIFFERENCE, rtol=DIFFERENCE)
        else:
            refused.add(reduction)
    may_refuse = {"rowwise": {"none"}, "pairwise": set(PER_SAMPLE) | {"sample_weighted_mean"}}
    assert refused <= may_refuse.get(spec.family, set())


@over_elementwise
def test_two_orders(name):
    loss = spec_of(name).cls()
    inputs = smooth(loss)
    value, arrays = of_inputs(loss, inputs, differentiable(loss, inputs)[:1])
    check_grads(value, arrays, order=2, atol=DIFFERENCE, rtol=DIFFERENCE)


@over_elementwise
def test_hessian(name):
    loss = spec_of(name).cls(reduction="sum")
    inputs = smooth(loss)
    value, (pred,) = of_inputs(loss, inputs, differentiable(loss, inputs)[:1])
    expected = np.diag(loss.grad_hess(**inputs)[1].ravel())
    for hessian in (
        jax.hessian(value),
        jax.jacrev(jax.jacrev(value)),
        jax.jacrev(jax.jacfwd(value)),
    ):
        found = hessian(pred).reshape(pred.size, pred.size)
        assert_allclose(found, expected, ROUNDING, ROUNDING)


@over_elementwise
def test_further_derivatives_are_refused(name):
    loss = spec_of(name).cls(reduction="sum")
    inputs = smooth(loss)
    value, arrays = of_inputs(loss, inputs, differentiable(loss, inputs)[:2])
    if len(arrays) > 1:
        with pytest.raises(NotImplementedError, match="got a further derivative"):
            jax.jacfwd(jax.grad(value), argnums=1)(*arrays)
    third = jax.jacfwd(jax.jacfwd(jax.grad(value)))
    if loss.signature(**inputs).hess == "zero":
        assert not third(*arrays).any()
    else:
        with pytest.raises(NotImplementedError, match="got a further derivative"):
            third(*arrays)


@pytest.mark.parametrize("name", OTHERS)
def test_second_order_is_given_or_refused(name):
    for reduction in ("none", "mean"):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = smooth(loss)
        value, (pred,) = of_inputs(loss, inputs, differentiable(loss, inputs)[:1])
        hessian = jax.jacrev(jax.grad(lambda x, value=value: value(x).sum()))
        if loss.signature(**inputs).hess == "zero":
            assert not hessian(pred).any()
        else:
            with pytest.raises(NotImplementedError, match="got a further derivative"):
                hessian(pred)


@over_losses
def test_inputs_without_a_derivative_are_refused(name):
    for reduction in ("none", "mean"):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = smooth(loss)
        value, arrays = of_inputs(loss, inputs, ("sample_weight",))
        with pytest.raises(errors.ParameterError, match="sample_weight: there is no derivative"):
            jax.grad(lambda w, value=value: value(w).sum())(*arrays)
        stopped = jax.grad(lambda w, value=value: value(jax.lax.stop_gradient(w)).sum())
        assert not stopped(*arrays).any()
