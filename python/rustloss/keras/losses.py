"""Keras's losses, computed by rustloss: same names, arguments, defaults, numbers and files.

Each class is a subclass of Keras's of the same name, which has its documentation, and can stand in
its place in ``model.compile``. Tensors are those of the backend: TensorFlow's, torch's, JAX's or
NumPy's. What is another is bad input: labels that Keras would make a plausible number of raise
`rustloss.errors.LabelError`, or what the backend makes of it in a graph.

Examples
--------
>>> import numpy as np
>>> from rustloss.keras import losses
>>> loss = losses.SparseCategoricalCrossentropy(from_logits=True)
>>> value = loss(np.array([0, 1]), np.array([[2.0, 0.0], [0.0, 2.0]]))
>>> print(f"{float(value):.6f}")
0.126928
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops
from keras.src.backend import set_keras_mask

import rustloss as rl
from rustloss.errors import LabelError, ShapeError

__all__ = [
    "CTC",
    "BinaryCrossentropy",
    "CategoricalCrossentropy",
    "CategoricalHinge",
    "CosineSimilarity",
    "Hinge",
    "Huber",
    "KLDivergence",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogarithmicError",
    "Poisson",
    "SparseCategoricalCrossentropy",
    "SquaredHinge",
]

_ABSOLUTE = rl.L1Loss(reduction="none")
_SQUARED = rl.L2Loss(2.0, reduction="none")
_HINGE = rl.HingeLoss(reduction="none")
_SQUARED_HINGE = rl.SquaredHingeLoss(reduction="none")
_CATEGORICAL_HINGE = rl.CategoricalHingeLoss(reduction="none")
_DIVERGENCE = rl.KLDivLoss(reduction="none")
_POISSON = rl.PoissonNLLLoss(from_logits=False, reduction="none")
_CTC = rl.CTCLoss(blank="first", reduction="none")


def _epsilon(like: Any) -> Any:
    """Return Keras's epsilon in a tensor's type, which a Python number may turn into float32."""
    return ops.cast(keras.config.epsilon(), like.dtype)


def _paired(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    """Return both in the shape that NumPy broadcasts them to, as Keras's formulas do."""
    if tuple(y_true.shape) == tuple(y_pred.shape):
        return y_true, y_pred
    return y_true + ops.zeros_like(y_pred), y_pred + ops.zeros_like(y_true)


def _refuse_another_rank(y_true: Any, y_pred: Any) -> None:
    """Refuse labels of another number of axes, which the losses below may read in C order."""
    if len(y_true.shape) != len(y_pred.shape):
        text = f"y_true: expected the shape of y_pred, {tuple(y_pred.shape)}"
        raise ShapeError(f"{text}, got {tuple(y_true.shape)}", "y_true")


def _of_rows(values: Any, y_pred: Any) -> Any:
    """Return the losses of rows; a prediction of one axis is one row, and its loss a number."""
    return ops.reshape(values, ()) if len(y_pred.shape) == 1 else values


