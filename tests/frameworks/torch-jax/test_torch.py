"""Losses that PyTorch has too, in double precision there, in single and double here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.parity import FLOAT32, FLOAT64, Call, Draw, compare, ours, single

torch = pytest.importorskip("torch")
F = torch.nn.functional


@dataclass
class Pair:
    """Our call, and a function of the same inputs."""

    name: str
    call: Call
    function: Callable[..., Any]
    """Takes the inputs of our call as tensors, in their order."""


def theirs(pair: Pair) -> tuple[Any, dict[str, Any]]:
    """Return value and gradients of PyTorch."""
    inputs = {key: torch.tensor(x) for key, x in pair.call.inputs.items()}
    for key in pair.call.wrt:
        inputs[key].requires_grad_()
    value = pair.function(*inputs.values())
    head = 1.0 if pair.call.grad_output is None else pair.call.grad_output
    grads = torch.autograd.grad(
        value, [inputs[key] for key in pair.call.wrt], torch.tensor(head).expand_as(value)
    )
    found = {key: grad.numpy() for key, grad in zip(pair.call.wrt, grads, strict=True)}
    return value.detach().numpy(), found


def pair(
    draw: Draw,
    name: str,
    inputs: dict[str, Any],
    function: Callable[..., Any],
    *,
    wrt: tuple[str, ...] = ("pred", "label"),
    shape: tuple[int, ...] | None = None,
    mean: tuple[str, str] = ("mean", "mean"),
    **params: Any,
) -> Pair:
    """Add a reduction, and the gradient that arrives; `mean` is PyTorch's name and ours."""
    theirs, ours = draw.pick(("none", "none"), ("sum", "sum"), mean)
    if shape is None:
        shape = next(iter(inputs.values())).shape
    head = draw.pick(None, 2.0, draw.numbers(shape if ours == "none" else (), -1, 1))
    call = Call({**params, "reduction": ours}, inputs, wrt, grad_output=head)
    return Pair(name, call, lambda *x: function(*x, reduction=theirs))


def absolute(draw: Draw) -> Pair:
    shape = draw.shape()
    inputs = {"pred": draw.numbers(shape), "label": draw.numbers(shape)}
    return pair(draw, "L1Loss", inputs, F.l1_loss)


def squared(draw: Draw) -> Pair:
    shape = draw.shape()
    inputs = {"pred": draw.numbers(shape), "label": draw.numbers(shape)}
    return pair(draw, "L2Loss", inputs, F.mse_loss, weight=2.0)


def huber(draw: Draw) -> Pair:
    shape, rho = draw.shape(), draw.pick(0.5, 1.0, 2.0)
    inputs = {"pred": draw.numbers(shape), "label": draw.numbers(shape)}
    if draw.pick(False, True):
        # The classical loss is rho times ours.
        return pair(
            draw,
            "HuberLoss",
            inputs,
            lambda *x, **how: F.huber_loss(*x, delta=rho, **how),
            rho=rho,
            weight=rho,
        )
    return pair(
        draw,
        "HuberLoss",
        inputs,
        lambda *x, **how: F.smooth_l1_loss(*x, beta=rho, **how),
        rho=rho,
    )


def logistic(draw: Draw) -> Pair:
    shape = draw.shape()
    inputs = {"pred": draw.numbers(shape, -8, 8), "label": draw.signs(shape)}
    return pair(draw, "LogisticLoss", inputs, F.soft_margin_loss, wrt=("pred",))


def bce(draw: Draw) -> Pair:
    shape = draw.shape()
    inputs = {"pred": draw.numbers(shape, -8, 8), "label": draw.numbers(shape, 0, 1)}
    if draw.pick(False, True):
        # PyTorch has no gradient by it.
        inputs["pos_weight"] = draw.random.integers(0, 7, shape[-1:]) / 2

    def function(pred: Any, label: Any, pos_weight: Any = None, **how: Any) -> Any:
        return F.binary_cross_entropy_with_logits(pred, label, pos_weight=pos_weight, **how)

    return pair(draw, "SigmoidBCELoss", inputs, function)


