"""What a loss, and a call of a booster, must be."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss._interop import as_array, refuse_misaligned
from rustloss._loss import Loss
from rustloss.errors import (
    ArgumentError,
    CallError,
    DTypeError,
    LabelError,
    ParameterError,
    ShapeError,
)

Array = NDArray[Any]


def labels_of(loss: object) -> dict[str, Any]:
    """Return what the registry says of the labels of a loss that a booster can train."""
    if not isinstance(loss, Loss):
        remedy = f"; pass {loss.__name__}()" if isinstance(loss, type) else ""
        raise DTypeError(f"loss: expected a loss of rustloss, got {loss!r}{remedy}", "loss")
    pred, *others = [row for row in loss._inputs if row["required"]]
    if len(others) == 1 and pred["domain"] == "Real" and others[0]["gradient"] != "Default":
        label: dict[str, Any] = others[0]
        if label["shape"] == "PerVector" and loss._params.get("from_logits"):
            text = "loss: expected one of raw scores, got one of their log-probabilities"
            raise ParameterError(f"{text}, {loss!r}; leave out from_logits=True", "loss")
        if label["shape"] == "PerVector" or (label["shape"] == "Same" and _keeps_rows_apart(loss)):
            return label
    text = "loss: expected one of raw scores, any real numbers, and one label for each row"
    raise ParameterError(f"{text} (a class index, not a distribution), got {loss!r}", "loss")


def _keeps_rows_apart(loss: Loss) -> bool:
    """Return whether one score and one label make a row."""
    rows = np.empty(2)
    try:
        return loss.signature(rows, rows).unreduced == rows.shape
    except ArgumentError:  # no loss of one dimension, or another `batch_axis`
        return False


def with_reduction(loss: Loss, reduction: str) -> Loss:
    """Return the loss with another reduction."""
    return type(loss)(**{**loss._params, "reduction": reduction})


def refuse_non_finite(pred: Array, grad: Array | None = None, hess: Array | None = None) -> None:
    """Refuse NaN and infinities, which boosters take without a word; name the row."""
    named = {"raw score": pred, "gradient": grad, "Hessian": hess}
    for what, array in named.items():
        if array is None:
            continue
        flat = array.ravel(order="K")
        # One pass without a temporary. A sum of squares may overflow where all numbers are finite.
        if np.isfinite(np.vdot(flat, flat)) or np.isfinite(array).all():
            continue
        index = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        found, score = float(array[index]), float(pred[index])
        place = f"pred[{', '.join(map(str, index))}]"
        text = f"{place}: expected a finite {what}, got {found!r}"
        if array is not pred:
            text += f" for the score {score!r}"
        remedy = "look at the row's label and features, or lower the learning rate"
        raise LabelError(f"{text}; {remedy}", "pred", index, score)


def arguments(first: Any, second: Any, weight: Any) -> tuple[Array, Array, Array | None]:
    """Return scores, labels and weights of a call by either interface."""
    if hasattr(first, "get_label"):
        kind = type(first).__name__
        raise CallError(f"expected scores before the {kind}, got them swapped; pass (preds, data)")
    if hasattr(second, "get_label"):  # native: scores and a data set
        first, second, weight = _labels_in(second), first, second.get_weight()
    refuse_misaligned({"pred": second, "label": first, "sample_weight": weight})
    pred, label = as_array("pred", second), as_array("label", first)
    weight = None if weight is None or not np.size(weight) else as_array("sample_weight", weight)
    return pred, label, weight


def _labels_in(data: Any) -> Any:
    """Return the labels of a data set of XGBoost or LightGBM."""
    label = data.get_label()
    if label is None or not np.size(label):
        kind = type(data).__name__
        raise ShapeError(
            f"label: expected a {kind} with labels, got none; pass label= to it", "label"
        )
    return label