def _mean_squared_error(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``(y_true - y_pred)**2`` along the last axis."""
    y_true, y_pred = _paired(y_true, y_pred)
    return ops.mean(_SQUARED(y_pred, y_true), axis=-1)


def _mean_absolute_error(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``|y_true - y_pred|`` along the last axis."""
    y_true, y_pred = _paired(y_true, y_pred)
    return ops.mean(_ABSOLUTE(y_pred, y_true), axis=-1)


def _mean_absolute_percentage_error(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``100 |y_true - y_pred| / max(|y_true|, epsilon)`` along the last axis."""
    scale = ops.maximum(ops.abs(y_true), _epsilon(y_true)) / 100
    return _mean_absolute_error(y_true / scale, y_pred / scale)


def _mean_squared_logarithmic_error(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``(log(1 + y_true) - log(1 + y_pred))**2``; numbers below epsilon count as that."""
    logs = (ops.log(ops.maximum(y, _epsilon(y)) + 1) for y in (y_true, y_pred))
    return _mean_squared_error(*logs)


def _huber(y_true: Any, y_pred: Any, delta: float) -> Any:
    """Mean of ``e**2 / 2`` up to ``e = |y_true - y_pred| = delta``, of its tangent beyond."""
    loss = rl.HuberLoss(delta, weight=delta, reduction="none")
    y_true, y_pred = _paired(y_true, y_pred)
    return ops.mean(loss(y_pred, y_true), axis=-1)


def _signed(y_true: Any) -> Any:
    """Return labels -1 and 1 for labels 0 and 1: a 0 is one of those where no label is -1."""
    is_binary = ops.logical_not(ops.any(ops.equal(y_true, -1)))
    is_zero = ops.logical_and(is_binary, ops.equal(y_true, 0))
    return ops.where(is_zero, ops.cast(-1, y_true.dtype), y_true)


def _hinge(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``max(0, 1 - y_true * y_pred)``, labels -1 and 1 or 0 and 1."""
    y_true, y_pred = _paired(_signed(y_true), y_pred)
    return ops.mean(_HINGE(y_pred, y_true), axis=-1)


def _squared_hinge(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``max(0, 1 - y_true * y_pred)**2``, labels -1 and 1 or 0 and 1."""
    y_true, y_pred = _paired(_signed(y_true), y_pred)
    return ops.mean(_SQUARED_HINGE(y_pred, y_true), axis=-1)


def _categorical_hinge(y_true: Any, y_pred: Any) -> Any:
    """``max(0, 1 + max(others, 0) - y_pred[label])``, labels one-hot."""
    y_true, y_pred = _paired(y_true, y_pred)
    zero, one = ops.equal(y_true, 0), ops.equal(y_true, 1)
    is_one_hot = ops.logical_and(
        ops.all(ops.logical_or(zero, one), axis=-1), ops.equal(ops.sum(y_true, axis=-1), 1)
    )
    # No class has the index -1, so rows that are not one-hot raise.
    label = ops.where(is_one_hot, ops.argmax(y_true, axis=-1), -1)
    # One more class stands for the 0 among the others.
    with_zero = ops.concatenate([y_pred, ops.zeros_like(y_pred[..., :1])], axis=-1)
    return _of_rows(_CATEGORICAL_HINGE(with_zero, label), y_pred)


def _binary_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool, label_smoothing: float, axis: int
) -> Any:
    """Mean of ``-y_true log p - (1 - y_true) log(1 - p)``, labels from 0 to 1."""
    _refuse_another_rank(y_true, y_pred)
    loss = rl.SigmoidBCELoss(from_sigmoid=not from_logits, reduction="none")
    y_true = y_true * (1 - label_smoothing) + 0.5 * label_smoothing
    y_pred = y_pred if from_logits else _clipped(y_pred)
    return ops.mean(loss(y_pred, y_true), axis=axis)


def _categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool, label_smoothing: float, axis: int
) -> Any:
    """``-sum(y_true * log p)`` along `axis`, labels not negative."""
    _refuse_another_rank(y_true, y_pred)
    loss = rl.SoftmaxCELoss(
        axis,
        sparse_label=False,
        from_logits=not from_logits,
        batch_axis=_another(axis, y_pred),
        label_smoothing=label_smoothing,
        reduction="none",
    )
    x = y_pred if from_logits else _log_probabilities(y_pred, axis)
    return _of_rows(loss(x, y_true), y_pred)


def _sparse_categorical_crossentropy(
    y_true: Any, y_pred: Any, from_logits: bool, ignore_class: int | None, axis: int
) -> Any:
    """``-log p[y_true]`` along `axis`; an ignored label has 0 and is not counted by a mean."""
    loss = rl.SoftmaxCELoss(
        axis,
        from_logits=not from_logits,
        ignore_index=ignore_class,
        batch_axis=_another(axis, y_pred),
        reduction="none",
    )
    x = y_pred if from_logits else _log_probabilities(y_pred, axis)
    value = _of_rows(loss(x, y_true), y_pred)
    if ignore_class is not None:
        counts = ops.not_equal(y_true, ignore_class)
        set_keras_mask(value, ops.reshape(counts, ops.shape(value)))
    return value


def _another(axis: int, y_pred: Any) -> int:
    """Return an axis for the samples, which have another than the classes."""
    rank = len(y_pred.shape)
    return 1 if axis in (0, -rank) and rank > 1 else 0


def _clipped(probabilities: Any) -> Any:
    epsilon = _epsilon(probabilities)
    return ops.clip(probabilities, epsilon, 1 - epsilon)


def _log_probabilities(y_pred: Any, axis: int) -> Any:
    return ops.log(_clipped(y_pred / ops.sum(y_pred, axis=axis, keepdims=True)))


def _kl_divergence(y_true: Any, y_pred: Any) -> Any:
    """Sum of ``y_true * log(y_true / y_pred)`` along the last axis, both from epsilon to 1."""
    y_true, y_pred = (ops.clip(y, _epsilon(y), 1) for y in _paired(y_true, y_pred))
    return ops.sum(_DIVERGENCE(ops.log(y_pred), y_true), axis=-1)


def _poisson(y_true: Any, y_pred: Any) -> Any:
    """Mean of ``y_pred - y_true * log(y_pred + epsilon)``, labels not negative."""
    y_true, y_pred = _paired(y_true, y_pred)
    return ops.mean(_POISSON(y_pred, y_true, epsilon=keras.config.epsilon()), axis=-1)


def _cosine_similarity(y_true: Any, y_pred: Any, axis: int) -> Any:
    """Minus the cosine along `axis`: -1 for vectors that are alike."""
    size, expected = (tuple(y.shape)[axis:][:1] for y in (y_true, y_pred))
    if size != expected:  # Keras divides by the length of a vector before it broadcasts it.
        text = f"y_true: expected vectors of the size of y_pred's along axis {axis}, {expected}"
        raise ShapeError(f"{text}, got {size}", "y_true")
    y_true, y_pred = _paired(y_true, y_pred)
    loss = rl.CosineEmbeddingLoss(axis=axis, batch_axis=_another(axis, y_pred), reduction="none")
    alike = ops.ones_like(ops.take(y_pred, 0, axis=axis))
    return _of_rows(loss(y_pred, y_true, alike) - 1, y_pred)


def _ctc(y_true: Any, y_pred: Any) -> Any:
    """``-log P(y_true)`` of logits (N, T, C) and labels (N, L) that end at their zeros.

    Class 0 is the blank. A label that is too long for its frames has an infinite loss, and one with
    a 0 before its end is an error.
    """
    is_label = ops.cast(ops.not_equal(y_true, 0), "int32")
    # From each place on; those before the last label are not 0.
    counts = ops.flip(ops.cumsum(ops.flip(is_label, axis=-1), axis=-1), axis=-1)
    lengths = ops.sum(ops.cast(counts > 0, "int32"), axis=-1)
    try:
        return _CTC(y_pred, y_true, label_lengths=lengths)
    except LabelError as error:
        text = f"{error}; a label in y_true ends where only zeros follow"
        raise LabelError(text, "y_true", error.index, error.value) from error


def _subclass(base: type[Any], function: Callable[..., Any]) -> type[Any]:
    """Return a subclass of a loss of Keras, of the same name, that computes with a function."""

    @functools.wraps(base.__init__)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        self.fn = function

    def get_config(self: Any) -> dict[str, Any]:
        # Keras's own of some losses, as Huber, has not all parameters.
        return {**base.get_config(self), **self._fn_kwargs}

    members = {"__init__": init, "get_config": get_config, "__doc__": function.__doc__}
    made = type(base.__name__, (base,), {**members, "__module__": __name__})
    return keras.saving.register_keras_serializable("rustloss")(made)  # type: ignore[no-any-return]


CTC = _subclass(keras.losses.CTC, _ctc)
BinaryCrossentropy = _subclass(keras.losses.BinaryCrossentropy, _binary_crossentropy)
CategoricalCrossentropy = _subclass(keras.losses.CategoricalCrossentropy, _categorical_crossentropy)
CategoricalHinge = _subclass(keras.losses.CategoricalHinge, _categorical_hinge)
CosineSimilarity = _subclass(keras.losses.CosineSimilarity, _cosine_similarity)
Hinge = _subclass(keras.losses.Hinge, _hinge)
Huber = _subclass(keras.losses.Huber, _huber)
KLDivergence = _subclass(keras.losses.KLDivergence, _kl_divergence)
MeanAbsoluteError = _subclass(keras.losses.MeanAbsoluteError, _mean_absolute_error)
MeanAbsolutePercentageError = _subclass(
    keras.losses.MeanAbsolutePercentageError, _mean_absolute_percentage_error
)
MeanSquaredError = _subclass(keras.losses.MeanSquaredError, _mean_squared_error)
MeanSquaredLogarithmicError = _subclass(
    keras.losses.MeanSquaredLogarithmicError, _mean_squared_logarithmic_error
)
Poisson = _subclass(keras.losses.Poisson, _poisson)
SparseCategoricalCrossentropy = _subclass(
    keras.losses.SparseCategoricalCrossentropy, _sparse_categorical_crossentropy
)
SquaredHinge = _subclass(keras.losses.SquaredHinge, _squared_hinge)
