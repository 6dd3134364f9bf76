"""MXNet 1.9: the Gluon losses, hybridized where they can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

# MXNet 1.9 still asks for the alias, which NumPy 1.23 only gives with a warning.
vars(np)["bool"] = bool

import mxnet as mx  # noqa: E402
from mxnet import autograd, nd  # noqa: E402
from mxnet.gluon import loss as gloss  # noqa: E402

from . import Case, Contender, Result  # noqa: E402


def _poisson(pred: Any, target: Any) -> Any:
    # Gluon's own class returns one mean over the whole batch.
    return (nd.exp(pred) - target * pred).mean(axis=0, exclude=True)


def _hybrid(loss: Any) -> Any:
    loss.hybridize(static_alloc=True, static_shape=True)
    return loss


LOSSES: dict[str, Callable[[], Callable[..., Any]]] = {
    "L1": lambda: _hybrid(gloss.L1Loss()),
    "L2": lambda: _hybrid(gloss.L2Loss()),
    "Huber": lambda: _hybrid(gloss.HuberLoss()),
    "Hinge": lambda: _hybrid(gloss.HingeLoss()),
    "SquaredHinge": lambda: _hybrid(gloss.SquaredHingeLoss()),
    "Logistic": lambda: _hybrid(gloss.LogisticLoss()),
    "SigmoidBCE": lambda: _hybrid(gloss.SigmoidBCELoss()),
    "PoissonNLL": lambda: _poisson,
    "SoftmaxCE": lambda: _hybrid(gloss.SoftmaxCELoss(axis=1)),
    "KLDiv": lambda: _hybrid(gloss.KLDivLoss()),
    "KLDiv-logits": lambda: _hybrid(gloss.KLDivLoss(from_logits=False)),
    "Triplet": lambda: _hybrid(gloss.TripletLoss()),
    "CosineEmbedding": lambda: _hybrid(gloss.CosineEmbeddingLoss()),
    # Fails when hybridized.
    "SDML": gloss.SDMLLoss,
    "CTC": lambda: _hybrid(gloss.CTCLoss()),
}

# Version 1.9 sums where rustloss (and 2.0) takes the mean over this axis.
_SUMMED_AXIS = {"KLDiv": 1, "KLDiv-logits": 1, "SDML": 0}


def contenders(case: Case) -> list[Contender]:
    """Return the Gluon contender, if Gluon has the loss: in single precision and C order."""
    if case.title not in LOSSES or (case.dtype, case.layout) != ("float32", "C"):
        return []
    loss = LOSSES[case.title]()
    inputs = [
        nd.array(x, dtype=x.dtype if x.dtype == np.float32 else "int32") for x in case.inputs()
    ]
    wanted = [inputs[at] for at in case.differentiable]
    for x in wanted:
        x.attach_grad()

    def run() -> tuple[Any, tuple[Any, ...]]:
        with autograd.record():
            value = loss(*inputs)
        value.backward()
        mx.nd.waitall()
        return value, tuple(x.grad for x in wanted)

    def fetch(result: tuple[Any, tuple[Any, ...]]) -> Result:
        scale = case.shape[_SUMMED_AXIS[case.title]] if case.title in _SUMMED_AXIS else 1
        value, grads = result
        return value.asnumpy().ravel() / scale, tuple(grad.asnumpy() / scale for grad in grads)

    return [Contender("mxnet", run, fetch)]
