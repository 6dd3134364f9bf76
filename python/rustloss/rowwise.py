"""Losses that look at one vector at a time; see `rustloss.Loss` for options and reductions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self, Unpack

from numpy.typing import NDArray

from rustloss._loss import Loss, Options

__all__ = ["SoftmaxCELoss", "SoftmaxCrossEntropyLoss"]


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
        **options: Unpack[Options],
    ) -> Self:
        return super().__new__(
            cls,
            "SoftmaxCrossEntropyLoss",
            axis=axis,
            sparse_label=sparse_label,
            from_logits=from_logits,
            weight=weight,
            batch_axis=batch_axis,
            ignore_index=ignore_index,
            out_of_range=out_of_range,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            **options,
        )


SoftmaxCELoss = SoftmaxCrossEntropyLoss
