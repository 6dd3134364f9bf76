"""`rustloss.jax`: losses on JAX arrays give what they give on NumPy's; errors, and training.

Derivatives are in `test_jax_derivatives.py`, transformations in `test_jax_programs.py`.
"""

from __future__ import annotations

import doctest
import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import DTYPES, everything, losses_of, over_losses
from frameworks.jax_arrays import ROUNDING, as_numpy, on_jax, same
from rustloss import _core, errors
from rustloss.testing import arguments, example
from rustloss.testing._registry import differentiable, spec_of

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp = jax.numpy

import rustloss.jax  # noqa: E402  # it needs JAX
from rustloss.jax import call, function  # noqa: E402

TRAINING = 1e-5
"""Between parameters after some steps in single precision on gradients that round differently."""

over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


# Calls


@over_losses
@over_dtypes
def test_results_are_numpys(name, dtype):
    for reduction in ("none", "sample", "mean"):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = example(loss, dtype=dtype, optional={"sample_weight"})
        expected = everything(loss, inputs)
        for found in (
            everything(loss, on_jax(inputs)),
            jax.jit(everything, static_argnums=0)(loss, on_jax(inputs)),
        ):
            assert all(isinstance(array, jax.Array) for array in found.values())
            same(found, expected)


@over_losses
def test_options_are_numpys(name):
    for loss in losses_of(name):
        inputs = example(loss)
        same(jax.jit(loss)(**on_jax(inputs)), loss(**inputs))


@over_losses
def test_gradients_take_grad_output(name):
    loss = spec_of(name).cls()
    inputs = example(loss)
    wrt = differentiable(loss, inputs)
    grad_output = np.arange(1.0, 1 + np.size(loss(**inputs))).reshape(np.shape(loss(**inputs)))
    for head in (2.0, grad_output):
        for method in (loss.grad, loss.value_and_grad):
            same(
                jax.jit(functools.partial(method, wrt=wrt))(**on_jax(inputs), grad_output=head),
                method(**inputs, wrt=wrt, grad_output=head),
            )


def test_denominator():
    loss, pred, label = rl.L2Loss(reduction="mean"), np.ones(4), np.zeros(4)
    assert loss(jnp.asarray(pred), label, denominator=8) == loss(pred, label, denominator=8)
    with pytest.raises(errors.ParameterError, match="denominator: expected a finite number"):
        jax.jit(loss)(pred, label, denominator=8.0)


def test_numpy_numbers_and_lists_beside_jax():
    loss = rl.L2Loss()
    same(loss(jnp.ones(3), [1.0, 2.0, 4.0], 0.5), loss(np.ones(3), [1.0, 2.0, 4.0], 0.5))
    same(loss(np.ones(3), jnp.zeros(3)), loss(np.ones(3), np.zeros(3)))
    same(loss(jnp.arange(3), np.zeros(3)), loss(np.arange(3), np.zeros(3)))


def test_the_protocol_of_adapters():
    pred, label = jnp.ones((2, 3)), jnp.array([0, 2])
    loss = rl.SoftmaxCELoss()
    same(call(loss, "__call__", (pred, label), {}), loss(pred, label))
    same(call(loss, "grad", (pred,), {"label": label}), loss.grad(pred, label))
    assert loss.grad(pred, label, wrt=()) == ()
    value, grads = loss.value_and_grad(pred, label, wrt=("pred",))
    assert value.shape == (2,)
    assert [grad.shape for grad in grads] == [(2, 3)]


@pytest.mark.parametrize("name", ["out", "grad_out"])
def test_memory_for_results_is_refused(name):
    with pytest.raises(errors.OutputError, match=f"{name}: JAX arrays cannot be written to"):
        rl.L2Loss().value_and_grad(jnp.ones(2), jnp.ones(2), **{name: np.zeros(2)})


