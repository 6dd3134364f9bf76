"""rustloss: one fused pass."""

from __future__ import annotations

import rustloss as rl

from . import Array, Case, Contender, Result


def set_threads(count: int) -> None:
    """Limit rustloss's own pool."""
    rl.set_num_threads(count)


def contenders(case: Case) -> list[Contender]:
    """Return the rustloss contender."""
    loss, inputs = getattr(rl, case.row.loss)(**case.row.params), case.inputs()

    def fetch(result: tuple[Array, Array | tuple[Array, ...]]) -> Result:
        value, grads = result
        return value, grads if isinstance(grads, tuple) else (grads,)

    return [Contender("rustloss", lambda: loss.value_and_grad(*inputs), fetch)]
