"""Losses on torch's tensors: numbers, types, layouts, memory, modules."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import losses_of, over_losses
from frameworks.tensors import arrays_of, loss_of, over_reductions, tensors_of
from rustloss import errors
from rustloss.testing._registry import differentiable, spec_of
from test_docs import ROOT, check_page_alone

torch = pytest.importorskip("torch")

from rustloss.torch import LossModule, apply, call  # noqa: E402
from rustloss.torch._arrays import to_numpy, to_tensor  # noqa: E402

METHODS = ["__call__", "value_and_grad", "grad", "grad_hess"]

# The last product is torch's where ours is part of the loss: one rounding more.
ROUNDINGS = {torch.float64: 4 * 2.0**-52, torch.float32: 4 * 2.0**-23}

# Numbers.


@over_losses
@over_reductions
@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_arrays(name, reduction, method):
    loss = loss_of(name, reduction)
    if method == "grad_hess" and not spec_of(name).hess:
        pytest.skip("it has no second derivative")
    arrays, tensors = arrays_of(loss, weighted=True), tensors_of(loss, weighted=True)
    plain, ours = getattr(loss, method)(**arrays), getattr(loss, method)(**tensors)
    flat = [(plain, ours)] if not isinstance(plain, tuple) else list(zip(plain, ours, strict=True))
    for x, y in flat:
        for a, b in zip(*(p if isinstance(p, tuple) else (p,) for p in (x, y)), strict=True):
            assert isinstance(b, torch.Tensor)
            assert not b.requires_grad
            assert_array_equal(b.numpy(), a, strict=True)


@over_losses
@over_reductions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_backward_is_the_gradient(name, reduction, dtype):
    loss = loss_of(name, reduction)
    arrays = arrays_of(loss, weighted=True, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    tensors = {key: torch.tensor(x) for key, x in arrays.items()}
    wrt = differentiable(loss, arrays)
    for key in wrt:
        tensors[key].requires_grad_()
    value = loss(**tensors)
    upstream = torch.linspace(0.5, 2, max(value.numel(), 1), dtype=value.dtype)
    upstream = upstream[: value.numel()].reshape(value.shape)
    grads = torch.autograd.grad(value, [tensors[key] for key in wrt], upstream)
    expected = loss.grad(**arrays, wrt=wrt, grad_output=upstream.numpy())
    for key, grad, x in zip(wrt, grads, expected, strict=True):
        assert grad.dtype == tensors[key].dtype
        assert_allclose(grad.numpy(), x, rtol=ROUNDINGS[dtype], atol=0, err_msg=key)


def test_arrays_lists_and_numbers_beside_tensors():
    pred = torch.tensor([1.0, 3.0], requires_grad=True)
    for label in (np.zeros(2), [0.0, 0.0], torch.zeros(2)):
        value = rl.L2Loss(reduction="sum")(pred, label, sample_weight=2)
        assert torch.equal(torch.autograd.grad(value, pred)[0], torch.tensor([2.0, 6.0]))
    loss = rl.PoissonNLLLoss(from_logits=False, reduction="sum")
    value = loss(pred.double(), [1, 0], epsilon=1e-8)
    assert value.item() == loss([1.0, 3.0], [1, 0], epsilon=1e-8)


def test_the_functional_form_and_the_protocol():
    loss, pred = rl.L2Loss(), torch.ones(3, requires_grad=True)
    zeros = torch.zeros(3)
    calls = loss(pred, zeros), apply(loss, pred, zeros), call(loss, "__call__", (pred, zeros), {})
    for value in calls:
        assert value.requires_grad
        assert torch.equal(value, torch.full((3,), 0.5))


def test_ragged_labels_in_a_list():
    pred = torch.zeros(2, 5, 3, dtype=torch.float64, requires_grad=True)
    labels = [torch.tensor([0, 1]), torch.tensor([1])]
    loss = rl.CTCLoss(reduction="sum")
    (grad,) = torch.autograd.grad(loss(pred, labels), pred)
    assert_array_equal(grad.numpy(), loss.grad(np.zeros((2, 5, 3)), [[0, 1], [1]]))


# Types, layouts, memory.


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_memory_is_shared_both_ways(dtype):
    tensor = torch.ones(2, 3, dtype=dtype).mT
    array = to_numpy("x", tensor)
    assert (array.ctypes.data, array.shape) == (tensor.data_ptr(), (3, 2))
    back = to_tensor(array)
    assert (back.data_ptr(), back.dtype, back.stride()) == (
        tensor.data_ptr(),
        dtype,
        tensor.stride(),
    )


def test_gradients_arrive_without_a_copy():
    pred, grad = torch.ones(3), torch.empty(3)
    found = rl.L2Loss().grad(pred, torch.zeros(3), grad_out=grad)
    assert found.data_ptr() == grad.data_ptr()
    assert torch.equal(grad, pred)


@over_losses
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_half_types(name, dtype, reduction):
    loss = loss_of(name, reduction)
    inputs = tensors_of(loss, dtype=np.float32)
    wrt = [i.name for i in spec_of(loss).inputs if i.gradient == "Default"]
    half = {key: x.to(dtype) if key in wrt else x for key, x in inputs.items()}
    for key in wrt:
        half[key].requires_grad_()
    value = loss(**half)
    value.backward(torch.ones_like(value))
    arrays = {key: to_numpy(key, x) for key, x in half.items()}
    plain, grads = loss.value_and_grad(**arrays, wrt=tuple(wrt))
    assert torch.equal(value, to_tensor(plain))
    for key, grad in zip(wrt, grads, strict=True):
        assert half[key].grad.dtype == dtype
        assert torch.equal(half[key].grad, to_tensor(grad))


def test_a_scaled_loss_keeps_small_gradients_of_half_types():
    scale, n = 2.0**16, 2**20
    x = torch.ones(n, dtype=torch.float16, requires_grad=True)
    (rl.L2Loss(reduction="mean")(x, torch.zeros(n)) * scale).backward()
    assert torch.equal(x.grad, torch.full_like(x, scale / n))


def test_autocast():
    layer, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    label = torch.tensor([0, 1, 2, 0, 1])
    loss = rl.SoftmaxCELoss(reduction="mean")
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(x)
        value = loss(logits, label)
    assert (logits.dtype, value.dtype) == (torch.bfloat16, torch.float32)
    value.backward()
    expected = loss(logits.float().detach(), label)
    assert_allclose(value.item(), expected.item(), rtol=ROUNDINGS[torch.float32])
    assert layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.mT.contiguous().mT,
        lambda x: torch.stack([x, x], -1)[..., 1],
        lambda x: x[:1].expand(3, -1),
        lambda x: torch.complex(x, -x).conj().imag,
    ],
    ids=["transposed", "strided", "expanded", "negative"],
)
@over_losses
def test_layouts(name, view):
    if spec_of(name).family in {"pairwise", "sequence"}:
        pytest.skip("the views are those of a matrix of three rows")
    loss = loss_of(name)
    inputs = tensors_of(loss)
    key = spec_of(name).inputs[0].name
    plain = view(inputs[key].clone()).resolve_neg().clone(memory_format=torch.contiguous_format)
    leaf = inputs[key].clone().requires_grad_()
    value = loss(**{**inputs, key: view(leaf)})
    plain.requires_grad_()
    expected = loss(**{**inputs, key: plain})
    assert torch.equal(value, expected)
    found = torch.autograd.grad(value.sum(), leaf)[0]
    (upstream,) = torch.autograd.grad(expected.sum(), plain)
    assert torch.equal(found, torch.autograd.grad(view(leaf), leaf, upstream)[0])


@over_losses
def test_empty_batches(name):
    if spec_of(name).family == "sequence":
        inputs = {"pred": torch.zeros(0, 5, 3), "label": torch.zeros(0, 2, dtype=torch.int64)}
    else:
        inputs = {key: x[:0] for key, x in tensors_of(loss_of(name)).items()}
    pred = inputs[spec_of(name).inputs[0].name].requires_grad_()
    value = loss_of(name, "none")(**inputs)
    assert value.numel() == 0
    assert torch.autograd.grad(value.sum(), pred)[0].shape == pred.shape


class Wrapped(torch.Tensor):  # type: ignore[name-defined, misc]
    """A tensor of a class of its own, which torch passes on to its operators."""


def test_subclasses_go_by_the_operator():
    x = torch.tensor([1.0, 3.0]).as_subclass(Wrapped).requires_grad_()
    value = rl.L2Loss(reduction="sum")(x, torch.zeros(2))
    assert isinstance(value, Wrapped)
    assert value.item() == 5
    assert torch.autograd.grad(value, x)[0].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda x: x.to_sparse(), r"to_dense\(\)"),
        (lambda x: x.to("meta"), "has data"),
        (lambda x: torch.quantize_per_tensor(x, 1.0, 0, torch.qint8), r"dequantize\(\)"),
        (lambda x: x.to(torch.float8_e4m3fn), r"float\(\)"),
        (lambda x: x.to(torch.complex64), "real numbers"),
    ],
    ids=["sparse", "device", "quantised", "float8", "complex"],
)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_is_no_memory_of_numbers_is_refused(change, remedy, method):
    with pytest.raises(errors.DTypeError, match=remedy) as caught:
        getattr(rl.L2Loss(), method)(change(torch.zeros(3)), torch.zeros(3))
    assert caught.value.argument == "pred"


def test_errors_are_those_of_arrays():
    x = torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(errors.LabelError, match="label"):
        rl.SoftmaxCELoss()(x, torch.tensor([0, 3]))
    with pytest.raises(errors.ShapeError, match="label"):
        rl.L2Loss()(x, torch.zeros(3, 2))
    for args, kwargs in [((x, x, x, x), {}), ((x, x), {"label": x}), ((x,), {"labels": x})]:
        with pytest.raises(errors.CallError):
            rl.L2Loss()(*args, **kwargs)
    with pytest.raises(errors.CallError, match="label"):
        rl.L2Loss()(x)
    with pytest.raises(errors.CallError, match="out"):
        rl.L2Loss()(x, x, out=torch.empty(2))


def test_sizes_and_types_of_torch_are_no_tensors():
    pred, label = np.ones((1, 4, 3)), [[0]]
    expected = rl.CTCLoss()(pred, label, [4])
    assert_array_equal(rl.CTCLoss()(pred, label, torch.Size([4])), expected)
    assert_array_equal(rl.CTCLoss()(torch.from_numpy(pred), label, torch.Size([4])), expected)
    with pytest.raises(errors.DTypeError, match=r"pred_lengths: expected real numbers"):
        rl.CTCLoss()(pred, label, torch.float32)


def test_arrays_of_jax_in_lists_are_refused():
    jnp = pytest.importorskip("jax.numpy")
    lists = [[torch.tensor(1.0)] * 3, [jnp.float32(1)] * 3]
    for args in (
        (torch.ones(3), lists[1]),
        (jnp.ones(3), lists[0]),
        lists,
        ([*lists[0], *lists[1]], np.ones(6)),
    ):
        with pytest.raises(errors.DTypeError, match=r"one framework .* jax \(\w+\) and torch"):
            rl.L2Loss()(*args)
    assert_array_equal(rl.L2Loss()(torch.ones(3), lists[0]), np.zeros(3))


class Exported:
    """What DLPack alone leads to."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_and_masks_beside_tensors():
    pred, label = torch.tensor([1.0, 2.0, 4.0], requires_grad=True), Exported(np.zeros(3))
    loss = rl.L2Loss(reduction="sum")
    loss(pred, label).backward()
    assert_array_equal(pred.grad, [1, 2, 4])
    masked = np.ma.masked_equal([0.0, 0.0, 99.0], 99.0)
    for function in (loss, torch.func.grad(loss)):
        assert function(pred.detach(), label).isfinite().all()
        with pytest.raises(errors.DTypeError, match=r"label: .* got .*[Mm]ask"):
            function(pred.detach(), masked)


