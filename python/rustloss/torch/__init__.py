"""Losses on torch's tensors, with torch's autograd.

A loss takes tensors as it takes arrays: ``rustloss.L2Loss()(pred, label)`` is a tensor with a
graph behind it, and `value_and_grad`, `grad` and `grad_hess` give tensors without one. `LossModule`
makes a module of a loss, which ``torch.compile(fullgraph=True)`` and ``torch.export`` need.
`rustloss.torch.nn` and `rustloss.torch.functional` have torch's own losses under torch's names.

Memory is shared both ways, nothing is copied. Tensors are dense and on the CPU. What has no
derivative raises: a third derivative, a second one of a loss that has no more than the diagonal of
it, and anything by class labels or weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rustloss._loss import Loss
from rustloss.torch import functional, nn
from rustloss.torch._calls import apply, call, value
from rustloss.torch._op import traits

__all__ = ["LossModule", "apply", "call", "functional", "nn"]


class LossModule(torch.nn.Module):
    """A loss as a module: ``LossModule(loss)(pred, label, ...)``.

    Parameters
    ----------
    loss : Loss
        The loss, with its parameters and its reduction.

    Examples
    --------
    >>> import torch
    >>> import rustloss as rl
    >>> from rustloss.torch import LossModule
    >>> criterion = LossModule(rl.SoftmaxCELoss(reduction="mean"))
    >>> criterion
    LossModule(SoftmaxCrossEntropyLoss(reduction='mean'))
    >>> logits = torch.zeros(2, 4, requires_grad=True)
    >>> criterion(logits, torch.tensor([0, 3])).backward()
    >>> logits.grad
    tensor([[-0.3750,  0.1250,  0.1250,  0.1250],
            [ 0.1250,  0.1250,  0.1250, -0.3750]])
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self._traits = traits(loss)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the value of the loss; the arguments are those of a call of it."""
        return value(self._traits, args, kwargs)

    def extra_repr(self) -> str:
        """Return the loss as text."""
        return repr(self.loss)

    @property
    def loss(self) -> Loss:
        """The loss."""
        return self._traits.loss
