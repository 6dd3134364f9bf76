"""Losses that ask for a margin between classes; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY
from typing import Any, Literal

from numpy.typing import NDArray

from rustloss._calls import Plain, R
from rustloss._parameters import loss_class

__all__ = [
    "CategoricalHingeLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
]


@loss_class
class CategoricalHingeLoss(Plain[R]):
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
    Crammer and Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines" (2001).

    Examples
    --------
    >>> import rustloss as rl
    >>> rl.CategoricalHingeLoss()([[2.0, 0.0, 1.5], [0.0, 2.0, 0.0]], [0, 1])
    array([0.5, 0. ])
    """

    __slots__ = ()

    margin: float = 1.0
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    ignore_index: int | None = None
    out_of_range: Literal["raise", "clip"] = "raise"


@loss_class
class MultiMarginLoss(Plain[R]):
    """Multi-class margin: ``sum(max(0, margin + others - pred[label])**p) / C``.

    The sum is over the other of the C classes along `axis` (Weston and Watkins). With a gap, what
    is inside of the power where that is positive, the gradient is ``p gap**(p - 1) / C`` of every
    other class, 0 at the margin, and the negative of their sum of the label's. The second
    derivative is 0 for `p` 1; for `p` 2 it is ``2 / C`` of every other class with a gap, and the
    sum of those of the label's. The unreduced loss has pred's shape without the class axis; a
    prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``, labels as in `SoftmaxCrossEntropyLoss`.

    Parameters
    ----------
    p : {1, 2}, default 1
        The power.
    margin : float, default 1.0
        How far ahead the label's class is to be.
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

    Notes
    -----
    In PyTorch ``MultiMarginLoss``, with `class_weight` for its `weight`. Its ``reduction="mean"``
    is ``"mean"`` here, too: its divisor is the number of rows, not the sum of their weights.

    References
    ----------
    Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition" (1999).

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.MultiMarginLoss()
    >>> value, grad = loss.value_and_grad([[2.0, 0.5, 1.5, 1.25]], [0])
    >>> print(value, grad)
    [0.1875] [[-0.5   0.    0.25  0.25]]
    """

    __slots__ = ()

    p: int = 1
    margin: float = 1.0
    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    ignore_index: int | None = None
    out_of_range: Literal["raise", "clip"] = "raise"
    class_weight: Sequence[float] | NDArray[Any] | None = None


@loss_class
class MultiLabelMarginLoss(Plain[R]):
    """Multi-label margin: every class of the label is to be ahead of every class that is not by 1.

    It is ``sum(max(0, 1 + pred[i] - pred[t])) / C``, over the classes t of the label and the
    classes i that are not of the label, of C along `axis`. The gradient with respect to ``pred[i]``
    is the number of its positive terms over C, with respect to ``pred[t]`` the negative of that; a
    term at 0 has slope 0. The second derivative is 0. The unreduced loss has pred's shape without
    the class axis; a prediction of one dimension is one row.

    Call: ``(pred, label, sample_weight=None)``. A label is as long as the row of the prediction:
    the indices of its classes, up to the first -1; what stands behind that is not read. A class
    that stands there twice counts twice. A label without classes has loss 0.

    Parameters
    ----------
    axis : int, default -1
        The class axis.
    weight, batch_axis, reduction, empty
        See `Loss`.

    Raises
    ------
    rustloss.errors.LabelError
        If there is something else than a class before the first -1 of a label whose weight is
        not 0.

    Notes
    -----
    In PyTorch ``MultiLabelMarginLoss``.

    References
    ----------
    Crammer and Singer, "A Family of Additive Online Algorithms for Category Ranking" (2003).

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.MultiLabelMarginLoss()
    >>> value, grad = loss.value_and_grad([[0.5, 1.0, 2.0, 0.75]], [[2, 0, -1, -1]])
    >>> print(value, grad)
    [0.6875] [[-0.5   0.25  0.    0.25]]
    """

    __slots__ = ()

    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0


@loss_class
class MultiLabelSoftMarginLoss(Plain[R]):
    """Multi-label soft margin: the mean over the classes of the binary cross-entropy of each.

    With the label y it is ``mean(w * (y * softplus(-pred) + (1 - y) * softplus(pred)))`` along
    `axis`, w the weights of the classes. The gradient is ``w (sigmoid(pred) - y) / C``, the second
    derivative ``w sigmoid(pred) sigmoid(-pred) / C``. A sure and right prediction keeps its digits.
    The unreduced loss has pred's shape without the class axis; a prediction of one dimension is one
    row.

    Call: ``(pred, label, sample_weight=None)``, with a label from 0 to 1 for each class. `wrt`
    takes label.

    Parameters
    ----------
    axis : int, default -1
        The class axis.
    weight, batch_axis, reduction, empty
        See `Loss`.
    out_of_range : {"raise", "allow"}, default "raise"
        What happens to a label below 0 or above 1; "allow" follows the formula.
    class_weight : sequence of float, optional
        A weight for each class. It is part of the loss: weighted means do not count it.

    Raises
    ------
    rustloss.errors.LabelError
        If a label of a row whose weight is not 0 is not from 0 to 1.

    See Also
    --------
    SigmoidBinaryCrossEntropyLoss : One number for each class, and a weight of the positive term.

    Notes
    -----
    PyTorch has `weight` for `class_weight`, and takes any label, as ``out_of_range="allow"`` does.

    References
    ----------
    PyTorch, ``MultiLabelSoftMarginLoss``.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.MultiLabelSoftMarginLoss()
    >>> value, grad = loss.value_and_grad([[0.0, 2.0, -3.0]], [[1, 1, 0]])
    >>> print(value.round(6), grad.round(6))
    [0.289554] [[-0.166667 -0.039734  0.015809]]
    """

    __slots__ = ()

    axis: int = -1
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    out_of_range: Literal["raise", "allow"] = "raise"
    class_weight: Sequence[float] | NDArray[Any] | None = None
