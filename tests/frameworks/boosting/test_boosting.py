"""Objectives beside the libraries' own: the same trees, and so the same predictions."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss import boosting, errors
from rustloss.boosting import Metric

xgb = pytest.importorskip("xgboost")
lgb = pytest.importorskip("lightgbm")
cb = pytest.importorskip("catboost")
datasets = pytest.importorskip("sklearn.datasets")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Failed to import numba",
    "ignore:Cannot compute class probabilities",
)

PREDICTIONS = 1e-6
"""Of the same trees: gradients differ in the last bits of single precision."""
ROUNDS = 8
PRINTED = 1e-5
"""XGBoost keeps the text of a metric."""
LEAST_SPREAD = 0.5
"""Of scores, so that a model that predicts one number does not pass."""
OPTIMA = 1e-6
"""Two optimisers end where gradients are below 1e-9."""

DATA: dict[str, Any] = {
    "L2Loss": datasets.load_diabetes(return_X_y=True),
    "SigmoidBCELoss": datasets.load_breast_cancer(return_X_y=True),
    "PoissonNLLLoss": datasets.load_diabetes(return_X_y=True),
    "SoftmaxCELoss": datasets.load_wine(return_X_y=True),
}
CLASSES = 3


def data(name: str) -> tuple[Any, Any, Any]:
    """Return features, labels and weights, with a few weights of 0."""
    features, label = DATA[name]
    if name == "PoissonNLLLoss":
        label = label // 50
    elif name == "L2Loss":
        label = label / 100
    weight = np.random.default_rng(0).integers(0, 8, len(label)) / 4
    return features, label, weight


over_weights = pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])


def train_xgboost(name: str, objective: Any, x: Any, y: Any, w: Any) -> Any:
    own = {"L2Loss": "reg:squarederror", "SigmoidBCELoss": "binary:logistic"}
    own |= {"PoissonNLLLoss": "count:poisson", "SoftmaxCELoss": "multi:softprob"}
    params: dict[str, Any] = {"max_depth": 3, "eta": 0.3, "nthread": 1, "base_score": 0.0}
    params["min_child_weight"] = 0.01  # sums of Hessians do come out at the default, 1
    if name == "SoftmaxCELoss":
        params["num_class"] = CLASSES
    if objective is None:
        # Where the score is 0; and Poisson's Hessian is exp(score + max_delta_step).
        params |= {"objective": own[name], "max_delta_step": 0.0}
        params["base_score"] = {"SigmoidBCELoss": 0.5, "PoissonNLLLoss": 1.0}.get(name, 0.0)
    matrix = xgb.DMatrix(x, y, weight=w)
    booster = xgb.train(params, matrix, ROUNDS, obj=objective)
    return booster.predict(matrix, output_margin=True)


def train_lightgbm(name: str, objective: Any, x: Any, y: Any, w: Any) -> Any:
    own = {"L2Loss": "regression", "SigmoidBCELoss": "binary"}
    own |= {"PoissonNLLLoss": "poisson", "SoftmaxCELoss": "multiclass"}
    params: dict[str, Any] = {
        "objective": objective or own[name],
        "num_leaves": 7,
        "num_threads": 1,
    }
    params |= {"boost_from_average": False, "verbosity": -1, "deterministic": True}
    params |= {"poisson_max_delta_step": 1e-12}  # their Hessian is exp(score + this)
    if name == "SoftmaxCELoss":
        params["num_class"] = CLASSES
    booster = lgb.train(params, lgb.Dataset(x, y, weight=w), ROUNDS)
    return booster.predict(x, raw_score=True)


def train_catboost(name: str, objective: Any, x: Any, y: Any, w: Any) -> Any:
    own = {"L2Loss": "RMSE", "SigmoidBCELoss": "Logloss"}
    own |= {"PoissonNLLLoss": "Poisson", "SoftmaxCELoss": "MultiClass"}
    params: dict[str, Any] = {
        "iterations": ROUNDS,
        "depth": 3,
        "learning_rate": 0.3,
        "verbose": False,
    }
    params |= {"bootstrap_type": "No", "random_strength": 0, "boost_from_average": False}
    params |= {"leaf_estimation_method": "Newton", "leaf_estimation_iterations": 1}
    params |= {"thread_count": 1, "allow_writing_files": False}
    kind = cb.CatBoostRegressor
    if name == "SigmoidBCELoss":
        kind = cb.CatBoostClassifier
    elif name == "SoftmaxCELoss":
        kind = cb.CatBoostClassifier
        params["classes_count"] = CLASSES
    params["loss_function"] = objective or own[name]
    if objective is not None:
        params["eval_metric"] = own[name]
    model = kind(**params).fit(x, y, sample_weight=w)
    return model.predict(x, prediction_type="RawFormulaVal")


MAKERS: list[Callable[..., Any]] = [boosting.xgboost, boosting.lightgbm, boosting.catboost]
TRAIN = {"xgboost": train_xgboost, "lightgbm": train_lightgbm, "catboost": train_catboost}
over_makers = pytest.mark.parametrize("make", MAKERS)
over_callables = pytest.mark.parametrize("make", MAKERS[:2])


# Beside the libraries


@over_weights
@pytest.mark.parametrize("name", DATA)
@over_makers
def test_training_gives_what_the_library_gives(make, name, weighted):
    x, y, w = data(name)
    w, train = w if weighted else None, TRAIN[make.__name__]
    ours = train(name, make(getattr(rl, name)()), x, y, w)
    theirs = train(name, None, x, y, w)
    assert np.ptp(theirs) > LEAST_SPREAD
    assert_allclose(ours, theirs, rtol=PREDICTIONS, atol=PREDICTIONS)


@over_weights
@pytest.mark.parametrize("name", DATA)
def test_estimators_of_xgboost(name, weighted):
    x, y, w = data(name)
    w = w if weighted else None
    is_class = name in {"SigmoidBCELoss", "SoftmaxCELoss"}
    kind = xgb.XGBClassifier if is_class else xgb.XGBRegressor
    objective = boosting.xgboost(getattr(rl, name)())
    # A classifier reads this as a probability.
    params: dict[str, Any] = {
        "n_estimators": ROUNDS,
        "base_score": 0.5 if name == "SigmoidBCELoss" else 0.0,
    }
    params |= {"max_depth": 3, "min_child_weight": 0.01, "n_jobs": 1, "learning_rate": 0.3}
    model = kind(objective=objective, eval_metric=objective.metric, **params)
    how = {"eval_set": [(x, y)], "sample_weight_eval_set": None if w is None else [w]}
    model.fit(x, y, sample_weight=w, verbose=False, **how)
    expected = train_xgboost(name, objective, x, y, w)
    scores = model.predict(x, output_margin=True)
    assert_array_equal(scores, expected)
    loss = getattr(rl, name)(reduction="weighted_mean")
    history = model.evals_result()["validation_0"][type(loss).__name__]
    assert history[-1] == pytest.approx(loss(scores, y, sample_weight=w), abs=PRINTED)
    if is_class:
        shares = model.predict_proba(x)
        predicted = objective.predict(scores)
        expected = shares if name == "SoftmaxCELoss" else shares[:, 1]
        assert_allclose(predicted, expected, atol=PREDICTIONS)


@over_weights
@pytest.mark.parametrize("name", DATA)
def test_estimators_of_lightgbm(name, weighted):
    x, y, w = data(name)
    w = w if weighted else None
    is_class = name in {"SigmoidBCELoss", "SoftmaxCELoss"}
    objective = boosting.lightgbm(getattr(rl, name)())
    kind = lgb.LGBMClassifier if is_class else lgb.LGBMRegressor
    params: dict[str, Any] = {"n_estimators": ROUNDS, "num_leaves": 7, "verbosity": -1, "n_jobs": 1}
    model = kind(objective=objective, deterministic=True, **params)
    how = {"eval_X": x.copy(), "eval_y": y, "eval_metric": objective.metric}
    model.fit(x, y, w, eval_sample_weight=None if w is None else [w], **how)
    scores = model.predict(x, raw_score=True)
    assert_array_equal(scores, train_lightgbm(name, objective, x, y, w))
    loss = getattr(rl, name)(reduction="weighted_mean")
    ((_, results),) = model.evals_result_.items()
    assert results[type(loss).__name__][-1] == pytest.approx(
        loss(scores, y, sample_weight=w), rel=PREDICTIONS
    )


def test_metrics_of_the_native_interfaces():
    x, y, w = data("SoftmaxCELoss")
    loss = rl.SoftmaxCELoss(reduction="weighted_mean")
    history: dict[str, Any] = {}
    objective: Any = boosting.xgboost(loss)
    matrix = xgb.DMatrix(x, y, weight=w)
    how = {"obj": objective, "custom_metric": objective.metric, "evals_result": history}
    params: dict[str, Any] = {
        "num_class": CLASSES,
        "base_score": 0.0,
        "disable_default_eval_metric": 1,
    }
    booster = xgb.train(params, matrix, 3, evals=[(matrix, "train")], verbose_eval=False, **how)
    scores = booster.predict(matrix, output_margin=True)
    expected = loss(scores, y, sample_weight=w)
    name = type(loss).__name__
    assert history["train"][name][-1] == pytest.approx(expected, abs=PRINTED)

    objective = boosting.lightgbm(loss)
    params = {"num_class": CLASSES, "objective": objective, "verbosity": -1, "metric": "None"}
    recorded = [lgb.record_evaluation(history)]
    table = lgb.Dataset(x, y, weight=w)
    how = {"valid_sets": [table], "feval": objective.metric, "callbacks": recorded}
    scores = lgb.train(params, table, 3, **how).predict(x)
    expected = loss(scores, y, sample_weight=w)
    assert history["training"][name][-1] == pytest.approx(expected, rel=PREDICTIONS)

    objective = boosting.catboost(loss)
    params = {"loss_function": objective, "eval_metric": objective.metric, "iterations": 3}
    params |= {"verbose": False, "allow_writing_files": False, "classes_count": CLASSES}
    model = cb.CatBoostClassifier(leaf_estimation_iterations=1, **params).fit(x, y, sample_weight=w)
    scores = model.predict(x, prediction_type="RawFormulaVal")
    expected = loss(scores, y, sample_weight=w)
    (metric,) = model.evals_result_["learn"].values()
    assert metric[-1] == pytest.approx(expected, rel=PREDICTIONS)


def test_several_targets_of_xgboost():
    x, y, _ = data("L2Loss")
    matrix = xgb.DMatrix(x, np.stack([y, -2 * y], axis=1))
    params: dict[str, Any] = {"max_depth": 3, "base_score": 0.0, "num_target": 2}
    ours = xgb.train(params, matrix, ROUNDS, obj=boosting.xgboost(rl.L2Loss())).predict(matrix)
    del params["num_target"]
    assert_allclose(ours, xgb.train(params, matrix, ROUNDS).predict(matrix), atol=PREDICTIONS)


def test_lightgbm_starts_where_its_own_objectives_start():
    for name, own in {"SigmoidBCELoss": "binary", "PoissonNLLLoss": "poisson"}.items():
        x, y, w = data(name)
        objective = boosting.lightgbm(getattr(rl, name)())
        start = objective.init_score(y, w)
        params = {"num_leaves": 7, "verbosity": -1, "poisson_max_delta_step": 1e-12}
        table = lgb.Dataset(x, y, weight=w, init_score=np.full(len(y), start))
        ours = lgb.train({**params, "objective": objective}, table, ROUNDS).predict(x)
        theirs = lgb.train({**params, "objective": own}, lgb.Dataset(x, y, weight=w), ROUNDS)
        predicted = objective.predict(ours + start)
        assert_allclose(predicted, theirs.predict(x), rtol=PREDICTIONS, atol=PREDICTIONS)


def test_absolute_error_trains_with_a_hessian_of_one():
    """XGBoost fits its own leaves to medians, no other objective can: look at the loss alone."""
    x, y, _ = data("L2Loss")
    loss = rl.L1Loss()
    objective = boosting.xgboost(loss, hessian="one")
    start = objective.init_score(y)
    matrix = xgb.DMatrix(x, y)
    booster = xgb.train({"eta": 0.3, "base_score": start}, matrix, 50, obj=objective)
    metric = objective.metric
    assert metric(y, booster.predict(matrix)) < metric(y, np.full(len(y), start)) / 2


def test_a_poisoned_label_ends_training():
    x, y, _ = data("SigmoidBCELoss")
    bad = np.where(np.arange(len(y)) == 7, 2, y).astype(float)
    with pytest.raises(errors.LabelError, match=r"label\[7\]"):
        xgb.train({}, xgb.DMatrix(x, bad), 2, obj=boosting.xgboost(rl.SigmoidBCELoss()))
    params: dict[str, Any] = {"objective": boosting.lightgbm(rl.SigmoidBCELoss()), "verbosity": -1}
    with pytest.raises(errors.LabelError, match=r"label\[7\]"):
        lgb.train(params, lgb.Dataset(x, bad), 2)
    params = {"loss_function": boosting.catboost(rl.SigmoidBCELoss()), "eval_metric": "RMSE"}
    model = cb.CatBoostRegressor(2, verbose=False, allow_writing_files=False, **params)
    with pytest.raises(cb.CatBoostError, match=r"label\[7\]"):
        model.fit(x, bad)


@over_callables
def test_estimators_are_cloned_and_pickled(make):
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_predict

    x, y, _ = data("PoissonNLLLoss")
    objective = make(rl.PoissonNLLLoss())
    kind = {"xgboost": xgb.XGBRegressor, "lightgbm": lgb.LGBMRegressor}[make.__name__]
    silent = {"verbosity": 0 if kind is xgb.XGBRegressor else -1}
    model = kind(objective=objective, n_estimators=5, n_jobs=1, **silent)
    expected = model.fit(x, y).predict(x)
    assert clone(model).objective == objective
    assert_array_equal(clone(model).fit(x, y).predict(x), expected)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict(x), expected)
    alone, shared = (cross_val_predict(model, x, y, cv=2, n_jobs=n) for n in (1, 2))
    assert_array_equal(alone, shared)


def test_training_stops_early_by_the_metric():
    x, y, _ = data("SigmoidBCELoss")
    train, valid = slice(None, None, 2), slice(1, None, 2)
    objective: Any = boosting.xgboost(rl.SigmoidBCELoss())
    how = {"eval_metric": objective.metric, "early_stopping_rounds": 3, "n_jobs": 1}
    model = xgb.XGBClassifier(objective=objective, n_estimators=500, learning_rate=1, **how)
    model.fit(x[train], y[train], eval_set=[(x[valid], y[valid])], verbose=False)
    history = model.evals_result()["validation_0"]["SigmoidBinaryCrossEntropyLoss"]
    assert len(history) < 100
    assert model.best_iteration == np.argmin(history)

    objective = boosting.lightgbm(rl.SigmoidBCELoss())
    params = {"objective": objective, "verbosity": -1, "metric": "None", "learning_rate": 1}
    table, other = (lgb.Dataset(x[part], y[part]) for part in (train, valid))
    how = {"feval": objective.metric, "callbacks": [lgb.early_stopping(3, verbose=False)]}
    booster = lgb.train(params, table, 500, valid_sets=[other], **how)
    assert 0 < booster.best_iteration < 100


def test_estimators_of_lightgbm_stop_where_its_own_objective_does():
    """By ``metric="None"``, as the page says; else LightGBM's own metric of raw scores counts."""
    x, y, _ = data("SigmoidBCELoss")
    train, valid = slice(None, None, 2), slice(1, None, 2)

    def stopped(objective: Any, **how: Any) -> Any:
        params = {"boost_from_average": False, "verbosity": -1, "n_jobs": 1, "deterministic": True}
        metric = {"eval_metric": how.pop("eval_metric")} if how else {}
        model = lgb.LGBMClassifier(objective=objective, n_estimators=500, **params, **how)
        stop = lgb.early_stopping(3, verbose=False)
        parts = {"eval_X": x[valid], "eval_y": y[valid]}
        model.fit(x[train], y[train], callbacks=[stop], **parts, **metric)
        return model.best_iteration_, [*model.best_score_["valid_0"]]

    objective = boosting.lightgbm(rl.SigmoidBCELoss())
    ours, metrics = stopped(objective, eval_metric=objective.metric, metric="None")
    assert metrics == ["SigmoidBinaryCrossEntropyLoss"]
    assert ours == stopped("binary")[0]


