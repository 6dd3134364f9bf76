"""The losses of `torch.nn.functional`: same names, arguments, defaults, shapes and errors.

An error is one of `rustloss.errors` and, at the same time, of the class that torch raises. Results
differ from torch's in what follows.

- Labels that are no signs, or no probabilities, raise in `soft_margin_loss`,
  `cosine_embedding_loss` and `binary_cross_entropy`, where torch follows a formula.
- The weighted mean of no element is 0, where torch has NaN, and gradients of an infinite `ctc_loss`
  are 0.
- Weights are finite, not negative, and need no gradient. Weights of classes are read as numbers
  when a loss is called, which ``torch.compile(fullgraph=True)`` does not allow.
- A second derivative is there where `rustloss.torch` says so.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import _reduction as _Reduction

import rustloss
from rustloss.errors import ArgumentError
from rustloss.torch._calls import value
from rustloss.torch._errors import as_torch
from rustloss.torch._op import Traits, traits

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


#: By the numbers that torch gives them.
_REDUCTIONS = ("none", "mean", "sum")


@functools.lru_cache(maxsize=1024)
def _made(name: str, **params: Any) -> Traits:
    return traits(getattr(rustloss, name)(**params))


@torch.compiler.assume_constant_result
def _loss(name: str, **params: Any) -> Traits:
    """Return a loss by its name; the compiler takes it for a constant, as its arguments are."""
    return _made(name, **params)


def _call(name: str, tensors: Sequence[Tensor], options: dict[str, Any], **params: Any) -> Tensor:
    """Call a loss, with errors as torch has them; `options` are arguments of the call by name."""
    try:
        return value(_loss(name, **params), tuple(tensors), options)
    except ArgumentError as error:
        raise as_torch(error) from error


def _call_rows(name: str, tensors: Sequence[Tensor], axes: int = 1, **params: Any) -> Tensor:
    """Call a loss of rows, each with that many axes; the loss of one row has no dimensions."""
    if tensors[0].dim() > axes:
        return _call(name, tensors, {}, **params)
    rows = _call(name, [tensor[None] for tensor in tensors], {}, **params)
    return rows[0] if params["reduction"] == "none" else rows


def _reduction(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> str:
    """Return a reduction by torch's rules, the deprecated arguments among them."""
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return reduction if reduction in _REDUCTIONS else _REDUCTIONS[_Reduction.get_enum(reduction)]


def _as_one_size(input: Tensor, target: Tensor) -> Sequence[Tensor]:
    if target.size() == input.size():
        return input, target
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


