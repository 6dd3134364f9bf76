"""Losses that are one another in disguise agree, in value and gradient.

Inputs lie on a grid of 1/64, so that differences, shifts and stackings are exact and only the
losses themselves may round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import rustloss as rl

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTITY = {np.float64: 1e-13, np.float32: 4e-6}
"""Both sides round a few times, on terms of size 10 to 100."""

draws = settings(deadline=None, max_examples=50)
dtypes = st.sampled_from([np.float64, np.float32])
sizes = st.integers(1, 5)
counts = st.integers(0, 3)
DTYPE = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def grid(shape: tuple[int, ...], low: int = -8, high: int = 8) -> st.SearchStrategy[Any]:
    """Return arrays of multiples of 1/64 between two whole numbers."""
    steps = st.integers(low * 64, high * 64)
    return arrays(np.float64, shape, elements=steps.map(lambda k: k / 64))


def whole(shape: tuple[int, ...], low: int, high: int) -> st.SearchStrategy[Any]:
    """Return arrays of whole numbers, both ends included."""
    return arrays(np.int64, shape, elements=st.integers(low, high))


def assert_same(actual: Any, expected: Any, dtype: Any) -> None:
    """Compare at the identity's tolerance, relative to the largest number around."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=IDENTITY[dtype] * scale)


def log_softmax(x: Any) -> Any:
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


@pytest.mark.loss("HuberLoss", "L2Loss")
@DTYPE
@draws
@given(st.data())
def test_huber_with_large_rho_is_scaled_l2(dtype: Any, data: st.DataObject) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    pred, label = (data.draw(grid(shape)).astype(dtype) for _ in range(2))
    rho = data.draw(st.integers(17, 1000))
    huber, l2 = rl.HuberLoss(rho=rho), rl.L2Loss()
    value, grads = huber.value_and_grad(pred, label, wrt=("pred", "label"))
    half, slopes = l2.value_and_grad(pred, label, wrt=("pred", "label"))
    assert_same(rho * value, half, dtype)
    for ours, theirs in zip(grads, slopes, strict=True):
        assert_same(rho * ours, theirs, dtype)
    assert_same(rho * huber.grad_hess(pred, label)[1], l2.grad_hess(pred, label)[1], dtype)


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss", "SoftmaxCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_binary_cross_entropy_is_softmax_over_two_classes(dtype: Any, data: st.DataObject) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    pred = data.draw(grid(shape, -40, 40)).astype(dtype)
    hard = data.draw(whole(shape, 0, 1))
    soft = data.draw(grid(shape, 0, 1)).astype(dtype)
    logits = np.stack([np.zeros_like(pred), pred], axis=-1)
    bce = rl.SigmoidBinaryCrossEntropyLoss()

    sparse = rl.SoftmaxCrossEntropyLoss()
    value, grad = bce.value_and_grad(pred, hard)
    as_softmax, by_logits = sparse.value_and_grad(logits, hard)
    assert_same(value, as_softmax, dtype)
    assert_same(np.stack([-grad, grad], axis=-1), by_logits, dtype)
    hess = bce.grad_hess(pred, hard)[1]
    assert_same(np.stack([hess, hess], axis=-1), sparse.grad_hess(logits, hard)[1], dtype)

    value, grad = bce.value_and_grad(pred, soft)
    dense = rl.SoftmaxCrossEntropyLoss(sparse_label=False)
    as_softmax, by_logits = dense.value_and_grad(logits, np.stack([1 - soft, soft], axis=-1))
    assert_same(value, as_softmax, dtype)
    assert_same(np.stack([-grad, grad], axis=-1), by_logits, dtype)


