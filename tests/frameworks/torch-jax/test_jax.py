"""Losses that Optax has too, differentiated by JAX in double precision; ours in single and double.

Optax's are unreduced: their mean over all axes but the batch's stands against our default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.parity import FLOAT32, FLOAT64, Call, Draw, compare, ours

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
jnp, losses = jax.numpy, optax.losses

SHAPES = ((3,), (2, 3), (3, 2, 2))
"""Few: JAX compiles for every new one."""


@dataclass
class Pair:
    """Our call, and the unreduced loss as a function of the same inputs."""

    name: str
    call: Call
    function: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    batch_axis: int = 0
    """Of the unreduced loss."""


@functools.cache
def compiled(function: Callable[..., Any], names: tuple[str, ...]) -> Callable[..., Any]:
    return jax.jit(function, static_argnames=names)  # type: ignore[no-any-return]


def theirs(pair: Pair) -> tuple[Any, dict[str, Any]]:
    """Return value per sample and gradients of JAX."""
    names, inputs = list(pair.call.inputs), [jnp.asarray(x) for x in pair.call.inputs.values()]
    positions = [names.index(key) for key in pair.call.wrt]
    function = compiled(pair.function, tuple(pair.options))

    def value_of(*wanted: Any) -> Any:
        given = list(inputs)
        for position, x in zip(positions, wanted, strict=True):
            given[position] = x
        unreduced = jnp.moveaxis(function(*given, **pair.options), pair.batch_axis, 0)
        return unreduced.reshape(len(unreduced), -1).mean(1)

    value, backward = jax.vjp(value_of, *(inputs[position] for position in positions))
    head = 1.0 if pair.call.grad_output is None else pair.call.grad_output
    grads = backward(jnp.broadcast_to(head, value.shape).astype(value.dtype))
    return np.asarray(value), dict(zip(pair.call.wrt, map(np.asarray, grads), strict=True))


def head(draw: Draw, samples: int) -> Any:
    """Draw the gradient that arrives at the value."""
    return draw.pick(None, 2.0, draw.numbers((samples,), -1, 1))


def elementwise(
    draw: Draw, name: str, pred: Any, label: Any, function: Callable[..., Any], **params: Any
) -> Pair:
    axis = draw.axis(pred.ndim)
    call = Call({**params, "batch_axis": axis}, {"pred": pred, "label": label}, ("pred", "label"))
    call.grad_output = head(draw, pred.shape[axis])
    return Pair(name, call, function, batch_axis=axis)


def squared(draw: Draw) -> Pair:
    shape = draw.pick(*SHAPES)
    pred, label = draw.numbers(shape), draw.numbers(shape)
    return elementwise(draw, "L2Loss", pred, label, losses.l2_loss)


def huber(draw: Draw) -> Pair:
    shape, rho = draw.pick(*SHAPES), draw.pick(0.5, 2.0)
    pred, label = draw.numbers(shape), draw.numbers(shape)
    # The classical loss is rho times ours.
    pair = elementwise(draw, "HuberLoss", pred, label, losses.huber_loss, rho=rho, weight=rho)
    pair.options["delta"] = rho
    return pair


def hinge(draw: Draw) -> Pair:
    shape = draw.pick(*SHAPES)
    pred, label = draw.numbers(shape), draw.signs(shape)
    # JAX takes the mean of both slopes at the kink.
    pred[pred * label == 1] = 0.5
    return elementwise(draw, "HingeLoss", pred, label, losses.hinge_loss)


def bce(draw: Draw) -> Pair:
    shape = draw.pick(*SHAPES)
    pred, label = draw.numbers(shape, -8, 8), draw.numbers(shape, 0, 1)
    function = losses.sigmoid_binary_cross_entropy
    return elementwise(draw, "SigmoidBCELoss", pred, label, function)


def rowwise(draw: Draw, name: str, function: Callable[..., Any], **params: Any) -> Pair:
    """Make a pair with dense labels."""
    shape = draw.pick(*SHAPES[1:])
    axis = draw.axis(len(shape))
    class_axis = axis % len(shape)
    batch_axis = draw.axis(len(shape), but=class_axis)
    inputs = {"pred": draw.numbers(shape), "label": draw.probabilities(shape, class_axis)}
    call = Call({**params, "axis": axis, "batch_axis": batch_axis}, inputs, ("pred", "label"))
    call.grad_output = head(draw, shape[batch_axis])
    sample_axis = batch_axis % len(shape)
    return Pair(name, call, function, {"axis": axis}, sample_axis - (sample_axis > class_axis))


def dense_cross_entropy(draw: Draw) -> Pair:
    return rowwise(draw, "SoftmaxCELoss", losses.softmax_cross_entropy, sparse_label=False)


def sparse_cross_entropy(draw: Draw) -> Pair:
    function = losses.softmax_cross_entropy_with_integer_labels
    pair = rowwise(draw, "SoftmaxCELoss", function)
    pred, axis = pair.call.inputs["pred"], pair.call.params["axis"]
    rows = np.delete(pred.shape, axis)
    pair.call.inputs["label"] = draw.random.integers(0, pred.shape[axis], rows)
    pair.call.wrt = ("pred",)
    return pair


def divergence(pred: Any, label: Any, *, axis: int, from_logits: bool) -> Any:
    log_prob = pred if from_logits else jax.nn.log_softmax(pred, axis)
    # Optax sums over the classes, ours is the mean of all elements.
    return losses.kl_divergence(log_prob, label, axis=axis) / pred.shape[axis]


def kl(draw: Draw) -> Pair:
    from_logits = draw.pick(True, False)
    pair = rowwise(draw, "KLDivLoss", divergence, from_logits=from_logits)
    pair.options["from_logits"] = from_logits
    return pair


def padding(lengths: Any, most: int) -> Any:
    return jnp.where(jnp.arange(most) < lengths[:, None], 0.0, 1.0)


def transcription(pred: Any, label: Any, frames: Any, lengths: Any, *, blank: int) -> Any:
    frames, lengths = padding(frames, pred.shape[1]), padding(lengths, label.shape[1])
    return losses.ctc_loss(pred, frames, label, lengths, blank_id=blank)


def ctc(draw: Draw) -> Pair:
    samples, frames, classes, width = draw.pick((1, 4, 2, 2), (3, 8, 4, 3))
    blank = draw.pick(0, classes - 1)
    label = draw.random.integers(0, classes - 1, (samples, width))
    label += label >= blank
    inputs = {
        "pred": draw.numbers((samples, frames, classes)),
        "label": label,
        # Always feasible: Optax puts a large finite number in place of infinity.
        "pred_lengths": draw.random.integers(2 * width, frames + 1, samples),
        "label_lengths": draw.random.integers(0, width + 1, samples),
    }
    call = Call({"blank": blank}, inputs, ("pred",), grad_output=head(draw, samples))
    return Pair("CTCLoss", call, transcription, {"blank": blank})


DRAWS = (squared, huber, hinge, bce, dense_cross_entropy, sparse_cross_entropy, kl, ctc)


@pytest.mark.parametrize("draw_pair", DRAWS)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_agrees(draw_pair: Callable[[Draw], Pair], data: st.DataObject) -> None:
    draw = Draw(data)
    dtype = draw.pick(np.float64, np.float32)
    drawn = draw_pair(draw)
    got = ours(drawn.name, drawn.call, dtype)
    compare(drawn.call, got, theirs(drawn), FLOAT64 if dtype is np.float64 else FLOAT32)