def test_programs_differ_by_every_parameter():
    pred, label = jnp.array([3.0]), jnp.array([0.0])
    assert rl.HuberLoss(rho=1)(pred, label) == rl.HuberLoss(rho=1.0)(pred, label) == 2.5
    assert rl.HuberLoss(rho=2)(pred, label) == 2
    assert rl.HuberLoss(rho=1, weight=2)(pred, label) == 5
    weighted = rl.SoftmaxCELoss(class_weight=(1.0, 0.5))
    same(weighted(jnp.ones((1, 2)), jnp.array([1])), weighted(np.ones((1, 2)), np.array([1])))


@over_losses
def test_empty_batches(name):
    loss = spec_of(name).cls()
    shape = np.shape(example(loss)[spec_of(loss).inputs[0].name])
    inputs = example(loss, (0, *shape[1:]))
    try:
        expected = loss.value_and_grad(**inputs)
    except errors.ArgumentError as error:
        with pytest.raises(type(error)):
            loss.value_and_grad(**on_jax(inputs))
    else:
        same(loss.value_and_grad(**on_jax(inputs)), expected)


@over_losses
@settings(max_examples=5)
@given(data=st.data())
def test_drawn_calls_are_numpys(name, data):
    loss, inputs = data.draw(arguments(name))
    same(jax.jit(loss)(**on_jax(inputs)), loss(**inputs))


# Errors


def test_shapes_are_checked_when_a_call_is_traced():
    with pytest.raises(errors.ShapeError, match="label: expected"):
        jax.jit(rl.L2Loss())(jnp.ones((2, 3)), jnp.ones((3, 3)))
    with pytest.raises(errors.CallError, match="label: missing"):
        jax.jit(rl.L2Loss())(jnp.ones(2))
    with pytest.raises(errors.DTypeError):
        rl.L2Loss()(jnp.ones(2, complex), jnp.ones(2))
    with pytest.raises(errors.CallError, match="no second derivative"):
        rl.TripletLoss().grad_hess(*[jnp.ones((2, 2))] * 3)
    with pytest.raises(errors.ParameterError, match="wrt"):
        rl.SoftmaxCELoss().grad(jnp.ones((1, 2)), jnp.zeros(1, int), wrt="label")
    with pytest.raises(errors.ParameterError, match="on_error: expected 'raise' or 'nan'"):
        function(rl.L2Loss(), on_error="zero")


def test_keys_and_deleted_arrays_are_refused():
    loss, pred = rl.L2Loss(), jnp.ones(3)
    keys, deleted = jax.random.split(jax.random.key(0), 3), jnp.zeros(3)
    deleted.delete()
    for run in (loss, loss.grad, function(loss)):
        for args, name in (((keys, pred), "pred"), ((pred, keys), "label")):
            with pytest.raises(
                errors.DTypeError, match=f"{name}: expected real numbers, got .*key"
            ):
                run(*args)
        for args, name in (((deleted, pred), "pred"), ((pred, deleted), "label")):
            with pytest.raises(
                errors.DTypeError, match=f"{name}: .* got one that was deleted"
            ) as caught:
                run(*args)
            assert caught.value.argument == name


def test_other_frameworks_are_refused():
    torch = pytest.importorskip("torch")
    loss, array, tensor = rl.L2Loss(), jnp.ones(2), torch.ones(2)
    listed = [torch.tensor(1.0), torch.tensor(2.0)]
    for args, name in (
        ((array, tensor), "label"),
        ((tensor, array), "pred"),
        ((tensor, tensor), "pred"),
        ((array, listed), "label"),
        ((array, [[1.0, listed[0]]]), "label"),
        ((array, array, listed), "sample_weight"),
    ):
        with pytest.raises(errors.DTypeError, match=f"{name}: expected numbers of JAX or NumPy"):
            function(loss)(*args)
    with pytest.raises(errors.DTypeError, match=r"jax \(pred\) and torch \(label\)"):
        loss(array, listed)
    with pytest.raises(errors.DTypeError, match=r"jax \(pred\) and torch \(grad_output\)"):
        loss.grad(array, array, grad_output=listed)