@pytest.mark.loss("LogisticLoss", "SigmoidBinaryCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_logistic_is_binary_cross_entropy(dtype: Any, data: st.DataObject) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    pred = data.draw(grid(shape, -40, 40)).astype(dtype)
    target = data.draw(st.one_of(grid(shape, 0, 1), whole(shape, 0, 1))).astype(dtype)
    both = ("pred", "label")
    bce = rl.SigmoidBinaryCrossEntropyLoss()
    value, (by_pred, by_label) = bce.value_and_grad(pred, target, wrt=both)
    for loss, label, scale in (
        (rl.LogisticLoss(label_format="binary"), target, 1),
        (rl.LogisticLoss(out_of_range="allow"), 2 * target - 1, 2),
    ):
        ours, (grad, label_grad) = loss.value_and_grad(pred, label, wrt=both)
        assert_same(ours, value, dtype)
        assert_same(grad, by_pred, dtype)
        assert_same(scale * label_grad, by_label, dtype)
        assert_same(loss.grad_hess(pred, label)[1], bce.grad_hess(pred, target)[1], dtype)


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_one_hot_labels_are_sparse_labels(dtype: Any, data: st.DataObject) -> None:
    samples, steps, classes = data.draw(sizes), data.draw(sizes), data.draw(sizes)
    logits = data.draw(grid((samples, steps, classes))).astype(dtype)
    label = data.draw(whole((samples, steps), 0, classes - 1))
    one_hot = np.eye(classes, dtype=dtype)[label]
    axis = data.draw(st.sampled_from([1, 2]))
    params: dict[str, Any] = {
        "axis": axis,
        "from_logits": data.draw(st.booleans()),
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.125])),
        "class_weight": data.draw(st.none() | grid((classes,), 0, 4)),
        "reduction": data.draw(st.sampled_from(["none", "sample", "sum"])),
    }
    logits, one_hot = np.moveaxis(logits, -1, axis), np.moveaxis(one_hot, -1, axis)
    weight = data.draw(grid((samples, steps), 0, 2))
    sparse = rl.SoftmaxCrossEntropyLoss(**params)
    dense = rl.SoftmaxCrossEntropyLoss(sparse_label=False, **params)
    value, grad = sparse.value_and_grad(logits, label, sample_weight=weight)
    as_dense, by_logits = dense.value_and_grad(logits, one_hot, sample_weight=weight)
    assert_same(as_dense, value, dtype)
    assert_same(by_logits, grad, dtype)
    for ours, theirs in zip(
        dense.grad_hess(logits, one_hot, weight),
        sparse.grad_hess(logits, label, weight),
        strict=True,
    ):
        assert_same(ours, theirs, dtype)


@pytest.mark.loss("KLDivLoss")
@DTYPE
@draws
@given(st.data())
def test_divergence_from_logits_is_divergence_from_log_probabilities(
    dtype: Any, data: st.DataObject
) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    logits = data.draw(grid(shape)).astype(dtype)
    label = data.draw(grid(shape, 0, 1)).astype(dtype)
    log_probs = log_softmax(logits.astype(np.float64))
    value, grad = rl.KLDivLoss(from_logits=False).value_and_grad(logits, label)
    as_given, by_log_prob = rl.KLDivLoss().value_and_grad(log_probs.astype(dtype), label)
    assert_same(value, as_given, dtype)
    through = by_log_prob - np.exp(log_probs) * by_log_prob.sum(axis=-1, keepdims=True)
    assert_same(grad, through, dtype)


@pytest.mark.loss("TripletLoss")
@DTYPE
@draws
@given(st.data())
def test_triplet_is_three_distances(dtype: Any, data: st.DataObject) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    anchor, positive, negative = (data.draw(grid(shape)).astype(dtype) for _ in range(3))
    margin = data.draw(st.integers(0, 64))
    value, grads = rl.TripletLoss(margin=margin).value_and_grad(anchor, positive, negative)

    def distance(a: Any, b: Any) -> Any:
        return np.linalg.norm(a.astype(np.float64) - b, axis=1)

    near, far, across = (
        distance(anchor, positive),
        distance(anchor, negative),
        distance(negative, positive),
    )
    excess = ((anchor.astype(np.float64) - positive) ** 2).sum(axis=1)
    excess -= ((anchor.astype(np.float64) - negative) ** 2).sum(axis=1)
    excess += margin
    assert_same(excess, near**2 - far**2 + margin, np.float64)
    assert_same(value, np.maximum(0, excess), dtype)
    # the anchor is pushed along the third side, each other point along its own
    for grad, side in zip(grads, (across, near, far), strict=True):
        assert_same(np.linalg.norm(grad, axis=1), np.where(excess > 0, 2 * side, 0), dtype)


