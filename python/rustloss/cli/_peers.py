"""The same losses in other libraries, for ``bench``: a library is imported if it is asked for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from rustloss._loss import Loss
from rustloss.cli._text import UsageError
from rustloss.testing import oracle

Array = np.ndarray[Any, np.dtype[Any]]
#: Value and gradients of one call.
Run = Callable[[], list[Array]]

#: The losses of torch.nn that compute the same, with the inputs in the same order.
TORCH = {
    "L1Loss": "L1Loss",
    "HuberLoss": "SmoothL1Loss",
    "SigmoidBinaryCrossEntropyLoss": "BCEWithLogitsLoss",
    "PoissonNLLLoss": "PoissonNLLLoss",
    "GaussianNLLLoss": "GaussianNLLLoss",
    "MarginRankingLoss": "MarginRankingLoss",
    "HingeEmbeddingLoss": "HingeEmbeddingLoss",
    "SoftmaxCrossEntropyLoss": "CrossEntropyLoss",
    "KLDivLoss": "KLDivLoss",
    "CosineEmbeddingLoss": "CosineEmbeddingLoss",
    "TripletMarginLoss": "TripletMarginLoss",
    "MultiMarginLoss": "MultiMarginLoss",
    "MultiLabelMarginLoss": "MultiLabelMarginLoss",
}
#: Those of optax, the losses of JAX.
OPTAX = {
    "L2Loss": "l2_loss",
    "HuberLoss": "huber_loss",
    "HingeLoss": "hinge_loss",
    "SigmoidBinaryCrossEntropyLoss": "sigmoid_binary_cross_entropy",
    "SoftmaxCrossEntropyLoss": "softmax_cross_entropy_with_integer_labels",
    "KLDivLoss": "kl_divergence",
}


def differentiated(loss: Loss) -> list[str]:
    """Return the inputs that the gradient of a call is by."""
    return [row["name"] for row in loss._inputs if row["gradient"] == "Default"]


def _imported(name: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise UsageError(f"--peers: {name} is not installed")
    return importlib.import_module(name)


def _numpy(loss: Loss, inputs: dict[str, Array], _: int) -> Run:
    """Return a call of the plain formula, which computes in double precision."""

    def run() -> list[Array]:
        found = oracle(loss).results(**inputs)
        return [found.value, *(found.grads[name] for name in differentiated(loss))]

    return run


def _torch(loss: Loss, inputs: dict[str, Array], threads: int) -> Run | None:
    """Return a call of torch's loss: eagerly, forward and backward."""
    torch, name = _imported("torch"), TORCH.get(type(loss).__name__)
    if name is None:
        return None
    torch.set_num_threads(threads)
    peer = getattr(torch.nn, name)(reduction="sum")
    tensors = {name: torch.from_numpy(x) for name, x in inputs.items()}
    leaves = [tensors[name].requires_grad_() for name in differentiated(loss)]

    def run() -> list[Array]:
        value = peer(*tensors.values())
        grads = torch.autograd.grad(value, leaves)
        return [x.detach().numpy() for x in (value, *grads)]

    return run


def _jax(loss: Loss, inputs: dict[str, Array], _: int) -> Run | None:
    """Return a call of optax's loss: one compiled function on arrays of JAX."""
    jax, optax, name = _imported("jax"), _imported("optax"), OPTAX.get(type(loss).__name__)
    if name is None:
        return None
    peer = getattr(optax.losses, name)
    by = tuple(i for i, given in enumerate(inputs) if given in differentiated(loss))
    step = jax.jit(jax.value_and_grad(lambda *args: peer(*args).sum(), by))
    arrays = [jax.numpy.asarray(x) for x in inputs.values()]

    def run() -> list[Array]:
        value, grads = jax.block_until_ready(step(*arrays))
        return [np.asarray(x) for x in (value, *grads)]

    return run


#: By the name of the library: a call of a loss, none if the library does not have it.
PEERS: dict[str, Callable[[Loss, dict[str, Array], int], Run | None]] = {
    "numpy": _numpy,
    "torch": _torch,
    "jax": _jax,
}