def test_lists_of_traced_values_are_to_be_stacked():
    loss, label = rl.L2Loss(), np.array([1.0, 2.0])
    for pred in (lambda x: [x, x], lambda x: [1.0, x], lambda x: [[x, x]], lambda x: (x, x)):
        for others in ((label,), (jnp.asarray(label),)):
            with pytest.raises(errors.DTypeError, match=r"as by jnp\.stack\(pred\)"):
                jax.jit(lambda x, pred=pred, others=others: loss(pred(x), *others))(3.0)
    found = jax.jit(lambda x: loss(jnp.stack([x, x]), label))(3.0)
    assert_array_equal(found, loss([3.0, 3.0], label))


@pytest.fixture
def bits_32():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.usefixtures("bits_32")
def test_indices_and_lengths_beyond_32_bits_are_refused():
    loss, pred = rl.SoftmaxCELoss(), jnp.zeros((2, 3))
    for label, value in (
        (np.array([1, 2**32]), 2**32),
        ([1, 2**32], 2**32),
        ([1, -(2**32)], -(2**32)),
        (np.array([1, 2**32], np.uint64), 2**32),
        (np.array([1, 2 + 1e-12]), 2 + 1e-12),
        (np.array([1, 1e300]), 1e300),
    ):
        for run in (loss, jax.jit(lambda pred, label=label: loss(pred, label))):
            args = (pred, label) if run is loss else (pred,)
            with pytest.raises(errors.LabelError, match=r"label\[1\]: .*jax_enable_x64") as caught:
                run(*args)
            assert caught.value.index == (1,)
            assert caught.value.value == value
    ctc, lengths = rl.CTCLoss(), np.array([4, 2**32 + 4])
    with pytest.raises(
        errors.LengthError, match=r"pred_lengths\[1\]: expected a number that int32"
    ):
        ctc(jnp.zeros((2, 4, 3)), np.zeros((2, 1), int), lengths)
    # What 32 bits hold is left to the check of every label.
    assert_allclose(loss(pred, np.array([1.0, 2.0])), np.log(3), 1e-6)
    assert "label[1]: expected an integer" in failing(lambda: loss(pred, np.array([0, np.nan])))


@pytest.mark.usefixtures("bits_32")
def test_large_integers_that_are_numbers_are_rounded():
    loss = rl.L1Loss()
    assert_array_equal(loss(jnp.zeros(2), np.array([2**32, 1])), [2.0**32, 1])
    assert_array_equal(loss([2**40, -1], jnp.zeros(2)), [2.0**40, 1])
    weighted = loss(jnp.ones(2), jnp.zeros(2), np.array([2**33, 2], np.uint64))
    assert_array_equal(weighted, [2.0**33, 2])
    label = np.array([2**32 + 1, 1])  # its lower half is a sign
    text = failing(lambda: rl.HingeLoss()(jnp.ones(2), label))
    assert "LabelError: label[0]" in text


