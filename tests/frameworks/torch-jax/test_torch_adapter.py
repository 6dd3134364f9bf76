"""Losses on torch's tensors: autograd, transforms, the compiler, types and layouts."""

from __future__ import annotations

import copy
import doctest
import importlib
import pickle
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import PER_SAMPLE, losses_of, over_losses, remade
from rustloss import errors
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import differentiable, spec_of
from test_docs import ROOT, check_page

torch = pytest.importorskip("torch")

from rustloss.torch import LossModule, apply, call  # noqa: E402
from rustloss.torch._arrays import to_numpy, to_tensor  # noqa: E402
from rustloss.torch._op import parse, traits  # noqa: E402

# Of torch's own making, the first time that forward mode is used.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")

SHAPES = {"pairwise": (3, 2), "sequence": (2, 5, 3)}
REDUCTIONS = ["none", "sample", "mean"]
METHODS = ["__call__", "value_and_grad", "grad", "grad_hess"]

# The last product is torch's where ours is part of the loss: one rounding more.
ROUNDINGS = {torch.float64: 4 * 2.0**-52, torch.float32: 4 * 2.0**-23}
#: Of a loss that is computed in another order.
FLOAT64 = 1e-12

over_reductions = pytest.mark.parametrize("reduction", REDUCTIONS)


def loss_of(name: str, reduction: str = "sample") -> rl.Loss:
    loss: rl.Loss = spec_of(name).cls(reduction=reduction)
    return loss


def arrays_of(loss: rl.Loss, *, weighted: bool = False, dtype: Any = np.float64) -> dict[str, Any]:
    """Return inputs away from kinks, the same for the same loss."""
    spec = spec_of(loss)
    values = Values(zlib.crc32(spec.name.encode()), smooth=True)
    optional = ["sample_weight"] if weighted else []
    return inputs_of(loss, SHAPES.get(spec.family, (3, 4)), values, optional=optional, dtype=dtype)


def tensors_of(loss: rl.Loss, **options: Any) -> dict[str, Any]:
    return {name: torch.tensor(x) for name, x in arrays_of(loss, **options).items()}


def function_of(loss: rl.Loss, inputs: dict[str, Any]) -> tuple[Callable[..., Any], list[Any]]:
    """Return the loss as a function of what has a gradient by default, and that."""
    module = LossModule(loss)
    names = [i.name for i in spec_of(loss).inputs if i.gradient == "Default"]

    def function(*tensors: Any) -> Any:
        return module(**{**inputs, **dict(zip(names, tensors, strict=True))})

    return function, [inputs[name].requires_grad_() for name in names]


def of_first(loss: rl.Loss, inputs: dict[str, Any]) -> tuple[Callable[[Any], Any], Any]:
    """Return the loss as a function of its first input, and that."""
    module, first = LossModule(loss), spec_of(loss).inputs[0].name
    return lambda x: module(**{**inputs, first: x}), inputs[first]


def has_second_order(loss: rl.Loss) -> bool:
    """Whether the whole second derivative is known: elements apart, or all of it zero."""
    kind = loss.signature(**arrays_of(loss)).hess
    return kind == "zero" or (kind == "diagonal" and spec_of(loss).family == "elementwise")


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


# First and second derivatives.


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


# The compiler.


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
        (lambda x: x.to("meta"), r"cpu\(\)"),
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
    check_page(ROOT / "docs" / "torch.md")
