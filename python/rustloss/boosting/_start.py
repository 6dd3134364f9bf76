"""The constant score that training starts from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rustloss._loss import Loss
from rustloss.boosting._calls import Array
from rustloss.elementwise import L1Loss
from rustloss.errors import LabelError, ShapeError

#: A constant score is looked for up to 2 to this power, about the largest label of float32.
_LARGEST_EXPONENT = 128
#: How near the best constant score is found: well below what float32 labels can tell.
_CONSTANT_TOLERANCE = 1e-12


def log_shares(loss: Loss, label: Array, weight: Any) -> Array:
    """Return the logarithms of the shares of the classes that the loss does not ignore."""
    if label.ndim != 1 or not label.size:
        text = f"label: expected one class index for each row, got shape {label.shape}"
        raise ShapeError(text, "label")
    # A loss checks weights, and this one gives them back.
    weights = L1Loss(reduction="none")(
        np.ones(len(label)), np.zeros(len(label)), sample_weight=weight
    )
    counts = label != loss._params.get("ignore_index")
    wrong = np.flatnonzero(counts & ~((label >= 0) & (label == np.floor(label)) & (label < np.inf)))
    for i in wrong:
        text = f"label[{i}]: expected a class index, got {label[i]:g}"
        raise LabelError(text, "label", (int(i),), float(label[i]))
    if not counts.any():
        raise LabelError("label: expected a label that is not ignored, got none", "label")
    total = np.bincount(label[counts].astype(np.int64), weights[counts])
    for c in np.flatnonzero(total == 0):
        text = f"label: expected every class from 0 to {len(total) - 1} to have a row, got none of"
        raise LabelError(f"{text} class {c}; number the classes without gaps", "label")
    return np.asarray(np.log(total / total.sum()))


def root(slope: Callable[[float], float]) -> float:
    """Return where an ascending function changes its sign."""
    bounds = []
    for sign in (-1.0, 1.0):
        steps = (sign * 2.0**k for k in range(_LARGEST_EXPONENT))
        bounds.append(next((x for x in steps if sign * slope(x) > 0), None))
    low, high = bounds
    if low is None or high is None:
        text = "label: expected labels for which some finite score is best, got none such"
        raise LabelError(f"{text}; are all of one class, or all 0?", "label")
    while high - low > _CONSTANT_TOLERANCE * max(1.0, abs(low), abs(high)):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return (low + high) / 2
