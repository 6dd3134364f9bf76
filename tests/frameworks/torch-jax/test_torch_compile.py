"""Losses in graphs of torch: the operator, the compiler, export."""

from __future__ import annotations

from typing import Any

import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from contract import PER_SAMPLE, losses_of, over_losses
from frameworks.tensors import function_of, loss_of, over_reductions, tensors_of
from rustloss.testing._registry import differentiable, spec_of

torch = pytest.importorskip("torch")

from rustloss.torch import LossModule  # noqa: E402
from rustloss.torch._op import parse, traits  # noqa: E402


@over_losses
def test_the_text_of_a_loss_can_be_read_back(name):
    for loss in losses_of(name):
        assert parse(traits(loss).text) == loss


@over_losses
@over_reductions
def test_operator(name, reduction):
    loss = loss_of(name, reduction)
    inputs = tensors_of(loss, weighted=True)
    text, names = traits(loss).text, list(inputs)
    wrt = list(differentiable(loss, inputs))
    run = torch.ops.rustloss.call.default
    tensors = list(inputs.values())
    torch.library.opcheck(run, (text, "__call__", names, [], tensors))
    one = torch.ones((), dtype=torch.float64)
    with_output = ([*names, "grad_output"], wrt, [*tensors, one])
    torch.library.opcheck(run, (text, "grad", *with_output))
    if spec_of(name).hess:
        torch.library.opcheck(run, (text, "grad_hess", *with_output))


def compiled_is_eager(name: str, reduction: str, **options: Any) -> None:
    loss = loss_of(name, reduction)
    function, x = function_of(loss, tensors_of(loss))
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, **options)
    found, expected = compiled(*x), function(*x)
    assert_array_equal(found.detach(), expected.detach())
    ones = torch.ones_like(expected)
    pairs = zip(*(torch.autograd.grad(y, x, ones) for y in (found, expected)), strict=True)
    for got, want in pairs:
        assert_array_equal(got, want)


@pytest.mark.parametrize("name", ["L2Loss", "SoftmaxCrossEntropyLoss", "CTCLoss"])
def test_compiles_as_one_graph(name):
    compiled_is_eager(name, "mean")


@pytest.mark.slow
@over_losses
@over_reductions
def test_all_compile_as_one_graph(name, reduction):
    compiled_is_eager(name, reduction)


@over_losses
def test_all_are_traced_as_one_graph(name):
    compiled_is_eager(name, "sample", backend="aot_eager")


def test_one_graph_for_all_sizes():
    counter = torch._dynamo.testing.CompileCounter()
    torch._dynamo.reset()
    module = LossModule(rl.SoftmaxCELoss(class_weight=[1, 2, 3]))
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for n in (4, 7, 9):
        pred, label = torch.randn(n, 3, requires_grad=True), torch.arange(n) % 3
        assert torch.equal(compiled(pred, label), module(pred, label))
    assert counter.frame_count == 1


@pytest.mark.parametrize("reduction", [*PER_SAMPLE, "mean"])
def test_export_with_an_unknown_batch(reduction):
    module = LossModule(rl.HuberLoss(reduction=reduction))
    batch = torch.export.Dim("batch")
    pred, label = torch.randn(4, 3), torch.randn(4, 3)
    sizes = {"args": ({0: batch}, {0: batch})}
    program = torch.export.export(module, (pred, label), dynamic_shapes=sizes)
    more = torch.randn(9, 3), torch.randn(9, 3)
    assert torch.equal(program.module()(*more), module(*more))


# Dynamo looks at how the core finds the adapter, too, and warns of what it sees there.
@pytest.mark.filterwarnings("default")
def test_a_plain_loss_breaks_the_graph_and_is_right():
    loss, x = rl.L2Loss(), torch.ones(3, requires_grad=True)
    torch._dynamo.reset()
    value = torch.compile(lambda x: loss(x * 2, torch.zeros(3)).sum(), backend="eager")(x)
    assert torch.equal(torch.autograd.grad(value, x)[0], torch.full((3,), 4.0))
