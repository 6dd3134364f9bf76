"""Losses under HIPS autograd, in SciPy's minimisers, and on arrays of the array API standard."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss.testing import example
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import differentiable, spec_of, specs

autograd = pytest.importorskip("autograd")
optimize = pytest.importorskip("scipy.optimize")
strict = pytest.importorskip("array_api_strict")
check_grads = importlib.import_module("autograd.test_util").check_grads
anp = autograd.numpy

TRAINED = 1e-9
"""Relative: float64 rounding, through some steps of training."""
MINIMUM = 1e-6
"""How near a minimiser that stops at a small slope comes, relative."""
MINIMUM_BY_DIFFERENCES = 1e-4
"""And one that makes the slope by differences of values, absolute."""

over_losses = pytest.mark.parametrize("name", list(specs()))
over_elementwise = pytest.mark.parametrize(
    "name", [name for name, spec in specs().items() if spec.family == "elementwise"]
)
over_reductions = pytest.mark.parametrize("reduction", ["none", "sample", "mean"])


def smooth(loss: rl.Loss) -> dict[str, Any]:
    """Return valid input far from kinks and the edges of domains."""
    if spec_of(loss).family == "sequence":
        return example(loss)
    return inputs_of(
        loss, (2, 3), Values(np.random.default_rng(0), smooth=True), optional=["sample_weight"]
    )


# HIPS autograd.


@over_losses
@over_reductions
def test_gradient(name, reduction):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = smooth(loss)
    wrt = differentiable(loss, arrays)
    arriving = np.random.default_rng(0).normal(size=loss(**arrays).shape)

    def objective(*inputs: Any) -> Any:
        value = loss(**{**arrays, **dict(zip(wrt, inputs, strict=True))})
        return anp.sum(arriving * value)

    wanted = tuple(range(len(wrt)))
    found = autograd.grad(objective, wanted)(*(arrays[key] for key in wrt))
    expected = loss.grad(**arrays, wrt=wrt, grad_output=arriving)
    for slope, numbers in zip(found, expected, strict=True):
        assert_array_equal(slope, numbers)


@over_elementwise
@over_reductions
def test_two_derivatives_by_its_own_differences(name, reduction):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = smooth(loss)
    pred = arrays.pop(spec_of(loss).inputs[0].name)
    # Curved, so that what arrives at the value depends on the prediction too.
    check_grads(lambda x: anp.sin(loss(x, **arrays)), modes=["rev"], order=2)(pred)


@over_reductions
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_two_derivatives_of_rows_that_are_straight(reduction, shape):
    loss = rl.SoftmaxCELoss(from_logits=True, reduction=reduction)
    label = 1 if len(shape) == 1 else [1, 0]
    pred = Values(np.random.default_rng(0), smooth=True).of("LogDistribution", shape)
    check_grads(lambda x: anp.sin(loss(x, label)), modes=["rev"], order=2)(pred)


def test_second_derivative_that_is_no_diagonal_is_refused():
    loss = rl.SoftmaxCELoss(reduction="mean")
    objective = autograd.grad(lambda x: loss(x, [0, 1]))
    with pytest.raises(NotImplementedError, match="is a diagonal"):
        autograd.jacobian(objective)(np.ones((2, 3)))


def test_third_derivative_is_refused():
    objective = autograd.grad(lambda x: anp.sum(rl.L2Loss()(x, [0.0])))
    with pytest.raises(rl.errors.CallError, match="call the loss"):
        autograd.grad(lambda x: anp.sum(autograd.jacobian(objective)(x)))(np.ones(1))


def test_mixed_second_derivative_is_refused():
    loss = rl.L2Loss(reduction="mean")
    objective = autograd.grad(loss)
    with pytest.raises(NotImplementedError, match="by pred and label"):
        autograd.jacobian(objective, 1)(np.ones(2), np.zeros(2))


def test_weights_have_no_gradient():
    with pytest.raises(rl.errors.ParameterError, match="sample_weight: there is no gradient"):
        autograd.grad(lambda w: rl.L2Loss(reduction="mean")([1.0], [0.0], w))(np.ones(1))


def test_lists_of_traced_numbers_are_refused():
    def value(x: Any) -> Any:
        return rl.L2Loss(reduction="sum")([x[0], x[1]], [0.0, 0.0])

    with pytest.raises(rl.errors.DTypeError, match=r"pass autograd\.numpy\.array\(pred\)$"):
        autograd.grad(value)(np.ones(2))
    joined = autograd.grad(lambda x: rl.L2Loss(reduction="sum")(anp.array([x[0], x[1]]), [0, 0]))
    assert_array_equal(joined(np.array([1.0, 2.0])), [1.0, 2.0])


def test_forward_mode_is_absent():
    with pytest.raises(NotImplementedError):
        autograd.make_jvp(lambda x: rl.L2Loss(reduction="sum")(x, [0.0, 0.0]))(np.ones(2))(
            np.ones(2)
        )


def test_other_methods_are_not_traced():
    with pytest.raises(rl.errors.CallError, match="call the loss"):
        autograd.grad(lambda x: rl.L2Loss(reduction="mean").value_and_grad(x, [0.0])[0])(np.ones(1))


def test_a_network_trains():
    random = np.random.default_rng(1)
    X, y = random.normal(size=(32, 4)), random.integers(0, 3, 32)
    loss = rl.SoftmaxCELoss(reduction="mean")

    def own(weights: Any) -> Any:
        logits = anp.dot(anp.tanh(anp.dot(X, weights[0])), weights[1])
        highest = anp.max(logits, axis=1, keepdims=True)
        total = anp.log(anp.sum(anp.exp(logits - highest), axis=1)) + highest[:, 0]
        return anp.mean(total - logits[anp.arange(32), y])

    def ours(weights: Any) -> Any:
        return loss(anp.dot(anp.tanh(anp.dot(X, weights[0])), weights[1]), y)

    start = [random.normal(size=(4, 8)), random.normal(size=(8, 3))]
    histories = []
    for objective in (own, ours):
        weights, history = list(start), []
        for _ in range(10):
            value, slopes = autograd.value_and_grad(objective)(weights)
            weights = [w - 0.5 * s for w, s in zip(weights, slopes, strict=True)]
            history.append(value)
        histories.append(history)
    assert_allclose(histories[1], histories[0], rtol=TRAINED)
    assert histories[0][-1] < histories[0][0]


def test_docstring_examples():
    assert doctest.testmod(importlib.import_module("rustloss.autograd")).failed == 0


# scipy.optimize.


def test_least_squares_in_scipy():
    random = np.random.default_rng(2)
    X, y = random.normal(size=(50, 3)), random.normal(size=50)
    loss = rl.L2Loss(reduction="mean")

    def objective(w: Any) -> tuple[Any, Any]:
        value, slope = loss.value_and_grad(X @ w, y)
        return value, X.T @ slope

    found = optimize.minimize(objective, np.zeros(3), jac=True, tol=1e-10)
    assert_allclose(found.x, np.linalg.lstsq(X, y, rcond=None)[0], rtol=MINIMUM)


def test_newton_s_method_in_scipy():
    random = np.random.default_rng(3)
    X, y = random.normal(size=(60, 3)), random.integers(0, 2, 60)
    loss = rl.SigmoidBCELoss(reduction="mean")

    def hessian(w: Any) -> Any:
        return (X.T * loss.grad_hess(X @ w, y)[1]) @ X

    def objective(w: Any) -> tuple[Any, Any]:
        value, slope = loss.value_and_grad(X @ w, y)
        return value, X.T @ slope

    found = optimize.minimize(
        objective, np.zeros(3), jac=True, hess=hessian, method="trust-exact", tol=1e-10
    )

    def formula(w: Any) -> Any:
        return np.mean(np.logaddexp(0, X @ w) - y * (X @ w))

    assert_allclose(
        found.x, optimize.minimize(formula, np.zeros(3), tol=1e-9).x, atol=MINIMUM_BY_DIFFERENCES
    )


# The array API standard.


@over_losses
def test_arrays_of_the_standard(name):
    loss = getattr(rl, name)()
    arrays = example(loss)
    given = {key: strict.asarray(array) for key, array in arrays.items()}
    assert_same(loss(**given), loss(**arrays))
    methods = ["value_and_grad", "grad", *(["grad_hess"] if spec_of(loss).hess else [])]
    for method in methods:
        assert_same(getattr(loss, method)(**given), getattr(loss, method)(**arrays))


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        for parts in zip(found, expected, strict=True):
            assert_same(*parts)
        return
    assert type(found) is type(strict.asarray(0.0))
    assert_array_equal(np.asarray(found), expected)


def test_one_number_and_numpy_beside():
    found = rl.L2Loss(reduction="mean")(strict.asarray([1.0, 3.0]), np.ones(2))
    assert found.shape == ()
    assert float(found) == 1.0


def test_arrays_of_two_libraries_are_refused():
    class Other:
        shape, dtype = (2,), np.dtype(float)

        def __array_namespace__(self) -> Any:
            return np

    with pytest.raises(rl.errors.DTypeError, match="array_api_strict and numpy"):
        rl.L2Loss()(strict.asarray([1.0, 3.0]), Other())
