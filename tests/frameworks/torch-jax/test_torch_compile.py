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

import rustloss.torch.functional as ours  # noqa: E402
import rustloss.torch.nn as ours_nn  # noqa: E402
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


# Derivatives of compiled functions, beside those of torch's own losses.

theirs = torch.nn.functional
X = torch.tensor([0.5, 2.0, -1.0])
LABEL, MOVE = torch.tensor([0.25, 0.5, 0.75]), torch.tensor([1.0, -2.0, 0.5])


def dual(function: Any) -> Any:
    def derivative(x: Any) -> Any:
        with torch.autograd.forward_ad.dual_level():
            value = function(torch.autograd.forward_ad.make_dual(x, MOVE))
            return torch.autograd.forward_ad.unpack_dual(value).tangent

    return derivative


def penalty(function: Any) -> Any:
    """Return the gradient of the sum of a gradient, by autograd alone."""

    def derivative(x: Any) -> Any:
        x = x.detach().requires_grad_()
        (grad,) = torch.autograd.grad(function(x), x, create_graph=True)
        return torch.autograd.grad(grad.sum(), x)[0]

    return derivative


FIRST_ORDER = {
    "grad": torch.func.grad,
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (MOVE,))[1],
    "jacfwd": torch.func.jacfwd,
    "dual": dual,
    "vmap of grad": lambda f: lambda x: torch.func.vmap(torch.func.grad(f))(torch.stack([x, -x])),
}
SECOND_ORDER = {
    "grad of grad": lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x).sum()),
    "hessian": torch.func.hessian,
    "vjp of grad": lambda f: lambda x: torch.func.vjp(torch.func.grad(f), x)[1](MOVE)[0],
}
over_second = pytest.mark.parametrize("transform", SECOND_ORDER.values(), ids=SECOND_ORDER)
over_backends = pytest.mark.parametrize("backend", ["eager", "aot_eager"])
over_smooth = pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits"])
# Of torch's own making, the first time that forward mode is used.
from_torch = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


def compiled(function: Any, backend: str, **options: Any) -> Any:
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, **options)


@over_backends
@over_smooth
@pytest.mark.parametrize(
    "transform", [*FIRST_ORDER.values(), *SECOND_ORDER.values()], ids=[*FIRST_ORDER, *SECOND_ORDER]
)
@from_torch
def test_compiled_derivatives(name, transform, backend):
    made = transform(lambda x: getattr(ours, name)(x, LABEL))
    expected = transform(lambda x: getattr(theirs, name)(x, LABEL))(X)
    torch.testing.assert_close(compiled(made, backend, fullgraph=True)(X), expected)


@over_backends
@over_second
@from_torch
def test_compiled_second_derivatives_that_are_not_known_are_refused(transform, backend):
    function = transform(lambda x: ours.cross_entropy(x, torch.tensor(1)))
    with pytest.raises(Exception, match="all of its second derivative"):
        compiled(function, backend, fullgraph=True)(X)


@over_backends
@from_torch
def test_compiled_forward_mode_over_forward_mode_is_refused(backend):
    function = torch.func.jacfwd(torch.func.jacfwd(lambda x: ours.mse_loss(x, LABEL)))
    with pytest.raises(Exception, match="one level of forward mode"):
        compiled(function, backend, fullgraph=True)(X)


@from_torch
def test_compiled_modules_have_derivatives():
    module = LossModule(rl.L2Loss(weight=2.0, reduction="mean"))
    for transform in (FIRST_ORDER["jvp"], SECOND_ORDER["hessian"]):
        made = transform(lambda x: module(x, LABEL))
        expected = transform(lambda x: theirs.mse_loss(x, LABEL))(X)
        torch.testing.assert_close(compiled(made, "aot_eager", fullgraph=True)(X), expected)


# After a break of the graph dynamo looks at how derivatives are made, and warns of what it sees.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@over_backends
def test_a_gradient_penalty_is_right_or_refused(backend, inside):
    def made(wrap: Any) -> Any:
        def function(x: Any) -> Any:
            return ours.mse_loss(x, LABEL)

        return wrap(penalty(function)) if inside else penalty(wrap(function))

    derivative = made(lambda f: compiled(f, backend))
    if backend == "eager":
        expected = penalty(lambda x: theirs.mse_loss(x, LABEL))(X)
        torch.testing.assert_close(derivative(X), expected)
    else:
        with pytest.raises(RuntimeError, match="double backward"):
            derivative(X)


# Parameters of compiled losses, beside torch's own losses.

A, B = torch.randn(4, 3), torch.rand(4, 3)
SIGNS, CLASSES = torch.sign(A), torch.tensor([0, 2, 1, 2])
SCHEDULES = {
    "huber_loss": ("delta", (1.0, 0.5, 0.3), (A, B)),
    "smooth_l1_loss": ("beta", (1.0, 0.0, 0.3), (A, B)),
    "cross_entropy": ("label_smoothing", (0.0, 0.1, 0.3), (A, CLASSES)),
    "nll_loss": ("ignore_index", (-100, 0, 1), (A, CLASSES)),
    "hinge_embedding_loss": ("margin", (1.0, 0.1, 0.3), (A, SIGNS)),
    "cosine_embedding_loss": ("margin", (0, 0.1, 0.3), (A, B, SIGNS[:, 0])),
    "margin_ranking_loss": ("margin", (0, 0.1, 0.3), (A, B, SIGNS)),
    "multi_margin_loss": ("margin", (1.0, 0.1, 0.3), (A, CLASSES)),
    "triplet_margin_loss": ("p", (2, 1, 1.5), (A, B, SIGNS)),
    "triplet_margin_with_distance_loss": ("margin", (1.0, 0.1, 0.3), (A, B, SIGNS)),
    "poisson_nll_loss": ("eps", (1e-8, 0.1, 0.3), (A, B)),
    "gaussian_nll_loss": ("eps", (1e-8, 0.1, 0.3), (A, B, B)),
}


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_parameter_that_changes(name, dynamic):
    key, values, (first, *rest) = SCHEDULES[name]

    def function(x: Any, parameter: float) -> Any:
        return getattr(ours, name)(x, *rest, **{key: parameter})

    made = compiled(function, "aot_eager", fullgraph=True, dynamic=dynamic)
    for parameter in values:
        x = first.clone().requires_grad_()
        found, expected = (
            (value, *torch.autograd.grad(value, x))
            for value in (
                made(x, parameter),
                getattr(theirs, name)(x, *rest, **{key: parameter}),
            )
        )
        torch.testing.assert_close(found, expected)


def test_modules_whose_parameter_differs():
    for delta in (1.0, 0.5, 0.3):
        module = compiled(ours_nn.HuberLoss(delta=delta), "eager", fullgraph=True)
        torch.testing.assert_close(module(A, B), torch.nn.HuberLoss(delta=delta)(A, B))


@pytest.mark.filterwarnings("ignore:size_average and reduce", "ignore:Using a target size")
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.mse_loss(x, B[:1]),
        lambda m, x: m.mse_loss(x, B, size_average=False),
        lambda m, x: m.l1_loss(x, B, reduce=False),
        lambda m, x: m.multilabel_soft_margin_loss(x, B, weight=B[0]),
    ],
    ids=["broadcast", "size_average", "reduce", "weight"],
)
def test_calls_that_torch_compiles_as_one_graph(function):
    found = compiled(lambda x: function(ours, x), "aot_eager", fullgraph=True)(A)
    torch.testing.assert_close(found, function(theirs, A))
