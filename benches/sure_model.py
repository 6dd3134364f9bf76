"""Record what a loss says of a model that is right, and how sure: exactly, here, and in torch."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import torch

import records
import rustloss as rl

LEADS = (5, 10, 20, 40)
"""By how much the right class, or sign, is ahead."""


def exact(lead: int) -> tuple[float, float]:
    """Return ``log(1 + exp(-lead))`` and its slope."""
    with mpmath.workprec(256):
        odds = mpmath.exp(-lead)
        return float(mpmath.log1p(odds)), float(-odds / (1 + odds))


def in_torch(loss: Any, pred: Any, label: Any) -> tuple[float, float]:
    """Return value and slope of one of torch's losses."""
    x = torch.tensor(pred, requires_grad=True)
    value = loss(x, torch.tensor(label))
    value.backward()
    return value.item(), x.grad.flatten()[0].item()


def here(loss: rl.Loss, pred: Any, label: Any) -> tuple[float, float]:
    """Return value and slope of a loss."""
    value, grad = loss.value_and_grad(pred, label)
    return float(np.ravel(value)[0]), float(np.ravel(grad)[0])


def main() -> None:
    """Record both losses in float32."""
    functional = torch.nn.functional
    rows = []
    for lead in LEADS:
        logit, one = np.array([lead], np.float32), np.array([1], np.float32)
        row, first = np.array([[lead, 0]], np.float32), np.array([0])
        bce = functional.binary_cross_entropy_with_logits
        rows += [
            {
                "loss": "binary cross-entropy",
                "lead": lead,
                "exact": exact(lead),
                "rustloss": here(rl.SigmoidBCELoss(), logit, one),
                "torch": in_torch(bce, logit, one),
            },
            {
                "loss": "softmax cross-entropy",
                "lead": lead,
                "exact": exact(lead),
                "rustloss": here(rl.SoftmaxCELoss(), row, first),
                "torch": in_torch(functional.cross_entropy, row, first),
            },
        ]
    versions = records.versions(["rustloss", "torch", "numpy"])
    records.save("sure_model", {"versions": versions, "rows": rows})


if __name__ == "__main__":
    main()
