"""KLDivLoss: log-targets, temperature, rows of one dimension, and the labels that it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from rows import DTYPE, EPS, INF, KL, NAN, results
from rustloss.errors import LabelError, ParameterError


@pytest.mark.loss("KLDivLoss")
@DTYPE
def test_log_targets_are_labels(dtype):
    rng = np.random.default_rng(7)
    x, z = rng.standard_normal((2, 6, 8)).astype(dtype)
    y = np.exp(z - z.max(1, keepdims=True)).astype(np.float64)
    y /= y.sum(1, keepdims=True)
    y[0, 0] = 0.0
    with np.errstate(divide="ignore"):
        t = np.log(y)
    variants: list[dict[str, Any]] = [{}, {"from_logits": False}]
    for options in [*variants, {"from_logits": False, "temperature": 2.0}]:
        plain = KL(**options, reduction="none").value_and_grad(x, y, wrt=("pred", "label"))
        logs = KL(**options, reduction="none", log_target=True)
        value, (grad, by_log) = logs.value_and_grad(x, t, wrt=("pred", "label"))
        bound = 16 * EPS[dtype] * np.abs(x).max()
        np.testing.assert_allclose(value, plain[0], rtol=0, atol=4 * bound)
        np.testing.assert_allclose(grad, plain[1][0], rtol=0, atol=bound)
        # By t = log y it is y times the derivative by y.
        with np.errstate(invalid="ignore"):
            expected = np.where(y > 0, y * plain[1][1], 0.0)
        np.testing.assert_allclose(by_log, expected, rtol=0, atol=4 * bound)


@pytest.mark.loss("KLDivLoss")
@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0, 100.0])
def test_temperature_divides_logits_and_keeps_the_size_of_gradients(temperature):
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((4, 5)), rng.random((4, 5))
    y /= y.sum(1, keepdims=True)
    options: dict[str, Any] = {"from_logits": False, "reduction": "sample_sum"}
    found = KL(**options, temperature=temperature).value_and_grad(x, y)
    plain = KL(**options).value_and_grad(x / temperature, y)
    np.testing.assert_allclose(found[0], temperature**2 * plain[0], rtol=1e-12)
    np.testing.assert_allclose(found[1], temperature * plain[1], rtol=1e-12, atol=1e-15)
    hess = KL(**options, temperature=temperature).grad_hess(x, y)[1]
    np.testing.assert_allclose(hess, KL(**options).grad_hess(x / temperature, y)[1], rtol=1e-12)


@pytest.mark.loss("KLDivLoss")
@DTYPE
@pytest.mark.parametrize("temperature", [1e-3, 1e-10, 1e-30, 1e-40, 1e-300])
def test_no_small_temperature_overflows(temperature, dtype):
    """The largest logits have all the mass: E is T y (max - x) + T^2 (y log y + y log ties)."""
    x = np.array([[3.0, 1.0, -2.0], [1.0, 1.0, 0.0]], dtype)
    y = np.array([[0.25, 0.5, 0.25], [0.5, 0.5, 0.0]])
    loss = KL(from_logits=False, temperature=temperature, reduction="none")
    with np.errstate(divide="ignore", invalid="ignore"):
        log_y = np.where(y > 0, y * np.log(y), 0.0)
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    log_sum = np.log([[1.0], [2.0]])
    t = temperature
    expected = t * (y * (x.max(1, keepdims=True) - x)) + t * t * (log_y + y * log_sum)
    value, grad, _, hess = results(loss, x, y)
    # A class of the ties is right for itself: y log y and y log 2 cancel.
    floor = float(np.finfo(dtype).smallest_subnormal)
    scale = np.abs(expected).max() if dtype == np.float64 else 0.0
    np.testing.assert_allclose(value, expected.astype(dtype), rtol=1e-6, atol=floor + 1e-12 * scale)
    np.testing.assert_allclose(
        grad, (t * (p * y.sum(1, keepdims=True) - y)).astype(dtype), rtol=1e-6, atol=floor
    )
    np.testing.assert_allclose(hess, p * (1 - p) * y.sum(1, keepdims=True), rtol=1e-6, atol=floor)


@pytest.mark.loss("KLDivLoss")
def test_parameters_without_a_meaning():
    with pytest.raises(ParameterError, match="temperature: it needs from_logits=False"):
        KL(temperature=2.0)
    with pytest.raises(ParameterError, match="epsilon: it needs log_target=False"):
        KL(log_target=True, epsilon=1e-12)
    with pytest.raises(ParameterError, match="temperature: expected a finite number > 0"):
        KL(from_logits=False, temperature=0.0)


@pytest.mark.loss("KLDivLoss")
def test_log_probabilities_of_one_dimension_are_samples():
    x, y = np.log([0.25, 0.5, 0.25]), np.array([0.5, 0.5, 0.0])
    value, grad = KL().value_and_grad(x, y)
    np.testing.assert_allclose(value, [0.5 * math.log(2), 0.0, 0.0], atol=1e-16)
    np.testing.assert_array_equal(grad, -y)
    weighted = KL(reduction="sum")(x, y, [2.0, 1.0, 1.0])
    np.testing.assert_allclose(weighted, math.log(2))


@pytest.mark.loss("KLDivLoss")
@pytest.mark.parametrize("weight", [None, 2.0, [1.0, 0.0, 2.0]])
def test_logits_of_one_dimension_are_one_row(weight):
    x, y = np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.25, 0.25])
    of_row = None if weight is None else np.atleast_2d(weight)
    for reduction in ("none", "sample", "sample_sum", "sum", "mean", "sample_weighted_mean"):
        loss = KL(from_logits=False, reduction=reduction)
        value, grad = loss.value_and_grad(x, y, weight)
        rows, slopes = loss.value_and_grad(x[None], y[None], of_row)
        assert value.shape == {"none": (3,), "sum": (), "mean": ()}.get(reduction, (1,))
        np.testing.assert_array_equal(value, rows[0] if reduction == "none" else rows)
        np.testing.assert_array_equal(grad, slopes[0])
    loss = KL(from_logits=False, reduction="none")
    _, grad = loss.value_and_grad(x, y, grad_output=[1.0, 0.0, 0.0])
    _, slopes = loss.value_and_grad(x[None], y[None], grad_output=[[1.0, 0.0, 0.0]])
    np.testing.assert_array_equal(grad, slopes[0])


@pytest.mark.loss("KLDivLoss")
@DTYPE
def test_an_impossible_class_has_the_limit_for_a_slope(dtype):
    x = np.array([[-INF, 0.0, -INF, 0.0]], dtype)
    y = np.array([[0.0, 0.0, 0.5, 0.5]])
    for loss in (KL(reduction="none"), KL(reduction="none", from_logits=False)):
        value, (_, slope) = loss.value_and_grad(x, y, wrt=("pred", "label"))
        np.testing.assert_array_equal(value[0, :3], [0.0, 0.0, INF])
        np.testing.assert_array_equal(slope[0, :3], [INF, -INF, INF])


@pytest.mark.loss("KLDivLoss")
@DTYPE
def test_labels_of_a_divergence_are_not_negative(dtype):
    rng = np.random.default_rng(9)
    x = rng.standard_normal((3, 2, 4)).astype(dtype)
    for wrong in (-1.0, -1e-300, NAN):
        y = rng.random((3, 2, 4))
        y[1, 0, 2] = wrong
        variants: list[dict[str, Any]] = [{}, {"from_logits": False}]
        for options in [*variants, {"from_logits": False, "reduction": "none"}]:
            for axis, batch in [(-1, 0), (0, 1), (1, 2)]:
                loss = KL(**options, axis=axis, batch_axis=batch)
                with pytest.raises(LabelError) as caught:
                    loss(x, y)
                assert caught.value.index == (1, 0, 2)
                weight = np.ones((3, 2, 4))
                weight[1] = 0.0
                assert np.isfinite(loss(x, y, weight)).all()
                with pytest.raises(LabelError, match="label"):
                    loss.value_and_grad(x.astype(np.float32), y, grad_output=0.0)
            assert KL(**options, out_of_range="allow")(x, y).shape is not None
    shared = np.array([0.5, 0.5, -0.5, 0.5])
    for loss in (KL(), KL(from_logits=False)):
        with pytest.raises(LabelError, match=r"label\[2\]: expected a number >= 0.*got -0\.5"):
            loss(x[:, 0], shared)
        assert (loss(x[:, 0], shared, np.zeros(3)) == 0).all()
    logs = KL(log_target=True)
    with pytest.raises(LabelError, match=r"label\[0\]\[1\]|label\[0, 1\]"):
        logs([[0.0, 0.0]], [[5.0, NAN]])


@pytest.mark.loss("KLDivLoss")
def test_weights_of_elements_act_in_double_precision():
    loss = KL(from_logits=False, reduction="none")
    x, y = np.zeros((2, 2), np.float32), np.array([[0.5, 0.5], [0.25, 0.75]])
    weight = np.array([[1e39, 1e39], [1e-50, 0.0]])
    factor = np.where(weight > 0, 1e-39, 1.0)
    factor[1] = 1e50
    value, grad = loss.value_and_grad(x, y, weight, grad_output=factor)
    # E is y log(2 y), and the gradient of the second row sum(w y) / 2 - w y.
    np.testing.assert_allclose(value, [[0.0, 0.0], [0.0, 0.0]], atol=1e-49)
    np.testing.assert_allclose(grad, [[0.0, 0.0], [-0.125, 0.125]], rtol=4 * EPS[np.float32])


@pytest.mark.loss("KLDivLoss")
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_shared_label_without_weight_is_not_looked_at(from_logits):
    pred, label, weight = np.log(np.full((3, 2), 0.5)), np.array([0.25, -0.75]), np.ones((3, 2))
    loss = rl.KLDivLoss(from_logits=from_logits)
    weight[:, 1] = 0
    expected = loss(pred, np.broadcast_to(label, (3, 2)), weight)
    np.testing.assert_array_equal(loss(pred, label, weight), expected)
    weight[2, 1] = 1
    with pytest.raises(rl.errors.LabelError, match=r"label\[1\]: .*-0.75") as caught:
        loss(pred, label, weight)
    assert caught.value.index == (1,)
