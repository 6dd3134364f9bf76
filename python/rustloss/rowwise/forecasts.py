"""Losses of several forecasts of one number; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from rustloss._calls import Plain, R
from rustloss._parameters import loss_class

__all__ = [
    "CRPSLoss",
    "MultiQuantileLoss",
]


@loss_class
class MultiQuantileLoss(Plain[R]):
    """Several quantiles of a number at once: the mean of their pinball losses.

    With ``e = label - pred`` for each of the Q predictions along `axis`, it is the mean over them
    of ``max(q e, (q - 1) e)``. The gradient is ``-q / Q`` below the label, ``(1 - q) / Q`` above it
    and 0 at it, the second derivative 0. The unreduced loss has pred's shape without `axis`; a
    prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``, with one label for each row, in pred's shape
    without `axis` or with it of size 1. `wrt` takes label.

    Parameters
    ----------
    quantiles : sequence of float, optional
        The quantiles, from 0 to 1, one for each prediction; by default the midpoints of Q equal
        parts, ``(i + 0.5) / Q``.
    axis : int, default -1
        The axis of the quantiles.
    weight, batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    Koenker and Bassett, "Regression Quantiles" (1978).

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.MultiQuantileLoss([0.1, 0.5, 0.9])
    >>> value, grad = loss.value_and_grad([[1.0, 2.0, 4.0]], [3.0])
    >>> print(value, grad.round(4))
    [0.26666667] [[-0.0333 -0.1667  0.0333]]
    """

    __slots__ = ()

    quantiles: Sequence[float] | NDArray[Any] | None = None
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class CRPSLoss(Plain[R]):
    """Continuous ranked probability score of an ensemble.

    With M members x along `axis` and the label y: ``mean|x - y| - mean|x_i - x_j| / 2``, over all
    pairs, computed in order of size as a sum of terms none of which is negative. The gradient with
    respect to a member is ``sign(x - y) / M - (less - more) / M**2``, with the numbers of members
    less and more than it. The unreduced loss has pred's shape without `axis`; a prediction of one
    dimension is one ensemble.

    Call: ``(pred, label, sample_weight=None)``, with one label for each ensemble, in pred's shape
    without `axis` or with it of size 1. `wrt` takes label.

    Parameters
    ----------
    fair : bool, default False
        Whether the mean over pairs leaves out those of a member with itself, so that small
        ensembles are not preferred; the score may be negative then.
    axis : int, default -1
        The axis of the members.
    weight, batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    Gneiting and Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation" (2007);
    Ferro, "Fair scores for ensemble forecasts" (2014).

    Examples
    --------
    >>> import rustloss as rl
    >>> value, grad = rl.CRPSLoss().value_and_grad([[1.0, 2.0, 4.0]], [3.0])
    >>> print(value, grad.round(4))
    [0.66666667] [[-0.1111 -0.3333  0.1111]]
    """

    __slots__ = ()

    fair: bool = False
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