def bce_of_probabilities(draw: Draw) -> Pair:
    shape = draw.shape()
    inputs = {"pred": draw.numbers(shape, 0.125, 0.875), "label": draw.numbers(shape, 0, 1)}
    return pair(draw, "SigmoidBCELoss", inputs, F.binary_cross_entropy, from_sigmoid=True)


def classes(draw: Draw) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Draw a shape with the classes on axis 1, where PyTorch wants them, and shared options."""
    shape = (draw.size(), draw.size(1, 5), *draw.shape(0, 2))
    params: dict[str, Any] = {"axis": 1, "label_smoothing": draw.pick(0.0, 0.125)}
    if draw.pick(False, True):
        params["class_weight"] = draw.random.integers(1, 5, shape[1]) / 2
    return shape, params


def as_torch(params: dict[str, Any]) -> dict[str, Any]:
    weight = params.get("class_weight")
    weight = None if weight is None else torch.tensor(weight)
    return {"weight": weight, "label_smoothing": params["label_smoothing"]}


def sparse_cross_entropy(draw: Draw) -> Pair:
    shape, params = classes(draw)
    rows = shape[:1] + shape[2:]
    label = draw.random.integers(0, shape[1], rows)
    ignored = draw.pick(-1, -100, shape[1])
    if draw.pick(False, True):
        params["ignore_index"] = ignored
        off = draw.random.random(rows) < 0.3
        # With nothing left PyTorch's mean is NaN, ours is 0.
        off.flat[0] = False
        label[off] = ignored
    options = as_torch(params)
    if "ignore_index" in params:
        options["ignore_index"] = ignored
    return pair(
        draw,
        "SoftmaxCELoss",
        {"pred": draw.numbers(shape, -8, 8), "label": label},
        lambda *x, **how: F.cross_entropy(*x, **options, **how),
        wrt=("pred",),
        shape=rows,
        mean=("mean", "weighted_mean"),
        **params,
    )


def dense_cross_entropy(draw: Draw) -> Pair:
    shape, params = classes(draw)
    options = as_torch(params)
    return pair(
        draw,
        "SoftmaxCELoss",
        {"pred": draw.numbers(shape, -8, 8), "label": draw.probabilities(shape, 1)},
        lambda *x, **how: F.cross_entropy(*x, **options, **how),
        shape=shape[:1] + shape[2:],
        sparse_label=False,
        **params,
    )


def kl(draw: Draw) -> Pair:
    shape = draw.shape(2, 3)
    inputs = {"pred": draw.numbers(shape, -4, 0), "label": draw.numbers(shape, 0, 1)}
    # PyTorch's slope is NaN at label 0, ours is infinite.
    wrt = ("pred", "label") if (inputs["label"] > 0).all() else ("pred",)
    return pair(draw, "KLDivLoss", inputs, F.kl_div, wrt=wrt, mean=("batchmean", "batch_mean"))


def poisson(draw: Draw) -> Pair:
    shape = draw.shape()
    from_logits, full = draw.pick(True, False), draw.pick(False, True)
    epsilon = draw.pick(1e-8, 0.125)
    pred = draw.numbers(shape, *(-4, 2) if from_logits else (0.125, 4))
    inputs = {"pred": pred, "target": draw.random.integers(0, 6, shape) * 1.0, "epsilon": epsilon}

    def function(pred: Any, target: Any, _: Any, **how: Any) -> Any:
        return F.poisson_nll_loss(
            pred, target, log_input=from_logits, full=full, eps=epsilon, **how
        )

    return pair(
        draw,
        "PoissonNLLLoss",
        inputs,
        function,
        # PyTorch's own formula by target is NaN at 0.
        wrt=("pred",) if full else ("pred", "target"),
        from_logits=from_logits,
        compute_full="stirling" if full else False,
    )


def cosine(draw: Draw) -> Pair:
    shape, margin = (draw.size(), draw.size(2)), draw.pick(0.0, 0.3137, -0.2718)
    arrays = {
        key: draw.signs(shape) * draw.numbers(shape, 0.125, 4) for key in ("input1", "input2")
    }
    return pair(
        draw,
        "CosineEmbeddingLoss",
        {**arrays, "label": draw.signs(shape[:1])},
        lambda *x, **how: F.cosine_embedding_loss(*x, margin=margin, **how),
        wrt=("input1", "input2"),
        shape=shape[:1],
        margin=margin,
    )


MARGINS = (0.5, 1.0, 2.25)


def gaussian(draw: Draw) -> Pair:
    shape, full = draw.shape(), draw.pick(False, True)
    columns = draw.pick(shape[-1], 1)
    inputs = {
        "pred": draw.numbers(shape),
        "target": draw.numbers(shape),
        "var": draw.numbers((*shape[:-1], columns), 0.125, 3),
    }
    return pair(
        draw,
        "GaussianNLLLoss",
        inputs,
        lambda *x, **how: F.gaussian_nll_loss(*x, full=full, **how),
        wrt=("pred", "target", "var"),
        full=full,
    )


def ranking(draw: Draw) -> Pair:
    shape, margin = draw.shape(), draw.pick(*MARGINS)
    inputs = {key: draw.numbers(shape) for key in ("input1", "input2")}
    return pair(
        draw,
        "MarginRankingLoss",
        {**inputs, "label": draw.signs(shape)},
        lambda *x, **how: F.margin_ranking_loss(*x, margin=margin, **how),
        wrt=("input1", "input2", "label"),
        margin=margin,
    )


def hinge_embedding(draw: Draw) -> Pair:
    shape, margin = draw.shape(), draw.pick(*MARGINS)
    allowed = draw.pick(False, True)
    label = draw.numbers(shape) if allowed else draw.signs(shape)
    return pair(
        draw,
        "HingeEmbeddingLoss",
        {"pred": draw.numbers(shape), "label": label},
        lambda *x, **how: F.hinge_embedding_loss(*x, margin=margin, **how),
        wrt=("pred",),
        margin=margin,
        out_of_range="allow" if allowed else "raise",
    )


def row_of_classes(draw: Draw) -> tuple[int, int]:
    return draw.size(), draw.size(1, 6)


def multi_margin(draw: Draw) -> Pair:
    shape, p, margin = row_of_classes(draw), draw.pick(1, 2), draw.pick(*MARGINS)
    weight = draw.pick(None, draw.random.integers(1, 5, shape[1]) / 2)

    def function(pred: Any, label: Any, **how: Any) -> Any:
        costs = None if weight is None else torch.tensor(weight, dtype=pred.dtype)
        return F.multi_margin_loss(pred, label, p=p, margin=margin, weight=costs, **how)

    return pair(
        draw,
        "MultiMarginLoss",
        {"pred": draw.numbers(shape), "label": draw.random.integers(0, shape[1], shape[0])},
        function,
        wrt=("pred",),
        shape=shape[:1],
        p=p,
        margin=margin,
        class_weight=weight,
    )


def multilabel_margin(draw: Draw) -> Pair:
    shape = row_of_classes(draw)
    label = draw.random.integers(0, shape[1], shape)
    label[np.arange(shape[1]) >= draw.random.integers(0, shape[1] + 1, (shape[0], 1))] = -1
    # A term at 0 has slope 0 there, too.
    return pair(
        draw,
        "MultiLabelMarginLoss",
        {"pred": draw.numbers(shape), "label": label},
        F.multilabel_margin_loss,
        wrt=("pred",),
        shape=shape[:1],
    )


def multilabel_soft_margin(draw: Draw) -> Pair:
    shape = row_of_classes(draw)
    weight = draw.pick(None, draw.random.integers(0, 5, shape[1]) / 2)
    costs = None if weight is None else torch.tensor(weight)
    return pair(
        draw,
        "MultiLabelSoftMarginLoss",
        {"pred": draw.numbers(shape, -8, 8), "label": draw.numbers(shape, 0, 1)},
        lambda *x, **how: F.multilabel_soft_margin_loss(*x, weight=costs, **how),
        shape=shape[:1],
        class_weight=weight,
    )


def triplet_margin(draw: Draw) -> Pair:
    shape, margin = draw.shape(2, 3), draw.pick(*MARGINS)
    p, epsilon, swap = draw.pick(1.0, 1.5, 2.0, 3.0), draw.pick(1e-6, 0.01), draw.pick(False, True)
    names = ("pred", "positive", "negative")
    return pair(
        draw,
        "TripletMarginLoss",
        # Two distances that are equal share PyTorch's gradient.
        {name: single(draw.random.uniform(-4, 4, shape)) for name in names},
        lambda *x, **how: F.triplet_margin_loss(
            *x, margin=margin, p=p, eps=epsilon, swap=swap, **how
        ),
        wrt=names,
        shape=shape[:-1],
        margin=margin,
        p=p,
        epsilon=epsilon,
        swap=swap,
    )


def ctc(draw: Draw) -> Pair:
    samples, classes, width = draw.size(), draw.size(2, 5), draw.size()
    frames = draw.size(1, 9)
    blank = draw.pick(0, classes - 1, draw.size(0, classes - 1))
    label = draw.random.integers(0, classes - 1, (samples, width))
    label += label >= blank
    infeasible = draw.pick("inf", "zero")
    lengths = {
        "pred_lengths": draw.random.integers(1, frames + 1, samples),
        "label_lengths": draw.random.integers(0, width + 1, samples),
    }
    if infeasible == "inf":
        # PyTorch's gradient of an infinite loss is NaN.
        lengths["pred_lengths"][:] = frames
        most = np.maximum(frames // 2, 0)
        lengths["label_lengths"] = np.minimum(lengths["label_lengths"], most)
    through_softmax = draw.pick(True, False)

    def function(pred: Any, label: Any, *lengths: Any, **how: Any) -> Any:
        log_probs = F.log_softmax(pred, 2) if through_softmax else pred
        return F.ctc_loss(
            log_probs, label, *lengths, blank, zero_infinity=infeasible == "zero", **how
        )

    pred = draw.numbers((frames, samples, classes), -4, 4)
    if not through_softmax:
        pred -= np.log(np.exp(pred).sum(2, keepdims=True))
    return pair(
        draw,
        "CTCLoss",
        {"pred": pred, "label": label, **lengths},
        function,
        wrt=("pred",),
        shape=(samples,),
        mean=("mean", "target_mean"),
        layout="TNC",
        blank=blank,
        input="logits" if through_softmax else "log_probs_torch",
        infeasible=infeasible,
    )


DRAWS = (
    absolute,
    squared,
    huber,
    logistic,
    bce,
    bce_of_probabilities,
    sparse_cross_entropy,
    dense_cross_entropy,
    kl,
    poisson,
    cosine,
    gaussian,
    ranking,
    hinge_embedding,
    multi_margin,
    multilabel_margin,
    multilabel_soft_margin,
    triplet_margin,
    ctc,
)


@pytest.mark.parametrize("draw_pair", DRAWS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_agrees(draw_pair: Callable[[Draw], Pair], data: st.DataObject) -> None:
    draw = Draw(data)
    dtype = draw.pick(np.float64, np.float32)
    drawn = draw_pair(draw)
    got = ours(drawn.name, drawn.call, dtype)
    compare(drawn.call, got, theirs(drawn), FLOAT64 if dtype is np.float64 else FLOAT32)