# Modules.


@over_losses
def test_modules_can_be_pickled_and_copied(name):
    for loss in losses_of(name):
        module = LossModule(loss)
        for made in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
            assert made.loss == loss
            assert repr(made) == repr(module) == f"LossModule({loss!r})"
    inputs = tensors_of(loss_of(name))
    module = LossModule(loss_of(name))
    assert torch.equal(pickle.loads(pickle.dumps(module))(**inputs), module(**inputs))


# Documentation.


@pytest.mark.parametrize("name", ["rustloss.torch", "rustloss.torch._calls"])
def test_docstring_examples(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_page():
    check_page_alone(ROOT / "docs" / "torch.md")


@pytest.mark.parametrize("page", ["README.md", "docs/testing.md"])
def test_page_about_more(page):
    check_page_alone(ROOT / page, about="torch")


@pytest.mark.parametrize("reduction", ["none", "sample", "mean", "sum"])
def test_a_prediction_that_is_no_tensor(reduction):
    pred, label = np.ones((4, 3), np.float32), torch.randn(4, requires_grad=True)
    loss = rl.MultiQuantileLoss([0.2, 0.5, 0.7], reduction=reduction)
    value = torch.as_tensor(loss(pred, label))
    value.sum().backward()
    expected, grad = loss.value_and_grad(pred, label.detach().numpy(), wrt="label")
    assert_array_equal(value.detach(), expected)
    assert_allclose(label.grad, grad, rtol=ROUNDINGS[torch.float32])


@pytest.mark.parametrize("method", ["__call__", "grad"])
def test_what_negates_another_tensor_is_not_written_to(method):
    pred, label = torch.randn(4), torch.randn(4)
    out = torch.complex(torch.zeros(4), torch.zeros(4)).conj().imag
    name = "out" if method == "__call__" else "grad_out"
    with pytest.raises(errors.DTypeError, match=f"{name}: expected memory to write to"):
        getattr(rl.L2Loss(reduction="none"), method)(pred, label, **{name: out})


def test_offsets_are_given_by_name():
    pred = torch.zeros(2, 4, 3, requires_grad=True)
    labels, lengths = torch.tensor([0, 1, 0]), torch.tensor([2, 1])
    frames, offsets = torch.tensor([4, 4]), torch.tensor([0, 2, 3])
    weights, loss = torch.ones(2), rl.CTCLoss()
    value = loss(pred, labels, frames, None, weights, label_offsets=offsets)
    assert torch.equal(value, loss(pred, labels, frames, lengths, weights))
    with pytest.raises(errors.ParameterError, match="either label_lengths or label_offsets"):
        loss(pred, labels, frames, lengths, weights, label_offsets=offsets)
    with pytest.raises(errors.CallError, match="got 6 by position"):
        loss(pred, labels, frames, None, weights, offsets)
