"""Calls as type checkers see them: `test_types.py` wants errors in the marked lines alone.

Nothing here runs.
"""

# ruff: noqa: B018
from enum import Enum
from typing import Any, Literal, assert_type

import numpy as np
from numpy.typing import NDArray

import rustloss as rl

Array = NDArray[np.floating[Any]]
Number = np.floating[Any]


class Tensor:
    """What checkers know of an array of a framework."""

    def __dlpack_device__(self) -> tuple[Enum, int]:
        raise NotImplementedError

    def __array__(self) -> NDArray[Any]:
        raise NotImplementedError


class Column:
    """What they know of a column of a table."""

    def __array__(self) -> NDArray[Any]:
        raise NotImplementedError


x, y = np.zeros((4, 3), np.float32), np.zeros((4, 3))
w = np.ones(4)
classes = np.zeros(4, np.int64)
loss = rl.HuberLoss()

# The value by the reduction.
assert_type(loss(x, y), Array)
assert_type(loss(x, label=y, sample_weight=w), Array)
assert_type(loss([[1.0, 2.0]], ([1, 2],), 3), Array)
assert_type(rl.HuberLoss(2, reduction="mean")(x, y), Number)
assert_type(rl.HuberLoss(reduction="none")(x, y), Array)
assert_type(rl.HuberLoss(reduction=None)(x, y), Array)
assert_type(rl.HuberLoss(reduction="sum_over_batch_size")(x, y), Number)
assert_type(rl.SoftmaxCELoss(reduction="weighted_mean")(x, classes), Number)
assert_type(rl.CTCLoss(reduction="target_mean")(x, [[0, 1], [2]]), Number)
assert_type(rl.CTCLoss()(x, classes, label_offsets=[0, 2, 4]), Array)
float(rl.L2Loss(reduction="sum")(x, y, denominator=np.float32(3)))


def any_reduction(reduction: Literal["sum", "none"], given: rl.L2Loss[Any]) -> None:
    assert_type(rl.L2Loss(reduction=reduction)(x, y), Array | Number)
    assert_type(given.grad(x, y), Array)


any_reduction("sum", rl.L2Loss(reduction="mean"))

# Gradients by the loss and by `wrt`.
assert_type(loss.value_and_grad(x, y), tuple[Array, Array])
assert_type(loss.value_and_grad(x, y, wrt="label", out=w, grad_out=x), tuple[Array, Array])
assert_type(loss.value_and_grad(x, y, wrt=("pred", "label")), tuple[Array, tuple[Array, ...]])
assert_type(rl.L1Loss(reduction="sum").value_and_grad(x, y), tuple[Number, Array])
assert_type(loss.grad(x, y, grad_output=w), Array)
assert_type(loss.grad(x, y, wrt=["label"]), tuple[Array, ...])
assert_type(loss.grad_hess(x, y, hess_out=x), tuple[Array, Array])
assert_type(rl.TripletLoss().value_and_grad(x, x, x), tuple[Array, tuple[Array, Array, Array]])
assert_type(rl.TripletLoss().value_and_grad(x, x, x, wrt="pred"), tuple[Array, Array])
assert_type(rl.SDMLLoss().grad(x, x), tuple[Array, Array])
assert_type(rl.GaussianNLLLoss().grad(x, y, 1.0), tuple[Array, Array])

# Arrays of others.
tensor = Tensor()
assert_type(loss(tensor, tensor), Tensor)
assert_type(rl.L2Loss(reduction="sum")(tensor, y, sample_weight=w), Tensor)
assert_type(loss.value_and_grad(tensor, tensor), tuple[Tensor, Tensor])
assert_type(loss.grad(tensor, tensor, wrt=("pred",)), tuple[Tensor, ...])
assert_type(rl.TripletLoss().grad(tensor, tensor, tensor), tuple[Tensor, Tensor, Tensor])
assert_type(loss(Column(), Column()), Array)


# A loss that nothing more is known of.
def any_loss(given: rl.Loss) -> None:
    assert_type(given(x, y), Array | Number)
    assert_type(given(pred=x, label=y, out=w), Array | Number)
    assert_type(given.value_and_grad(x, y), tuple[Array | Number, Array | tuple[Array, ...]])
    assert_type(given.grad(x, y, wrt="label"), Array | tuple[Array, ...])
    assert_type(given.grad_hess(x, y), tuple[Array, Array])
    assert_type(given(tensor, y), Tensor)
    assert_type(given.value_and_grad(tensor, y), tuple[Tensor, Tensor | tuple[Tensor, ...]])
    assert_type(given.grad(tensor, y), Tensor | tuple[Tensor, ...])
    given.axsi  # error
    given("abc", y)  # error
    given(x, label="abc")  # error
    given.grad(tensor, "abc")  # error
    given.grad(x, "abc", wrt="pred")  # error


any_loss(loss.replace(reduction="mean"))

# Parameters, and other losses made of this one.
assert_type(loss.rho, float)
assert_type(rl.SoftmaxCELoss().axis, int)
assert_type(loss.weight, float | None)
assert_type(loss.replace(rho=3.0)(x, y), Array)
assert_type(loss.replace(reduction="mean"), rl.Loss)

# Other questions than for the value.
assert_type(rl.CTCLoss().posteriors(x, classes), Array)
assert_type(rl.CTCLoss().align(x, classes), rl.sequence.Alignment)
assert_type(loss.signature(x, y), rl.Signature)

# What must not pass.
loss("abc", y)  # error
loss(x, "abc")  # error
loss(["abc"], y)  # error
loss(1j, y)  # error
loss(None, y)  # error
loss(x)  # error
loss()  # error
loss(x, y, w, w)  # error
loss(x, y, sampel_weight=w)  # error
loss(x, target=y)  # error
loss(x, y, wrt="pred")  # error
loss(x, y, pos_weight=w)  # error
loss(x, y, out=[0.0])  # error
loss(tensor, "abc")  # error
loss.value_and_grad(x)  # error
loss.value_and_grad(x, y, wrt=3)  # error
loss.grad(x, y, out=x)  # error
loss.grad_hess(x, y, wrt="pred")  # error
loss.axsi  # error
loss.margin  # error
rl.TripletLoss()(x, x)  # error
rl.CTCLoss()(x, classes, None, None, None, [0, 4])  # error
rl.CTCLoss().align("abc", classes)  # error
rl.CTCLoss().align(x, None)  # error
rl.CTCLoss().posteriors(x, "abc")  # error
loss.signature("abc", y)  # error
rl.HuberLoss(reduction="spam")  # error
rl.HuberLoss(empty="spam")  # error
rl.HuberLoss(rho="abc")  # error
rl.HuberLoss(margin=1.0)  # error
rl.HingeLoss(out_of_range="clip")  # error
rl.HuberLoss(1, None, 0, "mean")  # error
rl.HuberLoss(1.0, rho=2.0)  # error
loss.rho = 2.0  # error
