"""`rustloss.jax`: losses on JAX arrays and under its transformations.

Values and gradients are compared with the calls on NumPy arrays, derivatives with finite
differences and with JAX's own functions.
"""

from __future__ import annotations

import doctest
import functools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import (
    DTYPES,
    PER_SAMPLE,
    assert_same_bits,
    everything,
    losses_of,
    over_losses,
    remade,
)
from rustloss import _core, errors
from rustloss.testing import arguments, example
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import differentiable, spec_of, specs
from rustloss.testing._registry import inputs as registered_inputs

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
check_grads = pytest.importorskip("jax.test_util").check_grads
jnp = jax.numpy

import rustloss.jax  # noqa: E402  # it needs JAX
from rustloss.jax import call, function  # noqa: E402

ROUNDING = 1e-12
"""Of sums and products in double precision, in another order."""
DIFFERENCE = 1e-5
"""Of central differences in double precision with JAX's step, at points away from kinks."""
TRAINING = 1e-5
"""Between parameters after some steps in single precision on gradients that round differently."""

ELEMENTWISE = [name for name, spec in specs().items() if spec.family == "elementwise"]
OTHERS = [name for name in specs() if name not in ELEMENTWISE]
over_elementwise = pytest.mark.parametrize("name", ELEMENTWISE)
over_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)


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


# Derivatives


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


def mean_of(loss: rl.Loss, label: Any) -> Any:
    return lambda pred: loss(pred, label).mean()


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


needs_devices = pytest.mark.skipif(len(jax.devices()) < 2, reason="needs two devices")


@needs_devices
def test_pmap():
    loss, pred = rl.L2Loss(), np.arange(12.0).reshape(2, 3, 2)
    derive = jax.pmap(jax.value_and_grad(lambda pred: loss(pred, jnp.zeros((3, 2))).sum()))
    value, grad = derive(jnp.asarray(pred))
    assert_allclose(value, [loss(part, np.zeros((3, 2))).sum() for part in pred], ROUNDING)
    assert_allclose(grad, pred / 2, ROUNDING)


@needs_devices
@pytest.mark.parametrize("on_error", ["raise", "nan"])
def test_shard_map(on_error):
    # Where it was before it had a place of its own.
    experimental = pytest.importorskip("jax.experimental.shard_map")
    shard_map = getattr(jax, "shard_map", None) or functools.partial(
        experimental.shard_map, check_rep=False
    )
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("batch",))
    spec = jax.sharding.PartitionSpec("batch")
    loss = function(rl.SoftmaxCELoss(), on_error=on_error)

    def part(pred: Any, label: Any) -> Any:
        return jax.lax.pmean(loss(pred, label).mean(), "batch")

    whole = shard_map(
        part, mesh=mesh, in_specs=(spec, spec), out_specs=jax.sharding.PartitionSpec()
    )
    pred = np.random.default_rng(0).normal(size=(4, 3))
    label = np.array([0, 1, 2, 0])
    value, grad = jax.jit(jax.value_and_grad(whole))(jnp.asarray(pred), jnp.asarray(label))
    expected = rl.SoftmaxCELoss(reduction="mean").value_and_grad(pred, label)
    assert_allclose(value, expected[0], ROUNDING)
    assert_allclose(grad, expected[1], ROUNDING)
    if on_error == "nan":
        # Were this an error of one device, the other would wait for it.
        assert np.isnan(whole(jnp.asarray(pred), jnp.array([0, 1, 2, 7])))


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


@over_losses
@settings(max_examples=5)
@given(data=st.data())
def test_drawn_calls_are_numpys(name, data):
    loss, inputs = data.draw(arguments(name))
    same(jax.jit(loss)(**on_jax(inputs)), loss(**inputs))
