"""Losses that look at one element at a time.

Formulas are for one element of the unreduced loss E, which has the prediction's shape; see
`rustloss.Loss` for options, weights and reductions.
"""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from rustloss._calls import Count, Couple, Logit, Moments, Plain, R
from rustloss._parameters import loss_class

__all__ = [
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "L1Loss",
    "L2Loss",
    "LogisticLoss",
    "MarginRankingLoss",
    "PoissonNLLLoss",
    "SigmoidBCELoss",
    "SigmoidBinaryCrossEntropyLoss",
    "SquaredHingeLoss",
]


@loss_class
class L1Loss(Plain[R]):
    """Absolute error: ``|label - pred|``.

    The gradient is the sign of ``pred - label``, and 0 where both are equal.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    weight, batch_axis, reduction, empty
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

    weight: float | None = None
    batch_axis: int = 0


@loss_class
class L2Loss(Plain[R]):
    """Half the squared error: ``(label - pred)**2 / 2``, times `weight`.

    The gradient is ``pred - label``, the second derivative 1.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    weight : float, default 1.0
        Multiplies the half.
    batch_axis, reduction, empty
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

    weight: float | None = 1.0
    batch_axis: int = 0


@loss_class
class HuberLoss(Plain[R]):
    """Absolute error with its corner rounded off.

    With ``e = |label - pred|``: ``e**2 / (2 rho)`` up to `rho`, ``e - rho / 2`` beyond. The slope
    is at most 1 for any `rho` ("smooth L1"); the classical Huber loss is `rho` times this one.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    rho : float, default 1
        Where the square ends, > 0.
    weight, batch_axis, reduction, empty
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

    rho: float = 1
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class HingeLoss(Plain[R]):
    """Hinge loss of a signed label: ``max(0, margin - pred * label)``.

    Labels are -1 and 1. The slope is ``-label`` where the loss is
    positive and 0 elsewhere, at the margin too.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    margin : float, default 1
        Where the loss ends.
    out_of_range : {"raise", "allow"}, default "raise"
        Whether labels outside their domain raise `LabelError` or follow the formula.
    weight, batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``HingeLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.HingeLoss()([-2.0, 0.5, 1.0], [1, 1, 1])
    array([3. , 0.5, 0. ])
    """

    __slots__ = ()

    margin: float = 1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class SquaredHingeLoss(Plain[R]):
    """Squared hinge loss of a signed label: ``max(0, margin - pred * label)**2``.

    Labels are -1 and 1. With the gap g = margin - pred * label positive,
    the slope is ``-2 g label`` and the second derivative ``2 label**2``; elsewhere both are 0.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    margin : float, default 1
        Where the loss ends.
    out_of_range : {"raise", "allow"}, default "raise"
        Whether labels outside their domain raise `LabelError` or follow the formula.
    weight, batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``SquaredHingeLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.SquaredHingeLoss()([-2.0, 0.5, 1.0], [1, 1, 1])
    array([9.  , 0.25, 0.  ])
    """

    __slots__ = ()

    margin: float = 1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class LogisticLoss(Plain[R]):
    """Logistic loss: binary cross-entropy of a logit with a signed label.

    With z = (label + 1) / 2 it is `SigmoidBinaryCrossEntropyLoss` of the label z.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    weight, batch_axis, reduction, empty
        See `Loss`.
    label_format : {"signed", "binary"}, default "signed"
        Labels are -1 and 1, or from 0 to 1.
    out_of_range : {"raise", "allow"}, default "raise"
        Whether labels outside their domain raise `LabelError` or follow the formula.

    References
    ----------
    Apache MXNet Gluon, ``LogisticLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.LogisticLoss().value_and_grad([0.0], [1])
    (array([0.69314718]), array([-0.5]))
    """

    __slots__ = ()

    weight: float | None = None
    batch_axis: int = 0
    label_format: Literal["signed", "binary"] = "signed"
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class SigmoidBinaryCrossEntropyLoss(Logit[R]):
    """Binary cross-entropy, with the sigmoid inside.

    With a logit x, a label z in [0, 1] and the weight p of the positive term (1 if not given):
    ``p z softplus(-x) + (1 - z) softplus(x)``, of slope ``(1 - z) sigmoid(x) - p z sigmoid(-x)``.
    All terms have one sign, so a sure and right prediction keeps its digits. If the network ends in
    a sigmoid, set `from_sigmoid`: then x is a probability and the loss
    ``-p z log(x + epsilon) - (1 - z) log(1 - x + epsilon)``.

    Call: ``(pred, label, sample_weight=None, pos_weight=None)``. `pos_weight` broadcasts to pred;
    `wrt` takes it and label.

    Parameters
    ----------
    from_sigmoid : bool, default False
        Whether pred is a probability.
    weight, batch_axis, reduction, empty
        See `Loss`.
    epsilon : float, default 0.0
        Added inside the logarithms of `from_sigmoid`; Gluon has 1e-12.
    clamp : bool, default False
        With `from_sigmoid`, logarithms are at least -100, and derivatives are divided by x (1 - x)
        of at least 1e-12, so that a sure and wrong prediction costs 100 and not infinity. Where x
        or 1 - x is less, they are not the derivatives of the value. That by the label has no bound.
    out_of_range : {"raise", "allow"}, default "raise"
        Whether labels and probabilities outside [0, 1] raise `LabelError` or follow the formula.

    References
    ----------
    Apache MXNet Gluon, ``SigmoidBinaryCrossEntropyLoss``; PyTorch, ``BCELoss`` (`clamp`).

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.SigmoidBinaryCrossEntropyLoss()
    >>> value, grad = loss.value_and_grad([0.0, 100.0], [1.0, 1.0])
    >>> print(value, grad)
    [6.93147181e-01 3.72007598e-44] [-5.00000000e-01 -3.72007598e-44]
    """

    __slots__ = ()

    from_sigmoid: bool = False
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    epsilon: float = 0.0
    clamp: bool = False
    out_of_range: Literal["raise", "allow"] = "raise"


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


@loss_class
class PoissonNLLLoss(Count[R]):
    """Negative log-likelihood of a Poisson count.

    With the logarithm of the rate as prediction x and the count t: ``exp(x) - t x``, of slope
    ``exp(x) - t``. With the rate as x (`from_logits` False): ``x - t log(x + epsilon)``, of slope
    ``1 - t / (x + epsilon)``; a target of 0 has no logarithm in it.

    Call: ``(pred, target, sample_weight=None, epsilon=None)``, where epsilon is one number, 1e-8 if
    not given; `wrt` takes target.

    Parameters
    ----------
    weight : float, optional
        Multiplies the loss.
    from_logits : bool, default True
        Whether pred is the logarithm of the rate.
    batch_axis : int, default 0
        The axis of the samples.
    compute_full : bool or "stirling", default False
        Adds ``log(target!)``, exact for every target >= 0, or Stirling's approximation of it where
        the target is above 1, as Gluon does.
    out_of_range : {"raise", "allow"}, default "raise"
        Whether negative targets raise `LabelError` or follow the formula.
    reduction, empty
        See `Loss`.

    References
    ----------
    Apache MXNet Gluon, ``PoissonNLLLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.PoissonNLLLoss().value_and_grad([0.0, 1.0], [1, 0])
    (array([1.        , 2.71828183]), array([0.        , 2.71828183]))
    """

    __slots__ = ()

    weight: float | None = None
    from_logits: bool = True
    batch_axis: int = 0
    compute_full: bool | Literal["stirling"] = False
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class GaussianNLLLoss(Moments[R]):
    """Negative log-likelihood of a normal distribution, whose mean and variance are predicted.

    With v the variance, but at least `epsilon`: ``(log(v) + (pred - target)**2 / v) / 2``. The
    slope with respect to pred is ``(pred - target) / v``, with respect to var
    ``(1 - (pred - target)**2 / v) / (2 v)``, and 0 up to `epsilon`; the second derivative with
    respect to pred is ``1 / v``.

    Call: ``(pred, target, var, sample_weight=None)``; var broadcasts to pred's shape. By default
    the gradient is a tuple, with respect to pred and var; `wrt` takes target too.

    Parameters
    ----------
    full : bool, default False
        Whether to add ``log(2 pi) / 2``.
    epsilon : float, default 1e-6
        The smallest variance, > 0.
    weight, batch_axis, reduction, empty
        See `Loss`.

    Raises
    ------
    rustloss.errors.LabelError
        If a variance whose weight is not 0 is negative.

    Notes
    -----
    In PyTorch ``GaussianNLLLoss``, with `epsilon` for its `eps`. It differs for variances up to
    `epsilon`: PyTorch gives them the slope that they have at `epsilon`. A variance for each sample
    of a batch of vectors has shape (N, 1) here.

    References
    ----------
    Nix and Weigend, "Estimating the mean and variance of the target probability distribution"
    (1994).

    Examples
    --------
    >>> import rustloss as rl
    >>> value, (grad, var_grad) = rl.GaussianNLLLoss().value_and_grad([1.0, 2.0], [0.0, 2.0], [1.0])
    >>> print(value, grad, var_grad)
    [0.5 0. ] [1. 0.] [0.5]
    """

    __slots__ = ()

    full: bool = False
    epsilon: float = 1e-6
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class MarginRankingLoss(Couple[R]):
    """Margin ranking: ``max(0, margin - label * (input1 - input2))``.

    A label of 1 says that input1 is to be ahead, -1 that input2 is. Where the loss is positive the
    slopes are ``-label`` and ``label``, elsewhere 0, at the margin too.

    Call: ``(input1, input2, label, sample_weight=None)``. The gradient is a tuple, with respect to
    input1 and input2.

    Parameters
    ----------
    margin : float, default 0.0
        How far ahead.
    weight, batch_axis, reduction, empty
        See `Loss`.
    out_of_range : {"raise", "allow"}, default "raise"
        What happens to a label that is neither 1 nor -1; "allow" follows the formula.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is neither 1 nor -1.

    Notes
    -----
    In PyTorch ``MarginRankingLoss``, which takes any label, as ``out_of_range="allow"`` does.

    References
    ----------
    Herbrich, Graepel and Obermayer, "Large Margin Rank Boundaries for Ordinal Regression" (2000).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.MarginRankingLoss(margin=0.5)([1.0, 2.0], [2.0, 1.0], [1, 1])
    array([1.5, 0. ])
    """

    __slots__ = ()

    margin: float = 0.0
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"


@loss_class
class HingeEmbeddingLoss(Plain[R]):
    """Hinge embedding: ``pred`` for label 1, ``max(0, margin - pred)`` for label -1.

    The prediction is a distance, which is to be small for label 1 and at least the margin for label
    -1. The slope is 1 for label 1, and -1 for label -1 below the margin; at the margin and beyond
    it is 0. The second derivative is 0.

    Call: ``(pred, label, sample_weight=None)``.

    Parameters
    ----------
    margin : float, default 1.0
        The distance from which on the loss of label -1 is 0.
    weight, batch_axis, reduction, empty
        See `Loss`.
    out_of_range : {"raise", "allow"}, default "raise"
        What happens to a label that is neither 1 nor -1; "allow" adds both terms, as PyTorch does.

    Raises
    ------
    rustloss.errors.LabelError
        If a label whose weight is not 0 is neither 1 nor -1.

    Notes
    -----
    In PyTorch ``HingeEmbeddingLoss``, which takes any label.

    References
    ----------
    Hadsell, Chopra and LeCun, "Dimensionality Reduction by Learning an Invariant Mapping" (2006).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.HingeEmbeddingLoss()([0.5, 0.25, 2.0], [1, -1, -1])
    array([0.5 , 0.75, 0.  ])
    """

    __slots__ = ()

    margin: float = 1.0
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"
