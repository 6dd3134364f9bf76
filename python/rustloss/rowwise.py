"""Losses that look at one vector at a time; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, Unpack

from numpy.typing import NDArray

from rustloss._loss import Loss, Options

__all__ = [
    "CRPSLoss",
    "CategoricalHingeLoss",
    "CosineEmbeddingLoss",
    "KLDivLoss",
    "MultiQuantileLoss",
    "PolyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalLoss",
    "TripletLoss",
]


class SoftmaxCrossEntropyLoss(Loss):
    """Softmax cross-entropy: ``-log p[label]``, with p the softmax of pred along `axis`.

    With a distribution y over the classes as label (`sparse_label` False) it is ``-sum(y log p)``.
    The gradient is ``p sum(y) - y``, the diagonal of the second derivative ``sum(y) p (1 - p)``. A
    sure and right prediction keeps its digits in both. The unreduced loss has pred's shape without
    the class axis; a prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``. Class indices are integers of any width or
    whole-valued floats, in pred's shape without the class axis, or with it of size 1. `wrt` takes
    label if it is a distribution.

    Parameters
    ----------
    axis : int, default -1
        The class axis.
    sparse_label : bool, default True
        Whether labels are class indices.
    from_logits : bool, default False
        Whether pred already is ``log p`` (Gluon's meaning of the word).
    weight, batch_axis, **options
        See `Loss`.
    ignore_index : int, optional
        A label whose element is left out: loss and gradient 0, and weight 0 in the weighted means.
    out_of_range : {"raise", "clip"}, default "raise"
        What happens to a label that is no class; "clip" truncates and clips as Gluon does.
    class_weight : sequence of float, optional
        A weight for each class: it multiplies y, and counts in the divisor of the weighted means
        if labels are class indices.
    label_smoothing : float, default 0.0
        Mixes y with the uniform distribution: ``y (1 - s) + s / C``.
    z_loss : float, default 0.0
        Adds ``z_loss * Z**2`` with ``Z = log(sum(exp(pred)))``, which keeps logits near 0; class
        weights do not multiply it.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is out of range, fractional or NaN.

    References
    ----------
    Apache MXNet Gluon, ``SoftmaxCrossEntropyLoss``; class weights and label smoothing have the
    meaning they have in PyTorch.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.SoftmaxCrossEntropyLoss()
    >>> value, grad = loss.value_and_grad([[1.0, 10.0], [8.0, 2.0]], [0, 1])
    >>> print(value)
    [9.0001234  6.00247569]
    >>> print(grad)
    [[-0.99987661  0.99987661]
     [ 0.99752738 -0.99752738]]
    """

    __slots__ = ()

    def __new__(
        cls,
        axis: int = -1,
        sparse_label: bool = True,
        from_logits: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        ignore_index: int | None = None,
        out_of_range: Literal["raise", "clip"] = "raise",
        class_weight: Sequence[float] | NDArray[Any] | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("SoftmaxCrossEntropyLoss", locals())


SoftmaxCELoss = SoftmaxCrossEntropyLoss


class KLDivLoss(Loss):
    """Kullback-Leibler divergence of a prediction from a distribution: ``y (log y - log p)``.

    y is the label and pred is ``log p`` (Gluon's meaning of `from_logits`), or logits of which p is
    the softmax along `axis`. The gradient is ``-y``, of logits ``p sum(y) - y`` along `axis` for
    one weight, and ``log y - log p + 1`` with respect to the label. Where y is 0 the loss is 0,
    whatever p. The unreduced loss has pred's shape, so the default is the mean over all elements of
    a sample; ``reduction="sample_sum"`` gives the divergence itself.

    Call: ``(pred, label, sample_weight=None)``. One distribution for the whole batch may be given
    as label, of shape (C,) or (1, C). `wrt` takes label. Log-probabilities of one dimension are
    samples, as in Gluon; logits of one dimension are one row.

    Parameters
    ----------
    from_logits : bool, default True
        Whether pred already is ``log p``.
    axis : int, default -1
        The class axis; it must not be the batch axis.
    weight, batch_axis, **options
        See `Loss`.
    epsilon : float, default 0.0
        Added inside the logarithm of y; Gluon has 1e-12. Without it the derivative with respect to
        a label of 0 is -inf, and inf where p is 0 too: any other label has an infinite loss there.
    log_target : bool, default False
        Whether the label is ``t = log y``, -inf for 0: the loss is ``exp(t) (t - log p)``, its
        derivative with respect to the label ``exp(t) (t - log p + 1)``.
    temperature : float, default 1.0
        T > 0, of logits: the loss is ``T**2`` times the divergence of ``softmax(pred / T)``, as
        knowledge distillation has it. The label is compared as it is: take the teacher's
        distribution at the same temperature. The gradient is ``T (p sum(y) - y)``.
    out_of_range : {"raise", "allow"}, default "raise"
        What happens to a label below 0, or to one that is NaN; "allow" follows the formula.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is negative or NaN; the logarithm of one may be any number.

    References
    ----------
    Apache MXNet Gluon, ``KLDivLoss``, with the mean of version 2.0; `log_target` as PyTorch has it.
    Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015).

    Examples
    --------
    >>> import rustloss as rl
    >>> import numpy as np
    >>> loss = rl.KLDivLoss(reduction="sample_sum")
    >>> value, grad = loss.value_and_grad(np.log([[0.5, 0.25, 0.25]]), [[0.5, 0.5, 0.0]])
    >>> print(value, grad)
    [0.34657359] [[-0.5 -0.5 -0. ]]

    A student's logits against a teacher's, at temperature 4:

    >>> loss = rl.KLDivLoss(
    ...     from_logits=False, log_target=True, temperature=4.0, reduction="sample_sum"
    ... )
    >>> teacher = np.array([[8.0, 0.0]]) / 4
    >>> log_target = teacher - np.log(np.exp(teacher).sum())
    >>> value, grad = loss.value_and_grad([[4.0, 0.0]], log_target)
    >>> print(value.round(6), grad.round(6))
    [1.074092] [[-0.598954  0.598954]]
    """

    __slots__ = ()

    def __new__(
        cls,
        from_logits: bool = True,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        epsilon: float = 0.0,
        log_target: bool = False,
        temperature: float = 1.0,
        out_of_range: Literal["raise", "allow"] = "raise",
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("KLDivLoss", locals())


class TripletLoss(Loss):
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
    weight, batch_axis, **options
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

    def __new__(
        cls,
        margin: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("TripletLoss", locals())


class CosineEmbeddingLoss(Loss):
    """Cosine embedding loss: vectors that are to be alike, label 1, or not, label -1.

    With the cosine c of the vectors along `axis`: ``1 - c`` for label 1 and ``max(0, c - margin)``
    for label -1, of slope 0 at the margin. A vector that is exactly zero has cosine 0 and gradient
    0; no other is too short or too long. The unreduced loss has the shape of the other axes; inputs
    of one dimension are one pair of vectors.

    Call: ``(input1, input2, label, sample_weight=None)``, with one label for each pair; the
    gradient is a tuple of two.

    Parameters
    ----------
    weight, batch_axis, **options
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

    def __new__(
        cls,
        weight: float | None = None,
        batch_axis: int = 0,
        margin: float = 0,
        *,
        axis: int = -1,
        out_of_range: Literal["raise", "allow"] = "raise",
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("CosineEmbeddingLoss", locals())


class SoftmaxFocalLoss(Loss):
    """Focal loss on a softmax: ``-(1 - p)**gamma * log p``, with p the probability of the label.

    What the model has right already counts less than in cross-entropy, which it is for `gamma` 0.
    The gradient is ``f (p - onehot)`` with ``f = q**gamma (1 - gamma p log(p) / q)`` and
    ``q = 1 - p``. The diagonal of the second derivative may be negative. The unreduced loss has
    pred's shape without the class axis; a prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``, labels as in `SoftmaxCrossEntropyLoss`.

    Parameters
    ----------
    gamma : float, default 2.0
        How much less, >= 0.
    alpha : sequence of float, optional
        A weight for each class, which counts in the divisor of the weighted means.
    axis : int, default -1
        The class axis.
    weight, batch_axis, **options
        See `Loss`.
    ignore_index : int, optional
        A label whose element is left out.
    out_of_range : {"raise", "clip"}, default "raise"
        What happens to a label that is no class.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is out of range, fractional or NaN.

    References
    ----------
    Lin and others, "Focal Loss for Dense Object Detection" (2017).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.SoftmaxFocalLoss()([[2.0, 0.0], [0.0, 2.0]], [0, 0])
    array([0.00180356, 1.65007818])
    """

    __slots__ = ()

    def __new__(
        cls,
        gamma: float = 2.0,
        alpha: Sequence[float] | NDArray[Any] | None = None,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        ignore_index: int | None = None,
        out_of_range: Literal["raise", "clip"] = "raise",
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("SoftmaxFocalLoss", locals())


class PolyLoss(Loss):
    """Poly-1 cross-entropy: ``-log p + epsilon * (1 - p)``, with p the probability of the label.

    The gradient is ``(1 + epsilon p) (softmax - onehot)``. The unreduced loss has pred's shape
    without the class axis; a prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``, labels as in `SoftmaxCrossEntropyLoss`.

    Parameters
    ----------
    epsilon : float, default 1.0
        The weight of the first term of the expansion in ``1 - p``, beside the 1 that it has in
        cross-entropy.
    axis : int, default -1
        The class axis.
    weight, batch_axis, **options
        See `Loss`.
    ignore_index : int, optional
        A label whose element is left out.
    out_of_range : {"raise", "clip"}, default "raise"
        What happens to a label that is no class.
    class_weight : sequence of float, optional
        A weight for each class, which counts in the divisor of the weighted means.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is out of range, fractional or NaN.

    References
    ----------
    Leng and others, "PolyLoss: A Polynomial Expansion Perspective of Classification Loss
    Functions" (2022).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.PolyLoss()([[2.0, 0.0], [0.0, 2.0]], [0, 0])
    array([0.24613093, 3.00772509])
    """

    __slots__ = ()

    def __new__(
        cls,
        epsilon: float = 1.0,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        ignore_index: int | None = None,
        out_of_range: Literal["raise", "clip"] = "raise",
        class_weight: Sequence[float] | NDArray[Any] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("PolyLoss", locals())


class CategoricalHingeLoss(Loss):
    """Categorical hinge: ``max(0, margin + max(others) - pred[label])`` (Crammer and Singer).

    Where it is positive the gradient is 1 at the first of the best other classes and -1 at the
    label; at the margin and beyond it is 0, and so is the second derivative everywhere. The
    unreduced loss has pred's shape without the class axis; a prediction of one dimension is one
    row.

    Call: ``(pred, label, sample_weight=None)``, labels as in `SoftmaxCrossEntropyLoss`.

    Parameters
    ----------
    margin : float, default 1.0
        How far ahead the label's class is to be.
    axis : int, default -1
        The class axis.
    weight, batch_axis, **options
        See `Loss`.
    ignore_index : int, optional
        A label whose element is left out.
    out_of_range : {"raise", "clip"}, default "raise"
        What happens to a label that is no class.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is out of range, fractional or NaN.

    References
    ----------
    Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines" (2001).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.CategoricalHingeLoss()([[2.0, 0.0, 1.5], [0.0, 2.0, 0.0]], [0, 1])
    array([0.5, 0. ])
    """

    __slots__ = ()

    def __new__(
        cls,
        margin: float = 1.0,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        ignore_index: int | None = None,
        out_of_range: Literal["raise", "clip"] = "raise",
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("CategoricalHingeLoss", locals())


class MultiQuantileLoss(Loss):
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
    weight, batch_axis, **options
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

    def __new__(
        cls,
        quantiles: Sequence[float] | NDArray[Any] | None = None,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("MultiQuantileLoss", locals())


class CRPSLoss(Loss):
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
    weight, batch_axis, **options
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

    def __new__(
        cls,
        fair: bool = False,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        **options: Unpack[Options],
    ) -> Self:
        return cls._of("CRPSLoss", locals())
