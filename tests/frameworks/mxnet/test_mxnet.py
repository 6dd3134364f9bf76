"""Every loss against the same class of MXNet 1.9.1, in one process, on random calls.

MXNet runs in double precision wherever it can, ours in single and in double. Where 1.9.1 scales a
loss differently, 2.0's convention is ours: it is applied with MXNet's own operators, so that
gradients flow through it. Where upstream is wrong the elements are masked, or the whole call is not
compared; either makes the draw an excluded one, and those are counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.parity import FLOAT32, FLOAT64, Call, Draw, compare, ours
from rustloss.errors import ArgumentError

mx = pytest.importorskip("mxnet")
nd = mx.nd

MOST_EXCLUDED = 0.1
TALLY: Counter[str] = Counter()
EXCLUDED: Counter[str] = Counter()

ONLY_FLOAT32 = ("CTCLoss", "CosineEmbeddingLoss", "SDMLLoss")
"""Classes that fail in any other precision upstream."""
EPSILON = 1e-12
"""Upstream's inside logarithms; ours on request."""


@dataclass
class Pair:
    """Our call, and the same call upstream."""

    call: Call
    params: dict[str, Any]
    inputs: list[Any]
    """Upstream's positional arguments; NumPy arrays become MXNet's."""
    wanted: tuple[int, ...]
    """Where among them the inputs of our `wrt` are."""
    convention: Callable[..., Any] = lambda loss, *inputs: loss(*inputs)
    """From the upstream loss and its arguments to a value in our convention."""
    tolerance: float = FLOAT64
    value_only: dict[str, Any] | None = None
    """Parameters with which upstream has a value but no gradient, which `params` gives."""
    excluded: bool = False
    """Nothing of upstream's is compared."""
    raises: bool = False
    """A mistake that we report and upstream does not: excluded too."""


