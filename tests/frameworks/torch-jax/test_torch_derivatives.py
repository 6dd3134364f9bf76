"""Derivatives of losses on torch's tensors: by autograd, forward mode and `torch.func`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import over_losses, remade
from frameworks.tensors import (
    FLOAT64,
    arrays_of,
    function_of,
    has_second_order,
    loss_of,
    of_first,
    over_reductions,
    tensors_of,
)
from rustloss import errors
from rustloss.testing._registry import differentiable, spec_of

torch = pytest.importorskip("torch")

from rustloss.torch import LossModule  # noqa: E402

# Of torch's own making, the first time that forward mode is used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


@over_losses
@over_reductions
def test_gradcheck(name, reduction):
    loss = loss_of(name, reduction)
    inputs = tensors_of(loss)
    for key in differentiable(loss, inputs):
        inputs[key].requires_grad_()
    module, names = LossModule(_anywhere(loss)), tuple(inputs)

    def function(*tensors: Any) -> Any:
        return module(**dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, tuple(inputs.values()))


def _anywhere(loss: rl.Loss) -> rl.Loss:
    """Return the loss that follows its formula where differences leave the domain of a label."""
    param = spec_of(loss).params.get("out_of_range")
    return remade(loss, out_of_range="allow") if param and "allow" in param.words else loss


@over_losses
@over_reductions
def test_second_derivative_or_refusal(name, reduction):
    loss = loss_of(name, reduction)
    function, x = of_first(loss, tensors_of(loss))
    x.requires_grad_()
    if has_second_order(loss):
        assert torch.autograd.gradgradcheck(function, (x,))
        return
    (grad,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        torch.autograd.grad(grad.sum(), x)


@over_losses
def test_a_mixed_second_derivative_is_refused(name):
    loss = loss_of(name, "mean")
    inputs = tensors_of(loss)
    wrt = differentiable(loss, inputs)
    if len(wrt) < 2:
        pytest.skip("one input has a gradient")
    tensors = [inputs[key].requires_grad_() for key in wrt]
    grads = torch.autograd.grad(loss(**inputs), tensors, create_graph=True)
    with pytest.raises(NotImplementedError, match="alone"):
        torch.autograd.grad(sum(grad.sum() for grad in grads), tensors)


def test_a_third_derivative_is_refused():
    x = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)
    found = rl.SigmoidBCELoss(reduction="sum")(x, torch.ones_like(x))
    for _ in range(2):
        (found,) = torch.autograd.grad(found.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="third"):
        torch.autograd.grad(found.sum(), x)


@over_losses
def test_what_has_no_gradient_must_not_need_one(name):
    loss = loss_of(name)
    inputs = tensors_of(loss, weighted=True)
    for entry in loss._inputs:
        x = inputs.get(entry["name"])
        if x is not None and entry["gradient"] == "Never" and x.is_floating_point():
            changed = {**inputs, entry["name"]: x.clone().requires_grad_()}
            with pytest.raises(errors.ParameterError, match="detach"):
                loss(**changed)
            with torch.no_grad():
                loss(**changed)


def test_backward_again_after_the_gradient_has_been_given_away():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    value = rl.L2Loss(reduction="sum")(x, torch.zeros(2))
    value.backward(retain_graph=True)
    x.grad.zero_()
    value.backward()
    assert torch.equal(x.grad, torch.tensor([1.0, 3.0]))
    with pytest.raises(RuntimeError, match="second time"):
        value.backward()


@over_losses
@pytest.mark.parametrize("reduction", ["none", "sample"])
@pytest.mark.parametrize("factor", [1.0, 1024.0, 3.0, 0.0])
def test_means_and_sums_of_values_have_the_bits_of_arrays(name, reduction, factor):
    """Those of a mean are made ahead; for anything else they are scaled exactly or made anew."""
    loss = loss_of(name, reduction)
    arrays, tensors = arrays_of(loss), tensors_of(loss)
    (first, *_) = arrays
    tensors[first].requires_grad_()
    for total in (torch.mean, torch.sum):
        value = loss(**tensors)
        upstream = torch.ones_like(value) / (value.numel() if total is torch.mean else 1) * factor
        (grad,) = torch.autograd.grad(total(value) * factor, tensors[first])
        expected = loss.grad(**arrays, wrt=first, grad_output=upstream.numpy())
        assert_array_equal(grad.numpy(), expected)


def test_an_input_that_was_changed_in_place_is_noticed():
    x = torch.tensor([1.0, 3.0], requires_grad=True)
    label = torch.zeros(2)
    value = rl.L2Loss()(x, label).sum()
    label += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_inputs_by_name_in_any_order():
    loss, inputs = loss_of("PoissonNLLLoss", "mean"), tensors_of(loss_of("PoissonNLLLoss"))
    module = LossModule(loss)
    calls = [
        lambda x: module(target=inputs["target"], pred=x),
        lambda x: module(x, inputs["target"]),
    ]
    first, second = (torch.func.hessian(f)(inputs["pred"]) for f in calls)
    assert torch.equal(first, second)
    x = inputs["pred"].requires_grad_()
    assert torch.autograd.gradgradcheck(calls[0], (x,))


def test_a_second_derivative_by_the_label_is_refused():
    label = torch.tensor([0.25, 0.5], dtype=torch.float64, requires_grad=True)
    value = rl.SigmoidBCELoss(reduction="sum")(np.array([1.0, -1.0]), label)
    (grad,) = torch.autograd.grad(value, label, create_graph=True)
    with pytest.raises(NotImplementedError, match="pred alone"):
        torch.autograd.grad(grad.sum(), label)


def test_numbers_are_in_double_precision_everywhere():
    pred = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    loss = rl.PoissonNLLLoss(from_logits=False, reduction="mean")

    def function(x: Any) -> Any:
        return loss(x, [1.0, 0.0], sample_weight=0.1, epsilon=1e-8, denominator=3.0)

    options = {"sample_weight": 0.1, "epsilon": 1e-8, "denominator": 3.0}
    expected = loss.grad(pred.detach().numpy(), [1.0, 0.0], **options)
    for create_graph in (False, True):
        (grad,) = torch.autograd.grad(function(pred), pred, create_graph=create_graph)
        assert_array_equal(grad.detach(), expected)
    assert_array_equal(torch.func.grad(function)(pred.detach()), expected)


# Transforms.


@over_losses
def test_forward_mode(name):
    loss = loss_of(name, "none")
    if spec_of(name).row_coupled:
        loss = loss_of(name, "mean")
    function, x = function_of(loss, tensors_of(loss))
    assert torch.autograd.gradcheck(
        function, tuple(x), check_forward_ad=True, check_backward_ad=False
    )


@over_losses
@over_reductions
def test_func_transforms(name, reduction):
    loss = loss_of(name, reduction)
    inputs = tensors_of(loss)
    function, x = of_first(loss, inputs)
    whole = loss.grad(**arrays_of(loss), wrt=spec_of(name).inputs[0].name)
    grad = torch.func.grad(lambda x: function(x).sum())(x)
    assert_array_equal(grad.numpy(), whole)
    jacobian = torch.func.jacrev(function)(x)
    assert jacobian.shape == function(x).shape + x.shape
    total = jacobian.reshape(-1, *x.shape).sum(0)
    assert_allclose(total, whole, rtol=FLOAT64, atol=FLOAT64)
    if spec_of(name).row_coupled and reduction != "mean":
        with pytest.raises(NotImplementedError, match="one number"):
            torch.func.jacfwd(function)(x)
    else:
        assert_allclose(torch.func.jacfwd(function)(x), jacobian, rtol=FLOAT64, atol=FLOAT64)


@over_losses
def test_hessian_or_refusal(name):
    loss = loss_of(name, "mean")
    inputs = tensors_of(loss)
    function, x = of_first(loss, inputs)
    orders = [
        (torch.func.jacfwd, torch.func.jacrev),
        (torch.func.jacrev, torch.func.jacrev),
        (torch.func.jacrev, torch.func.jacfwd),
    ]
    for outer, inner in orders:
        transformed = outer(inner(function))
        if not has_second_order(loss):
            with pytest.raises(NotImplementedError, match="second derivative"):
                transformed(x)
            continue
        diagonal = loss.grad_hess(**arrays_of(loss))[1]
        matrix = np.diag(diagonal.ravel()).reshape(x.shape * 2)
        assert_allclose(transformed(x), matrix, rtol=FLOAT64, atol=FLOAT64)
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jacfwd(torch.func.jacfwd(function))(x)


@over_losses
@pytest.mark.parametrize("of_gradients", [False, True])
def test_vmap(name, of_gradients):
    loss = loss_of(name)
    function, x = of_first(loss, tensors_of(loss))
    mapped = torch.func.grad(lambda x: function(x).sum()) if of_gradients else function
    batch = torch.stack([x, x / 2, x / 4], dim=1)
    found = torch.func.vmap(mapped, in_dims=1)(batch)
    assert torch.equal(found, torch.stack([mapped(row) for row in batch.unbind(1)]))
