"""Labels outside their domain, and weights that are none, are refused with index and value."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rustloss as rl
from rustloss.errors import LabelError, WeightError

SIGN, UNIT, COUNT = (1.0, -1.0), (0.0, 1.0, 0.25), (0.0, 3.0, 0.5)
WRONG_SIGN = [0.0, 2.0, -1.0 - 2**-40, np.nan, np.inf]
WRONG_UNIT = [-1.0, 1.0 + 2**-40, 255.0, -(2.0**-60), np.nan]
WRONG_COUNT = [-1.0, -(2.0**-1000), -np.inf, np.nan]

#: The loss, its label's name, labels that are right, labels that are wrong.
CASES: dict[str, tuple[Any, dict[str, Any], str, Any, Any]] = {
    "hinge": (rl.HingeLoss, {}, "label", SIGN, WRONG_SIGN),
    "squared hinge": (rl.SquaredHingeLoss, {}, "label", SIGN, WRONG_SIGN),
    "hinge embedding": (rl.HingeEmbeddingLoss, {}, "label", SIGN, WRONG_SIGN),
    "logistic": (rl.LogisticLoss, {}, "label", SIGN, WRONG_SIGN),
    "binary logistic": (rl.LogisticLoss, {"label_format": "binary"}, "label", UNIT, WRONG_UNIT),
    "BCE": (rl.SigmoidBCELoss, {}, "label", UNIT, WRONG_UNIT),
    "BCE of probabilities": (
        rl.SigmoidBCELoss,
        {"from_sigmoid": True},
        "label",
        UNIT,
        WRONG_UNIT,
    ),
    "probabilities": (
        rl.SigmoidBCELoss,
        {"from_sigmoid": True},
        "pred",
        (0.25, 0.5),
        WRONG_UNIT[:-1],
    ),
    "Poisson": (rl.PoissonNLLLoss, {}, "target", COUNT, WRONG_COUNT),
    "Poisson of rates": (rl.PoissonNLLLoss, {"from_logits": False}, "target", COUNT, WRONG_COUNT),
}
over_cases = pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{of[0].__name__}-{case}") for case, of in CASES.items()]
)

SHAPE = (5, 3000)
"""More than one tile, and more than one block of a row."""


def call(case: str, dtype: Any = np.float64) -> tuple[Any, dict[str, Any], str]:
    cls, params, name, right, _ = CASES[case]
    rng = np.random.default_rng(0)
    pred = rng.uniform(0.1, 0.9, SHAPE)
    label = rng.choice([1.0], SHAPE)
    inputs = {"pred": pred, ("target" if cls is rl.PoissonNLLLoss else "label"): label}
    inputs[name] = rng.choice(right, SHAPE)
    return cls(**params), {key: x.astype(dtype) for key, x in inputs.items()}, name


def computations(loss: rl.Loss) -> list[Any]:
    return [loss, loss.value_and_grad, loss.grad_hess]


@over_cases
@pytest.mark.parametrize("at", [(0, 0), (2, 1500), (4, 2999)])
@pytest.mark.parametrize("reduction", ["sample", "none", "mean"])
def test_wrong_elements_are_named(case, at, reduction):
    loss, inputs, name = call(case)
    loss = type(loss)(**{**loss._params, "reduction": reduction})
    for wrong in CASES[case][4]:
        inputs[name][at] = wrong
        for compute in computations(loss):
            with pytest.raises(LabelError) as caught:
                compute(**inputs)
            assert caught.value.argument == name
            assert caught.value.index == at
            assert caught.value.value == wrong or np.isnan(wrong)


@over_cases
@pytest.mark.parametrize("order", ["C", "F", "mixed"])
@pytest.mark.parametrize("reduction", ["sample", "none", "mean"])
def test_the_first_of_several_is_named_whatever_the_threads(case, order, reduction):
    loss, inputs, name = call(case)
    loss = type(loss)(**{**loss._params, "reduction": reduction})
    inputs[name][1, 2000] = inputs[name][3, 5] = inputs[name][4, 2999] = CASES[case][4][0]
    weight = np.ones(SHAPE)
    weight[0, 1] = 0
    inputs[name][0, 1] = CASES[case][4][0]
    for key in inputs:
        if order == "F" or (order == "mixed" and key == name):
            inputs[key] = np.asfortranarray(inputs[key])
    for threads in (1, 2, 3, 5, 8):
        with rl.num_threads(threads), pytest.raises(LabelError) as caught:
            loss.value_and_grad(**inputs, sample_weight=weight)
        assert caught.value.index == (1, 2000)


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_wrong_prediction_that_is_written_over_is_named_with_its_number(order):
    pred = np.full(SHAPE, 0.5, order=order)
    pred[1, 7] = 2.0
    with pytest.raises(LabelError, match=r"got 2$") as caught:
        rl.SigmoidBCELoss(from_sigmoid=True).value_and_grad(pred, np.ones(SHAPE), grad_out=pred)
    assert (caught.value.index, caught.value.value) == ((1, 7), 2.0)


def test_the_first_of_many_samples_is_named_whatever_the_threads():
    label = np.ones((500, 1000), order="F")
    label[400, 3] = label[0, 600] = label[400, 20] = 5.0
    for threads in (1, 2, 3, 5, 8):
        with rl.num_threads(threads), pytest.raises(LabelError) as caught:
            rl.HingeLoss()(np.zeros_like(label), label)
        assert caught.value.index == (0, 600)


@over_cases
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("batch_axis", [0, 1])
def test_layouts(case, order, batch_axis):
    loss, inputs, name = call(case)
    loss = type(loss)(**{**loss._params, "batch_axis": batch_axis})
    inputs[name] = np.array(inputs[name], order=order)
    inputs[name][3, 2000] = CASES[case][4][0]
    with pytest.raises(LabelError) as caught:
        loss.value_and_grad(**inputs)
    assert caught.value.index == (3, 2000)


@over_cases
def test_a_label_without_weight_is_not_looked_at(case):
    loss, inputs, name = call(case)
    weight = np.ones(SHAPE)
    weight[2], weight[4, 7] = 0.0, 0.0
    expected = loss.value_and_grad(**inputs, sample_weight=weight)
    inputs[name][2], inputs[name][4, 7] = CASES[case][4][0], np.nan
    value, grad = loss.value_and_grad(**inputs, sample_weight=weight)
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad, expected[1])
    assert (grad[2] == 0).all()
    assert grad[4, 7] == 0
    inputs[name][4, 8] = CASES[case][4][0]
    with pytest.raises(LabelError) as caught:
        loss(**inputs, sample_weight=weight)
    assert caught.value.index == (4, 8)
    rows = np.array([1.0, 1, 0, 1, 0])
    inputs[name][4] = np.nan
    loss(**inputs, sample_weight=rows)


@over_cases
def test_allow_follows_the_formula(case):
    loss, inputs, name = call(case)
    allowing = type(loss)(**{**loss._params, "out_of_range": "allow"})
    np.testing.assert_array_equal(allowing(**inputs), loss(**inputs))
    inputs[name][0, 0] = CASES[case][4][0]
    value, grad = allowing.value_and_grad(**inputs)
    assert np.isfinite(value[1:]).all()
    assert grad.shape == SHAPE


@pytest.mark.loss("HingeLoss")
@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, bool, np.float16])
def test_labels_are_checked_in_their_own_type(dtype):
    label = np.ones((2, 2000), dtype)
    pred = np.zeros((2, 2000), np.float32)
    assert rl.HingeLoss()(pred, label).tolist() == [1, 1]
    label[1, 1999] = 0
    with pytest.raises(LabelError) as caught:
        rl.HingeLoss()(pred, label)
    assert caught.value.index == (1, 1999)


@pytest.mark.loss("HingeLoss", "SigmoidBinaryCrossEntropyLoss")
def test_a_label_that_only_its_own_type_tells_from_1():
    with pytest.raises(LabelError):
        rl.HingeLoss()(np.array([0.0], np.float32), np.array([1 + 2.0**-50]))
    with pytest.raises(LabelError):
        rl.SigmoidBCELoss()(
            np.array([0.0], ml_dtypes.bfloat16), np.array([1 + 2.0**-20], np.float32)
        )


@pytest.mark.loss("HingeLoss")
def test_one_dimensional_labels_of_more_axes():
    label = np.ones(6)
    label[4] = 0
    with pytest.raises(LabelError) as caught:
        rl.HingeLoss(batch_axis=1)(np.zeros((2, 3)), label)
    assert caught.value.index == (4,)


@pytest.mark.parametrize("wrong", [-1.0, np.inf, np.nan, -(2.0**-1000)])
@pytest.mark.parametrize("shape", [(), (4,), (4, 2000), (1, 2000), (4, 2000, 1)])
@pytest.mark.parametrize("reduction", ["sample", "none", "weighted_mean", "sample_weighted_mean"])
def test_weights(wrong, shape, reduction):
    weight: Any = np.ones(shape)
    at = tuple(n - 1 for n in shape)
    weight[at] = wrong
    x = np.ones((4, 2000), np.float32)
    loss = rl.L2Loss(reduction=reduction)
    for compute in computations(loss):
        with pytest.raises(WeightError) as caught:
            compute(x, x, weight)
        assert caught.value.index == at
        assert ("grad_output" in str(caught.value)) == (wrong < 0)


@pytest.mark.loss("SigmoidBinaryCrossEntropyLoss")
def test_positive_weights():
    x = np.zeros((3, 2000))
    weight = np.ones(2000)
    weight[1500] = -2
    with pytest.raises(WeightError) as caught:
        rl.SigmoidBCELoss()(x, x, None, weight)
    assert (caught.value.argument, caught.value.index) == ("pos_weight", (1500,))
    # No label exempts a weight.
    with pytest.raises(WeightError):
        rl.SigmoidBCELoss()(x, x, np.zeros(3), weight)


@pytest.mark.loss("GaussianNLLLoss")
@pytest.mark.parametrize("shape", [(4, 2000), (2000,), (4, 1)])
def test_variances(shape):
    x, var = np.zeros((4, 2000)), np.ones(shape)
    at = tuple(n - 1 for n in shape)
    var[at] = np.nan
    value = rl.GaussianNLLLoss(reduction="none")(x, x, var)
    assert np.isnan(value[3, 1999])
    assert value[0, 0] == 0
    for wrong in (-1.0, -(2.0**-1000), -np.inf):
        var[at] = wrong
        with pytest.raises(LabelError, match="variance") as caught:
            rl.GaussianNLLLoss()(x, x, var)
        assert (caught.value.argument, caught.value.index) == ("var", at)


@pytest.mark.loss("MultiLabelMarginLoss")
def test_sets_of_classes_end_at_minus_one():
    loss, pred = rl.MultiLabelMarginLoss(), np.array([[0.5, 1.0, 2.0], [3.0, 1.0, 0.0]], np.float32)
    value, grad = loss.value_and_grad(pred, [[0, -1, -1], [2, 1, -1]])
    found, slope = loss.value_and_grad(pred, [[0, -1, 99], [2, 1, -1]])
    np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(slope, grad)
    for wrong in (-2, 3, 0.5, np.nan, 1 + 2.0**-50):
        label = np.array([[0, -1, -1], [2, wrong, -1]])
        with pytest.raises(LabelError) as caught:
            loss(pred, label)
        assert caught.value.index == (1, 1)
        # Without weight it is not looked at.
        np.testing.assert_array_equal(loss(pred, label, [1, 0]), value * [1, 0])


@pytest.mark.loss("MultiLabelMarginLoss")
def test_sets_of_classes_along_any_axis():
    rng = np.random.default_rng(0)
    pred, label = rng.normal(size=(2, 4, 5)), np.full((2, 4, 5), -1)
    label[:, 0], label[:, 1] = 2, 3
    expected = rl.MultiLabelMarginLoss(reduction="none")(
        np.moveaxis(pred, 1, 2), np.moveaxis(label, 1, 2)
    )
    loss = rl.MultiLabelMarginLoss(axis=1, batch_axis=2, reduction="none")
    np.testing.assert_array_equal(loss(pred, label), expected)
    label[1, 1, 4] = 7
    with pytest.raises(LabelError) as caught:
        loss(pred, label)
    assert caught.value.index == (1, 1, 4)
