"""Tests of losses of one's own, to be copied: ``pytest test_my_loss.py``.

Needs pytest and the extra ``testing`` of rustloss; the part on PyTorch is skipped without it.
"""

from typing import Any

import numpy as np
import pytest

import rustloss as rl
from rustloss.testing import assert_parity, check_gradient

try:
    import torch
except ImportError:
    torch = None

needs_torch = pytest.mark.skipif(torch is None, reason="needs PyTorch")


def cross_entropy(logits: Any, label: Any) -> Any:
    """Return the loss of each row, and the gradient of their sum."""
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1)
    grad = np.exp(shifted) / total[:, None]
    grad[rows, label] -= 1
    return np.log(total) - shifted[rows, label], grad


def naive_cross_entropy(logits: Any, label: Any) -> Any:
    """Return the loss of each row, infinite where a logit is large."""
    with np.errstate(all="ignore"):
        total = np.exp(logits).sum(axis=1)
        return np.log(total) - logits[np.arange(len(logits)), label]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_cross_entropy(dtype: str) -> None:
    assert_parity(cross_entropy, rl.SoftmaxCELoss(reduction="none"), dtype=dtype)


def test_gradient() -> None:
    check_gradient(cross_entropy, [[0.5, -1.0, 2.0], [0.0, 0.0, 3.0]], np.array([2, 0]))


def test_naive_cross_entropy() -> None:
    """The mistake is found: take away the `raises` to see the call that shows it."""
    with pytest.raises(AssertionError, match=r"value at .* is inf"):
        assert_parity(naive_cross_entropy, rl.SoftmaxCELoss(reduction="none"))


def smooth_l1(pred: Any, label: Any) -> Any:
    """Return the value of a loss in PyTorch, and the gradient by autograd."""
    x = torch.tensor(pred, requires_grad=True)
    value = torch.nn.functional.smooth_l1_loss(x, torch.tensor(label), reduction="none", beta=0.5)
    value.sum().backward()
    return value.detach().numpy(), x.grad.numpy()


def doubled_smooth_l1(pred: Any, label: Any) -> Any:
    """Return the same value, and a gradient with a mistake."""
    value, grad = smooth_l1(pred, label)
    return value, 2 * grad


@needs_torch
def test_smooth_l1() -> None:
    assert_parity(smooth_l1, rl.HuberLoss(rho=0.5, reduction="none"))


@needs_torch
def test_doubled_smooth_l1() -> None:
    with pytest.raises(AssertionError, match="d/dpred at "):
        assert_parity(doubled_smooth_l1, rl.HuberLoss(rho=0.5, reduction="none"))