def _numbers(weight: Tensor | None) -> tuple[float, ...] | None:
    """Return weights of classes as a parameter of a loss."""
    if weight is None:
        return None
    if weight.dim() != 1:
        text = f"expected one weight for each class, got shape {tuple(weight.size())}"
        raise ValueError(f"weight: {text}")
    return tuple(weight.tolist())


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
    how = _mean_of_weights(_reduction(reduction, size_average, reduce), weight)
    options = _weight_like(input, weight)
    return _call("L1Loss", _as_one_size(input, target), options, reduction=how)


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """Return the squared error, twice `rustloss.L2Loss`."""
    how = _mean_of_weights(_reduction(reduction, size_average, reduce), weight)
    options = _weight_like(input, weight)
    return _call("L2Loss", _as_one_size(input, target), options, weight=2.0, reduction=how)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Return the absolute error with its corner rounded off; see `rustloss.HuberLoss`."""
    if beta == 0:
        return l1_loss(input, target, size_average, reduce, reduction)
    how = _reduction(reduction, size_average, reduce)
    return _call("HuberLoss", _as_one_size(input, target), {}, rho=beta, reduction=how)


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Return the classical Huber loss, `delta` times `rustloss.HuberLoss`."""
    params: dict[str, Any] = {"rho": delta, "weight": delta, "reduction": _reduction(reduction)}
    options = _weight_like(input, weight)
    return _call("HuberLoss", _as_one_size(input, target), options, **params)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the binary cross-entropy of probabilities; see `rustloss.SigmoidBCELoss`."""
    how = _reduction(reduction, size_average, reduce)
    _require_one_size(input, target)
    options = {} if weight is None else {"sample_weight": weight.expand_as(target)}
    params: dict[str, Any] = {"from_sigmoid": True, "clamp": True, "reduction": how}
    return _call("SigmoidBCELoss", (input, target), options, **params)


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
    how = _reduction(reduction, size_average, reduce)
    _require_one_size(input, target)
    given = {"sample_weight": weight, "pos_weight": pos_weight}
    options = {name: x.expand_as(target) for name, x in given.items() if x is not None}
    params: dict[str, Any] = {"reduction": how, "out_of_range": "allow"}
    return _call("SigmoidBCELoss", (input, target), options, **params)


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
    how = _reduction(reduction, size_average, reduce)
    params: dict[str, Any] = {"class_weight": _numbers(weight), "label_smoothing": label_smoothing}
    if target.size() == input.size():
        params |= {"sparse_label": False, "reduction": how}
    else:
        how = "weighted_mean" if how == "mean" else how
        params |= {"ignore_index": ignore_index, "reduction": how}
    return _call_rows("SoftmaxCELoss", (input, target), axis=1, **params)


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
    how = _reduction(reduction, size_average, reduce)
    params: dict[str, Any] = {
        "from_logits": True,
        "class_weight": _numbers(weight),
        "ignore_index": ignore_index,
        "reduction": "weighted_mean" if how == "mean" else how,
    }
    return _call_rows("SoftmaxCELoss", (input, target), axis=1, **params)


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return the Kullback-Leibler divergence; see `rustloss.KLDivLoss`."""
    if reduction == "batchmean" and size_average is None and reduce is None:
        how = "batch_mean" if input.dim() else "sum"
    else:
        how = _reduction(reduction, size_average, reduce)
    params: dict[str, Any] = {"log_target": log_target, "out_of_range": "allow", "reduction": how}
    return _call_rows("KLDivLoss", torch.broadcast_tensors(input, target), axes=0, **params)


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
        "reduction": _reduction(reduction, size_average, reduce),
    }
    tensors = torch.broadcast_tensors(input, target)
    return _call("PoissonNLLLoss", tensors, {"epsilon": eps}, **params)


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
    elif var.size() == input.size()[:-1]:
        var = var[..., None]
    ones = [n for n, m in zip(var.size(), input.size(), strict=False) if n != m]
    if var.dim() != input.dim() or ones not in ([], [1]):
        text = f"expected input's size, {tuple(input.size())}, with at most one axis of size 1"
        raise ValueError(f"var: {text}, got {tuple(var.size())}")
    # The slope of a variance below `eps` is that at `eps`, as torch has it: raised without a graph,
    # and the loss's own floor lies lower.
    floor = eps
    if var.is_floating_point() and eps >= _least(var.dtype):
        floor = eps / 2
        var = var.clone()
        with torch.no_grad():
            var.masked_fill_((var >= 0) & (var < eps), eps)
    params: dict[str, Any] = {"full": full, "epsilon": floor, "reduction": _reduction(reduction)}
    tensors = (*torch.broadcast_tensors(input, target), var)
    return _call("GaussianNLLLoss", tensors, {}, **params)


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the hinge loss of a distance; see `rustloss.HingeEmbeddingLoss`."""
    how = _reduction(reduction, size_average, reduce)
    params: dict[str, Any] = {"margin": margin, "out_of_range": "allow", "reduction": how}
    return _call("HingeEmbeddingLoss", torch.broadcast_tensors(input, target), {}, **params)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the logistic loss of a signed label; see `rustloss.LogisticLoss`."""
    how = _reduction(reduction, size_average, reduce)
    return _call("LogisticLoss", torch.broadcast_tensors(input, target), {}, reduction=how)


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
    how = _reduction(reduction, size_average, reduce)
    tensors = (input1, input2, target)
    return _call_rows("CosineEmbeddingLoss", tensors, margin=margin, reduction=how)


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
    how = _reduction(reduction, size_average, reduce)
    tensors = (input1, input2, target)
    if len({tensor.dim() for tensor in tensors}) > 1:
        sizes = ", ".join(str(tuple(tensor.size())) for tensor in tensors)
        raise RuntimeError(f"expected three tensors of one number of dimensions, got sizes {sizes}")
    params: dict[str, Any] = {"margin": margin, "out_of_range": "allow", "reduction": how}
    return _call("MarginRankingLoss", torch.broadcast_tensors(*tensors), {}, **params)


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
    how = _reduction(reduction, size_average, reduce)
    params: dict[str, Any] = {
        "p": p,
        "margin": margin,
        "class_weight": _numbers(weight),
        "reduction": how,
    }
    return _call_rows("MultiMarginLoss", (input, target), **params)


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the margin loss of several classes; see `rustloss.MultiLabelMarginLoss`."""
    how = _reduction(reduction, size_average, reduce)
    return _call_rows("MultiLabelMarginLoss", (input, target), reduction=how)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Return the mean cross-entropy of yes or no per class; see `MultiLabelSoftMarginLoss`."""
    params: dict[str, Any] = {
        "class_weight": _numbers(weight),
        "out_of_range": "allow",
        "reduction": _reduction(reduction, size_average, reduce),
    }
    return _call_rows("MultiLabelSoftMarginLoss", torch.broadcast_tensors(input, target), **params)


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
    how = _reduction(reduction, size_average, reduce)
    _require_margin(margin)
    params: dict[str, Any] = {
        "margin": margin,
        "p": float(p),
        "epsilon": eps,
        "swap": swap,
        "reduction": how,
    }
    tensors = torch.broadcast_tensors(anchor, positive, negative)
    return _call_rows("TripletMarginLoss", tensors, **params)


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
    how = _reduction(reduction)
    _require_margin(margin)
    distance = torch.pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = torch.minimum(far, distance(positive, negative))
    tensors = (far, near, torch.ones_like(near))
    return _call("MarginRankingLoss", tensors, {}, margin=margin, reduction=how)


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
    how = _reduction(reduction)
    one = log_probs.dim() == 2
    if one:
        log_probs, targets = log_probs[:, None], targets.reshape(1, -1)
    lengths = [torch.as_tensor(n).reshape(-1) for n in (input_lengths, target_lengths)]
    params: dict[str, Any] = {
        "layout": "TNC",
        "blank": blank,
        "input": "log_probs_torch",
        "infeasible": "zero" if zero_infinity else "inf",
        "reduction": "target_mean" if how == "mean" else how,
    }
    losses = _call("CTCLoss", (log_probs, targets, *lengths), {}, **params)
    return losses[0] if one and how == "none" else losses
