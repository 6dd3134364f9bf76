"""JAX: one jitted function that returns values and gradients, on arrays already on the device.

Its arrays have no layout to choose: all of them are in C order.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array as JaxArray

from . import Case, Contender, Result, is_real


def softmax_ce(pred: JaxArray, label: JaxArray) -> JaxArray:
    value = optax.losses.softmax_cross_entropy_with_integer_labels(pred, label, axis=1)
    return value.reshape(len(value), -1).mean(1)


def smoothed_ce(pred: JaxArray, label: JaxArray) -> JaxArray:
    target = optax.losses.smooth_labels(jax.nn.one_hot(label, pred.shape[1], dtype=pred.dtype), 0.1)
    return optax.losses.softmax_cross_entropy(pred, target)


def weighted_ce(pred: JaxArray, label: JaxArray) -> JaxArray:
    weight = jnp.linspace(0.5, 1.5, pred.shape[1], dtype=pred.dtype)
    return softmax_ce(pred, label) * weight[label]


def kl(pred: JaxArray, label: JaxArray) -> JaxArray:
    return optax.losses.kl_divergence(pred, label) / pred.shape[1]


def triplet(anchor: JaxArray, positive: JaxArray, negative: JaxArray) -> JaxArray:
    return jax.nn.relu(1 + ((positive - anchor) ** 2 - (negative - anchor) ** 2).sum(1))


def cosine(first: JaxArray, second: JaxArray, label: JaxArray) -> JaxArray:
    cos = optax.losses.cosine_similarity(first, second)
    return jnp.where(label == 1, 1 - cos, jax.nn.relu(cos))


def sdml(first: JaxArray, second: JaxArray) -> JaxArray:
    # The matrix product is several times faster than the differences themselves.
    squares = (first**2).sum(1)[:, None] + (second**2).sum(1)
    count = len(first)
    target = jnp.where(jnp.eye(count, dtype=bool), 0.7, 0.3 / (count - 1))
    return kl(jax.nn.log_softmax(2 * first @ second.T - squares), target)


def ctc(pred: JaxArray, label: JaxArray) -> JaxArray:
    no_padding = jnp.zeros(pred.shape[:2]), jnp.zeros(label.shape)
    return optax.losses.ctc_loss(
        pred, no_padding[0], label, no_padding[1], blank_id=pred.shape[2] - 1
    )


LOSSES: dict[str, Callable[..., JaxArray]] = {
    "L1": lambda pred, label: jnp.abs(pred - label).mean(1),
    "L2": lambda pred, label: optax.losses.l2_loss(pred, label).mean(1),
    "Huber": lambda pred, label: optax.losses.huber_loss(pred, label).mean(1),
    "Hinge": lambda pred, label: optax.losses.hinge_loss(pred, label).mean(1),
    "SquaredHinge": lambda pred, label: (optax.losses.hinge_loss(pred, label) ** 2).mean(1),
    "Logistic": lambda pred, label: jax.nn.softplus(-pred * label).mean(1),
    "SigmoidBCE": lambda pred, label: optax.losses.sigmoid_binary_cross_entropy(pred, label).mean(
        1
    ),
    "PoissonNLL": lambda pred, target: (jnp.exp(pred) - target * pred).mean(1),
    "SoftmaxCE": softmax_ce,
    "SoftmaxCE-smoothed": smoothed_ce,
    "SoftmaxCE-weighted": weighted_ce,
    "KLDiv": kl,
    "KLDiv-logits": lambda pred, label: kl(jax.nn.log_softmax(pred), label),
    "Triplet": triplet,
    "CosineEmbedding": cosine,
    "SDML": sdml,
    "CTC": ctc,
}


def contenders(case: Case) -> list[Contender]:
    """Return the jitted contender, if JAX has the loss."""
    if case.title not in LOSSES:
        return []
    loss = LOSSES[case.title]

    def total(*args: JaxArray) -> tuple[JaxArray, JaxArray]:
        value = loss(*args)
        return value.sum(), value

    step = jax.jit(jax.value_and_grad(total, case.differentiable, has_aux=True))
    arrays = map(np.ascontiguousarray, case.inputs())
    inputs = [jax.device_put(x if is_real(x) else x.astype(np.int32)) for x in arrays]

    def run() -> tuple[JaxArray, tuple[JaxArray, ...]]:
        (_, value), grads = jax.block_until_ready(step(*inputs))
        return value, grads

    def fetch(result: tuple[JaxArray, tuple[JaxArray, ...]]) -> Result:
        return np.asarray(result[0]), tuple(map(np.asarray, result[1]))

    return [Contender("jax", run, fetch)]
