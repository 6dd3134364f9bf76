"""Losses of the distances and angles of vectors; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from rustloss._calls import Couple, R, Triple
from rustloss._parameters import loss_class

__all__ = [
    "CosineEmbeddingLoss",
    "TripletLoss",
    "TripletMarginLoss",
]


@loss_class
class TripletLoss(Triple[R]):
    """Triplet loss: the anchor is to be nearer to the positive than to the negative.

    With the squared distances d of a sample, summed over all its axes:
    ``max(0, margin + d(positive, pred) - d(negative, pred))``. Where it is positive the gradients
    with respect to pred, positive and negative are ``2 (negative - positive)``,
    ``2 (positive - pred)`` and ``-2 (negative - pred)``; elsewhere, at 0 too, they are 0. The
    unreduced loss has shape (N,). Of an input of one dimension every element is a sample.

    Call: ``(pred, positive, negative, sample_weight=None)``; the gradient is a tuple of three.

    Parameters
    ----------
    margin : float, default 1
        How much nearer.
    weight, batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``TripletLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.TripletLoss(margin=10)
    >>> value, grads = loss.value_and_grad([[1.0, 2.0]], [[1.0, 1.0]], [[0.0, 0.0]])
    >>> print(value, *grads)
    [6.] [[-2. -2.]] [[ 0. -2.]] [[2. 4.]]
    """

    __slots__ = ()

    margin: float = 1
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class TripletMarginLoss(Triple[R]):
    """Triplet margin: ``max(0, margin + d(pred, positive) - d(pred, negative))``, d a distance.

    ``d(a, b)`` is the norm of degree `p` of ``a - b + epsilon`` along `axis`. With v these
    differences, its gradient with respect to a is ``sign(v) * (abs(v) / d)**(p - 1)``, for `p` 2
    ``v / d``, and 0 where v or d is 0; with respect to b it is the negative. Where the loss is
    positive its gradients follow from that; elsewhere, at 0 too, they are 0. The unreduced loss has
    pred's shape without `axis`; inputs of one dimension are one triplet.

    Call: ``(pred, positive, negative, sample_weight=None)``, pred being the anchor; the gradient is
    a tuple of three.

    Parameters
    ----------
    margin : float, default 1.0
        How much nearer the positive is to be.
    p : float, default 2.0
        The degree of the norm, >= 1 and finite.
    epsilon : float, default 1e-6
        Added to every difference, >= 0.
    swap : bool, default False
        Whether ``d(positive, negative)`` takes the place of ``d(pred, negative)`` where it is less.
    axis : int, default -1
        The axis of the vectors; it must not be the batch axis.
    weight, batch_axis, reduction, empty
        See `Loss`.

    See Also
    --------
    TripletLoss : Gluon's, of squared distances over all axes of a sample.

    Notes
    -----
    In PyTorch ``TripletMarginLoss``, with `epsilon` for its `eps`. It differs where two distances
    to the negative are equal and swapped: PyTorch shares the gradient between both, and here it is
    that of ``d(pred, negative)``. A degree below 1 and an infinite one are refused here.

    References
    ----------
    Balntas and others, "Learning local feature descriptors with triplets and shallow convolutional
    neural networks" (2016).

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.TripletMarginLoss(margin=3, epsilon=0)
    >>> value, grads = loss.value_and_grad([[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 6.0]])
    >>> print(value, *grads)
    [2.] [[-0.6  0.2]] [[0.6 0.8]] [[ 0. -1.]]
    """

    __slots__ = ()

    margin: float = 1.0
    p: float = 2.0
    epsilon: float = 1e-6
    swap: bool = False
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class CosineEmbeddingLoss(Couple[R]):
    """Cosine embedding loss: vectors that are to be alike, label 1, or not, label -1.

    With the cosine c of the vectors along `axis`: ``1 - c`` for label 1 and ``max(0, c - margin)``
    for label -1, of slope 0 at the margin. A vector that is exactly zero has cosine 0 and gradient
    0; no other is too short or too long. The unreduced loss has the shape of the other axes; inputs
    of one dimension are one pair of vectors.

    Call: ``(input1, input2, label, sample_weight=None)``, with one label for each pair; the
    gradient is a tuple of two.

    Parameters
    ----------
    weight, batch_axis, reduction, empty
        See `Loss`.
    margin : float, default 0
        The cosine up to which vectors count as different.
    axis : int, default -1
        The axis of the vectors; it must not be the batch axis.
    out_of_range : {"raise", "allow"}, default "raise"
        What happens to a label that is neither 1 nor -1; "allow" takes it for -1, as Gluon 2.0
        does.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is neither 1 nor -1.

    References
    ----------
    Apache MXNet Gluon, ``CosineEmbeddingLoss``, with the shape of version 2.0.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.CosineEmbeddingLoss()
    >>> value, grads = loss.value_and_grad([[3.0, 4.0]], [[4.0, 3.0]], [-1])
    >>> print(value, *grads)
    [0.96] [[ 0.0448 -0.0336]] [[-0.0336  0.0448]]
    """

    __slots__ = ()

    weight: float | None = None
    batch_axis: int = 0
    margin: float = 0
    _: KW_ONLY
    axis: int = -1
    out_of_range: Literal["raise", "allow"] = "raise"
