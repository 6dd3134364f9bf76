"""Gradients and Hessians as the libraries take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rustloss import _core
from rustloss._interop import as_array, refuse_misaligned
from rustloss._loss import Loss
from rustloss.boosting._calls import Array, arguments, labels_of, refuse_non_finite, with_reduction
from rustloss.boosting._metrics import CatBoostMetric, LightGBMMetric, XGBoostMetric
from rustloss.boosting._start import log_shares, root
from rustloss.errors import CallError, ParameterError

HessianMode = Literal["exact", "upper", "fisher", "one"]
Link = Literal["identity", "sigmoid", "exp", "softmax"]

#: The floor of a row of weight 1 that XGBoost has; it keeps a leaf's sum from being 0.
MIN_HESSIAN = 1e-16

#: What makes a prediction of a raw score, by loss; the identity where none is named.
_LINKS: dict[str, Link] = {
    "LogisticLoss": "sigmoid",
    "PoissonNLLLoss": "exp",
    "PolyLoss": "softmax",
    "SigmoidBinaryCrossEntropyLoss": "sigmoid",
    "SoftmaxCrossEntropyLoss": "softmax",
    "SoftmaxFocalLoss": "softmax",
}


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def _softmax(x: Array) -> Array:
    share = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(share / share.sum(axis=-1, keepdims=True))


_INVERSE_LINKS: dict[Link, Callable[[Array], Array]] = {
    "identity": np.array,
    "sigmoid": _sigmoid,
    "exp": np.exp,
    "softmax": _softmax,
}


@dataclass(frozen=True)
class Objective:
    """What the objectives of all libraries have in common; made by `xgboost` and its kin.

    Attributes
    ----------
    loss : Loss
        The loss.
    hessian : {"exact", "upper", "fisher", "one"}
        The kind of second derivative.
    min_hessian : float
        Its floor.
    """

    loss: Loss
    hessian: HessianMode = "exact"
    min_hessian: float = MIN_HESSIAN
    _label: dict[str, Any] = field(init=False, repr=False, compare=False)
    _rows: Loss = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        modes = get_args(HessianMode)
        if self.hessian not in modes:
            text = f"hessian: expected one of {modes}, got {self.hessian!r}"
            raise ParameterError(text, "hessian")
        is_number = isinstance(self.min_hessian, (int, float, np.number))
        if not (is_number and 0 <= self.min_hessian < math.inf):
            text = f"min_hessian: expected a finite number >= 0, got {self.min_hessian!r}"
            raise ParameterError(text, "min_hessian")
        object.__setattr__(self, "_label", labels_of(self.loss))
        object.__setattr__(self, "_rows", with_reduction(self.loss, "none"))

    @property
    def link(self) -> Link:
        """What `predict` does: ``"identity"``, ``"sigmoid"``, ``"exp"`` or ``"softmax"``."""
        names = (cls.__name__ for cls in type(self.loss).__mro__)
        return next((_LINKS[name] for name in names if name in _LINKS), "identity")

    def predict(self, score: ArrayLike) -> Array:
        """Return what raw scores predict: numbers, probabilities of label 1, rates, or shares.

        Parameters
        ----------
        score : array_like, shape (n,) or (n, k)
            What the booster gives as raw score or margin, an initial score included.

        Returns
        -------
        ndarray
            Of the scores' shape.
        """
        return _INVERSE_LINKS[self.link](np.asarray(score))

    def init_score(self, label: Any, sample_weight: Any = None) -> Any:
        """Return the constant raw score to start from, as boosters do for objectives of their own.

        Parameters
        ----------
        label : array_like, shape (n,)
            The labels.
        sample_weight : array_like, optional
            The weights of the rows.

        Returns
        -------
        float or ndarray
            For one score a row the constant of least loss, found by bisection of the sum of the
            gradients. For class labels the logarithms of the weighted shares of the k classes, of
            shape (k,); labels of `ignore_index` are left out.

        Raises
        ------
        LabelError
            If no finite constant is best: all labels are of one class, or one class has no row.
        ParameterError
            If the loss has several scores a row and labels that are not classes.
        """
        refuse_misaligned({"label": label, "sample_weight": sample_weight})
        y = as_array("label", label)
        if self._label["domain"] == "Classes":
            return log_shares(self.loss, y, sample_weight)
        if self._label["shape"] == "PerVector":
            text = f"loss: expected one score or one class label for each row, got {self.loss!r}"
            raise ParameterError(text, "loss")

        def slope(score: float) -> float:
            pred = np.broadcast_to(np.float64(score), y.shape)
            return float(np.sum(self._rows.grad(pred, y, sample_weight=sample_weight)))

        return root(slope)

    def _factor(self, classes: int) -> float:
        """Return by what the library multiplies the diagonal of a softmax's second derivative."""
        raise NotImplementedError

    def _grad_hess(self, pred: Array, label: Array, weight: Array | None) -> tuple[Array, Array]:
        """Return gradient and Hessian of the scores, both checked, in the scores' type."""
        per_row: Any = 1.0 if weight is None else weight.reshape(-1, *(1,) * (pred.ndim - 1))
        # Whether all numbers are finite and the least Hessian, where that is known.
        found: tuple[bool, float] | None = None
        if self.hessian == "one":
            grad = np.asarray(self._rows.grad(pred, label, sample_weight=weight))
            scale = 1.0 if self.loss.weight is None else self.loss.weight
            hess = np.broadcast_to(per_row * scale, pred.shape).astype(grad.dtype)
        else:
            self._require_hessian()
            grad, hess, found = _core.grad_hess_extremes(
                self._rows, pred, label, sample_weight=weight
            )
        if self.hessian == "fisher":
            if found is None or not found[0]:
                refuse_non_finite(pred, grad)
            hess, found = self._expected(pred, weight, grad.dtype), None
        if self._label["domain"] == "Classes" and self.hessian != "one" and pred.shape[-1] > 1:
            hess *= 2.0 if self.hessian == "upper" else self._factor(pred.shape[-1])
            found = None
        finite, least = found or (False, 0.0)
        if not finite:
            refuse_non_finite(pred, grad, hess)
            least = hess.min(initial=np.inf)
        floor = np.asarray(self.min_hessian * per_row, hess.dtype)
        # To look takes half as long as to write.
        if least < floor.max(initial=0):
            np.maximum(hess, floor, out=hess)
        return grad, hess

    def _require_hessian(self) -> None:
        kind = self._rows._hessian
        if kind != "diagonal":
            what = "is 0 everywhere" if kind == "zero" else "does not exist"
            text = f"hessian: the second derivative of {self.loss!r} {what}, and leaves divide by"
            raise ParameterError(f"{text} it; pass hessian='one'", "hessian")

    def _expected(self, pred: Array, weight: Array | None, dtype: np.dtype[Any]) -> Array:
        """Return the mean of the second derivative over the labels that the scores predict."""
        total: Any = 0.0
        for label, probability in self._outcomes(pred):
            total += probability * self._rows.grad_hess(pred, label, sample_weight=weight)[1]
        return np.asarray(total, dtype)

    def _outcomes(self, pred: Array) -> Iterator[tuple[Array, Array]]:
        """Yield the labels that may come, and their probabilities."""
        predicted = self.predict(pred)
        if self.link == "softmax":
            for c in range(pred.shape[-1]):
                yield np.full(len(pred), c), predicted[:, c : c + 1]
        elif self.link == "sigmoid":
            least = -1.0 if self._label["domain"] == "Sign" else 0.0
            yield np.full(pred.shape, least), _sigmoid(-pred)
            yield np.full(pred.shape, 1.0), predicted
        elif self.link == "exp":  # linear in the label, so that the mean label will do
            yield predicted, np.ones(())
        else:
            text = f"hessian: {self.loss!r} predicts no distribution of labels, whose mean 'fisher'"
            raise ParameterError(f"{text} is; pass hessian='exact' or 'one'", "hessian")


