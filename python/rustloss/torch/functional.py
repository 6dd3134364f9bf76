"""The losses of `torch.nn.functional`: same names, arguments, defaults, shapes and errors.

An error is one of `rustloss.errors` and, at the same time, of the class that torch raises. Results
differ from torch's in what follows.

- Labels that are no signs, or no probabilities, raise in `soft_margin_loss`,
  `cosine_embedding_loss` and `binary_cross_entropy`, where torch follows a formula.
- The weighted mean of no element is 0, where torch has NaN, and gradients of an infinite `ctc_loss`
  are 0, as are those of `cosine_embedding_loss` by a vector of zeros.
- Weights are finite, not negative, and need no gradient, but those of
  `multilabel_soft_margin_loss` may be any. Weights of classes are read as numbers when a loss is
  called, which neither ``torch.compile(fullgraph=True)`` nor ``torch.export`` allows.
- Parameters are finite: no infinite `delta`, `beta` or `margin`, and 1 <= `p`. The `eps` of
  `gaussian_nll_loss` is positive, and `kl_div` wants a last axis that is not empty. The compiler
  compiles anew for each value of a parameter.
- The result has input's element type, whatever the target's; that of half types is float32 where it
  is a sum or a mean. Integers are read as float64.
- More is taken than torch takes: class indices of any real type or with an axis of size 1,
  predictions of integers, triplets of several ranks, rows in more dimensions than two.
- A second derivative is there where `rustloss.torch` says so, and there is none of
  ``torch.jit.script``, ``torch.fx.symbolic_trace`` and ``torch.func.functionalize``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rustloss.torch._errors import TorchDTypeError, TorchParameterError
from rustloss.torch._losses import (
    CTC_WORDS,
    HUBER_WORDS,
    SMOOTH_L1_WORDS,
    TRIPLET_WORDS,
    call,
    call_rows,
    class_weights,
    number,
    reduction_of,
)

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


def _as_one_size(input: Tensor, target: Tensor) -> Sequence[Tensor]:
    if target.size() == input.size():
        return input, target
    if not torch.compiler.is_compiling():
        text = f"target has size {tuple(target.size())}, input {tuple(input.size())}: they are"
        warnings.warn(f"{text} broadcast, which is rarely meant; give both one size", stacklevel=3)
    both: Sequence[Tensor] = torch.broadcast_tensors(input, target)
    return both


def _require_one_size(input: Tensor, target: Tensor) -> None:
    if target.size() != input.size():
        text = f"expected a target of input's size, {tuple(input.size())}"
        raise ValueError(f"target: {text}, got {tuple(target.size())}")


def _weight_like(input: Tensor, weight: Tensor | None) -> dict[str, Any]:
    if weight is None:
        return {}
    if weight.size() != input.size():
        text = f"expected weights of input's size, {tuple(input.size())}"
        raise ValueError(f"weight: {text}, got {tuple(weight.size())}")
    return {"sample_weight": weight}


def _mean_of_weights(reduction: str, weight: Tensor | None) -> str:
    return "weighted_mean" if reduction == "mean" and weight is not None else reduction


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the absolute error; see `rustloss.L1Loss`."""
    how = _mean_of_weights(reduction_of(reduction, size_average, reduce), weight)
    options = _weight_like(input, weight)
    return call("L1Loss", _as_one_size(input, target), options, reduction=how)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared error, twice `rustloss.L2Loss`."""
    how = _mean_of_weights(reduction_of(reduction, size_average, reduce), weight)
    options = _weight_like(input, weight)
    return call("L2Loss", _as_one_size(input, target), options, weight=2.0, reduction=how)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return the absolute error with its corner rounded off; see `rustloss.HuberLoss`."""
    beta = number("beta", beta)
    if beta == 0:
        return l1_loss(input, target, size_average, reduce, reduction)
    how = reduction_of(reduction, size_average, reduce)
    tensors = _as_one_size(input, target)
    return call("HuberLoss", tensors, {}, SMOOTH_L1_WORDS, rho=beta, reduction=how)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the classical Huber loss, `delta` times `rustloss.HuberLoss`."""
    delta = number("delta", delta)
    params: dict[str, Any] = {"rho": delta, "weight": delta, "reduction": reduction_of(reduction)}
    options = _weight_like(input, weight)
    return call("HuberLoss", _as_one_size(input, target), options, HUBER_WORDS, **params)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the binary cross-entropy of probabilities; see `rustloss.SigmoidBCELoss`."""
    how = reduction_of(reduction, size_average, reduce)
    _require_one_size(input, target)
    options = {} if weight is None else {"sample_weight": weight.expand_as(target)}
    params: dict[str, Any] = {"from_sigmoid": True, "clamp": True, "reduction": how}
    return call("SigmoidBCELoss", (input, target), options, **params)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the binary cross-entropy of logits; see `rustloss.SigmoidBCELoss`."""
    how = reduction_of(reduction, size_average, reduce)
    _require_one_size(input, target)
    given = {"sample_weight": weight, "pos_weight": pos_weight}
    options = {name: x.expand_as(target) for name, x in given.items() if x is not None}
    params: dict[str, Any] = {"reduction": how, "out_of_range": "allow"}
    return call("SigmoidBCELoss", (input, target), options, **params)


def _require_probabilities(target: Tensor, ignore_index: int) -> None:
    if not target.is_floating_point():
        text = "target: expected probabilities of a floating point type, as it has input's size"
        raise TorchDTypeError(f"{text}, got {target.dtype}", "target")
    if ignore_index >= 0:
        text = "ignore_index: expected a negative number beside probabilities"
        raise TorchParameterError(f"{text}, got {ignore_index}", "ignore_index")


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the softmax cross-entropy; see `rustloss.SoftmaxCELoss`.

    The target holds class indices, or probabilities if it is of input's size.
    """
    how = reduction_of(reduction, size_average, reduce)
    smoothing = number("label_smoothing", label_smoothing)
    ignore_index = number("ignore_index", ignore_index)
    params: dict[str, Any] = {"class_weight": class_weights(weight), "label_smoothing": smoothing}
    if target.size() == input.size():
        _require_probabilities(target, ignore_index)
        params |= {"sparse_label": False, "reduction": how}
    else:
        how = "weighted_mean" if how == "mean" else how
        params |= {"ignore_index": ignore_index, "reduction": how}
    return call_rows("SoftmaxCELoss", (input, target), axis=1, **params)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the cross-entropy of log-probabilities; see `rustloss.SoftmaxCELoss`."""
    how = reduction_of(reduction, size_average, reduce)
    params: dict[str, Any] = {
        "from_logits": True,
        "class_weight": class_weights(weight),
        "ignore_index": number("ignore_index", ignore_index),
        "reduction": "weighted_mean" if how == "mean" else how,
    }
    return call_rows("SoftmaxCELoss", (input, target), axis=1, **params)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return the Kullback-Leibler divergence; see `rustloss.KLDivLoss`."""
    of_batch = reduction == "batchmean"
    if of_batch and size_average is None and reduce is None:
        reduction = "sum"
    how = reduction_of(reduction, size_average, reduce)
    tensors = torch.broadcast_tensors(input, target)
    params: dict[str, Any] = {"log_target": log_target, "out_of_range": "allow"}
    if of_batch and how == "sum" and tensors[0].size() == input.size() and input.dim():
        return call("KLDivLoss", tensors, {}, reduction="batch_mean", **params)
    losses = call_rows("KLDivLoss", tensors, axes=0, reduction=how, **params)
    # Torch divides by input's size alone, and whatever `size_average` and `reduce` have left.
    return losses / input.size(0) if of_batch and input.dim() else losses


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of a Poisson count; see `rustloss.PoissonNLLLoss`."""
    params: dict[str, Any] = {
        "from_logits": log_input,
        "compute_full": "stirling" if full else False,
        "out_of_range": "allow",
        "reduction": reduction_of(reduction, size_average, reduce),
    }
    tensors = torch.broadcast_tensors(input, target)
    return call("PoissonNLLLoss", tensors, {"epsilon": number("eps", eps)}, **params)


def _least(dtype: torch.dtype) -> float:
    """Return the smallest positive number of a type."""
    info = torch.finfo(dtype)
    return float(info.smallest_normal * info.eps)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """Return the negative log-likelihood of a normal distribution; see `rustloss.GaussianNLLLoss`.

    The variance is a number or has input's size; its last axis may be missing, and one axis may
    have size 1.
    """
    if not isinstance(var, Tensor):
        var = input.detach().new_full(input.size(), var)
    elif input.dim() and var.size() == input.size()[:-1]:
        var = var[..., None]
    ones = [n for n, m in zip(var.size(), input.size(), strict=False) if n != m]
    if var.dim() != input.dim() or ones not in ([], [1]):
        text = f"expected input's size, {tuple(input.size())}, with at most one axis of size 1"
        raise ValueError(f"var: {text}, got {tuple(var.size())}")
    # The slope of a variance below `eps` is that at `eps`, as torch has it: raised without a graph,
    # and the loss's own floor lies lower.
    floor = eps = number("eps", eps)
    if var.is_floating_point() and eps >= _least(var.dtype):
        floor = eps / 2
        var = var.clone()
        with torch.no_grad():
            var.masked_fill_((var >= 0) & (var < eps), eps)
    params: dict[str, Any] = {"full": full, "epsilon": floor, "reduction": reduction_of(reduction)}
    tensors = (*torch.broadcast_tensors(input, target), var)
    return call("GaussianNLLLoss", tensors, {}, **params)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the hinge loss of a distance; see `rustloss.HingeEmbeddingLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    margin = number("margin", margin)
    params: dict[str, Any] = {"margin": margin, "out_of_range": "allow", "reduction": how}
    return call("HingeEmbeddingLoss", torch.broadcast_tensors(input, target), {}, **params)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the logistic loss of a signed label; see `rustloss.LogisticLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    return call("LogisticLoss", torch.broadcast_tensors(input, target), {}, reduction=how)


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the cosine embedding loss; see `rustloss.CosineEmbeddingLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    tensors = (*torch.broadcast_tensors(input1, input2), target)
    params: dict[str, Any] = {"margin": number("margin", margin), "reduction": how}
    return call_rows("CosineEmbeddingLoss", tensors, **params)


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin ranking loss; see `rustloss.MarginRankingLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    tensors = (input1, input2, target)
    if len({tensor.dim() for tensor in tensors}) > 1:
        sizes = ", ".join(str(tuple(tensor.size())) for tensor in tensors)
        raise RuntimeError(f"expected three tensors of one number of dimensions, got sizes {sizes}")
    margin = number("margin", margin)
    params: dict[str, Any] = {"margin": margin, "out_of_range": "allow", "reduction": how}
    return call("MarginRankingLoss", torch.broadcast_tensors(*tensors), {}, **params)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin loss of one class against all others; see `rustloss.MultiMarginLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    one = input.dim() == target.dim() == 1  # whose loss has a dimension in torch
    params: dict[str, Any] = {
        "p": number("p", p),
        "margin": number("margin", margin),
        "class_weight": class_weights(weight),
        "reduction": how,
    }
    return call_rows("MultiMarginLoss", (input[None] if one else input, target), **params)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin loss of several classes; see `rustloss.MultiLabelMarginLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    return call_rows("MultiLabelMarginLoss", (input, target), reduction=how)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the mean cross-entropy of yes or no per class; see `MultiLabelSoftMarginLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    tensors = torch.broadcast_tensors(input, target)
    params: dict[str, Any] = {"out_of_range": "allow"}
    if weight is None:
        return call_rows("MultiLabelSoftMarginLoss", tensors, reduction=how, **params)
    # Weights of any shape, which have a gradient.
    losses = call("SigmoidBCELoss", tensors, {}, reduction="none", **params) * weight
    losses = losses.sum(-1) / tensors[0].size(-1)
    return losses if how == "none" else losses.sum() if how == "sum" else losses.mean()


def _require_margin(margin: float) -> None:
    if margin <= 0:
        raise ValueError(f"margin: expected a number > 0, got {margin}")


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin loss of two distances; see `rustloss.TripletMarginLoss`."""
    how = reduction_of(reduction, size_average, reduce)
    margin = number("margin", margin)
    _require_margin(margin)
    params: dict[str, Any] = {
        "margin": margin,
        "p": number("p", float(p)),
        "epsilon": number("eps", eps),
        "swap": swap,
        "reduction": how,
    }
    tensors = torch.broadcast_tensors(anchor, positive, negative)
    return call_rows("TripletMarginLoss", tensors, words=TRIPLET_WORDS, **params)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin ranking loss of two distances; see `rustloss.MarginRankingLoss`.

    The distances are those of `distance_function`, by default ``torch.pairwise_distance``.
    """
    how = reduction_of(reduction)
    _require_margin(margin)
    distance = torch.pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = torch.minimum(far, distance(positive, negative))
    if isinstance(margin, Tensor):  # which has a gradient
        near, margin = near + margin, 0.0
    margin = number("margin", margin)
    tensors = (far, near, torch.ones_like(near))
    return call("MarginRankingLoss", tensors, {}, margin=margin, reduction=how)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor,
    target_lengths: Tensor,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return the loss of label sequences; see `rustloss.CTCLoss`.

    The gradient is torch's, which is that by what went into a log-softmax.
    """
    how = reduction_of(reduction)
    one = log_probs.dim() == 2
    if one:
        log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
    lengths = [torch.as_tensor(n).reshape(-1) for n in (input_lengths, target_lengths)]
    params: dict[str, Any] = {
        "layout": "TNC",
        "blank": number("blank", blank),
        "input": "log_probs_torch",
        "infeasible": "zero" if zero_infinity else "inf",
        "reduction": "target_mean" if how == "mean" else how,
    }
    losses = call("CTCLoss", (log_probs, targets, *lengths), {}, CTC_WORDS, **params)
    return losses[0] if one and how == "none" else losses
