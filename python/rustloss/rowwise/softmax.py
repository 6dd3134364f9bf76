"""Losses of a softmax along one axis; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

from numpy.typing import NDArray

from rustloss._calls import Plain, R
from rustloss._parameters import loss_class

__all__ = [
    "KLDivLoss",
    "PolyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
    "SoftmaxFocalLoss",
]


@loss_class
class SoftmaxCrossEntropyLoss(Plain[R]):
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
    weight, batch_axis, reduction, empty
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

    axis: int = -1
    sparse_label: bool = True
    from_logits: bool = False
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    ignore_index: int | None = None
    out_of_range: Literal["raise", "clip"] = "raise"
    class_weight: Sequence[float] | NDArray[Any] | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0


SoftmaxCELoss = SoftmaxCrossEntropyLoss


@loss_class
class KLDivLoss(Plain[R]):
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
    weight, batch_axis, reduction, empty
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

    from_logits: bool = True
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    epsilon: float = 0.0
    log_target: bool = False
    temperature: float = 1.0
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class SoftmaxFocalLoss(Plain[R]):
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
    weight, batch_axis, reduction, empty
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

    gamma: float = 2.0
    alpha: Sequence[float] | NDArray[Any] | None = None
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    ignore_index: int | None = None
    out_of_range: Literal["raise", "clip"] = "raise"


@loss_class
class PolyLoss(Plain[R]):
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
    weight, batch_axis, reduction, empty
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

    epsilon: float = 1.0
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    ignore_index: int | None = None
    out_of_range: Literal["raise", "clip"] = "raise"
    class_weight: Sequence[float] | NDArray[Any] | None = None