def theirs(name: str, pair: Pair) -> tuple[Any, dict[str, Any]]:
    """Return value and gradients of MXNet, the gradients in the shapes of our inputs."""
    kind = np.float32 if name in ONLY_FLOAT32 else np.float64

    def native(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return nd.array(x, dtype=kind if x.dtype == np.float64 else x.dtype)

    inputs = [native(x) for x in pair.inputs]
    wanted = [inputs[k] for k in pair.wanted]
    for x in wanted:
        x.attach_grad()
    loss = getattr(mx.gluon.loss, name)
    with mx.autograd.record():
        value = pair.convention(loss(**pair.params), *inputs)
    head = 1.0 if pair.call.grad_output is None else pair.call.grad_output
    value.backward(native(np.full(value.shape, head, np.float64)))
    if pair.value_only is not None:
        value = pair.convention(loss(**pair.value_only), *inputs)
    grads = {
        key: x.grad.asnumpy().reshape(pair.call.inputs[key].shape)
        for key, x in zip(pair.call.wrt, wanted, strict=True)
    }
    return value.asnumpy(), grads


def weights(draw: Draw, shape: tuple[int, ...], sample_axis: int) -> tuple[Any, Any]:
    """Draw a sample weight for an unreduced loss of `shape`: as we take it, as upstream must."""
    kind = draw.pick("none", "scalar", "sample", "full", "spread")
    if kind == "none":
        return None, None
    along = {
        "scalar": [1] * len(shape),
        "sample": [n if axis == sample_axis else 1 for axis, n in enumerate(shape)],
        "full": shape,
        "spread": [draw.pick(1, n) for n in shape],
    }[kind]
    weight = draw.random.integers(0, 5, along) / 2
    if kind == "scalar":
        return weight.item(), weight
    return draw.pick(weight, weight.reshape(-1)) if kind == "sample" else weight, weight


def constructor(draw: Draw, **params: Any) -> dict[str, Any]:
    """Add the weight, or leave it to the default."""
    return {**params, **draw.pick({}, {"weight": 0.5}, {"weight": 2})}


def any_shape(draw: Draw, label: Any) -> Any:
    """Write a label in one of the shapes that stand for its own."""
    return draw.pick(label, label.reshape(-1), np.expand_dims(label, draw.size(0, label.ndim)))


def head(draw: Draw, *shape: int) -> Any:
    """Draw the gradient that arrives at the value."""
    return draw.pick(None, 2.0, draw.numbers(shape, -1, 1))


def elementwise(draw: Draw, pred: Any, label: Any, name: str = "label", **params: Any) -> Pair:
    """Pair two calls with what all losses of one element have in common."""
    axis = draw.axis(pred.ndim)
    shared = constructor(draw, batch_axis=axis, **params)
    weight, upstream_weight = weights(draw, pred.shape, axis % pred.ndim)
    inputs = {"pred": pred, name: any_shape(draw, label)}
    call = Call(dict(shared), inputs, ("pred", name), weight, head(draw, pred.shape[axis]))
    return Pair(call, shared, [pred, inputs[name], upstream_weight], (0, 1))


def regression(draw: Draw, **params: Any) -> Pair:
    shape = draw.shape()
    return elementwise(draw, draw.numbers(shape), draw.numbers(shape), **params)


def margin(draw: Draw) -> Pair:
    shape = draw.shape()
    label = draw.pick(draw.signs(shape), draw.numbers(shape, -1, 1))
    pair = elementwise(draw, draw.numbers(shape), label, margin=draw.pick(0.5, 1, 2))
    # Upstream takes labels between the signs, too.
    pair.call.params["out_of_range"] = "allow"
    return pair


def logits(draw: Draw, shape: tuple[int, ...]) -> Any:
    """Draw logits that are not 0, where upstream's slope is wrong, but for rare ones."""
    x = draw.numbers(shape, -8, 8)
    x[x == 0] = 0.5
    if draw.rarely():
        x.flat[draw.random.integers(x.size)] = 0.0
    return x


def logistic(draw: Draw) -> Pair:
    shape = draw.shape()
    form = draw.pick("signed", "binary")
    label = draw.signs(shape) if form == "signed" else draw.numbers(shape, 0, 1)
    pred = logits(draw, shape)
    pair = elementwise(draw, pred, label, label_format=form)
    pair.call.skip["pred"] = pred == 0
    return pair


def bce(draw: Draw) -> Pair:
    shape = draw.shape()
    from_sigmoid = draw.pick(False, True)
    pred = draw.numbers(shape, 0.125, 0.875) if from_sigmoid else logits(draw, shape)
    pair = elementwise(draw, pred, draw.numbers(shape, 0, 1), from_sigmoid=from_sigmoid)
    if draw.pick(False, True):
        per_class = draw.pick(False, True)
        lead = [1] * (len(shape) - 1) if per_class else [draw.pick(1, n) for n in shape[:-1]]
        pos_weight = draw.random.integers(0, 7, (*lead, shape[-1])) / 2
        pair.call.inputs["pos_weight"] = pos_weight.reshape(-1) if per_class else pos_weight
        pair.call.wrt += ("pos_weight",)
        pair.inputs.append(pos_weight)
        pair.wanted += (3,)
    if not from_sigmoid:
        pair.call.skip["pred"] = pred == 0
    elif draw.pick(False, True):
        pair.call.params["epsilon"] = EPSILON
        pred.flat[0] = draw.pick(0, 0.25, 1)
    else:
        pair.tolerance = FLOAT32
        pair.excluded = draw.rarely()
        if pair.excluded:
            pred.flat[0] = draw.pick(0, 1)
    return pair


def poisson(draw: Draw) -> Pair:
    shape = draw.shape()
    from_logits, full = draw.pick(True, False), draw.pick(False, True)
    pred = draw.numbers(shape, *(-4, 2) if from_logits else (0.125, 4))
    low = 2 if full and not draw.rarely() else 0
    target = draw.pick(draw.numbers(shape, low, 5), draw.random.integers(low, 6, shape) * 1.0)
    pair = elementwise(draw, pred, target, "target", from_logits=from_logits)
    axis = pair.params.pop("batch_axis") % len(shape)
    epsilon = draw.pick(None, 0.125)
    if epsilon is not None:
        pair.call.inputs["epsilon"] = epsilon

    def one_by_one(loss: Any, *inputs: Any) -> Any:
        # Upstream gives the mean over its whole batch.
        samples = [
            [x if x is None else nd.slice_axis(x, axis=axis, begin=k, end=k + 1) for x in inputs]
            for k in range(shape[axis])
        ]
        return nd.concat(*[loss(*x, epsilon or 1e-8) for x in samples], dim=0)

    weight = pair.inputs[2]
    pair.inputs = [pred, target, None if weight is None else np.broadcast_to(weight, shape)]
    pair.convention = one_by_one
    if full:
        pair.call.params["compute_full"] = "stirling"
        pair.value_only = {**pair.params, "compute_full": True}
        # Upstream has no gradient here; without the option it has the same one by pred alone.
        pair.call.wrt, pair.wanted = ("pred",), (0,)
        pair.excluded = bool((target <= 1).any())
    return pair


def cross_entropy(draw: Draw) -> Pair:
    ndim, classes = draw.size(2), draw.size(1, 5)
    axis = draw.axis(ndim)
    class_axis = axis % ndim
    batch_axis = draw.axis(ndim, but=class_axis)
    unit = tuple(1 if k == class_axis else draw.size() for k in range(ndim))
    shape = tuple(classes if k == class_axis else n for k, n in enumerate(unit))
    sparse, from_logits = draw.pick(True, False), draw.pick(False, True)
    params = constructor(
        draw, axis=axis, sparse_label=sparse, from_logits=from_logits, batch_axis=batch_axis
    )
    pred = draw.numbers(shape, -8, 0 if from_logits else 8)
    weight, upstream_weight = weights(draw, unit, batch_axis % ndim)
    if np.ndim(weight) == ndim:
        weight = draw.pick(weight, weight.squeeze(class_axis))
    call = Call(dict(params), {"pred": pred}, ("pred",), weight, head(draw, shape[batch_axis]))
    pair = Pair(call, params, [pred, None, upstream_weight], (0,))
    if sparse:
        label = draw.random.integers(0, classes, unit).astype(draw.pick("f8", "i8", "i4", "i1"))
        if draw.pick(True, False, False):
            call.params["out_of_range"] = "clip"
            label = draw.random.integers(-2, classes + 2, unit) + draw.pick(0.0, 0.75)
        elif draw.rarely():
            label.flat[0], pair.raises = draw.pick(-1, classes), True
            call.sample_weight = None
        label = draw.pick(label, label.squeeze(class_axis))
    else:
        label = any_shape(draw, draw.numbers(shape, 0, 1))
        call.wrt, pair.wanted = ("pred", "label"), (0, 1)
    call.inputs["label"] = pair.inputs[1] = label
    return pair


def kl(draw: Draw) -> Pair:
    ndim = draw.size(2)
    axis = draw.axis(ndim)
    batch_axis = draw.axis(ndim, but=axis % ndim)
    shape = tuple(draw.size() for _ in range(ndim))
    from_logits = draw.pick(True, False)
    params = constructor(draw, from_logits=from_logits, axis=axis, batch_axis=batch_axis)
    pred = draw.numbers(shape, -4, 0 if from_logits else 4)
    shared = ndim == 2 and axis % ndim == 1 and draw.pick(False, True)
    label_shape = (1, shape[1]) if shared else shape
    label = draw.pick(draw.numbers(label_shape, 0, 1), draw.probabilities(label_shape, axis % ndim))
    weight, upstream_weight = weights(draw, shape, batch_axis % ndim)
    own = draw.pick({}, {"epsilon": EPSILON})
    # Without the epsilon the slope at label 0 is infinite.
    by_label = bool(own) or bool((label > 0).all())
    inputs = {"pred": pred, "label": draw.pick(label, label.reshape(-1)) if shared else label}
    call = Call({**params, **own}, inputs, ("pred",), weight, head(draw, shape[batch_axis]))
    pair = Pair(call, params, [pred, label, upstream_weight], (0,))
    if by_label:
        call.wrt, pair.wanted = ("pred", "label"), (0, 1)
    divisor = math.prod(shape) // shape[batch_axis]
    if draw.pick(False, True):
        call.params["reduction"], divisor = "sample_sum", 1
    pair.convention = lambda loss, *inputs: loss(*inputs) / divisor
    pair.tolerance = FLOAT64 if own else FLOAT32
    return pair


def triplet(draw: Draw) -> Pair:
    shape = draw.shape(1, 3)
    axis = draw.axis(len(shape))
    params = constructor(draw, margin=draw.pick(0.5, 1, 4), batch_axis=axis)
    arrays = [draw.numbers(shape, -1, 1) for _ in range(3)]
    inputs = dict(zip(("pred", "positive", "negative"), arrays, strict=True))
    weight, upstream_weight = weights(draw, (shape[axis],), 0)
    call = Call(dict(params), inputs, tuple(inputs), weight, head(draw, shape[axis]))
    # Version 2.0 takes a weight per sample, 1.9.1 none.
    times = nd.array([1.0] if upstream_weight is None else upstream_weight, dtype=np.float64)
    return Pair(call, params, arrays, (0, 1, 2), lambda loss, *x: nd.broadcast_mul(loss(*x), times))


def cosine(draw: Draw) -> Pair:
    lead = draw.shape(0, 2)
    full, rows = (*lead, draw.size(2)), lead or (1,)
    margin = draw.pick(0, 0.3137, -0.2718)
    params = constructor(draw, margin=margin)
    arrays = [draw.signs(full) * draw.numbers(full, 0.125, 4) for _ in range(2)]
    label = draw.signs(rows)
    axis = draw.size(0, len(rows) - 1)
    weight, upstream_weight = weights(draw, rows, axis)
    if upstream_weight is not None:
        upstream_weight = np.broadcast_to(upstream_weight, rows).reshape(-1, 1)
    own = {"reduction": draw.pick("none", "sample")}
    if lead:
        own["batch_axis"] = draw.pick(axis, axis - len(full))
    value_shape = rows if own["reduction"] == "none" else (rows[axis],)
    inputs = {"input1": arrays[0], "input2": arrays[1], "label": any_shape(draw, label)}
    call = Call({**params, **own}, inputs, ("input1", "input2"), weight, head(draw, *value_shape))
    if draw.rarely():
        arrays[0][(0,) * len(lead)] = 0
        zero = np.broadcast_to((arrays[0] == 0).all(-1, keepdims=True), full)
        call.skip = {"input1": zero, "input2": zero}

    def reduced(loss: Any, *inputs: Any) -> Any:
        value = loss(*inputs).reshape(rows)
        if own["reduction"] == "none" or len(rows) == 1:
            return value
        return value.mean(axis=axis, exclude=True)

    return Pair(call, params, [*arrays, label, upstream_weight], (0, 1), reduced)


def sdml(draw: Draw) -> Pair:
    samples = 1 if draw.rarely() else draw.size(2)
    axis = draw.axis(2)
    across = axis % 2 == 1
    params = {"smoothing_parameter": draw.pick(0.0, 0.25)}
    arrays = [draw.numbers((samples, draw.size()), -1, 1)]
    arrays.append(draw.numbers(arrays[0].shape, -1, 1))
    if across:
        arrays = [x.T.copy() for x in arrays]
    weight, upstream_weight = weights(draw, (samples, 1), 0)
    own, divisor = constructor(draw, batch_axis=axis), samples
    # Upstream ignores its weight.
    factor = own.get("weight", 1.0) * (1.0 if upstream_weight is None else upstream_weight[:, 0])
    if draw.pick(False, True):
        own["reduction"], divisor = "sample_sum", 1
    call = Call({**params, **own}, dict(zip(("x1", "x2"), arrays, strict=True)), ("x1", "x2"))
    call.sample_weight, call.grad_output = weight, head(draw, samples)
    times = nd.array(np.atleast_1d(factor / divisor))

    def convention(loss: Any, *inputs: Any) -> Any:
        return nd.broadcast_mul(loss(*(x.T if across else x for x in inputs)), times)

    return Pair(call, params, arrays, (0, 1), convention, raises=samples == 1)


def ctc(draw: Draw) -> Pair:
    samples, classes, width = draw.size(), draw.size(2, 5), draw.size()
    rare = draw.rarely()
    frames = draw.size(width if rare else 2 * width, 9)
    layout, label_layout = draw.pick("NTC", "TNC"), draw.pick("NT", "TN")
    params = constructor(draw, layout=layout, label_layout=label_layout)
    pred = draw.numbers((samples, frames, classes), -4, 4)
    label = draw.random.integers(0, classes - 1, (samples, width)).astype(draw.pick("i4", "f8"))
    lengths = draw.random.integers(0, width + 1, samples)
    lengths[0] = max(lengths[0], 0 if rare else 1)
    pred_lengths = np.full(samples, frames)
    own: dict[str, Any] = {}
    if draw.pick(False, True):
        pred_lengths = draw.random.integers(1 if rare else 2 * width, frames + 1, samples)
        own["pred_lengths"] = pred_lengths.astype(draw.pick("i8", "f4"))
    raises = False
    if draw.pick(False, True):
        own["label_lengths"] = lengths.astype(label.dtype)
        raises = rare and lengths[0] > 0
        if raises:
            label[0, 0] = classes - 1
    else:
        # Only the first of these ends the label.
        ends = np.arange(width) == lengths[:, None]
        label[ends] = -1
    in_label = np.arange(1, width) < lengths[:, None]
    repeats = ((label[:, 1:] == label[:, :-1]) & in_label).sum(1)
    infeasible = lengths + repeats > pred_lengths
    if layout == "TNC":
        pred = pred.swapaxes(0, 1).copy()
    if label_layout == "TN":
        label = label.T.copy()
    weight, upstream_weight = weights(draw, (samples,), 0)
    call = Call(dict(params), {"pred": pred, "label": label, **own}, ("pred",))
    # A label is not checked where the weight is 0.
    call.sample_weight, call.grad_output = None if raises else weight, head(draw, samples)
    mask = infeasible.reshape((-1, 1, 1) if layout == "NTC" else (1, -1, 1))
    call.skip = {"value": infeasible, "pred": np.broadcast_to(mask, pred.shape)}
    inputs = [pred, label, own.get("pred_lengths"), own.get("label_lengths"), upstream_weight]
    if inputs[2] is not None:
        inputs[2] = pred_lengths.astype(np.float32)
    return Pair(call, params, inputs, (0,), excluded=not lengths.any(), raises=bool(raises))


LOSSES: dict[str, Callable[[Draw], Pair]] = {
    "L1Loss": regression,
    "L2Loss": regression,
    "HuberLoss": lambda draw: regression(draw, rho=draw.pick(0.5, 1, 2)),
    "HingeLoss": margin,
    "SquaredHingeLoss": margin,
    "LogisticLoss": logistic,
    "SigmoidBinaryCrossEntropyLoss": bce,
    "PoissonNLLLoss": poisson,
    "SoftmaxCrossEntropyLoss": cross_entropy,
    "KLDivLoss": kl,
    "TripletLoss": triplet,
    "CosineEmbeddingLoss": cosine,
    "SDMLLoss": sdml,
    "CTCLoss": ctc,
}


@pytest.mark.parametrize("name", LOSSES)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_agrees(name: str, data: st.DataObject) -> None:
    draw = Draw(data)
    dtype = draw.pick(np.float64, np.float32)
    pair = LOSSES[name](draw)
    masked = any(mask.any() for mask in pair.call.skip.values())
    TALLY[name] += 1
    EXCLUDED[name] += masked or pair.excluded or pair.raises
    if pair.raises:
        with pytest.raises(ArgumentError):
            ours(name, pair.call, dtype)
        return
    value, grads = ours(name, pair.call, dtype)
    if pair.excluded:
        assert not any(np.isnan(x).any() for x in (value, *grads.values()))
        return
    single = dtype is np.float32 or name in ONLY_FLOAT32
    compare(pair.call, (value, grads), theirs(name, pair), FLOAT32 if single else pair.tolerance)


def test_few_draws_are_excluded(capsys: pytest.CaptureFixture[str]) -> None:
    if not TALLY:
        pytest.skip("nothing was drawn")
    with capsys.disabled():
        print("\nexcluded draws")
        for name, drawn in TALLY.items():
            print(f"{name:30} {EXCLUDED[name]:4} of {drawn:4}")
        print(f"{'all':30} {EXCLUDED.total():4} of {TALLY.total():4}")
    assert EXCLUDED.total() <= MOST_EXCLUDED * TALLY.total()
