"""Losses that look at one element at a time.

Formulas are for one element of the unreduced loss E, which has the prediction's shape; see
`rustloss.Loss` for options, weights and reductions.
"""

from __future__ import annotations

from typing import Self, Unpack

from rustloss._loss import Loss, Options

__all__ = ["HuberLoss", "L1Loss", "L2Loss"]


class L1Loss(Loss):
    """Absolute error: ``|label - pred|``.

    The gradient is the sign of ``pred - label``, and 0 where both are equal.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    weight, batch_axis, **options
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``L1Loss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.L1Loss()([[1.0, 2.0], [3.0, 4.0]], [[1.5, 2.0], [3.0, 6.0]])
    array([0.25, 1.  ])
    """

    __slots__ = ()

    def __new__(
        cls, weight: float | None = None, batch_axis: int = 0, **options: Unpack[Options]
    ) -> Self:
        return super().__new__(cls, "L1Loss", weight=weight, batch_axis=batch_axis, **options)


class L2Loss(Loss):
    """Half the squared error: ``(label - pred)**2 / 2``, times `weight`.

    The gradient is ``pred - label``, the second derivative 1.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    weight : float, default 1.0
        Multiplies the half.
    batch_axis, **options
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``L2Loss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.L2Loss()([1.0, 1.0], [2.0, 2.0], sample_weight=[1, 2])
    array([0.5, 1. ])
    """

    __slots__ = ()

    def __new__(
        cls, weight: float | None = 1.0, batch_axis: int = 0, **options: Unpack[Options]
    ) -> Self:
        return super().__new__(cls, "L2Loss", weight=weight, batch_axis=batch_axis, **options)


class HuberLoss(Loss):
    """Absolute error with its corner rounded off.

    With ``e = |label - pred|``: ``e**2 / (2 rho)`` up to `rho`, ``e - rho / 2`` beyond. The slope
    is at most 1 for any `rho` ("smooth L1"); the classical Huber loss is `rho` times this one.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    rho : float, default 1
        Where the square ends, > 0.
    weight, batch_axis, **options
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``HuberLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.HuberLoss().value_and_grad([0.5, 3.0], [0.0, 0.0])
    (array([0.125, 2.5  ]), array([0.5, 1. ]))
    """

    __slots__ = ()

    def __new__(
        cls,
        rho: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        **options: Unpack[Options],
    ) -> Self:
        return super().__new__(
            cls, "HuberLoss", rho=rho, weight=weight, batch_axis=batch_axis, **options
        )