def test_classifiers_of_xgboost_start_where_they_are_told():
    x, y, _ = data("SigmoidBCELoss")
    objective = boosting.xgboost(rl.SigmoidBCELoss())

    def scores(objective: Any, start: Any = None, **params: Any) -> Any:
        model = xgb.XGBClassifier(objective=objective, n_estimators=ROUNDS, n_jobs=1, **params)
        model.fit(x, y, base_margin=start)
        return model.predict(x, output_margin=True, base_margin=start)

    expected = scores("binary:logistic", base_score=0.5)
    assert_allclose(scores(objective, base_score=0.5), expected, rtol=1e-5, atol=1e-5)
    start = np.full(len(y), objective.init_score(y))
    assert_allclose(scores(objective, start), scores("binary:logistic"), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["SigmoidBCELoss", "SoftmaxCELoss"])
def test_classifiers_of_catboost_are_told_the_classes(name):
    x, y, _ = data(name)
    objective = boosting.catboost(getattr(rl, name)())
    params: dict[str, Any] = {"iterations": ROUNDS, "verbose": False, "allow_writing_files": False}
    params |= {"loss_function": objective, "eval_metric": objective.metric}
    model = cb.CatBoostClassifier(class_names=np.unique(y).tolist(), **params).fit(x, y)
    assert model.score(x, y) > 0.9
    assert_allclose(model.predict_proba(x).argmax(axis=1), model.predict(x).ravel())
    if name == "SoftmaxCELoss":
        with pytest.raises(cb.CatBoostError, match=r"pass class_names= to CatBoostClassifier"):
            cb.CatBoostClassifier(**params).fit(x, y)