@pytest.mark.loss("SDMLLoss", "SoftmaxCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_sdml_without_smoothing_is_cross_entropy_on_distances(
    dtype: Any, data: st.DataObject
) -> None:
    samples, features = data.draw(st.integers(2, 5)), data.draw(sizes)
    x1, x2 = (data.draw(grid((samples, features), -2, 2)).astype(dtype) for _ in range(2))
    between = x1[:, None] - x2[None]
    logits = -(between**2).sum(axis=-1)
    loss = rl.SDMLLoss(smoothing_parameter=0.0, reduction="sample_sum")
    value, (by_x1, by_x2) = loss.value_and_grad(x1, x2)
    expected, grad = rl.SoftmaxCrossEntropyLoss().value_and_grad(logits, np.arange(samples))
    assert_same(value, expected, dtype)
    pull = -2 * grad[..., None].astype(np.float64) * between
    assert_same(by_x1, pull.sum(axis=1), dtype)
    assert_same(by_x2, -pull.sum(axis=0), dtype)


@pytest.mark.loss("SoftmaxCrossEntropyLoss", "SoftmaxFocalLoss", "PolyLoss", "KLDivLoss", "CTCLoss")
@DTYPE
@draws
@given(st.data())
def test_logits_may_be_shifted(dtype: Any, data: st.DataObject) -> None:
    samples, frames, classes = data.draw(sizes), data.draw(sizes), data.draw(st.integers(2, 5))
    logits = data.draw(grid((samples, frames, classes))).astype(dtype)
    shift = data.draw(whole((samples, frames, 1), -1000, 1000)).astype(dtype)
    hard = data.draw(whole((samples, frames), 0, classes - 1))
    soft = data.draw(grid(logits.shape, 0, 1)).astype(dtype)
    word = data.draw(whole((samples, data.draw(st.integers(0, 2))), 0, classes - 2))
    for loss, label in (
        (rl.SoftmaxCrossEntropyLoss(), hard),
        (rl.SoftmaxCrossEntropyLoss(sparse_label=False, label_smoothing=0.25), soft),
        (rl.SoftmaxFocalLoss(), hard),
        (rl.PolyLoss(), hard),
        (rl.KLDivLoss(from_logits=False), soft),
        (rl.CTCLoss(), word),
    ):
        value, grad = loss.value_and_grad(logits, label)
        shifted, shifted_grad = loss.value_and_grad(logits + shift, label)
        possible = np.isfinite(value)
        np.testing.assert_array_equal(np.isfinite(shifted), possible)
        assert_same(shifted[possible], value[possible], dtype)
        assert_same(shifted_grad, grad, dtype)


