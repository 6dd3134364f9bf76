"""The mean loss as a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rustloss._loss import Loss
from rustloss.boosting._calls import arguments, labels_of, refuse_non_finite, with_reduction


@dataclass(frozen=True)
class Metric:
    """The mean loss of rows, by the order of arguments that scikit-learn has.

    ``metric(y_true, y_pred, sample_weight=None)`` is ``sum(w E) / sum(w)`` of the loss E of raw
    scores: for `sklearn.metrics.make_scorer` with ``greater_is_better=False``.

    Parameters
    ----------
    loss : Loss
        The loss.

    Examples
    --------
    >>> import rustloss as rl
    >>> from rustloss.boosting import Metric
    >>> Metric(rl.L2Loss())([1.0, 2.0], [1.0, 4.0], sample_weight=[3, 1])
    0.5
    """

    loss: Loss

    def __post_init__(self) -> None:
        labels_of(self.loss)

    @property
    def __name__(self) -> str:
        return type(self.loss).__name__

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the mean loss."""
        pred, label, weight = arguments(y_true, y_pred, sample_weight)
        refuse_non_finite(pred)
        mean = with_reduction(self.loss, "weighted_mean")
        return float(mean(pred, label, sample_weight=weight))


class XGBoostMetric(Metric):
    """A metric of XGBoost: ``custom_metric`` of `xgboost.train`, ``eval_metric`` of its estimators.

    With one of the library's own objectives XGBoost hands over predictions, not raw scores: use it
    with an objective of this module.
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the mean loss; its name too, by the native interface."""
        value = super().__call__(y_true, y_pred, sample_weight)
        return (self.__name__, value) if hasattr(y_pred, "get_label") else value


class LightGBMMetric(Metric):
    """A metric of LightGBM: ``feval`` of `lightgbm.train`, ``eval_metric`` of its estimators."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the name, the mean loss, and False: less is better."""
        return self.__name__, super().__call__(y_true, y_pred, sample_weight), False


class CatBoostMetric(Metric):
    """A metric of CatBoost: ``eval_metric`` of its estimators."""

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Return the sum of losses and the sum of weights."""
        pred = np.asarray(approxes[0] if len(approxes) == 1 else np.transpose(approxes))
        total = float(len(pred) if weight is None else np.sum(weight))
        return total * self(target, pred, weight), total

    def is_max_optimal(self) -> bool:
        """Return False: less is better."""
        return False

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the mean."""
        return error / weight if weight else 0.0
