"""Weights act in float64, an exact 0 removes, totals are as exact as those of `math.fsum`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rustloss as rl

SUM_ULP = 2
"""Of a sum, relative to the sum of the absolute terms."""


def assert_sum(found: Any, terms: Any, ulp: float = SUM_ULP) -> None:
    terms = np.asarray(terms, np.float64).ravel()
    exact, size = math.fsum(terms), math.fsum(np.abs(terms))
    spacing = float(np.spacing(np.asarray(size, np.asarray(found).dtype)))
    assert abs(float(found) - exact) <= ulp * spacing, (found, exact)


# Sums


@pytest.mark.loss("L1Loss")
@pytest.mark.parametrize("n", [7, 1000, 100_000, 1_000_003])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_totals(n, dtype):
    rng = np.random.default_rng(n)
    pred = rng.normal(size=n).astype(dtype)
    zero = np.zeros(n, dtype)
    weight = rng.random(n)
    value = rl.L1Loss(reduction="none")(pred, zero).astype(np.float64)
    assert_sum(rl.L1Loss(reduction="sum")(pred, zero), value)
    assert_sum(rl.L1Loss(reduction="sum")(pred, zero, 0.1), value * 0.1)
    assert_sum(rl.L1Loss(reduction="sum")(pred, zero, weight), value * weight)
    mean = rl.L1Loss(reduction="weighted_mean")(pred, zero, weight)
    assert_sum(mean, value * weight / math.fsum(weight))


@pytest.mark.loss("L1Loss")
@pytest.mark.parametrize("shape", [(100_000, 3), (300, 1000), (3, 100_000)])
def test_weighted_totals_of_rows(shape):
    rng = np.random.default_rng(0)
    pred = rng.normal(size=shape)
    value = np.abs(pred)
    for weight in (rng.random(shape[0]), rng.random(shape), rng.random((1, shape[1]))):
        wide = weight[:, None] if weight.ndim == 1 else weight
        assert_sum(rl.L1Loss(reduction="sum")(pred, 0 * pred, weight), value * wide)
        rows = rl.L1Loss(reduction="sample_sum")(pred, 0 * pred, weight)
        for row, terms in list(zip(rows, value * wide, strict=True))[:10]:
            assert_sum(row, terms)


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axes", [(), (1,), (0,), (1, 2), (0, 2), (0, 1)])
def test_gradients_of_broadcast_inputs(dtype, axes):
    shape = (40, 50, 60)
    rng = np.random.default_rng(1)
    pred = rng.normal(size=shape).astype(dtype)
    label = (rng.random(shape) < 0.5).astype(dtype)
    kept = tuple(n if axis in axes else 1 for axis, n in enumerate(shape))
    loss = rl.SigmoidBCELoss(reduction="sum", batch_axis=1)
    weight = np.ones(kept, dtype)
    _, grad = loss.value_and_grad(pred, label, None, weight, wrt="pos_weight")
    _, full = loss.value_and_grad(pred, label, None, np.ones(shape, dtype), wrt="pos_weight")
    summed = tuple(axis for axis in range(3) if axis not in axes)
    for at in np.ndindex(*kept):
        terms = full[tuple(slice(None) if a in summed else i for a, i in enumerate(at))]
        assert_sum(grad[at], terms)


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
def test_gradient_of_one_number_over_a_million():
    pred = np.full(1_000_003, 0.1)
    loss = rl.SigmoidBCELoss(reduction="sum")
    _, grad = loss.value_and_grad(pred, np.ones_like(pred), None, 1.0, wrt="pos_weight")
    _, one = loss.value_and_grad(pred[:1], np.ones(1), None, 1.0, wrt="pos_weight")
    assert_sum(grad, np.full(len(pred), float(one)))


# Size


@pytest.mark.loss("L2Loss")
@pytest.mark.parametrize("size", [1e39, 1e-50, 1e300, 1e-300])
@pytest.mark.parametrize("shape", [(), (3,), (3, 200)])
def test_weights_that_float32_cannot_hold(size, shape):
    pred = np.full((3, 200), 2.0, np.float32)
    label = np.zeros_like(pred)
    weight = np.full(shape, size)
    _, grad = rl.L2Loss().value_and_grad(pred, label, weight, grad_output=1 / size)
    np.testing.assert_allclose(grad, 2.0 / 200, rtol=2e-7)
    mean = rl.L2Loss(reduction="weighted_mean")(pred, label, weight)
    np.testing.assert_allclose(mean, 2.0, rtol=2e-7)
    value = rl.L2Loss(reduction="none", weight=min(1 / size, 1e300))(pred, label, weight)
    np.testing.assert_allclose(value, np.float32(2.0 * (size * min(1 / size, 1e300))), rtol=2e-7)


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
@pytest.mark.parametrize("size", [1e39, 1e-50])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("from_sigmoid", [False, True])
def test_pos_weight_that_float32_cannot_hold(size, dtype, from_sigmoid):
    pred, label = np.array([0.1, 0.6], dtype), np.array([1.0, 0.5], dtype)
    call = [np.full(2, size)]
    loss = rl.SigmoidBCELoss(from_sigmoid=from_sigmoid, weight=1 / size)
    exact = loss.value_and_grad(pred.astype(float), label, None, *call, wrt=("pred", "pos_weight"))
    found = loss.value_and_grad(pred, label, None, *call, wrt=("pred", "pos_weight"))
    for ours, theirs in zip((found[0], *found[1]), (exact[0], *exact[1]), strict=True):
        with np.errstate(over="ignore"):
            theirs = theirs.astype(ours.dtype)
        # The smallest numbers of a type have few digits.
        few = 1e-7 if ours.dtype == np.float16 else 1e-44
        np.testing.assert_allclose(ours, theirs, rtol=2e-3 if few > 1e-10 else 1e-6, atol=few)


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@pytest.mark.parametrize("options", [{"sparse_label": False}, {"label_smoothing": 0.25}])
def test_class_weights_that_float32_cannot_hold(options):
    pred = np.array([[1, 2, 3], [0, 0, 5]], np.float32)
    label = [[0.25, 0.5, 0.25], [0, 1, 0]] if "sparse_label" in options else [0, 1]
    loss = rl.SoftmaxCELoss(class_weight=[1e39, 1, 1e-50], weight=1e-39, **options)
    value, grad = loss.value_and_grad(pred, label)
    exact_value, exact_grad = loss.value_and_grad(pred.astype(float), label)
    np.testing.assert_allclose(value, exact_value, rtol=2e-7)
    np.testing.assert_allclose(grad, exact_grad, rtol=2e-7, atol=1e-44)  # few digits there


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.loss("KLDivLoss")
@pytest.mark.parametrize("classes", [1, 63, 64, 65, 200])
def test_weights_of_many_classes_reach_label_gradients(dtype, classes):
    rng = np.random.default_rng(classes)
    pred, label, weight = rng.uniform(0.1, 1, (3, 2, classes)).astype(dtype)
    loss = rl.KLDivLoss(from_logits=False, reduction="none")
    plain = loss.value_and_grad(pred, label, wrt="label")[1]
    weighted = loss.value_and_grad(pred, label, weight, wrt="label")[1]
    np.testing.assert_allclose(weighted, plain * weight, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.loss("KLDivLoss")
@pytest.mark.parametrize("weight", [[1e30, 1e-10, 1], [1, 1e-39, 1], [1e-20, 1e300, 1]])
def test_weights_far_apart_within_a_row_of_logits(dtype, weight):
    pred, label = np.array([[1, 2, 3]], dtype), np.array([[0.2, 0.3, 0.5]], dtype)
    loss = rl.KLDivLoss(from_logits=False, reduction="none")
    plain, (_, slope) = loss.value_and_grad(pred, label, wrt=("pred", "label"))
    value, (grad, label_grad) = loss.value_and_grad(pred, label, [weight], wrt=("pred", "label"))
    p = np.exp(pred[0].astype(float) - 3)
    s = weight * label[0].astype(float)

    def assert_close(found: Any, exact: Any) -> None:
        # The smallest numbers of the type have few digits.
        np.testing.assert_allclose(found, exact.astype(dtype), rtol=1e-6, atol=1e-44)

    with np.errstate(over="ignore"):
        assert_close(value[0], plain[0] * np.array(weight))
        assert_close(label_grad[0], slope[0] * np.array(weight))
        assert_close(grad[0], p / p.sum() * s.sum() - s)


OUTER = [[1e39, 1e39], [-1e39, -1e39], [1, 2]]


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
def test_outer_gradients_that_cancel_in_pos_weight():
    pred, label = np.zeros((3, 2), np.float32), np.ones((3, 2), np.float32)
    loss = rl.SigmoidBCELoss(reduction="none")
    _, grad = loss.value_and_grad(
        pred, label, None, np.ones(2), wrt="pos_weight", grad_output=OUTER
    )
    np.testing.assert_allclose(grad, np.log(2) * np.array([1, 2]), rtol=1e-6)


@pytest.mark.loss("KLDivLoss")
def test_outer_gradients_that_cancel_in_a_shared_label():
    pred, label = np.full((3, 2), -0.5, np.float32), np.full(2, 0.5, np.float32)
    loss = rl.KLDivLoss(reduction="none")
    _, grad = loss.value_and_grad(pred, label, wrt="label", grad_output=OUTER)
    np.testing.assert_allclose(grad, (np.log(0.5) + 0.5 + 1) * np.array([1, 2]), rtol=1e-6)


@pytest.mark.loss("L2Loss")
def test_only_an_exact_0_removes():
    nan = np.array([[np.nan, 1.0]], np.float32)
    label = np.zeros_like(nan)
    value, grad = rl.L2Loss().value_and_grad(nan, label, [[1e-50, 1.0]])
    assert np.isnan(value).all()
    assert np.isnan(grad[0, 0])
    value, grad = rl.L2Loss().value_and_grad(nan, label, [[0.0, 1.0]])
    assert (value, grad.tolist()) == (0.25, [[0.0, 0.5]])


@pytest.mark.loss("L2Loss")
@pytest.mark.parametrize("outer", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("weight", [0.0, [0.0, 1.0], [[0.0], [1.0]], [[0.0, 0.0], [1.0, 1.0]]])
def test_a_weight_of_0_beats_any_outer_gradient(outer, weight):
    pred = np.array([[1.0, np.nan], [3.0, 4.0]])
    loss = rl.L2Loss(reduction="none")
    outer = np.array([[outer, outer], [1.0, 1.0]])
    _, grad = loss.value_and_grad(pred, 0 * pred + 1, weight, grad_output=outer)
    assert (grad[0] == 0).all()
    _, hess = loss.grad_hess(pred, 0 * pred + 1, weight, grad_output=outer)
    assert (hess[0] == 0).all()


@pytest.mark.loss("L2Loss")
def test_one_dimension_and_zero_weight():
    value, grad = rl.L2Loss().value_and_grad(
        [1.0, 2.0], [0.0, 0.0], sample_weight=[0, 1], grad_output=[np.inf, 1.0]
    )
    assert (value.tolist(), grad.tolist()) == ([0.0, 2.0], [0.0, 2.0])


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
def test_an_outer_gradient_of_0_leaves_nothing():
    pred = np.array([np.nan, 1.0])
    grad, hess = rl.SigmoidBCELoss().grad_hess(pred, [1.0, 1.0], grad_output=[0.0, 1.0])
    assert (grad[0], hess[0]) == (0, 0)


# Divisor


@pytest.mark.loss("L2Loss")
def test_denominator_of_weighted_mean():
    rng = np.random.default_rng(2)
    pred, label, weight = rng.normal(size=(3, 6, 4))
    weight = np.abs(weight)
    loss = rl.L2Loss(reduction="weighted_mean")
    whole, whole_grad = loss.value_and_grad(pred, label, weight)
    parts, grads = 0.0, []
    for chosen in (slice(0, 2), slice(2, 6)):
        batch = pred[chosen], label[chosen], weight[chosen]
        value, grad = loss.value_and_grad(*batch, denominator=weight.sum())
        parts += value
        grads.append(grad)
    np.testing.assert_allclose(parts, whole, rtol=1e-14)
    np.testing.assert_allclose(np.concatenate(grads), whole_grad, rtol=1e-14)


@pytest.mark.loss("SoftmaxCrossEntropyLoss", "L2Loss")
@pytest.mark.parametrize("reduction", ["weighted_mean", "sample_weighted_mean"])
def test_means_of_no_weight_are_0(reduction):
    # The weight of class 0 is 0, and smoothing leaves a loss of class 1.
    loss = rl.SoftmaxCELoss(class_weight=[0, 1], label_smoothing=0.1, reduction=reduction)
    value, grad = loss.value_and_grad(np.zeros((3, 2)), [0, 0, 0])
    assert not np.any(value)
    assert not grad.any()
    value, grad = rl.L2Loss(reduction=reduction).value_and_grad(
        np.ones((3, 2)), np.zeros((3, 2)), 0
    )
    assert not np.any(value)
    assert not grad.any()


@pytest.mark.loss("L2Loss")
@pytest.mark.parametrize("reduction", ["weighted_mean", "sample_weighted_mean"])
def test_weights_whose_sum_overflows_are_refused(reduction):
    loss, pred, label = rl.L2Loss(reduction=reduction), np.ones((2, 2)), np.zeros((2, 2))
    for weight in (np.full((2, 2), 1e308), np.full((2, 1), 1e308), 1.7e308):
        with pytest.raises(rl.errors.WeightError, match="sum a float64 has room") as caught:
            loss.value_and_grad(pred, label, weight)
        assert caught.value.argument == "sample_weight"
    for wrong in (np.inf, np.nan):
        with pytest.raises(rl.errors.WeightError, match=rf"sample_weight\[1, 0\]: .* {wrong}"):
            loss(pred, label, np.array([[1.0, 2.0], [wrong, 1.0]]))