def batch(data: st.DataObject, dtype: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Draw logits, labels of their rows and what losses on a softmax share."""
    samples, classes = data.draw(sizes), data.draw(sizes)
    logits = data.draw(grid((samples, classes), -40, 40)).astype(dtype)
    label = data.draw(whole((samples,), -1, classes - 1))
    reductions = ["none", "sample", "mean", "sum", "weighted_mean"]
    options = {"ignore_index": -1, "reduction": data.draw(st.sampled_from(reductions))}
    return logits, label, options


@pytest.mark.loss("SoftmaxFocalLoss", "PolyLoss", "SoftmaxCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_focal_and_poly_without_their_terms_are_cross_entropy(
    dtype: Any, data: st.DataObject
) -> None:
    logits, label, options = batch(data, dtype)
    weights = data.draw(st.none() | grid(logits.shape[1:], 0, 4))
    expected = rl.SoftmaxCrossEntropyLoss(class_weight=weights, **options)
    value, grad = expected.value_and_grad(logits, label)
    hess = expected.grad_hess(logits, label)[1]
    for loss in (
        rl.SoftmaxFocalLoss(gamma=0.0, alpha=weights, **options),
        rl.PolyLoss(epsilon=0.0, class_weight=weights, **options),
    ):
        ours, slopes = loss.value_and_grad(logits, label)
        assert_same(ours, value, dtype)
        assert_same(slopes, grad, dtype)
        assert_same(loss.grad_hess(logits, label)[1], hess, dtype)


@pytest.mark.loss("PolyLoss", "SoftmaxFocalLoss")
@DTYPE
@draws
@given(st.data())
def test_poly_is_linear_in_epsilon(dtype: Any, data: st.DataObject) -> None:
    logits, label, options = batch(data, dtype)
    epsilon = data.draw(st.sampled_from([-1.0, 0.5, 4.0]))

    def parts(epsilon: float) -> list[Any]:
        loss = rl.PolyLoss(epsilon=epsilon, **options)
        derivatives = loss.grad_hess(logits, label)
        return [np.asarray(x, np.float64) for x in (loss(logits, label), *derivatives)]

    for none, one, found in zip(parts(0.0), parts(1.0), parts(epsilon), strict=True):
        assert_same(found, none + epsilon * (one - none), dtype)


@pytest.mark.loss("SoftmaxCrossEntropyLoss")
@DTYPE
@draws
@given(st.data())
def test_z_loss_adds_the_square_of_the_logarithm_of_the_sum(
    dtype: Any, data: st.DataObject
) -> None:
    samples, classes = data.draw(sizes), data.draw(sizes)
    logits = data.draw(grid((samples, classes), -4, 4)).astype(dtype)
    is_sparse = data.draw(st.booleans())
    label = (
        data.draw(whole((samples,), 0, classes - 1))
        if is_sparse
        else data.draw(grid(logits.shape, 0, 1))
    )
    options: dict[str, Any] = {
        "sparse_label": is_sparse,
        "label_smoothing": data.draw(st.sampled_from([0.0, 0.125])),
        "class_weight": data.draw(st.none() | grid((classes,), 0, 4)),
    }
    z_loss = data.draw(st.sampled_from([0.125, 1.0, 3.0]))
    plain = rl.SoftmaxCrossEntropyLoss(**options)
    loss = rl.SoftmaxCrossEntropyLoss(z_loss=z_loss, **options)
    z = np.logaddexp.reduce(logits.astype(np.float64), axis=-1, keepdims=True)
    p = np.exp(logits - z)
    value, grad = plain.value_and_grad(logits, label)
    ours, slopes = loss.value_and_grad(logits, label)
    assert_same(ours, value + z_loss * z[:, 0] ** 2, dtype)
    assert_same(slopes, grad + 2 * z_loss * z * p, dtype)
    bends = plain.grad_hess(logits, label)[1] + 2 * z_loss * (p**2 + z * p * (1 - p))
    assert_same(loss.grad_hess(logits, label)[1], bends, dtype)
    if not is_sparse:
        assert_same(
            loss.grad(logits, label, wrt="label"), plain.grad(logits, label, wrt="label"), dtype
        )


@pytest.mark.loss("CategoricalHingeLoss")
@DTYPE
@draws
@given(st.data())
def test_categorical_hinge_is_the_largest_violation(dtype: Any, data: st.DataObject) -> None:
    samples, classes = data.draw(sizes), data.draw(sizes)
    scores = data.draw(grid((samples, classes), -2, 2)).astype(dtype)
    label = data.draw(whole((samples,), 0, classes - 1))
    margin = data.draw(st.integers(0, 64)) / 64
    value, grad = rl.CategoricalHingeLoss(margin=margin).value_and_grad(scores, label)
    for row, own, loss, slopes in zip(scores, label, value, grad, strict=True):
        violations = [margin + s - row[own] if c != own else 0.0 for c, s in enumerate(row)]
        assert loss == max(0.0, *violations)
        assert slopes.sum() == 0
        # A small step against the gradient lessens the loss by two steps, if there is one.
        step = row - slopes / 1024
        moved = rl.CategoricalHingeLoss(margin=margin)(step[None], [own])[0]
        assert (slopes[own] == -1) == (loss > 0)
        ties = sum(v == loss for v in violations) > 1
        assert ties or moved == max(0.0, loss - 2 * (loss > 0) / 1024)


@pytest.mark.loss("MultiQuantileLoss", "L1Loss")
@DTYPE
@draws
@given(st.data())
def test_the_middle_quantile_is_half_the_distance(dtype: Any, data: st.DataObject) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    pred, label = (data.draw(grid(shape)).astype(dtype) for _ in range(2))
    both = ("pred", "label")
    value, grads = rl.L1Loss().value_and_grad(pred, label, wrt=both)
    for loss in (rl.MultiQuantileLoss([0.5]), rl.MultiQuantileLoss()):
        ours, slopes = loss.value_and_grad(pred[..., None], label, wrt=both)
        assert_same(2 * ours, value, dtype)
        assert_same(2 * slopes[0][..., 0], grads[0], dtype)
        assert_same(2 * slopes[1], grads[1], dtype)
    # Mirrored quantiles of one prediction share its distance.
    q = data.draw(st.integers(0, 8)) / 8
    twice = np.stack([pred, pred], axis=-1)
    assert_same(2 * rl.MultiQuantileLoss([q, 1 - q])(twice, label), value, dtype)


@pytest.mark.loss("CRPSLoss", "L1Loss")
@DTYPE
@pytest.mark.parametrize("fair", [False, True])
@draws
@given(st.data())
def test_the_score_of_one_member_is_its_distance(
    fair: bool, dtype: Any, data: st.DataObject
) -> None:
    shape = (data.draw(sizes), data.draw(sizes))
    pred, label = (data.draw(grid(shape)).astype(dtype) for _ in range(2))
    both = ("pred", "label")
    value, grads = rl.L1Loss(reduction="none").value_and_grad(pred, label, wrt=both)
    score = rl.CRPSLoss(fair=fair, reduction="none")
    ours, slopes = score.value_and_grad(pred[..., None], label, wrt=both)
    np.testing.assert_array_equal(ours, value)
    np.testing.assert_array_equal(slopes[0][..., 0], grads[0])
    np.testing.assert_array_equal(slopes[1], grads[1])


@pytest.mark.loss("CRPSLoss")
@DTYPE
@draws
@given(st.data())
def test_the_score_is_an_integral_and_a_sum_over_pairs(dtype: Any, data: st.DataObject) -> None:
    samples, members = data.draw(sizes), data.draw(st.integers(1, 12))
    pred = data.draw(grid((samples, members))).astype(dtype)
    label = data.draw(grid((samples,))).astype(dtype)
    distance = np.abs(pred - label[:, None]).mean(axis=1)
    apart = np.abs(pred[:, :, None] - pred[:, None, :]).sum(axis=(1, 2))
    value = rl.CRPSLoss()(pred, label)
    assert_same(value, distance - apart / (2 * members**2), dtype)
    pairs = max(members * (members - 1), 1)
    assert_same(rl.CRPSLoss(fair=True)(pred, label), distance - apart / (2 * pairs), dtype)
    # All numbers are multiples of 1/64, between which the integrand does not change.
    z = np.arange(-8, 8, 1 / 64)[:, None] + 1 / 128
    for row, y, score in zip(pred, label, value, strict=True):
        share = (row <= z).mean(axis=1)
        assert_same(score, ((share - (y <= z[:, 0])) ** 2).sum() / 64, dtype)


@pytest.mark.loss("CRPSLoss", "MultiQuantileLoss")
@DTYPE
@draws
@given(st.data())
def test_the_score_is_twice_the_loss_of_its_quantiles(dtype: Any, data: st.DataObject) -> None:
    """Members in order of size are the quantiles in the middle of equal parts."""
    samples, members = data.draw(sizes), data.draw(st.integers(1, 12))
    pred = np.sort(data.draw(grid((samples, members))), axis=1).astype(dtype)
    label = data.draw(grid((samples,))).astype(dtype)
    both = ("pred", "label")
    value, grads = rl.CRPSLoss().value_and_grad(pred, label, wrt=both)
    half, slopes = rl.MultiQuantileLoss().value_and_grad(pred, label, wrt=both)
    assert_same(value, 2 * half, dtype)
    # Equal members share what they have of the gradient, and those at the label have another.
    smooth = (np.diff(pred, axis=1) != 0).all(axis=1) & (pred != label[:, None]).all(axis=1)
    assert_same(grads[0][smooth], 2 * slopes[0][smooth], dtype)


def two_grids(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3))), data.draw(grid((n, 3)))


def signs(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3))), 2.0 * data.draw(whole((n, 3), 0, 1)) - 1


def logits_and_soft(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3))), data.draw(grid((n, 3), 0, 1))


def logits_and_hard(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3))), data.draw(whole((n,), 0, 2))


def logits_and_counts(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3), -2, 2)), data.draw(whole((n, 3), 0, 5)).astype(float)


def three_grids(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return (*two_grids(data, n), data.draw(grid((n, 3))))


def pairs(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return (*two_grids(data, n), 2 * data.draw(whole((n,), 0, 1)) - 1)


def rows_and_numbers(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 3))), data.draw(grid((n,)))


def frames_and_words(data: st.DataObject, n: int) -> tuple[Any, ...]:
    return data.draw(grid((n, 5, 3))), data.draw(whole((n, 2), 0, 1))


INPUTS: dict[str, Callable[[st.DataObject, int], tuple[Any, ...]]] = {
    "L1Loss": two_grids,
    "L2Loss": two_grids,
    "HuberLoss": two_grids,
    "HingeLoss": signs,
    "SquaredHingeLoss": signs,
    "LogisticLoss": signs,
    "SigmoidBinaryCrossEntropyLoss": logits_and_soft,
    "SoftmaxCrossEntropyLoss": logits_and_hard,
    "KLDivLoss": logits_and_soft,
    "TripletLoss": three_grids,
    "CTCLoss": frames_and_words,
    "CosineEmbeddingLoss": pairs,
    "PoissonNLLLoss": logits_and_counts,
    "SoftmaxFocalLoss": logits_and_hard,
    "PolyLoss": logits_and_hard,
    "CategoricalHingeLoss": logits_and_hard,
    "MultiQuantileLoss": rows_and_numbers,
    "CRPSLoss": rows_and_numbers,
}
"""Losses whose rows do not see each other."""


@DTYPE
@pytest.mark.parametrize("name", INPUTS)
@draws
@given(st.data())
def test_a_weight_is_a_number_of_repetitions(name: str, dtype: Any, data: st.DataObject) -> None:
    samples = data.draw(sizes)
    inputs = tuple(
        x.astype(dtype) if x.dtype.kind == "f" else x for x in INPUTS[name](data, samples)
    )
    weight = data.draw(whole((samples,), 0, 3))
    repeated = tuple(np.repeat(x, weight, axis=0) for x in inputs)
    loss = getattr(rl, name)
    value, grad = loss(reduction="sum").value_and_grad(*inputs, sample_weight=weight)
    total, grad_of_copies = loss(reduction="sum").value_and_grad(*repeated)
    assert_same(value, total, dtype)

    owner = np.repeat(np.arange(samples), weight)
    pairs_of_grads = (
        zip(grad, grad_of_copies, strict=True)
        if isinstance(grad, tuple)
        else ((grad, grad_of_copies),)
    )
    for ours, copies in pairs_of_grads:
        gathered = np.zeros(ours.shape)
        np.add.at(gathered, owner, copies)
        assert_same(ours, gathered, dtype)

    if weight.any():
        mean = loss(reduction="weighted_mean")(*inputs, sample_weight=weight)
        assert_same(mean, loss(reduction="mean")(*repeated), dtype)
