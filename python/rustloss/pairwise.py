"""Losses of a batch against a batch; see `rustloss.Loss` for options, weights and reductions."""

from __future__ import annotations

from typing import Self, Unpack

from rustloss._loss import Loss, Options

__all__ = ["SDMLLoss"]


class SDMLLoss(Loss):
    """Smoothed deep metric learning: each x1[i] is to be nearest to its partner x2[i] of all x2.

    With the squared distances d of all pairs and log p the log-softmax of -d along the second axis,
    ``E[i, j] = q[i, j] (log q[i, j] - log p[i, j])`` of shape (N, N), where the target q is
    ``1 - smoothing_parameter`` for partners and spreads the rest evenly; a q of 0 gives 0. With
    ``g = p - q`` summed over the pairs, the gradient with respect to x1[i] is
    ``-2 sum(g[i, j] (x1[i] - x2[j]))`` over j. The default is the mean of each row of E;
    ``reduction="sample_sum"`` gives its sum.

    Call: ``(x1, x2, sample_weight=None)`` with two matrices of one shape, at least two samples, and
    one weight for each row of E. The gradient is a tuple of two.

    Parameters
    ----------
    smoothing_parameter : float, default 0.3
        The part of the target that is spread over the others, from 0 to 1; with 0 it is the
        cross-entropy of the softmax of -d.
    weight : float, default 1.0
        Multiplies the loss.
    memory_limit : int, default 268435456
        The bytes that arrays over pairs may have inside a call: the rows of E are computed in
        blocks that fit, at the least one by one. ``reduction="none"`` returns all of E.
    batch_axis, **options
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``SDMLLoss``, with the mean of version 2.0. Distances are summed
    differences, which do not cancel where all vectors are close together.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.SDMLLoss(smoothing_parameter=0.0, reduction="sample_sum")
    >>> value, grads = loss.value_and_grad([[0.0], [1.0]], [[0.0], [1.0]])
    >>> print(value, *(grad.ravel() for grad in grads))
    [0.31326169 0.31326169] [ 0.53788284 -0.53788284] [ 0.53788284 -0.53788284]
    """

    __slots__ = ()

    def __new__(
        cls,
        smoothing_parameter: float = 0.3,
        weight: float | None = 1.0,
        batch_axis: int = 0,
        *,
        memory_limit: int = 1 << 28,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("SDMLLoss", locals())