def failing(call: Any) -> str:
    """Return the message of a call that fails when its program runs."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        jax.block_until_ready(call())
    return str(caught.value)


def test_contents_are_checked_when_a_program_runs():
    loss, pred = rl.SoftmaxCELoss(), jnp.zeros((2, 3))
    for run in (loss, jax.jit(loss), jax.jit(jax.grad(lambda *x: loss(*x).sum()))):
        text = failing(lambda run=run: run(pred, jnp.array([0, 3])))
        assert "LabelError: label[1]: expected an integer with 0 <= label < 3, got 3" in text
        jax.block_until_ready(run(pred, jnp.array([0, 2])))
    text = failing(lambda: rl.L2Loss()(jnp.ones(2), jnp.ones(2), jnp.array([1.0, -1.0])))
    assert "WeightError: sample_weight[1]" in text


def test_errors_as_nan():
    loss = function(rl.SoftmaxCELoss(reduction="mean"), on_error="nan")
    pred, label = jnp.zeros((3, 2, 4)), jnp.array([[0, 1], [0, 4], [3, 3]])
    value, grad = jax.jit(jax.vmap(jax.value_and_grad(loss)))(pred, label)
    assert_array_equal(np.isnan(value), [False, True, False])
    assert_array_equal(np.isnan(grad).all((1, 2)), [False, True, False])
    assert_array_equal(np.isnan(grad).any((1, 2)), [False, True, False])
    half = function(rl.L2Loss(), on_error="nan")(jnp.ones(2, "bfloat16"), jnp.ones(2), -1.0)
    assert np.isnan(np.asarray(half, np.float32)).all()


def test_panics():
    loss, pred = rl.L2Loss(reduction="sum"), jnp.ones(1 << 16)
    _core.fail_next("caller")
    assert "InternalError: rustloss" in failing(lambda: loss(pred, pred))
    assert loss(pred, pred) == 0


def test_threads():
    loss = rl.SoftmaxCELoss()
    derive = jax.jit(jax.value_and_grad(lambda pred, label: loss(pred, label).sum()))

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        for _ in range(30):
            pred, label = random.normal(size=(64, 50)), random.integers(0, 50, 64)
            found = as_numpy(derive(jnp.asarray(pred), jnp.asarray(label)))
            assert_allclose(found[0], loss(pred, label).sum(), ROUNDING)
            assert_allclose(found[1], loss.grad(pred, label), ROUNDING, ROUNDING)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


# Examples


def test_examples_of_docstrings_run():
    found = doctest.testmod(rustloss.jax)
    assert found.attempted
    assert not found.failed


# Training


def test_training_with_optax():
    """A classifier ends where it ends with Optax's own loss."""
    random = np.random.default_rng(0)
    x, label = random.normal(size=(128, 5)).astype("f"), random.integers(0, 3, 128)
    optimizer = optax.adam(0.05)
    ours = rl.SoftmaxCELoss(reduction="mean")

    def theirs(logits: Any, label: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def trained(loss: Any) -> Any:
        def objective(params: Any) -> Any:
            return loss(jnp.asarray(x) @ params["w"] + params["b"], jnp.asarray(label))

        @jax.jit
        def step(params: Any, state: Any) -> Any:
            value, grads = jax.value_and_grad(objective)(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, value

        params = {"w": jnp.zeros((5, 3), "float32"), "b": jnp.zeros(3, "float32")}
        state = optimizer.init(params)
        for _ in range(50):
            params, state, value = step(params, state)
        return params | {"value": value}

    found, expected = trained(ours), trained(theirs)
    assert expected["value"] < np.log(3) - 0.01
    for key, array in expected.items():
        assert_allclose(found[key], array, TRAINING, TRAINING)


def test_training_with_flax():
    """A module ends where it ends with Optax's own loss."""
    nnx = pytest.importorskip("flax.nnx")
    random = np.random.default_rng(0)
    x, label = random.normal(size=(128, 5)).astype("f"), random.integers(0, 2, (128, 1)) * 1.0

    def theirs(logits: Any, label: Any) -> Any:
        return optax.sigmoid_binary_cross_entropy(logits, label).mean()

    def trained(loss: Any) -> Any:
        model = nnx.Linear(5, 1, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, optax.sgd(0.5), wrt=nnx.Param)

        @nnx.jit
        def step(model: Any, optimizer: Any) -> Any:
            value, grads = nnx.value_and_grad(lambda model: loss(model(x), label))(model)
            optimizer.update(model, grads)
            return value

        for _ in range(20):
            value = step(model, optimizer)
        return np.append(np.ravel(model.kernel[...]), value)

    found, expected = trained(rl.SigmoidBCELoss(reduction="mean")), trained(theirs)
    assert_allclose(found, expected, TRAINING, TRAINING)
