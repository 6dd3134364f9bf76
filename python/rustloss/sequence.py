"""Losses over label sequences; see `rustloss.Loss` for options, weights and reductions."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rustloss import _core
from rustloss._calls import R, Sequences
from rustloss._parameters import loss_class

if TYPE_CHECKING:
    from rustloss._calls import Array, MaybeMix, Mix

__all__ = ["Alignment", "CTCLoss", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """The frames that an alignment gives to one label of a sequence; see `Alignment.spans`.

    Attributes
    ----------
    index : int
        The label's position in its sequence.
    start, end : int
        Its first frame, and one past its last frame.
    log_prob, posterior : float
        The means of `Alignment.log_prob` and `Alignment.posterior` over these frames.
    """

    index: int
    start: int
    end: int
    log_prob: float
    posterior: float


@dataclass(frozen=True, slots=True, eq=False)
class Alignment:
    """The most probable path of every sample, frame by frame; `CTCLoss.align` makes it.

    The arrays have the axes of `layout` without the classes: (N, T), (T, N) or (T,).

    Attributes
    ----------
    index : ndarray of int64
        Which label of its sequence the frame is given to. -1 for the blank, behind the last frame
        and where no path is possible.
    log_prob : ndarray
        The logarithm of the probability of the frame's class. It is 0 behind the last frame, so
        that the sum over the frames is that of the path; -inf where no path is possible; NaN where
        the loss is.
    posterior : ndarray
        The probability of the frame's state given the label sequence: of this label, or of the
        blank at this place between two labels. 0 behind the last frame and where no path is
        possible; NaN where the loss is.
    layout : {"NTC", "TNC", "TC"}
        The loss's.
    """

    index: NDArray[np.int64]
    log_prob: NDArray[Any]
    posterior: NDArray[Any]
    layout: Literal["NTC", "TNC", "TC"]

    def spans(self) -> list[list[Span]]:
        """Return the frames of every label: for each sample one list, in the order of its labels.

        Layout "TC" has one sample. Frames of the blank are in no span, and a sample without a path
        has none.
        """
        arrays = (self._samples_first(a) for a in (self.index, self.log_prob, self.posterior))
        return [_spans(*rows) for rows in zip(*arrays, strict=True)]

    def _samples_first(self, array: NDArray[Any]) -> NDArray[Any]:
        return array[None] if self.layout == "TC" else array.T if self.layout == "TNC" else array


def _spans(index: NDArray[np.int64], log_prob: NDArray[Any], posterior: NDArray[Any]) -> list[Span]:
    labelled = index >= 0
    starts = np.flatnonzero(labelled & (np.diff(index, prepend=-1) != 0))
    ends = np.flatnonzero(labelled & (np.diff(index, append=-1) != 0)) + 1
    edges = np.stack((starts, ends), axis=-1).ravel()

    def means(x: NDArray[Any]) -> Any:
        # One more element, as an edge may lie behind the last one; every second sum is in between.
        sums = np.add.reduceat(np.append(x.astype(np.float64), 0.0), edges)[::2]
        return sums / (ends - starts)

    columns = index[starts], starts, ends, means(log_prob), means(posterior)
    return [Span(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]


@loss_class
class CTCLoss(Sequences[R]):
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
    - a list of sequences, one for each sample, or an Arrow list array. Lists of one length are
      padded rows; in sequences of different lengths, and in an Arrow list array, every number is a
      label, and a -1 an error.

    Frames behind `pred_lengths` and padding are never read. `posteriors` and `align` give the
    probability of every label at every frame and the most probable path.

    Finite numbers in pred may lie any distance apart. A mask of -1e9, -1e20 or the least number of
    the type is as good as -inf where a path avoids it; where none does, the loss says how far.

    Parameters
    ----------
    layout : {"NTC", "TNC", "TC"}, default "NTC"
        The axes of pred: samples, frames, classes. "TC" is one sample; its value has shape ().
    label_layout : {"NT", "TN"}, default "NT"
        The axes of padded labels in one array.
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
        Bytes of scratch that a thread may use. Of these, up to 64 MiB in the whole process are kept
        for the next calls until `rustloss.release_memory` gives them back.
    reduction, empty
        See `Loss`. ``reduction="target_mean"`` divides each loss by its label's length, at least 1,
        and takes the mean.

    Raises
    ------
    rustloss.errors.LabelError
        If a label is out of range, negative, the blank or null.
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

    layout: Literal["NTC", "TNC", "TC"] = "NTC"
    label_layout: Literal["NT", "TN"] = "NT"
    weight: float | None = None
    _: KW_ONLY
    blank: Literal["last", "first"] | int = "last"
    input: Literal["logits", "log_probs", "log_probs_torch"] = "logits"
    infeasible: Literal["inf", "zero", "raise"] = "inf"
    memory_limit: int = 1 << 28

    def posteriors(
        self,
        pred: Mix,
        label: Mix,
        pred_lengths: MaybeMix = None,
        label_lengths: MaybeMix = None,
        *,
        label_offsets: MaybeMix = None,
    ) -> Array:
        """Return the probability of every label at every frame, given the label sequence.

        The arguments are those of the loss, weights apart, and so are the errors.

        Returns
        -------
        ndarray
            Of pred's element type and shape but for the last axis, which counts the positions in
            the longest label sequence of the batch: (N, T, L), (T, N, L) or (T, L). What a frame
            leaves to 1 is the blank's. 0 behind the last frame, behind the last label and for an
            infeasible sample; NaN where the loss is.

        Examples
        --------
        >>> import numpy as np
        >>> import rustloss as rl
        >>> print(rl.CTCLoss().posteriors(np.zeros((1, 3, 3)), [[0, 1]]))
        [[[0.8 0. ]
          [0.4 0.4]
          [0.  0.8]]]
        """
        return _core.posteriors(  # type: ignore[no-any-return]
            self, pred, label, pred_lengths, label_lengths, label_offsets=label_offsets
        )

    def align(
        self,
        pred: Mix,
        label: Mix,
        pred_lengths: MaybeMix = None,
        label_lengths: MaybeMix = None,
        *,
        label_offsets: MaybeMix = None,
    ) -> Alignment:
        """Return the most probable path that becomes the label: which label each frame is given to.

        The arguments are those of the loss, weights apart, and so are the errors. Of paths that are
        equally probable, the last frame prefers the last label to the blank, and then each frame
        before prefers to stay, then to advance by one state, then to skip a blank.

        Returns
        -------
        Alignment
            Arrays of pred's element type, and of int64.

        Examples
        --------
        >>> import numpy as np
        >>> import rustloss as rl
        >>> pred = np.log([[0.7, 0.1, 0.2], [0.5, 0.1, 0.4], [0.1, 0.2, 0.7], [0.1, 0.8, 0.1]])
        >>> label, blank = np.array([0, 1]), 2
        >>> alignment = rl.CTCLoss(layout="TC", blank=blank).align(pred, label)
        >>> alignment.index
        array([ 0,  0, -1,  1])
        >>> (spans,) = alignment.spans()
        >>> [(span.index, span.start, span.end, round(span.posterior, 3)) for span in spans]
        [(0, 0, 2, 0.734), (1, 3, 4, 0.965)]

        What torchaudio's ``forced_align`` returns are a class for each frame and its
        log-probability; ``merge_tokens`` adds up runs of frames to class, start, end and mean:

        >>> path, scores = np.append(label, blank)[alignment.index], alignment.log_prob
        >>> path
        array([0, 0, 2, 1])
        >>> np.exp(scores).round(6)
        array([0.7, 0.5, 0.7, 0.8])
        >>> for span in spans:
        ...     print(label[span.index], span.start, span.end, round(span.log_prob, 6))
        0 0 2 -0.524911
        1 3 4 -0.223144
        """
        arrays = _core.align(
            self, pred, label, pred_lengths, label_lengths, label_offsets=label_offsets
        )
        return Alignment(*arrays, layout=self.layout)
