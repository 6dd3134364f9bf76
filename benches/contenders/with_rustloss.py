"""rustloss: one fused pass."""

from __future__ import annotations

import rustloss as rl

from . import Array, Case, Contender, Result


def set_threads(count: int) -> None:
    """Limit rustloss's own pool."""
    rl.set_num_threads(count)


def contenders(case: Case) -> list[Contender]:
    """Return the rustloss contender."""
    loss, inputs = getattr(rl, case.row.loss)(**case.params), case.inputs()
    turned = case.layout == "axis=1"
    if turned:
        loss = loss.replace(batch_axis=1, **({"axis": 0} if "axis" in loss._params else {}))
        inputs = tuple(x.T for x in inputs)

    def fetch(result: tuple[Array, Array | tuple[Array, ...]]) -> Result:
        value, grads = result
        arrays = grads if isinstance(grads, tuple) else (grads,)
        return value, tuple(x.T for x in arrays) if turned else arrays

    return [Contender("rustloss", lambda: loss.value_and_grad(*inputs), fetch)]
