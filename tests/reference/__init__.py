"""Plain float64 NumPy oracles of every loss: slow, obvious, and without a line of the library.

``reference.loss("HuberLoss", {"rho": 2}, pred, label, sample_weight=w)`` takes what the public
class and its call take and returns ``Result(value, grads, hess)``, every gradient included.

A new loss is one function: an elementwise one states value, slopes and curvature at one point and
is decorated with ``@elementwise("Name")``; any other returns an `Unreduced` and is decorated with
``@oracle("Name")``. Weights, reductions and label shapes are shared (`weighting`).
"""

from . import elementwise, exact_margins, margins, pairwise, rowwise, sequence
from .oracle import ORACLES, Result, Unreduced, loss

__all__ = [
    "ORACLES",
    "Result",
    "Unreduced",
    "elementwise",
    "exact_margins",
    "loss",
    "margins",
    "pairwise",
    "rowwise",
    "sequence",
]
