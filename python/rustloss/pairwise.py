"""Losses of a batch against a batch; see `rustloss.Loss` for options, weights and reductions."""

from __future__ import annotations

from dataclasses import KW_ONLY
from typing import Literal

from rustloss._calls import Batches, R
from rustloss._parameters import loss_class

__all__ = ["InfoNCELoss", "SDMLLoss"]


@loss_class
class SDMLLoss(Batches[R]):
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
        blocks that fit, at the least one by one. ``reduction="none"`` returns all of E. Up to
        64 MiB are kept for later calls until `rustloss.release_memory` gives them back.
    batch_axis, reduction, empty
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

    smoothing_parameter: float = 0.3
    weight: float | None = 1.0
    batch_axis: int = 0
    _: KW_ONLY
    memory_limit: int = 1 << 28


@loss_class
class InfoNCELoss(Batches[R]):
    """Contrastive cross-entropy: each x1[i] is to be most similar to its partner x2[i] of all x2.

    With the logits ``l[i, j] = similarity(x1[i], x2[j]) / temperature``,
    ``E[i] = log(sum(exp(l[i, j]))) - l[i, i]`` over j, the cross-entropy of row i with class i. If
    `symmetric`, E is the mean of that and of the cross-entropy of column i, as in CLIP. With
    ``g = softmax(l) - identity`` along the rows, or half the sum of those of rows and columns, the
    gradient with respect to x1[i] is ``sum(g[i, j] d(similarity)/d(x1[i])) / temperature`` over j.
    A vector that is exactly zero has the cosine 0 and the gradient 0.

    Call: ``(x1, x2, sample_weight=None)`` with two matrices of one shape and one weight for each
    pair of partners. E has shape (N,), and a sample of weight 0 is still one of the others' wrong
    answers. The gradient is a tuple of two.

    Parameters
    ----------
    temperature : float, default 0.07
        Divides the similarities; > 0.
    similarity : {"cosine", "dot"}, default "cosine"
        The dot product, of vectors scaled to length 1 or as they are.
    symmetric : bool, default True
        Whether each x2[j] is to find its partner, too.
    weight : float, optional
        Multiplies the loss.
    memory_limit : int, default 268435456
        The bytes that arrays over pairs may have: rows are computed in blocks that fit, at the
        least one by one. All results are the same but for the last bits. Up to 64 MiB are kept
        for later calls until `rustloss.release_memory` gives them back.
    batch_axis, reduction, empty
        See `Loss`.

    References
    ----------
    A. van den Oord, Y. Li, O. Vinyals, "Representation learning with contrastive predictive
    coding", 2018. A. Radford et al., "Learning transferable visual models from natural language
    supervision", 2021.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss = rl.InfoNCELoss(temperature=1.0, similarity="dot")
    >>> value, grads = loss.value_and_grad([[0.0], [1.0]], [[0.0], [1.0]])
    >>> print(value, *(grad.ravel() for grad in grads))
    [0.69314718 0.31326169] [ 0.38447071 -0.26894142] [ 0.38447071 -0.26894142]
    """

    __slots__ = ()

    temperature: float = 0.07
    similarity: Literal["cosine", "dot"] = "cosine"
    symmetric: bool = True
    weight: float | None = None
    batch_axis: int = 0
    _: KW_ONLY
    memory_limit: int = 1 << 28
