"""Losses over label sequences; see `rustloss.Loss` for options, weights and reductions."""

from __future__ import annotations

from typing import Literal, Self, Unpack

from rustloss._loss import Loss, Options

__all__ = ["CTCLoss"]


class CTCLoss(Loss):
    """Connectionist temporal classification: ``-log P(label | pred)``.

    P is the sum over all paths, one class or the blank for each frame, that become the label when
    repetitions are merged and blanks removed. The gradient is ``softmax(pred) - occupancy``, where
    the occupancy is the probability of a class at a frame given the label. Natural logarithm; not
    divided by a length. The unreduced loss has shape (N,).

    Call: ``(pred, label, pred_lengths=None, label_lengths=None, sample_weight=None, *,
    label_offsets=None)``. Labels are

    - padded, of shape (N, L): each ends at its first -1, or by `label_lengths`;
    - flat, one sequence behind another, with `label_lengths` or with `label_offsets`, N + 1 places
      from 0 to the number of labels;
    - a list of sequences, or an Arrow list array.

    Frames behind `pred_lengths` and padding are never read.

    Parameters
    ----------
    layout : {"NTC", "TNC", "TC"}, default "NTC"
        The axes of pred: samples, frames, classes. "TC" is one sample; its value has shape ().
    label_layout : {"NT", "TN"}, default "NT"
        The axes of padded labels.
    weight : float, optional
        See `Loss`.
    blank : {"last", "first"} or int, default "last"
        The class that stands for no label.
    input : {"logits", "log_probs", "log_probs_torch"}, default "logits"
        What pred holds. For log-probabilities the gradient is the true derivative with respect to
        them, minus the occupancy; "log_probs_torch" gives PyTorch's, ``exp(pred) - occupancy``.
    infeasible : {"inf", "zero", "raise"}, default "inf"
        The loss of a label that no path through its frames gives; its gradient is 0.
    memory_limit : int, default 268435456
        Bytes of scratch that a thread may use.
    **options
        See `Loss`. ``reduction="target_mean"`` divides each loss by its label's length, at least 1,
        and takes the mean.

    Raises
    ------
    rustloss.errors.LabelError
        If a label is out of range, negative or the blank.
    rustloss.errors.LengthError
        If a length is out of range, or with ``infeasible="raise"`` if frames are too few.
    MemoryError
        If a sample does not fit into `memory_limit`; the text says what would do.

    References
    ----------
    Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data with
    recurrent neural networks", ICML 2006. Apache MXNet Gluon, ``CTCLoss``.

    Examples
    --------
    >>> import numpy as np
    >>> import rustloss as rl
    >>> print(rl.CTCLoss()(np.ones((2, 20, 4)), [[1, 0, -1, -1], [2, 1, 1, -1]]))
    [18.82820491 16.50581719]
    """

    __slots__ = ()

    def __new__(
        cls,
        layout: Literal["NTC", "TNC", "TC"] = "NTC",
        label_layout: Literal["NT", "TN"] = "NT",
        weight: float | None = None,
        *,
        blank: Literal["last", "first"] | int = "last",
        input: Literal["logits", "log_probs", "log_probs_torch"] = "logits",  # noqa: A002
        infeasible: Literal["inf", "zero", "raise"] = "inf",
        memory_limit: int = 1 << 28,
        **options: Unpack[Options],
    ) -> Self:
        return super().__new__(
            cls,
            "CTCLoss",
            layout=layout,
            label_layout=label_layout,
            weight=weight,
            blank=blank,
            input=input,
            infeasible=infeasible,
            memory_limit=memory_limit,
            **options,
        )