class CallableObjective(Objective):
    """An objective that is called by the native interface and by that of scikit-learn."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[Array, Array]:
        """Return gradient and Hessian, for labels and scores or for scores and a data set."""
        return self._grad_hess(*arguments(y_true, y_pred, sample_weight))


class XGBoostObjective(CallableObjective):
    """An objective of XGBoost; see `xgboost`."""

    @property
    def metric(self) -> XGBoostMetric:
        """The mean loss, as a metric of XGBoost."""
        return XGBoostMetric(self.loss)

    def _factor(self, classes: int) -> float:
        del classes
        return 2.0


class LightGBMObjective(CallableObjective):
    """An objective of LightGBM; see `lightgbm`."""

    @property
    def metric(self) -> LightGBMMetric:
        """The mean loss, as a metric of LightGBM."""
        return LightGBMMetric(self.loss)

    def _factor(self, classes: int) -> float:
        return classes / (classes - 1)


class CatBoostObjective(Objective):
    """An objective of CatBoost; see `catboost`."""

    @property
    def metric(self) -> CatBoostMetric:
        """The mean loss, as a metric of CatBoost."""
        return CatBoostMetric(self.loss)

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Array:
        """Return the derivatives of minus the loss for rows of one score, of shape (n, 2)."""
        if self._label["shape"] == "PerVector":
            text = f"expected CatBoost to know the classes of {self.loss!r}, got rows of one score"
            raise CallError(f"{text}; pass class_names= to CatBoostClassifier")
        grad, hess = self._grad_hess(*arguments(targets, approxes, weights))
        return -np.stack([grad, hess], axis=1)

    def calc_ders_multi(self, approx: Any, target: Any, weight: Any) -> tuple[Array, Array]:
        """Return the derivatives of minus the loss for one row of k scores: k, and k by k."""
        pred, label, weights = arguments([target], [approx], [weight])
        grad, hess = self._grad_hess(pred, label, weights)
        matrix = np.diag(hess[0])
        if self.link == "softmax" and self.hessian in {"exact", "fisher"}:
            matrix += _coupling(_softmax(pred[0]), hess[0])
        return -grad[0], -matrix

    def _factor(self, classes: int) -> float:
        del classes
        return 1.0


def _coupling(share: Array, hess: Array) -> Array:
    """Return a softmax's second derivatives by two scores, for the diagonal `hess` of a row."""
    spread = 1 - share @ share
    if spread <= 0:  # one class is certain, and all second derivatives are 0
        return np.zeros((len(share), len(share)))
    matrix = -hess.sum() / spread * np.outer(share, share)
    np.fill_diagonal(matrix, 0)
    return np.asarray(matrix)
