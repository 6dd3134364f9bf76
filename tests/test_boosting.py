"""Objectives and metrics of boosters, without a booster."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle
import pkgutil
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss import _core, boosting, errors
from rustloss.boosting import Metric
from rustloss.testing import example
from rustloss.testing._registry import spec_of

ROUNDING = 1e-12
"""Of double precision: two formulas for one number."""
DIFFERENCES = 1e-9
"""Central differences with a step of 1e-6 have errors of 1e-12 and, by rounding, 1e-10."""

MAKERS: list[Callable[..., Any]] = [boosting.xgboost, boosting.lightgbm, boosting.catboost]
over_makers = pytest.mark.parametrize("make", MAKERS)
over_callables = pytest.mark.parametrize("make", MAKERS[:2])


# The constant to start from


def test_constants_of_least_loss():
    y, w = np.array([0.0, 1.0, 5.0, 2.0]), np.array([1.0, 2.0, 0.0, 1.0])
    mean = np.average(y, weights=w)
    found = {
        name: boosting.xgboost(getattr(rl, name)()).init_score(label, w)
        for name, label in {
            "L2Loss": y,
            "L1Loss": y,
            "PoissonNLLLoss": y,
            "SigmoidBCELoss": y / 8,
            "LogisticLoss": [-1, 1, 1, -1],
        }.items()
    }
    assert found["L2Loss"] == pytest.approx(mean)
    assert found["L1Loss"] == pytest.approx(1.0)  # the median
    assert found["PoissonNLLLoss"] == pytest.approx(np.log(mean))
    assert found["SigmoidBCELoss"] == pytest.approx(np.log(mean / 8 / (1 - mean / 8)))
    assert found["LogisticLoss"] == pytest.approx(0.0)
    shares = boosting.xgboost(rl.SoftmaxCELoss()).init_score([0, 1, 1, 2], w)
    assert_allclose(np.exp(shares), [0.25, 0.5, 0.25])


@pytest.mark.parametrize(
    ("loss", "label", "text"),
    [
        (rl.SigmoidBCELoss(), [1, 1, 1], "all of one class"),
        (rl.PoissonNLLLoss(), [0, 0], "all 0"),
        (rl.SoftmaxCELoss(), [0, 2], "class 1"),
        (rl.SoftmaxCELoss(), [0, 0.5], r"label\[1\]: expected a class index"),
        (rl.SoftmaxCELoss(), [-1, 0], r"label\[0\]: expected a class index"),
        (rl.SoftmaxCELoss(), [0, 1.5], r"label\[1\]: .* got 1\.5$"),
        (rl.SoftmaxCELoss(), [0, np.nan], r"label\[1\]: .* got nan$"),
        (rl.SoftmaxCELoss(), ["a", "b"], "label: expected real numbers"),
        (rl.SoftmaxCELoss(ignore_index=2), [2, 2], "label that is not ignored"),
        (rl.SoftmaxCELoss(), [[0, 1]], "one class index for each row"),
        (rl.MultiQuantileLoss([0.1, 0.9]), [0.0, 1.0], "one score or one class label"),
    ],
)
def test_labels_without_a_best_constant(loss, label, text):
    with pytest.raises(errors.ArgumentError, match=text):
        boosting.xgboost(loss).init_score(label)


@pytest.mark.parametrize("loss", [rl.SoftmaxCELoss(), rl.SigmoidBCELoss()])
def test_weights_of_the_start_are_checked(loss):
    objective = boosting.lightgbm(loss)
    for weight in ([1, np.nan, 1], [1, -1, 3]):
        with pytest.raises(errors.WeightError, match=r"^sample_weight\[1\]: "):
            objective.init_score([0, 1, 1], weight)
    with pytest.raises(errors.ShapeError, match=r"^sample_weight: "):
        objective.init_score([0, 1, 1], [1, 2])
    assert_allclose(objective.init_score([0, 1, 1], 2.0), objective.init_score([0, 1, 1]))


@pytest.mark.parametrize("ignored", [-1, 2])
def test_ignored_labels_are_no_class_to_start_from(ignored):
    objective = boosting.lightgbm(rl.SoftmaxCELoss(ignore_index=ignored))
    found = objective.init_score([0, ignored, 1, 1], [1, 8, 2, 1])
    assert_allclose(np.exp(found), [0.25, 0.75])


# Second derivatives


@pytest.mark.parametrize("name", ["SigmoidBCELoss", "LogisticLoss", "PoissonNLLLoss"])
@pytest.mark.parametrize("weighted", [False, True])
def test_fisher_of_a_canonical_link_is_exact(name, weighted):
    loss = getattr(rl, name)(weight=2.0)
    call = example(loss, (50,), optional=["sample_weight"])
    pred, label, weight = call.values()
    given = weight if weighted else None
    exact = boosting.xgboost(loss)(label, pred, given)
    fisher = boosting.xgboost(loss, hessian="fisher")(label, pred, given)
    if name == "LogisticLoss":
        assert exact[1].min() > 0
    assert_allclose(fisher, exact, rtol=ROUNDING)


def test_second_derivatives_of_classes():
    loss, k = rl.SoftmaxCELoss(class_weight=[1.0, 2.0, 0.5, 1.0]), 4
    call = example(loss, (20, k), optional=["sample_weight"])
    pred, label, weight = call.values()
    of_loss = rl.SoftmaxCELoss(reduction="none", class_weight=loss.class_weight)
    diagonal = of_loss.grad_hess(pred, label, weight)[1]
    for make, factor in {boosting.xgboost: 2, boosting.lightgbm: k / (k - 1)}.items():
        assert_allclose(make(loss)(label, pred, weight)[1], factor * diagonal)
        assert_allclose(make(loss, hessian="upper")(label, pred, weight)[1], 2 * diagonal)
    # The mean over labels takes class weights by the labels that may come.
    plain = rl.SoftmaxCELoss()
    exact = boosting.lightgbm(plain)(label, pred, weight)[1]
    fisher = boosting.lightgbm(plain, hessian="fisher")(label, pred, weight)[1]
    assert_allclose(fisher, exact, rtol=ROUNDING)


def test_matrix_of_catboost_is_the_derivative_of_the_gradient():
    loss, step = rl.SoftmaxCELoss(label_smoothing=0.1), 1e-6
    objective = boosting.catboost(loss)
    score = np.array([0.3, -1.0, 2.0])
    matrix = objective.calc_ders_multi(score, 1.0, 0.75)[1]
    differences = [
        objective.calc_ders_multi(score + step * unit, 1.0, 0.75)[0]
        - objective.calc_ders_multi(score - step * unit, 1.0, 0.75)[0]
        for unit in np.eye(3)
    ]
    assert_allclose(matrix, np.array(differences) / (2 * step), atol=DIFFERENCES)
    bound = boosting.catboost(loss, hessian="upper").calc_ders_multi(score, 1.0, 0.75)[1]
    assert_array_equal(bound, np.diag(np.diag(bound)))
    assert np.linalg.eigvalsh(matrix - bound).min() >= 0
    certain = objective.calc_ders_multi(np.array([0.0, 2000.0, 0.0]), 1.0, 1.0)[1]
    assert_array_equal(certain, -boosting.MIN_HESSIAN * np.eye(3))


@pytest.mark.parametrize("loss", [rl.L1Loss(), rl.HingeLoss(), rl.MultiQuantileLoss([0.2, 0.8])])
@pytest.mark.parametrize("hessian", ["exact", "upper", "fisher"])
def test_a_second_derivative_of_0_says_what_helps(loss, hessian):
    call = example(loss, (5, 2) if isinstance(loss, rl.MultiQuantileLoss) else (5,))
    pred, label = call.values()
    with pytest.raises(errors.ParameterError, match=r"0 everywhere.*hessian='one'"):
        boosting.xgboost(loss, hessian=hessian)(label, pred)
    grad, hess = boosting.xgboost(loss, hessian="one")(label, pred)
    assert_array_equal(hess, np.ones(pred.shape))
    assert grad.any()


def test_a_second_derivative_that_does_not_exist_says_what_helps():
    pred, label = np.ones((3, 4)), np.zeros(3)
    with pytest.raises(errors.ParameterError, match=r"does not exist.*hessian='one'"):
        boosting.lightgbm(rl.CRPSLoss())(label, pred)
    assert boosting.lightgbm(rl.CRPSLoss(), hessian="one")(label, pred)[1].all()


def test_fisher_needs_a_distribution():
    with pytest.raises(errors.ParameterError, match="no distribution of labels"):
        boosting.xgboost(rl.L2Loss(), hessian="fisher")([0.0], [1.0])


def test_floor():
    focal = rl.SoftmaxFocalLoss(gamma=2.0)
    pred, label = np.array([[4.0, -4.0], [-4.0, 4.0]]), np.array([1, 1])
    assert (rl.SoftmaxFocalLoss(gamma=2.0).grad_hess(pred, label)[1] < 0).any()
    hess = boosting.xgboost(focal, min_hessian=0.25)(label, pred, [2.0, 0.0])[1]
    assert_array_equal(hess, [[0.5, 0.5], [0.0, 0.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(5000,), (200,), (3, 5000)])
def test_floor_of_one_row_among_many(shape, dtype):
    pred, label = np.zeros(shape, dtype), np.ones(shape, dtype)
    for i in (0, label.size // 2, label.size - 1):
        pred.flat[i] = -60.0
        grad, hess = boosting.xgboost(rl.PoissonNLLLoss())(label, pred)
        assert_allclose(grad, np.exp(pred) - 1, atol=1e-6)
        assert_array_equal(hess.flat[i], dtype(boosting.xgboost(rl.L2Loss()).min_hessian))
        assert (np.delete(hess.ravel(), i) == 1).all()
        pred.flat[i] = 0.0


@over_callables
def test_integer_scores_and_one_weight_for_all(make):
    pred, label = np.array([0, 1, 2]), np.array([0.0, 1.0, 1.0])
    grad, hess = make(rl.SigmoidBCELoss(), hessian="fisher")(label, pred, 2.0)
    share = 1 / (1 + np.exp(-pred))
    assert_allclose(grad, 2 * (share - label), rtol=ROUNDING)
    assert_allclose(hess, 2 * share * (1 - share), rtol=ROUNDING)


# Calls that must fail


@pytest.mark.parametrize("hessian", ["exact", "fisher", "one"])
@pytest.mark.parametrize("loss", [rl.PoissonNLLLoss(), rl.SigmoidBCELoss()], ids=repr)
@over_callables
def test_every_kind_of_hessian_looks_at_the_scores_first(make, loss, hessian):
    label, pred = np.ones(3), np.array([0.0, np.nan, 1.0])
    with pytest.raises(errors.LabelError, match=r"pred\[1\]: expected a finite raw score, got nan"):
        make(loss, hessian=hessian)(label, pred)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_derivative_among_many_that_overflows(dtype):
    pred, label, weight = np.zeros(5000, dtype), np.ones(5000, dtype), np.ones(5000)
    pred[4321] = np.log(np.finfo(dtype).max) * 1.01
    with pytest.raises(
        errors.LabelError, match=r"pred\[4321\]: expected a finite gradient, got inf"
    ):
        boosting.xgboost(rl.PoissonNLLLoss())(label, pred)
    pred[4321] = 0.0
    label[4321], weight[4321] = 0.0, float(np.finfo(dtype).max) / 2
    grad, hess = boosting.xgboost(rl.PoissonNLLLoss())(label, pred, weight)
    assert grad[4321] == hess[4321] == weight[4321]
    pred[4321] = 2.0
    with pytest.raises(
        errors.LabelError, match=r"pred\[4321\]: expected a finite gradient, got inf"
    ):
        boosting.xgboost(rl.PoissonNLLLoss())(label, pred, weight)


@pytest.mark.parametrize(
    "loss", [rl.L2Loss(), rl.SigmoidBCELoss(), rl.SquaredHingeLoss()], ids=repr
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [1, 3])
def test_one_score_that_is_no_number_among_many(loss, dtype, step):
    pred, label = np.zeros(5000 * step, dtype)[::step], np.ones(5000, dtype)
    for i in (0, 2345, 4999):
        for value in (np.nan, np.inf, -np.inf):
            pred[i] = value
            with pytest.raises(errors.LabelError, match="expected a finite raw score") as e:
                boosting.xgboost(loss)(label, pred)
            assert e.value.index == (i,)
        pred[i] = 0.0
    boosting.xgboost(loss)(label, pred)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@over_callables
def test_scores_that_are_no_numbers_name_the_row(make, value):
    pred, label = np.zeros(5, np.float32), np.zeros(5, np.float32)
    pred[3] = value
    for call in (make(rl.L2Loss()), make(rl.L2Loss()).metric):
        with pytest.raises(errors.LabelError, match=r"pred\[3\]: expected a finite raw score") as e:
            call(label, pred)
        assert e.value.index == (3,)


def test_large_numbers_are_numbers():
    pred = np.full(4, np.finfo(np.float32).max / 2, np.float32)
    assert_array_equal(boosting.xgboost(rl.L2Loss())(np.zeros(4, np.float32), pred)[0], pred)


@over_callables
def test_derivatives_that_overflow_name_the_row(make):
    pred = np.array([0.0, 200.0], np.float32)
    with pytest.raises(errors.LabelError, match=r"pred\[1\]: expected a finite gradient, got inf"):
        make(rl.PoissonNLLLoss())(np.ones(2), pred)
    label = np.array([0.0, np.nan], np.float32)
    with pytest.raises(errors.LabelError, match=r"pred\[1\]: expected a finite gradient, got nan"):
        make(rl.L2Loss())(label, np.zeros(2, np.float32))


@pytest.mark.parametrize("name", ["SigmoidBCELoss", "LogisticLoss", "HingeLoss", "PoissonNLLLoss"])
@over_callables
def test_swapped_arguments_raise(make, name):
    call = example(getattr(rl, name)(), (20,))
    pred, label = call.values()
    objective = make(getattr(rl, name)(), hessian="one")
    objective(label, pred)
    with pytest.raises(errors.LabelError, match=list(call)[1]):
        objective(pred, label)


@over_makers
def test_losses_that_no_booster_can_train(make):
    for loss in (
        rl.SigmoidBCELoss(from_sigmoid=True),
        rl.PoissonNLLLoss(from_logits=False),
        rl.SoftmaxCELoss(sparse_label=False),
        rl.SoftmaxCELoss(from_logits=True),
        rl.KLDivLoss(from_logits=False),
        rl.L2Loss(batch_axis=1),
    ):
        for owner in (make, Metric):
            with pytest.raises(errors.ParameterError, match="raw scores"):
                owner(loss)
    with pytest.raises(errors.DTypeError, match=r"pass L2Loss\(\)"):
        make(rl.L2Loss)
    with pytest.raises(errors.ParameterError, match="hessian: expected one of"):
        make(rl.L2Loss(), hessian="diagonal")
    for floor in (-1.0, np.inf, np.nan, "a"):
        with pytest.raises(errors.ParameterError, match="min_hessian: expected a finite number"):
            make(rl.L2Loss(), min_hessian=floor)


# All losses


@pytest.mark.parametrize("name", [row["name"] for row in _core.registry()])
def test_every_loss_is_an_objective_or_refused(name):
    loss = getattr(rl, name)()
    entries = {row["name"]: row for row in loss._inputs if row["required"]}
    first, *labels = entries.values()
    of_rows = [
        row["shape"] == "PerVector" or spec_of(loss).family == "elementwise"
        for row in labels
        if row["gradient"] != "Default"
    ]
    if first["domain"] != "Real" or len(labels) != 1 or of_rows != [True]:
        with pytest.raises(errors.ParameterError, match="raw scores"):
            boosting.lightgbm(loss)
        return
    objective = boosting.lightgbm(loss, hessian="one")
    pred, label = entries
    shape = (6,) if entries[label]["shape"] == "Same" else None
    call = example(loss, shape, dtype=np.float32)
    grad, hess = objective(call[label], call[pred])
    plain = type(loss)(reduction="none")
    assert_array_equal(grad, plain.grad(**call))
    assert_array_equal(hess, np.ones(hess.shape))
    assert grad.dtype == hess.dtype == np.float32
    assert objective.predict(call[pred]).shape == grad.shape


@over_makers
def test_objectives_are_values(make):
    loss = rl.SigmoidBCELoss(weight=2.0, reduction="mean")
    objective = make(loss, hessian="fisher")
    for other in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        assert other == objective
        assert hash(other) == hash(objective)
        assert other.metric == objective.metric
    assert objective != make(loss)
    assert "fisher" in repr(objective)
    assert objective.metric.__name__ == "SigmoidBinaryCrossEntropyLoss"


def test_links():
    x = np.array([-800.0, 0.0, 2.0])
    predict = {
        name: boosting.xgboost(getattr(rl, name)(), hessian="one").predict
        for name in ("SigmoidBCELoss", "PoissonNLLLoss", "SoftmaxCELoss", "HuberLoss")
    }
    assert_allclose(predict["SigmoidBCELoss"](x), [0, 0.5, 1 / (1 + np.exp(-2))])
    assert_allclose(predict["PoissonNLLLoss"](x), np.exp(x))
    assert_allclose(predict["SoftmaxCELoss"]([x, -x]).sum(axis=1), 1)
    assert_array_equal(predict["HuberLoss"](x), x)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.iter_modules(boosting.__path__)])
def test_docstrings(module):
    assert doctest.testmod(importlib.import_module(f"rustloss.boosting.{module}")).failed == 0
