"""Every loss in plain float64 NumPy: slow, obvious, and without a line of the compiled code.

``evaluate("HuberLoss", {"rho": 2}, pred, label, sample_weight=w)`` takes what the class and its
call take, and returns value, gradients by all inputs that have one, and second derivative.

A new loss is one function: an elementwise one states value, slopes and curvature at one point and
is decorated with ``@elementwise("Name")``; any other returns an `Unreduced` and is decorated with
``@register("Name")``. Weights, reductions and label shapes are shared (`weighting`).
"""

from rustloss.testing.oracles import elementwise, margins, pairwise, rowwise, sequence
from rustloss.testing.oracles.registry import ORACLES, Result, Unreduced, evaluate

__all__ = [
    "ORACLES",
    "Result",
    "Unreduced",
    "elementwise",
    "evaluate",
    "margins",
    "pairwise",
    "rowwise",
    "sequence",
]
