"""Rare calls of torch's losses, beside what torch itself gives or refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

import rustloss as rl
from rustloss import errors

torch = pytest.importorskip("torch")

import rustloss.torch.functional as ours  # noqa: E402
from rustloss.torch import LossModule  # noqa: E402

theirs = torch.nn.functional

X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5], [3.0, 1.0, 0.75], [-2.0, 0.125, 1.0]])
Y = X.flip(0).sigmoid()
SIGNS = torch.sign(X - 0.3)
CLASSES = torch.tensor([0, 2, 1, 2])
SOFT = torch.softmax(Y, 1)
FLAT, ZEROS = torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3)

from_torch = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
from_legacy = pytest.mark.filterwarnings(
    "ignore:size_average and reduce", "ignore:reduction. 'mean' divides"
)


def needing(x: Any) -> Any:
    return torch.as_tensor(x).clone().requires_grad_()


def agree(function: Any) -> None:
    torch.testing.assert_close(function(ours), function(theirs))


# Parameters that are tensors.


def test_a_parameter_that_is_a_tensor_is_read_each_time():
    def function(module: Any) -> Any:
        margin, values = torch.tensor(0.5), []
        for margin_now in (0.5, 2.0):
            margin.fill_(margin_now)
            values.append(module.hinge_embedding_loss(X, SIGNS, margin=margin))
        return torch.stack(values)

    agree(function)


CALLS = {
    "hinge_embedding_loss": (lambda f, p: f(X, SIGNS, margin=p), "margin"),
    "margin_ranking_loss": (lambda f, p: f(X, Y, SIGNS, margin=p), "margin"),
    "cosine_embedding_loss": (lambda f, p: f(X, Y, SIGNS[:, 0], margin=p), "margin"),
    "triplet_margin_loss": (lambda f, p: f(X, Y, SIGNS, margin=p), "margin"),
    "huber_loss": (lambda f, p: f(X, Y, delta=p), "delta"),
    "smooth_l1_loss": (lambda f, p: f(X, Y, beta=p), "beta"),
    "cross_entropy": (lambda f, p: f(X, CLASSES, label_smoothing=p), "label_smoothing"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_parameter_that_needs_a_gradient_is_refused(name):
    function, argument = CALLS[name]
    parameter = needing(0.5)
    for module in (ours, theirs):
        with pytest.raises(TypeError, match=argument):
            function(getattr(module, name), parameter)
    with pytest.raises(errors.DTypeError, match=r"pass \w+.item\(\)"):
        function(getattr(ours, name), parameter)
    with torch.no_grad():
        value = function(getattr(ours, name), parameter)
    torch.testing.assert_close(value, function(getattr(theirs, name), 0.5))


def hinge_of(margin: Any, x: Any = X) -> Any:
    return ours.hinge_embedding_loss(x, SIGNS, margin=margin)


def inner_gradient(margin: Any) -> Any:
    return torch.func.grad(lambda x: hinge_of(margin * 1, x))(X).sum()


TRANSFORMS = {
    "jvp": lambda margin: torch.func.jvp(hinge_of, (margin,), (margin,)),
    "grad": torch.func.grad(hinge_of),
    "grad of grad": torch.func.grad(inner_gradient),
}


@from_torch
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_parameter_that_moves_is_refused_in_transforms(transform):
    with pytest.raises(errors.DTypeError, match="margin"):
        TRANSFORMS[transform](torch.tensor(0.5))


def test_the_margin_of_distances_has_a_gradient():
    def function(module: Any) -> Any:
        margin = needing(0.5)
        value = module.triplet_margin_with_distance_loss(X, Y, SIGNS, margin=margin)
        return torch.stack([value, *torch.autograd.grad(value, margin)])

    agree(function)


# Weights of classes.


@pytest.mark.parametrize("target", [CLASSES, SOFT], ids=["classes", "probabilities"])
def test_weights_of_classes_that_need_a_gradient_are_refused(target):
    for module in (ours, theirs) if target is CLASSES else (ours,):
        with pytest.raises(RuntimeError, match="weight"):
            module.cross_entropy(X, target, weight=needing(FLAT))
    with pytest.raises(errors.ParameterError, match=r"pass weight.detach\(\)"):
        torch.func.grad(lambda w: ours.cross_entropy(X, target, weight=w))(FLAT)
    with torch.no_grad():
        agree(lambda module: module.cross_entropy(X, target, weight=needing(FLAT)))


@from_torch
def test_weights_of_classes_that_move_are_refused():
    def function(weight: Any) -> Any:
        return ours.cross_entropy(X, SOFT, weight=weight)

    with pytest.raises(errors.ParameterError, match="weight"):
        torch.func.jvp(function, (FLAT,), (FLAT,))


def test_weights_of_classes_that_need_a_gradient_are_refused_by_multi_margin_loss():
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="weight"):
            module.multi_margin_loss(X, CLASSES, weight=needing(FLAT))


@pytest.mark.parametrize("shape", [(3,), (4, 3), (4, 1), (1,), ()])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weights_of_several_labels(shape, reduction):
    def function(module: Any) -> Any:
        x, y, weight = needing(X), needing(Y), needing(torch.full(shape, 2.0))
        value = module.multilabel_soft_margin_loss(x, y, weight=weight, reduction=reduction)
        return value, torch.autograd.grad(value.sum(), (x, y, weight))

    agree(function)


# Targets and reductions.


def test_class_indices_are_no_probabilities():
    for module in (ours, theirs):
        with pytest.raises(RuntimeError, match="floating point type"):
            module.cross_entropy(FLAT, torch.tensor([0, 1, 2]))
        with pytest.raises(RuntimeError, match="ignore_index"):
            module.cross_entropy(X, SOFT, ignore_index=1)


@from_legacy
@pytest.mark.parametrize("options", [{}, {"size_average": False}, {"reduce": False}])
@pytest.mark.parametrize("shapes", [((4, 3), (4, 3)), ((3,), (4, 3)), ((3,), (3,))])
def test_batchmean(options, shapes):
    def function(module: Any) -> Any:
        x, y = (needing(x.flatten()[: torch.Size(n).numel()].reshape(n)) for x, n in given)
        value = module.kl_div(x, y, reduction="batchmean", **options)
        return value, torch.autograd.grad(value.sum(), (x, y))

    given = list(zip((X, SOFT), shapes, strict=True))
    agree(function)


def test_shapes_that_torch_takes():
    agree(lambda m: m.gaussian_nll_loss(FLAT[0], FLAT[1], FLAT[2]))
    agree(lambda m: m.cosine_embedding_loss(X, X[:1], SIGNS[:, 0], reduction="none"))
    for target in (torch.tensor([1]), torch.tensor(1)):
        agree(lambda m, y=target: m.multi_margin_loss(FLAT, y, reduction="none"))


# Batches of gradients.


def batch_of(f: Any, x: Any, **options: Any) -> Any:
    return torch.autograd.grad(f(x), x, torch.eye(3), is_grads_batched=True, **options)[0]


def vmap_of(f: Any, x: Any) -> Any:
    value = f(x)
    return torch.func.vmap(lambda v: torch.autograd.grad(value, x, v)[0])(torch.eye(3))


BATCHED = {
    "is_grads_batched": batch_of,
    "twice": lambda f, x: torch.autograd.grad(batch_of(f, x, create_graph=True).sum(), x)[0],
    "vmap": vmap_of,
    "jacobian": lambda f, x: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "hessian": lambda f, x: torch.autograd.functional.hessian(
        lambda x: f(x).sum(), x, vectorize=True
    ),
}


@pytest.mark.parametrize("way", BATCHED)
@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits"])
def test_batches_of_gradients(name, way):
    def function(module: Any) -> Any:
        loss = getattr(module, name)
        return BATCHED[way](lambda x: loss(x, Y[0], reduction="none"), needing(X[0]))

    agree(function)


@from_torch
@pytest.mark.filterwarnings("ignore:Please use .torch.vmap:FutureWarning")
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradcheck_of_batches(reduction):
    x, y = needing(X.double()), SOFT.double()
    ways = {"check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(
        lambda x: ours.cross_entropy(x, y, reduction=reduction), x, check_forward_ad=True, **ways
    )


# Memory that is written to.


def test_autograd_notices_what_is_written_to():
    weight, out = needing(FLAT), torch.ones(3)
    total = (weight * out).sum()
    rl.L2Loss(reduction="none")(FLAT, ZEROS, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("method", ["grad", "__call__"])
def test_what_needs_a_gradient_is_not_written_to(method):
    loss, out = rl.L2Loss(reduction="none"), needing(FLAT)
    name = "out" if method == "__call__" else "grad_out"
    with pytest.raises((errors.OutputError, errors.ParameterError), match=rf"{name}.detach\(\)"):
        getattr(loss, method)(FLAT, ZEROS, **{name: out})
    with torch.no_grad():
        getattr(loss, method)(FLAT, ZEROS, **{name: out})


# Errors.

WORDS = {
    "beta": lambda: ours.smooth_l1_loss(X, Y, beta=-1.0),
    "delta": lambda: ours.huber_loss(X, Y, delta=float("inf")),
    "target": lambda: ours.cross_entropy(X, torch.tensor([0, 1, 2, 7])),
    "weight": lambda: ours.binary_cross_entropy(SOFT, SOFT, weight=-torch.ones(4, 3)),
    "eps": lambda: ours.poisson_nll_loss(X, Y, log_input=False, eps=-1.0),
    "input": lambda: ours.mse_loss(X.to("meta"), Y),
    "anchor": lambda: ours.triplet_margin_loss(X.to(torch.complex64), X, Y),
    "input_lengths": lambda: ours.ctc_loss(
        torch.zeros(3, 1, 2), torch.ones(1, 1), torch.tensor([4]), torch.tensor([1])
    ),
}


@pytest.mark.parametrize("argument", WORDS)
def test_errors_name_the_arguments_of_torch(argument):
    with pytest.raises(errors.ArgumentError, match=rf"^{argument}\b") as caught:
        WORDS[argument]()
    assert caught.value.argument == argument


def test_a_weight_that_needs_a_gradient_is_named_throughout():
    with pytest.raises(errors.ParameterError, match=r"^weight: .*; pass weight.detach\(\)$"):
        ours.binary_cross_entropy(SOFT, SOFT, weight=needing(SOFT))


UNREADABLE = {
    "no data": (lambda: FLAT.to("meta"), "has data"),
    "nested": (lambda: torch.nested.nested_tensor([FLAT, FLAT[:2]]), r"unbind\(\)"),
    "jagged": (
        lambda: torch.nested.nested_tensor([FLAT, FLAT[:2]], layout=torch.jagged),
        r"unbind\(\)",
    ),
    "conjugate": (lambda: torch.complex(FLAT, FLAT).conj(), "real numbers"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("method", ["__call__", "grad"])
def test_the_remedy_helps(what, method):
    made, remedy = UNREADABLE[what]
    with pytest.raises(errors.DTypeError, match=remedy):
        getattr(rl.L2Loss(), method)(made(), ZEROS)


def test_weights_of_classes_without_data():
    with pytest.raises(errors.DTypeError, match=r"weight.*has data"):
        ours.cross_entropy(X, CLASSES, weight=FLAT.to("meta"))


@pytest.mark.parametrize("method", ["__call__", "grad", "value_and_grad"])
def test_arrays_of_another_framework(method):
    jnp = pytest.importorskip("jax.numpy")
    loss, array = rl.L2Loss(), jnp.ones(3)
    for label in (array, [jnp.float32(1)] * 3):
        with pytest.raises(errors.DTypeError, match="jax"):
            getattr(loss, method)(FLAT, label)
    with pytest.raises(errors.DTypeError, match=r"pred: .* of jax"):
        LossModule(loss)(array, array)


def test_modules_of_the_package_need_no_import_of_their_own():
    text = "import rustloss.torch as rt; rt.nn.MSELoss, rt.functional.mse_loss"
    subprocess.run([sys.executable, "-c", text], check=True)
