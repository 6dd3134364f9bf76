"""What the tests of losses of rows share: types and widths, losses on logits, and their results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rustloss as rl

INF, NAN = np.inf, np.nan
EPS = {np.float32: 2.0**-24, np.float64: 2.0**-53}
"""Half an ulp, relative to the number at most."""
WIDTHS = [3, 100, 2000]
"""Classes of rows that are worked on side by side, together, and one by one."""

DTYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64])
WIDTH = pytest.mark.parametrize("width", WIDTHS)

ON_LOGITS = pytest.mark.loss("SoftmaxCrossEntropyLoss", "SoftmaxFocalLoss", "PolyLoss", "KLDivLoss")
"""The losses of `forms`."""

CE, KL = rl.SoftmaxCELoss, rl.KLDivLoss
Rows = tuple[rl.Loss, Any]


def forms(width: int, rows: int, **options: Any) -> dict[str, Rows]:
    """Return every loss on logits, with labels for some rows."""
    label = np.arange(rows) % width
    dense = np.eye(width)[label]
    return {
        "sparse": (CE(**options), label),
        "smoothed": (CE(label_smoothing=0.25, **options), label),
        "weighted": (CE(class_weight=np.full(width, 0.5), **options), label),
        "z-loss": (CE(z_loss=0.25, **options), label),
        "smoothed z-loss": (CE(z_loss=0.25, label_smoothing=0.25, **options), label),
        "weighted z-loss": (CE(z_loss=0.25, class_weight=np.full(width, 0.5), **options), label),
        "focal": (rl.SoftmaxFocalLoss(**options), label),
        "weighted focal": (rl.SoftmaxFocalLoss(0.5, np.full(width, 0.5), **options), label),
        "poly": (rl.PolyLoss(**options), label),
        "weighted poly": (rl.PolyLoss(-0.5, class_weight=np.full(width, 0.5), **options), label),
        "dense": (CE(sparse_label=False, **options), dense),
        "dense z-loss": (CE(sparse_label=False, z_loss=0.25, **options), dense),
        "divergence": (KL(from_logits=False, reduction="sample_sum"), dense),
        "by element": (KL(from_logits=False, reduction="none"), dense),
        "at a temperature": (KL(from_logits=False, temperature=2.0), dense),
        "log-targets": (KL(from_logits=False, log_target=True), np.where(dense > 0, 0.0, -INF)),
    }


def results(loss: rl.Loss, *args: Any, **options: Any) -> list[Any]:
    """Return value, gradient, and both of `grad_hess`, written over what is not a number."""
    buffers = [np.full(np.shape(args[0]), NAN, args[0].dtype) for _ in range(3)]
    value, grad = loss.value_and_grad(*args, **options, grad_out=buffers[0])
    both = loss.grad_hess(*args, **options, grad_out=buffers[1], hess_out=buffers[2])
    return [value, grad, *both]
