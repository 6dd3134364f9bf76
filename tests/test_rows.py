"""Losses of rows and pairs: rows that are out, infinite or far apart, weights beyond float32.

What KLDivLoss alone does is in `test_kl_divergence.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import rustloss as rl
from rows import CE, DTYPE, EPS, INF, KL, NAN, ON_LOGITS, WIDTH, forms, results
from rustloss.errors import LabelError, ParameterError, ShapeError
from rustloss.testing import example
from rustloss.testing.oracles import evaluate

TERMS = 8
"""4 ulp of the sum of the absolute terms, in `EPS`."""

MOST = float(np.finfo(np.float32).max)
LEAST = float(np.finfo(np.float32).smallest_subnormal)


# Rows that are out


@ON_LOGITS
@DTYPE
@WIDTH
@pytest.mark.parametrize("outer", [INF, NAN, -INF])
def test_a_row_of_weight_zero_is_zero_whatever_arrives(width, outer, dtype):
    rng = np.random.default_rng(width)
    for name, (loss, label) in forms(width, 5).items():
        x = rng.standard_normal((5, width)).astype(dtype)
        x[1] = NAN
        weight = np.array([1.0, 0.0, 1.0, 0.0, 2.0])
        value = np.asarray(loss(x, label, weight))
        factor = np.ones(value.shape)
        factor[[1, 3]] = outer
        for part in results(loss, x, label, weight, grad_output=factor)[1:]:
            assert (part[[1, 3]] == 0).all(), name
            assert np.isfinite(part[[0, 2, 4]]).all(), name


@ON_LOGITS
@DTYPE
@WIDTH
@pytest.mark.parametrize("impossible", [False, True])
def test_a_row_with_nan_is_nan_and_no_other(width, impossible, dtype):
    """Impossible classes, whose exponential is 0, included; of any sign and lowest bit."""
    rng = np.random.default_rng(width)
    for name, (loss, label) in forms(width, 75).items():
        x = rng.standard_normal((75, width)).astype(dtype)
        plain = np.array(NAN, dtype)
        x[[1, 7, 70], 2] = plain, -plain, (plain.view(f"u{plain.itemsize}") + 1).view(dtype)
        if impossible:
            x[[1, 7, 70], 0] = -INF
        whole = np.isfinite(x[:, 2])
        for memory in (x, np.asfortranarray(x)):
            for part in results(loss, memory, label):
                assert np.isnan(part[~whole]).all(), name
                assert np.isfinite(part[whole]).all(), name


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@WIDTH
def test_smoothing_of_infinite_logits(width, dtype):
    """Infinite logits share the mass; a class that cannot be has a part of the target."""
    loss = CE(label_smoothing=0.25)
    x = np.random.default_rng(width).standard_normal((75, width)).astype(dtype)
    x[[3, 70]] = [[INF], [-INF]]
    x[10, 0], x[20, 1] = INF, -INF
    label = np.zeros(75, int)
    for memory in (x, np.asfortranarray(x)):
        for value in (loss(memory, label), loss.value_and_grad(memory, label)[0]):
            assert value[3] == pytest.approx(math.log(width), rel=1e-6)
            assert np.isnan(value[70])
            assert (value[[10, 20]] == INF).all()
            assert np.isfinite(np.delete(value, [3, 70, 10, 20])).all()


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@WIDTH
def test_smoothing_of_logits_far_from_0(width, dtype):
    """Differences of eighths, which a shift by a power of 2 does not change."""
    loss = CE(label_smoothing=0.25)
    x = np.random.default_rng(width).integers(-40, 40, (75, width)).astype(dtype) / 8
    label = np.arange(75) % width
    for order in "CF":
        near, far = (np.asarray(x + shift, order=order, dtype=dtype) for shift in (0, 2**20))
        for ours, expected in zip(
            results(loss, far, label), results(loss, near, label), strict=True
        ):
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@WIDTH
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_an_ignored_row_is_zero_whatever_arrives(width, smoothing, dtype):
    loss = CE(ignore_index=-1, label_smoothing=smoothing)
    x = np.random.default_rng(width).standard_normal((4, width)).astype(dtype)
    x[2] = [INF] * width
    label = np.array([0, -1, -1, 1])
    for memory in (x, np.asfortranarray(x)):
        value, *derivatives = results(loss, memory, label, grad_output=[1.0, INF, NAN, 1.0])
        assert (value[1:3] == 0).all()
        for part in derivatives:
            assert (part[1:3] == 0).all()
            assert np.isfinite(part).all()


@ON_LOGITS
@DTYPE
def test_a_gradient_of_nothing_has_no_curvature(dtype):
    """An outer gradient of 0 is a factor of 0 for both derivatives, of NaN too."""
    for name, (loss, label) in forms(3, 2).items():
        x = np.array([[NAN, 0.0, 1.0], [INF, -INF, INF]], dtype)
        for part in results(loss, x, label, grad_output=0.0)[1:]:
            assert (part == 0).all(), name


@DTYPE
@pytest.mark.parametrize(
    "name", ["TripletLoss", "CosineEmbeddingLoss", "SDMLLoss", "KLDivLoss", "SoftmaxCELoss"]
)
def test_a_gradient_of_nothing_is_zero_for_every_input(name, dtype):
    loss = getattr(rl, name)()
    inputs = example(loss, dtype=dtype)
    first = next(iter(inputs))
    inputs[first] = np.full_like(inputs[first], NAN)
    _, grads = loss.value_and_grad(**inputs, grad_output=0.0)
    for grad in grads if isinstance(grads, tuple) else (grads,):
        assert (grad == 0).all()


# Infinite logits


@ON_LOGITS
@DTYPE
@WIDTH
def test_a_row_of_impossible_classes_is_not_a_number(width, dtype):
    for name, (loss, label) in forms(width, 3).items():
        x = np.zeros((3, width), dtype)
        x[1] = -INF
        for memory in (x, np.asfortranarray(x)):
            for part in results(loss, memory, label):
                assert np.isnan(part[1]).all(), name
                assert np.isfinite(part[[0, 2]]).all(), name


@pytest.mark.loss("SoftmaxCrossEntropyLoss", "KLDivLoss")
@DTYPE
@WIDTH
def test_certain_classes_share_the_mass(width, dtype):
    certain = 2
    label = np.zeros(1, int)
    dense = np.eye(width)[label]
    p = np.zeros((1, width))
    p[0, :certain] = 1 / certain
    x = np.where(p > 0, INF, 0.0).astype(dtype)
    logs = np.where(dense > 0, 0.0, -INF)
    for loss, given in [
        (CE(), label),
        (CE(sparse_label=False), dense),
        (KL(from_logits=False, reduction="sample_sum"), dense),
        (KL(from_logits=False, reduction="sample_sum", log_target=True), logs),
    ]:
        value, grad, _, hess = results(loss, x, given)
        np.testing.assert_allclose(value, math.log(certain), rtol=4 * EPS[dtype])
        np.testing.assert_array_equal(grad, p - dense)
        np.testing.assert_array_equal(hess, p * (1 - p))


@ON_LOGITS
@DTYPE
@WIDTH
def test_rows_alone_and_together_have_the_same_bits(width, dtype):
    rng = np.random.default_rng(width)
    x = rng.standard_normal((40, width)).astype(dtype)
    x[3], x[5, :2], x[7, 1], x[9, 0] = -INF, INF, NAN, -INF
    for name, (loss, label) in forms(width, 40, weight=3.0).items():
        whole = results(loss, x, label)
        across = results(loss, np.asfortranarray(x), label)
        alone = [results(loss, x[i : i + 1], label[i : i + 1]) for i in range(40)]
        for part, other, rows in zip(whole, across, zip(*alone, strict=True), strict=True):
            np.testing.assert_array_equal(part, other, name)
            np.testing.assert_array_equal(part, np.concatenate(rows), name)


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@WIDTH
@pytest.mark.parametrize("z_loss", [0.0, 0.25])
def test_a_label_of_class_weight_zero_is_as_the_other_classes(z_loss, width, dtype):
    smoothing, weights = 0.25, np.ones(width)
    weights[0] = 0.0
    loss = CE(class_weight=weights, label_smoothing=smoothing, z_loss=z_loss)
    x = np.zeros((1, width), dtype)
    x[0, 1] = top = 50.0
    p = 1 / (math.exp(top) + width - 1)
    expected = (smoothing / width * weights.sum() + 2 * z_loss * top) * p
    grad = loss.grad(x, [0])
    np.testing.assert_allclose(grad[0, 0], expected, rtol=2 * TERMS * EPS[dtype])


@ON_LOGITS
@DTYPE
@WIDTH
@pytest.mark.parametrize("reduction", ["none", "sample"])
def test_rows_along_any_axis_and_in_any_part_of_the_batch_have_the_same_bits(
    width, reduction, dtype
):
    rows, cut = 75, 33
    x = 5 * np.random.default_rng(width).standard_normal((rows, width)).astype(dtype)
    along = forms(width, rows, reduction=reduction)
    across = forms(width, rows, reduction=reduction, axis=0, batch_axis=1)
    for name, (loss, label) in along.items():
        if isinstance(loss, KL):
            continue
        whole = results(loss, x, label)
        parts = [results(loss, x[at], label[at]) for at in (slice(cut), slice(cut, rows))]
        turned, given = across[name]
        columns = results(turned, np.ascontiguousarray(x.T), given.T)
        for part, other, pieces in zip(whole, columns, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(part, np.concatenate(pieces), name)
            np.testing.assert_array_equal(part, other.T, name)


@ON_LOGITS
@DTYPE
@WIDTH
def test_gradients_in_place_of_the_logits_have_the_same_bits(width, dtype):
    x = np.random.default_rng(width).standard_normal((70, width)).astype(dtype)
    weight = np.arange(70) % 3
    for copy in (np.array, np.asfortranarray):
        for name, (loss, label) in forms(width, 70).items():
            value, grad = loss.value_and_grad(x, label, weight)
            memory: Any = copy(x.copy())
            ours, slopes = loss.value_and_grad(memory, label, weight, grad_out=memory)
            assert slopes is memory, name
            np.testing.assert_array_equal(ours, value, name)
            np.testing.assert_array_equal(slopes, grad, name)


# Far apart


@pytest.mark.loss("TripletLoss")
def test_squares_too_large_for_float32_may_cancel():
    far = np.float32(1e20)
    x = np.zeros((1, 2), np.float32)
    p, n = np.array([[far, 0]], np.float32), np.array([[0, far]], np.float32)
    value, grads = rl.TripletLoss(margin=0.5).value_and_grad(x, p, n)
    assert value == 0.5
    for grad, expected in zip(grads, (2 * (n - p), 2 * (p - x), 2 * (x - n)), strict=True):
        np.testing.assert_array_equal(grad, expected)
    assert rl.TripletLoss()(x, p, 0 * n) == INF
    assert rl.TripletLoss()(x, 0 * p, n) == 0
    huge = 1e200
    value = rl.TripletLoss(margin=0.5)([[0.0, 0.0]], [[huge, 0.0]], [[0.0, huge]])
    assert value == 0.5


@pytest.mark.loss("SDMLLoss")
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_distances_too_large_for_float32(smoothing):
    """Against float64, whose range is enough."""
    rng = np.random.default_rng(1)
    x1 = rng.standard_normal((5, 7)) * 1e-12 + 1e19
    x2 = -x1 + 1e16 * rng.standard_normal((5, 7))
    x1, x2 = x1.astype(np.float32), x2.astype(np.float32)
    x2[1], x1[1] = 3e19, 3e19
    params = {"smoothing_parameter": smoothing}
    value, grads, _ = evaluate("SDMLLoss", params, x1.astype(float), x2.astype(float))
    ours, slopes = rl.SDMLLoss(**params).value_and_grad(x1, x2)
    assert np.isfinite(ours).all() or (value > np.finfo(np.float32).max).any()
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(ours, value.astype(np.float32), rtol=16 * EPS[np.float32])
    # The bound of 8 ulp is relative to the terms: slopes of up to 1 times distances, twice.
    size = 2 * np.abs(x1[:, None] - x2[None].astype(float)).max()
    for slope, expected in zip(slopes, grads.values(), strict=True):
        np.testing.assert_allclose(slope, expected, rtol=0, atol=2 * TERMS * EPS[np.float32] * size)


# Weights that float32 cannot hold


@pytest.mark.parametrize("weight", [1e39, 1e-50, 1e300])
@pytest.mark.parametrize(
    "name",
    ["TripletLoss", "CosineEmbeddingLoss", "SDMLLoss", "KLDivLoss", "SoftmaxCrossEntropyLoss"],
)
def test_weights_act_in_double_precision(name, weight):
    """The outer gradient brings the gradient back into range."""
    for params in [{}, {"from_logits": False}] if name == "KLDivLoss" else [{}]:
        loss = getattr(rl, name)(**params)
        inputs = example(loss, dtype=np.float32)
        _, plain = loss.value_and_grad(**inputs)
        n = len(next(iter(inputs.values())))
        _, grads = loss.value_and_grad(
            **inputs, sample_weight=np.full(n, weight), grad_output=1 / weight
        )
        _, mixed = loss.value_and_grad(
            **inputs,
            sample_weight=np.where(np.arange(n) % 2, weight, 1.0),
            grad_output=np.where(np.arange(n) % 2, 1 / weight, 1.0),
        )
        plain, grads, mixed = (g if isinstance(g, tuple) else (g,) for g in (plain, grads, mixed))
        for a, b, c in zip(plain, grads, mixed, strict=True):
            # The product of weight and outer gradient is 1 up to rounding.
            np.testing.assert_allclose(b, a, rtol=4 * EPS[np.float32])
            np.testing.assert_allclose(c, a, rtol=4 * EPS[np.float32])


@ON_LOGITS
@WIDTH
@pytest.mark.parametrize("weight", [1e39, 1e-50])
def test_weights_beyond_single_precision_scale_every_form(width, weight):
    x = np.random.default_rng(width).standard_normal((4, width)).astype(np.float32)
    weights = np.array([weight, 1.0, 0.0, weight])
    for name, (loss, label) in forms(width, 4).items():
        wide = results(loss, x.astype(np.float64), label, weights)
        for part, exact in zip(results(loss, x, label, weights), wide, strict=True):
            assert (part[2] == 0).all(), name
            for row, expected in zip(part, exact, strict=True):
                bound = LEAST + 2 * TERMS * EPS[np.float32] * np.abs(expected).max()
                expected = np.clip(expected, -MOST, MOST)
                np.testing.assert_allclose(
                    np.clip(row, -MOST, MOST), expected, rtol=0, atol=bound, err_msg=name
                )


@pytest.mark.loss("SoftmaxCrossEntropyLoss", "KLDivLoss")
@pytest.mark.parametrize("weight", [1.0, 1e36, 1e37, 1e38, 1e39])
def test_hessians_of_weights_that_overflow_with_the_label(weight):
    x, label = np.array([[0.0, -30.0, -30.0]]), np.array([[45.0, 0.0, 0.0]])
    for loss in (
        rl.SoftmaxCELoss(sparse_label=False),
        rl.KLDivLoss(from_logits=False, reduction="sample_sum"),
    ):
        _, exact = loss.grad_hess(x, label, [weight])
        _, hess = loss.grad_hess(x.astype(np.float32), label, [weight])
        np.testing.assert_allclose(hess, exact, rtol=1e-6)


# Cosine embedding


@pytest.mark.loss("CosineEmbeddingLoss")
@DTYPE
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
def test_vectors_lie_along_any_axis(axis, dtype):
    rng = np.random.default_rng(3)
    u, v = (rng.standard_normal((4, 5, 6)).astype(dtype) for _ in range(2))
    batch = 1 if axis == 0 else 0
    moved = [np.moveaxis(w, axis, -1) for w in (u, v)]
    label = np.where(rng.random(moved[0].shape[:-1]) < 0.5, 1, -1)
    options: dict[str, Any] = {"reduction": "none", "margin": 0.125}
    value, grads = rl.CosineEmbeddingLoss(axis=axis, batch_axis=batch, **options).value_and_grad(
        u, v, label
    )
    plain, slopes = rl.CosineEmbeddingLoss(**options).value_and_grad(*moved, label)
    np.testing.assert_array_equal(value, plain)
    for grad, slope in zip(grads, slopes, strict=True):
        np.testing.assert_array_equal(np.moveaxis(grad, axis, -1), slope)


@pytest.mark.loss("CosineEmbeddingLoss")
def test_vectors_and_samples_have_different_axes():
    with pytest.raises(ParameterError, match="batch_axis: expected another axis"):
        rl.CosineEmbeddingLoss(axis=0)(np.ones((2, 3)), np.ones((2, 3)), [1, 1, 1])


@pytest.mark.loss("CosineEmbeddingLoss")
def test_other_labels_count_as_different_if_allowed():
    u, v = np.array([[3.0, 4.0]] * 4), np.array([[4.0, 3.0]] * 4)
    label = [1, -1, 0, NAN]
    with pytest.raises(LabelError, match=r"label\[2\]: expected 1 or -1.*got 0"):
        rl.CosineEmbeddingLoss()(u, v, label)
    loose = rl.CosineEmbeddingLoss(out_of_range="allow")
    np.testing.assert_allclose(loose(u, v, label), [0.04, 0.96, 0.96, 0.96], rtol=1e-15)


@pytest.mark.loss("CosineEmbeddingLoss")
def test_parallel_vectors_have_no_gradient():
    u = np.random.default_rng(5).standard_normal((50, 9))
    for factor in (1.0, 2.0, 0.5, -4.0):
        _, grads = rl.CosineEmbeddingLoss().value_and_grad(u, factor * u, np.ones(50))
        assert all((grad == 0).all() for grad in grads)


# Shapes and messages


@pytest.mark.loss(
    "SoftmaxCrossEntropyLoss", "KLDivLoss", "CosineEmbeddingLoss", "TripletLoss", "SDMLLoss"
)
def test_empty_calls_with_long_axes():
    x = np.zeros((0, 2**31, 2**30, 2), np.int8)
    label = x[..., 0]
    for loss, args in [
        (CE(reduction="sum"), (x, label)),
        (KL(reduction="sum", from_logits=False), (x, x)),
        (rl.CosineEmbeddingLoss(reduction="sum"), (x, x, label)),
        (rl.TripletLoss(reduction="sum"), (x, x, x)),
    ]:
        assert loss(*args) == 0
    empty = np.zeros((2**32, 0))
    with pytest.raises(ShapeError, match="x1: expected fewer samples"):
        rl.SDMLLoss(reduction="sum")(empty, empty)


@pytest.mark.loss("SDMLLoss")
def test_pairs_beyond_memory_are_refused():
    x = np.zeros((200_000, 2), np.float32)
    loss = rl.SDMLLoss(memory_limit=1 << 60)
    with pytest.raises(MemoryError):
        loss.value_and_grad(x, x)
    assert np.isfinite(loss(x[:4], x[:4])).all()


@pytest.mark.loss("SoftmaxCrossEntropyLoss", "TripletLoss", "SDMLLoss")
def test_messages_know_the_remedy():
    x = np.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"label: .*\(2, 3\).*sparse_label=False"):
        CE()(x, np.eye(3)[:2])
    with pytest.raises(LabelError, match=r"label\[1\]: .*ignore_index=-100.*got -100"):
        CE()(x, [0, -100])
    with pytest.raises(LabelError, match=r"got 9007199254740993"):
        CE()(x, np.array([0, 2**53 + 1]))
    with pytest.raises(ShapeError, match=r"class_weight|weight for each of 3"):
        CE(class_weight=[1.0, 2.0])(x, [0, 1])
    with pytest.raises(ShapeError, match=r"pred has shape \(2, 3\)\), got shape \(3,\)"):
        rl.TripletLoss()(x, np.zeros(3), x)
    with pytest.raises(ShapeError, match=r"x1's shape \(2, 3\), got shape \(3, 2\)"):
        rl.SDMLLoss()(x, x.T)