def test_swapped_arguments_of_the_native_interfaces_raise():
    x, y, _ = data("L2Loss")
    matrix, table = xgb.DMatrix(x, y), lgb.Dataset(x, y).construct()
    for make, rows in ((boosting.xgboost, matrix), (boosting.lightgbm, table)):
        objective = make(rl.L2Loss())
        objective(y, rows)
        for call in (objective, objective.metric):
            with pytest.raises(errors.CallError, match=r"expected scores before the .*swapped"):
                call(rows, y)
    with pytest.raises(errors.ShapeError, match="label: expected a DMatrix with labels, got none"):
        boosting.xgboost(rl.L2Loss())(y, xgb.DMatrix(x))


# scikit-learn and SciPy


def test_scorer():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import log_loss, make_scorer
    from sklearn.model_selection import cross_val_score

    x, y, _ = data("SigmoidBCELoss")
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    how = {"greater_is_better": False, "response_method": "decision_function"}
    ours = make_scorer(Metric(rl.SigmoidBCELoss()), **how)
    theirs = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba")
    found, expected = (
        cross_val_score(LogisticRegression(), x, y, scoring=scorer, cv=3)
        for scorer in (ours, theirs)
    )
    assert_allclose(found, expected, rtol=PREDICTIONS)


def test_a_generalised_linear_model_is_that_of_scikit_learn():
    from scipy.optimize import minimize
    from sklearn.linear_model import PoissonRegressor

    x, y, w = data("PoissonNLLLoss")
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    design, alpha = np.column_stack([x, np.ones(len(x))]), 0.5
    loss = rl.PoissonNLLLoss(reduction="weighted_mean")

    def objective(coef: Any) -> tuple[float, Any]:
        value, grad = loss.value_and_grad(design @ coef, y, sample_weight=w)
        penalty = alpha * np.append(coef[:-1], 0)
        return value + penalty @ coef / 2, design.T @ grad + penalty

    found = minimize(objective, np.zeros(design.shape[1]), jac=True, options={"gtol": 1e-9})
    model = PoissonRegressor(alpha=alpha, tol=1e-10, max_iter=1000).fit(x, y, sample_weight=w)
    assert_allclose(found.x, [*model.coef_, model.intercept_], rtol=OPTIMA, atol=OPTIMA)
