"""Losses as objectives and metrics of XGBoost, LightGBM and CatBoost.

`xgboost`, `lightgbm` and `catboost` make an objective of a loss: the order of arguments, shape,
sign, weights and scale of the Hessian are those of the library. An objective of XGBoost or LightGBM
serves the native interface and the one of scikit-learn alike. None of the three is imported here.

A loss fits if its prediction is any real number, one for each row (all element by element losses of
one label) or one for each class (`SoftmaxCrossEntropyLoss` and its kin). Its `reduction` does not
matter: a booster adds rows itself.
"""

from __future__ import annotations

from rustloss._loss import Loss
from rustloss.boosting._metrics import CatBoostMetric, LightGBMMetric, Metric, XGBoostMetric
from rustloss.boosting._objectives import (
    MIN_HESSIAN,
    CatBoostObjective,
    HessianMode,
    LightGBMObjective,
    Objective,
    XGBoostObjective,
)

__all__ = [
    "MIN_HESSIAN",
    "CatBoostMetric",
    "CatBoostObjective",
    "HessianMode",
    "LightGBMMetric",
    "LightGBMObjective",
    "Metric",
    "Objective",
    "XGBoostMetric",
    "XGBoostObjective",
    "catboost",
    "lightgbm",
    "xgboost",
]


def xgboost(
    loss: Loss, *, hessian: HessianMode = "exact", min_hessian: float = MIN_HESSIAN
) -> XGBoostObjective:
    """Make an objective of XGBoost: ``obj`` of `xgboost.train`, ``objective`` of its estimators.

    Parameters
    ----------
    loss : Loss
        A loss of one prediction for each row or for each class.
    hessian : {"exact", "upper", "fisher", "one"}, default "exact"
        What a leaf divides the sum of gradients by. ``"exact"`` is the diagonal of the second
        derivative, which for class labels is multiplied by what the library has in its own
        objective: 2 in XGBoost, k / (k - 1) for k classes in LightGBM, while CatBoost takes the
        whole matrix. ``"upper"`` is twice the diagonal for class labels in all of them, which for
        cross-entropy no step in any direction exceeds; for one score it is the exact one.
        ``"fisher"`` is the mean of the second derivative over labels drawn from the prediction, for
        losses of probabilities and rates: it depends less on single labels where the loss is not
        convex. ``"one"`` is the weight of the row, which makes a leaf the mean of the gradients:
        for losses whose second derivative is 0 (`L1Loss`, `HingeLoss`).
    min_hessian : float, default 1e-16
        The floor of the Hessian of a row of weight 1. A loss that is not convex needs more, or
        another kind.

    Returns
    -------
    XGBoostObjective
        Called with ``(y_true, y_pred, sample_weight=None)`` or ``(predt, dtrain)``. `metric` is the
        mean loss as a metric, `predict` turns raw scores into predictions, `init_score` gives the
        constant to start from.

    Raises
    ------
    ParameterError
        If the loss is none of one label for each row, or, from a call, if the kind of Hessian is 0
        or does not exist.
    LabelError
        From a call: a label outside the loss's domain (which swapped arguments bring about); a
        score, gradient or Hessian that is NaN or infinite. The text names the row.

    Examples
    --------
    >>> import rustloss as rl
    >>> from rustloss.boosting import xgboost
    >>> objective = xgboost(rl.SigmoidBCELoss())
    >>> grad, hess = objective([0.0, 1.0], [0.0, 0.0])
    >>> print(grad, hess)
    [ 0.5 -0.5] [0.25 0.25]
    >>> objective.predict([0.0])
    array([0.5])
    """
    return XGBoostObjective(loss, hessian, min_hessian)


def lightgbm(
    loss: Loss, *, hessian: HessianMode = "exact", min_hessian: float = MIN_HESSIAN
) -> LightGBMObjective:
    """Make an objective of LightGBM: ``objective`` in its parameters and of its estimators.

    LightGBM starts an objective that is not its own from 0: pass `init_score` to the data set, and
    add it to the raw scores before `predict`. With early stopping by `metric` pass
    ``metric="None"`` too, or LightGBM also stops by a metric of its own on raw scores.

    Parameters
    ----------
    loss, hessian, min_hessian
        See `xgboost`.

    Returns
    -------
    LightGBMObjective
        Called with ``(y_true, y_pred, sample_weight=None)`` or ``(preds, train_data)``; the rest is
        as in `xgboost`, the errors too.

    Examples
    --------
    >>> import numpy as np
    >>> import rustloss as rl
    >>> from rustloss.boosting import lightgbm
    >>> objective = lightgbm(rl.SoftmaxCELoss())
    >>> grad, hess = objective(np.array([0, 1]), np.zeros((2, 2)))
    >>> print(grad, hess)
    [[-0.5  0.5]
     [ 0.5 -0.5]] [[0.5 0.5]
     [0.5 0.5]]
    >>> objective.init_score([0, 1, 1, 1])
    array([-1.38629436, -0.28768207])
    """
    return LightGBMObjective(loss, hessian, min_hessian)


def catboost(
    loss: Loss, *, hessian: HessianMode = "exact", min_hessian: float = MIN_HESSIAN
) -> CatBoostObjective:
    """Make an objective of CatBoost: ``loss_function`` of its estimators.

    CatBoost maximises, and so the derivatives have the other sign. For class labels it calls Python
    for every row, which is slow. The matrix of a row then couples its scores as a softmax does. Its
    classifiers need ``class_names=[0, 1, ...]``, as they do not find the classes on their own.

    Parameters
    ----------
    loss, hessian, min_hessian
        See `xgboost`.

    Returns
    -------
    CatBoostObjective
        With ``calc_ders_range`` and ``calc_ders_multi``; the rest is as in `xgboost`, the errors
        too, whose text CatBoost puts into an error of its own.

    Examples
    --------
    >>> import numpy as np
    >>> import rustloss as rl
    >>> from rustloss.boosting import catboost
    >>> catboost(rl.L2Loss()).calc_ders_range(np.array([1.0, 3.0]), np.array([2.0, 2.0]), None)
    array([[ 1., -1.],
           [-1., -1.]])
    """
    return CatBoostObjective(loss, hessian, min_hessian)
