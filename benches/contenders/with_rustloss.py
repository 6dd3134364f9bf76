"""rustloss: one fused pass."""

from __future__ import annotations

from collections.abc import Callable

import rustloss as rl

from . import Array, Case, Contender, Result

LOSSES: dict[str, Callable[[], rl.Loss]] = {
    "L1": rl.L1Loss,
    "L2": rl.L2Loss,
    "Huber": rl.HuberLoss,
    "Hinge": rl.HingeLoss,
    "SquaredHinge": rl.SquaredHingeLoss,
    "Logistic": rl.LogisticLoss,
    "SigmoidBCE": rl.SigmoidBCELoss,
    "PoissonNLL": rl.PoissonNLLLoss,
    "SoftmaxCE": lambda: rl.SoftmaxCELoss(axis=1),
    "KLDiv": rl.KLDivLoss,
    "KLDiv-logits": lambda: rl.KLDivLoss(from_logits=False),
    "Triplet": rl.TripletLoss,
    "CosineEmbedding": rl.CosineEmbeddingLoss,
    "SDML": rl.SDMLLoss,
    "CTC": rl.CTCLoss,
}


def set_threads(count: int) -> None:
    """Limit rustloss's own pool."""
    rl.set_num_threads(count)


def contenders(case: Case) -> list[Contender]:
    """Return the rustloss contender."""
    loss, inputs = LOSSES[case.loss](), case.inputs()

    def fetch(result: tuple[Array, Array | tuple[Array, ...]]) -> Result:
        value, grads = result
        return value, grads if isinstance(grads, tuple) else (grads,)

    return [Contender("rustloss", lambda: loss.value_and_grad(*inputs), fetch)]
