"""PyTorch, eager and compiled: autograd of the summed per-sample values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import Array, Case, Contender, Result


def softmax_ce(pred: Tensor, label: Tensor) -> Tensor:
    value = F.cross_entropy(pred, label, reduction="none")
    return value.flatten(1).mean(1) if value.ndim > 1 else value


def smoothed_ce(pred: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(pred, label, reduction="none", label_smoothing=0.1)


def weighted_ce(pred: Tensor, label: Tensor) -> Tensor:
    weight = torch.linspace(0.5, 1.5, pred.shape[1], dtype=pred.dtype)
    return F.cross_entropy(pred, label, weight, reduction="none")


def _log_p(pred: Tensor, label: Tensor) -> Tensor:
    return -F.cross_entropy(pred, label, reduction="none")


def softmax_focal(pred: Tensor, label: Tensor) -> Tensor:
    log_p = _log_p(pred, label)
    return -(1 - log_p.exp()).square() * log_p


def poly(pred: Tensor, label: Tensor) -> Tensor:
    log_p = _log_p(pred, label)
    return 1 - log_p.exp() - log_p


def categorical_hinge(pred: Tensor, label: Tensor) -> Tensor:
    index = label[:, None]
    others = pred.scatter(1, index, -torch.inf).max(1).values
    return F.relu(1 + others - pred.gather(1, index)[:, 0])


def multi_quantile(pred: Tensor, label: Tensor) -> Tensor:
    count = pred.shape[1]
    q = ((torch.arange(count) + 0.5) / count).to(pred.dtype)
    error = label[:, None] - pred
    return torch.maximum(q * error, (q - 1) * error).mean(1)


def crps(pred: Tensor, label: Tensor) -> Tensor:
    members = pred.shape[1]
    rank = ((2 * torch.arange(members) - members + 1) / members**2).to(pred.dtype)
    return (pred - label[:, None]).abs().mean(1) - pred.sort(1).values @ rank


def kl_logits(pred: Tensor, label: Tensor) -> Tensor:
    return F.kl_div(F.log_softmax(pred, 1), label, reduction="none").mean(1)


def triplet(anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    return F.relu(1 + ((positive - anchor) ** 2 - (negative - anchor) ** 2).sum(1))


def sdml(first: Tensor, second: Tensor) -> Tensor:
    # The matrix product is several times faster than the differences themselves.
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)
    count = len(first)
    target = torch.full((count, count), 0.3 / (count - 1), dtype=first.dtype).fill_diagonal_(0.7)
    log_prob = F.log_softmax(2 * first @ second.T - squares, 1)
    return F.kl_div(log_prob, target, reduction="none").mean(1)


def ctc(pred: Tensor, label: Tensor, pred_lengths: Tensor, label_lengths: Tensor) -> Tensor:
    blank = pred.shape[2] - 1
    log_prob = F.log_softmax(pred, 2)
    return F.ctc_loss(log_prob, label, pred_lengths, label_lengths, blank, reduction="none")


LOSSES: dict[str, Callable[..., Tensor]] = {
    "L1": lambda pred, label: F.l1_loss(pred, label, reduction="none").mean(1),
    "L2": lambda pred, label: 0.5 * F.mse_loss(pred, label, reduction="none").mean(1),
    "Huber": lambda pred, label: F.smooth_l1_loss(pred, label, reduction="none").mean(1),
    "Hinge": lambda pred, label: F.relu(1 - pred * label).mean(1),
    "SquaredHinge": lambda pred, label: F.relu(1 - pred * label).square().mean(1),
    "Logistic": lambda pred, label: F.softplus(-pred * label).mean(1),
    "SigmoidBCE": lambda pred, label: F.binary_cross_entropy_with_logits(
        pred, label, reduction="none"
    ).mean(1),
    "PoissonNLL": lambda pred, target: F.poisson_nll_loss(pred, target, reduction="none").mean(1),
    "SoftmaxCE": softmax_ce,
    "SoftmaxCE-smoothed": smoothed_ce,
    "SoftmaxCE-weighted": weighted_ce,
    "SoftmaxFocal": softmax_focal,
    "Poly": poly,
    "CategoricalHinge": categorical_hinge,
    "MultiQuantile": multi_quantile,
    "CRPS": crps,
    "KLDiv": lambda pred, label: F.kl_div(pred, label, reduction="none").mean(1),
    "KLDiv-logits": kl_logits,
    "GaussianNLL": lambda pred, target, var: F.gaussian_nll_loss(
        pred, target, var, reduction="none"
    ).mean(1),
    "MarginRanking": lambda first, second, label: F.margin_ranking_loss(
        first, second, label, reduction="none"
    ).mean(1),
    "HingeEmbedding": lambda pred, label: F.hinge_embedding_loss(
        pred, label, reduction="none"
    ).mean(1),
    "MultiMargin": lambda pred, label: F.multi_margin_loss(pred, label, reduction="none"),
    "MultiLabelMargin": lambda pred, label: F.multilabel_margin_loss(pred, label, reduction="none"),
    "MultiLabelSoftMargin": lambda pred, label: F.multilabel_soft_margin_loss(
        pred, label, reduction="none"
    ),
    "TripletMargin": lambda anchor, positive, negative: F.triplet_margin_loss(
        anchor, positive, negative, reduction="none"
    ),
    "Triplet": triplet,
    "CosineEmbedding": lambda first, second, label: F.cosine_embedding_loss(
        first, second, label, reduction="none"
    ),
    "SDML": sdml,
    "CTC": ctc,
}


def set_threads(count: int) -> None:
    """Limit PyTorch's own pool."""
    torch.set_num_threads(count)


def _tensor(array: Array) -> Tensor:
    """Return a tensor of the same memory: torch does not know NumPy's bfloat16."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _inputs(case: Case) -> list[Tensor]:
    inputs = [_tensor(x) for x in case.inputs()]
    if case.title == "CTC":
        frames, samples, _, length = case.shape
        inputs[0] = inputs[0].transpose(0, 1).contiguous()
        inputs += [torch.full((samples,), frames), torch.full((samples,), length)]
    return inputs


def _fetch(case: Case) -> Callable[[tuple[Tensor, tuple[Tensor, ...]]], Result]:
    def to_numpy(tensor: Tensor) -> Array:
        array: Array = tensor.detach().float().numpy()
        return array.swapaxes(0, 1) if case.title == "CTC" and array.ndim == 3 else array

    return lambda result: (to_numpy(result[0]), tuple(map(to_numpy, result[1])))


def _eager(case: Case) -> Contender:
    loss, inputs = LOSSES[case.title], _inputs(case)
    wanted = [inputs[at].requires_grad_() for at in case.differentiable]
    ones = torch.ones(len(case.inputs()[0]), dtype=inputs[0].dtype)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        value = loss(*inputs)
        return value, torch.autograd.grad(value, wanted, ones)

    return Contender("torch", run, _fetch(case))


def _compiled(case: Case) -> Contender:
    loss, inputs = LOSSES[case.title], _inputs(case)

    def total(*args: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(*args)
        return value.sum(), value

    torch._dynamo.reset()
    step: Any = torch.compile(
        torch.func.grad_and_value(total, case.differentiable, has_aux=True), dynamic=False
    )

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        grads, (_, value) = step(*inputs)
        return value, grads

    return Contender("torch.compile", run, _fetch(case))


def contenders(case: Case) -> list[Contender]:
    """Return the eager and the compiled contender, if PyTorch has the loss."""
    return [_eager(case), _compiled(case)] if case.title in LOSSES else []
