"""The modules and functions that torch has too: the same calls of both, in double precision."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frameworks.parity import FLOAT64, Draw
from rustloss import errors

torch = pytest.importorskip("torch")

import rustloss.torch.functional as ours_functional  # noqa: E402
import rustloss.torch.nn as ours_nn  # noqa: E402

REDUCTIONS = ["none", "mean", "sum"]
#: Torch's samples reach far: losses of 100, log-probabilities that are positive.
SAMPLES = 1e-9

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")

Call = tuple[dict[str, Any], list[Any]]


def tensor(x: Any) -> Any:
    return torch.tensor(np.asarray(x))


def pair(draw: Draw, low: float = -4, high: float = 4) -> list[Any]:
    shape = draw.shape(0, 3)
    return [draw.numbers(shape, low, high), draw.numbers(shape, low, high)]


def signed(draw: Draw, low: float = -4, high: float = 4) -> list[Any]:
    shape = draw.shape(0, 3)
    return [draw.numbers(shape, low, high), draw.signs(shape)]


def regression(**options: Any) -> Callable[[Draw], Call]:
    return lambda draw: ({k: draw.pick(*choices) for k, choices in options.items()}, pair(draw))


def bce(draw: Draw) -> Call:
    shape = draw.shape(1, 3)
    weight = draw.pick(None, draw.numbers(shape[-1:], 0, 2), draw.numbers(shape, 0, 2))
    pred = draw.numbers(shape, 0.125, 0.875)
    ends = draw.pick([0.0, 1.0], [1e-15, 1e-60])
    pred = np.where(draw.random.random(shape) < 0.2, draw.random.choice(ends, shape), pred)
    return {"weight": weight}, [pred, draw.numbers(shape, 0, 1)]


def bce_with_logits(draw: Draw) -> Call:
    options, (_, label) = bce(draw)
    options["pos_weight"] = draw.pick(None, draw.numbers(label.shape[-1:], 0, 3))
    return options, [draw.numbers(label.shape, -8, 8), label]


def classes(draw: Draw) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Draw shapes of prediction and label, classes on axis 1 or alone, and weights of classes."""
    count = draw.size(2, 5)
    shape: tuple[int, ...] = (count,)
    rows: tuple[int, ...] = ()
    if draw.pick(False, True, True):
        batch, more = draw.size(), draw.shape(0, 2)
        shape, rows = (batch, count, *more), (batch, *more)
    return shape, rows, {"weight": draw.pick(None, draw.numbers((count,), 0.125, 2))}


def indices(draw: Draw, count: int, rows: tuple[int, ...], options: dict[str, Any]) -> Any:
    label = draw.random.integers(0, count, rows)
    options["ignore_index"] = draw.pick(-100, -1, count)
    off = draw.random.random(rows) < 0.3
    if not off.all():  # where torch's mean is NaN
        label = np.where(off, options["ignore_index"], label)
    return label


def cross_entropy(draw: Draw) -> Call:
    shape, rows, options = classes(draw)
    axis = 1 if rows else 0
    options["label_smoothing"] = draw.pick(0.0, 0.125)
    pred = draw.numbers(shape, -8, 8)
    if draw.pick(False, True):
        return options, [pred, draw.probabilities(shape, axis)]
    return options, [pred, indices(draw, shape[axis], rows, options)]


def nll(draw: Draw) -> Call:
    shape, rows, options = classes(draw)
    label = indices(draw, shape[1 if rows else 0], rows, options)
    return options, [draw.numbers(shape, -8, 0), label]


def kl(draw: Draw) -> Call:
    shape, log_target = draw.shape(0, 3), draw.pick(False, True)
    label = draw.numbers(shape, -4, 0) if log_target else draw.numbers(shape, 0.125, 1)
    return {"log_target": log_target}, [draw.numbers(shape, -4, 0), label]


def poisson(draw: Draw) -> Call:
    shape, log_input = draw.shape(0, 3), draw.pick(True, False)
    options = {"log_input": log_input, "full": draw.pick(False, True), "eps": draw.pick(1e-8, 0.5)}
    pred = draw.numbers(shape, *(-4, 2) if log_input else (0.125, 4))
    return options, [pred, draw.random.integers(2, 6, shape) * 1.0]


def gaussian(draw: Draw) -> Call:
    shape = draw.shape(1, 3)
    axis = draw.size(0, len(shape) - 1)
    narrow = draw.pick(shape, shape[:-1], (*shape[:axis], 1, *shape[axis + 1 :]))
    options = {"full": draw.pick(False, True), "eps": draw.pick(1e-6, 0.0625, 0.25)}
    arrays = [draw.numbers(shape), draw.numbers(shape), draw.numbers(narrow, 0.125, 4)]
    return options, arrays


def hinge_embedding(draw: Draw) -> Call:
    return {"margin": draw.pick(1.0, 0.5)}, signed(draw, 0, 4)


def ranking(draw: Draw) -> Call:
    first, second = pair(draw)
    return {"margin": draw.pick(0.0, 0.3137)}, [first, second, draw.signs(first.shape)]


def cosine(draw: Draw) -> Call:
    shape = (*draw.pick((), (draw.size(),)), draw.size(2))
    vectors = [draw.signs(shape) * draw.numbers(shape, 0.125, 4) for _ in range(2)]
    return {"margin": draw.pick(0.0, 0.3137, -0.2718)}, [*vectors, draw.signs(shape[:-1])]


def multi_margin(draw: Draw) -> Call:
    rows = draw.pick((), (draw.size(),))
    count = draw.size(1, 5)
    options = {
        "p": draw.pick(1, 2),
        "margin": draw.pick(1.0, 0.5),
        "weight": draw.pick(None, draw.numbers((count,), 0.125, 2)),
    }
    return options, [draw.numbers((*rows, count)), draw.random.integers(0, count, rows)]


def multilabel_margin(draw: Draw) -> Call:
    rows, count = draw.pick((), (draw.size(),)), draw.size(1, 5)
    order = np.argsort(draw.random.random((*rows, count)), axis=-1)
    kept = draw.random.integers(0, count + 1, (*rows, 1))
    return {}, [draw.numbers((*rows, count)), np.where(np.arange(count) < kept, order, -1)]


def multilabel_soft_margin(draw: Draw) -> Call:
    shape = draw.shape(1, 3)
    weight = draw.pick(None, draw.numbers(shape[-1:], 0, 2))
    return {"weight": weight}, [draw.numbers(shape, -8, 8), draw.numbers(shape, 0, 1)]


def triplet(draw: Draw) -> Call:
    shape = (*draw.pick((), (draw.size(),)), draw.size())
    options = {"margin": draw.pick(1.0, 0.3137), "swap": draw.pick(False, True)}
    draw.on_grid = False  # where two distances are equal both may have the gradient
    return options, [draw.numbers(shape) for _ in range(3)]


def triplet_of_norm(draw: Draw) -> Call:
    options, arrays = triplet(draw)
    return {**options, "p": draw.pick(1, 2, 2.0, 3), "eps": draw.pick(1e-6, 0.125)}, arrays


def triplet_of_distance(draw: Draw) -> Call:
    options, arrays = triplet(draw)
    options["distance_function"] = draw.pick(None, squared_distance)
    return options, arrays


def squared_distance(x: Any, y: Any) -> Any:
    return ((x - y) ** 2).sum(-1)


def ctc(draw: Draw) -> Call:
    samples, count, width = draw.size(), draw.size(2, 5), draw.size()
    frames, blank = 2 * width + draw.size(), draw.size(0, count - 1)
    label = draw.random.integers(0, count - 1, (samples, width))
    label += label >= blank
    lengths = draw.random.integers(1, width + 1, samples)
    if draw.pick(False, True):  # one sequence behind another
        label = np.concatenate([row[:n] for row, n in zip(label, lengths, strict=True)])
    pred = draw.numbers((frames, samples, count))
    pred -= np.log(np.exp(pred).sum(-1, keepdims=True))
    options = {"blank": blank, "zero_infinity": draw.pick(False, True)}
    return options, [pred, label, np.full(samples, frames), lengths]


DRAWS: dict[str, Callable[[Draw], Call]] = {
    "L1Loss": regression(),
    "MSELoss": regression(),
    "SmoothL1Loss": regression(beta=(0.0, 0.5, 1.0, 2.0)),
    "HuberLoss": regression(delta=(0.5, 1.0, 2.0)),
    "BCELoss": bce,
    "BCEWithLogitsLoss": bce_with_logits,
    "CrossEntropyLoss": cross_entropy,
    "NLLLoss": nll,
    "KLDivLoss": kl,
    "PoissonNLLLoss": poisson,
    "GaussianNLLLoss": gaussian,
    "HingeEmbeddingLoss": hinge_embedding,
    "SoftMarginLoss": lambda draw: ({}, signed(draw)),
    "CosineEmbeddingLoss": cosine,
    "MarginRankingLoss": ranking,
    "MultiMarginLoss": multi_margin,
    "MultiLabelMarginLoss": multilabel_margin,
    "MultiLabelSoftMarginLoss": multilabel_soft_margin,
    "TripletMarginLoss": triplet_of_norm,
    "TripletMarginWithDistanceLoss": triplet_of_distance,
    "CTCLoss": ctc,
}
#: Labels that are signs, which come last and have no gradient.
SIGNED = {"HingeEmbeddingLoss", "SoftMarginLoss", "CosineEmbeddingLoss", "MarginRankingLoss"}

over_modules = pytest.mark.parametrize("name", ours_nn.__all__)


def test_every_loss_module_of_torch_is_here():
    modules = inspect.getmembers(torch.nn, inspect.isclass)
    losses = {name for name, cls in modules if issubclass(cls, torch.nn.modules.loss._Loss)}
    # The one has a matrix product in it, the other is an old name.
    losses -= {"LinearCrossEntropyLoss", "NLLLoss2d"}
    assert losses | {"TripletMarginWithDistanceLoss"} == set(ours_nn.__all__) == DRAWS.keys()


@over_modules
def test_arguments_are_those_of_torch(name):
    ours, theirs = getattr(ours_nn, name), getattr(torch.nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert [*inspect.signature(ours.forward).parameters] == [
        *inspect.signature(theirs.forward).parameters
    ]


@pytest.mark.parametrize("name", ours_functional.__all__)
def test_arguments_of_functions_are_those_of_torch(name):
    ours, theirs = (
        [(p.name, p.default, p.kind) for p in inspect.signature(f).parameters.values()]
        for f in (getattr(ours_functional, name), getattr(torch.nn.functional, name))
    )
    assert ours == theirs


def compare(made: list[Any], arrays: list[Any], needing: list[int], tolerance: float) -> None:
    """Assert that two modules give the same values and gradients of some arguments."""
    results = []
    for module in made:
        tensors = [x.detach().clone() for x in arrays]
        leaves = [tensors[i].requires_grad_() for i in needing]
        value = module(*tensors)
        upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype).reshape(value.shape)
        results.append((value, *torch.autograd.grad(value, leaves, upstream)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def of_torch(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tensor(x) if isinstance(x, np.ndarray) else x for k, x in options.items()}


@over_modules
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_agrees(name: str, data: st.DataObject) -> None:
    draw = Draw(data)
    options, arrays = DRAWS[name](draw)
    reductions = [*REDUCTIONS, "batchmean"] if name == "KLDivLoss" else REDUCTIONS
    options = {**of_torch(options), "reduction": draw.pick(*reductions)}
    tensors = [tensor(x) for x in arrays]
    needing = [i for i, x in enumerate(tensors) if x.is_floating_point()]
    if name in SIGNED:
        needing.pop()
    made = [getattr(module, name)(**options) for module in (ours_nn, torch.nn)]
    compare(made, tensors, needing, FLOAT64)


def samples() -> dict[str, list[Any]]:
    """Return, for each module, torch's own constructor arguments and inputs of it."""
    common = pytest.importorskip("torch.testing._internal.common_modules")
    options = {"dtype": torch.float64, "requires_grad": True, "training": True}
    # torch draws labels, of which there are seeds that leave none to take a mean of.
    torch.manual_seed(1)
    return {
        info.module_cls.__name__: info.module_inputs_func(info, device="cpu", **options)
        for info in common.module_db
        if info.module_cls.__name__ in ours_nn.__all__
    }


def test_agrees_on_the_samples_of_torch():
    seen = 0
    for name, calls in samples().items():
        for sample in calls:
            seen += 1
            args, options = sample.constructor_input.args, dict(sample.constructor_input.kwargs)
            if isinstance(options.get("weight"), torch.Tensor):
                options["weight"] = options["weight"].abs()  # ours are not negative
            made = [getattr(m, name)(*args, **options) for m in (ours_nn, torch.nn)]
            arrays = [torch.as_tensor(x) for x in sample.forward_input.args]
            needing = [i for i, x in enumerate(arrays) if x.requires_grad]
            compare(made, arrays, needing, SAMPLES)
    assert seen > 200


@pytest.mark.slow
def test_all_compile_as_one_graph():
    for name, (sample, *_) in samples().items():
        module = getattr(ours_nn, name)()
        torch._dynamo.reset()
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        inputs = [torch.as_tensor(x).detach() for x in sample.forward_input.args]
        found, expected = (f(*inputs) for f in (compiled, module))
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@over_modules
@pytest.mark.parametrize(("size_average", "reduce"), [(False, None), (None, False), (True, True)])
@pytest.mark.filterwarnings("ignore:size_average and reduce")
def test_deprecated_arguments(name, size_average, reduce):
    cls = getattr(ours_nn, name)
    if "size_average" not in inspect.signature(cls).parameters:
        pytest.skip("torch never had them here")
    made = cls(size_average=size_average, reduce=reduce)
    expected = getattr(torch.nn, name)(size_average=size_average, reduce=reduce)
    assert made.reduction == expected.reduction


@pytest.mark.parametrize("name", ours_functional.__all__)
def test_a_reduction_that_is_none_of_torch_is_refused(name):
    function = getattr(ours_functional, name)
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    with pytest.raises(ValueError, match="median is not a valid value for reduction"):
        function(*[torch.zeros(2, 2)] * len(required), reduction="median")


@over_modules
def test_modules_can_be_pickled(name):
    module = getattr(ours_nn, name)()
    made = pickle.loads(pickle.dumps(module))
    assert repr(made) == repr(module) == repr(getattr(torch.nn, name)())
    assert made.state_dict().keys() == getattr(torch.nn, name)().state_dict().keys()


def test_weights_of_classes_are_state():
    module = ours_nn.CrossEntropyLoss(torch.ones(3))
    module.load_state_dict({"weight": torch.tensor([1.0, 2.0, 4.0])})
    pred, label = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 0])
    expected = torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 4.0]))(pred, label)
    torch.testing.assert_close(module(pred, label), expected)


WRONG = {
    "a class that is not there": (
        "CrossEntropyLoss",
        {},
        [torch.zeros(2, 3), torch.tensor([0, 3])],
    ),
    "a label too few": ("CrossEntropyLoss", {}, [torch.zeros(2, 3), torch.tensor([0])]),
    "weights too few": (
        "CrossEntropyLoss",
        {"weight": torch.ones(2)},
        [torch.zeros(2, 3), torch.tensor([0, 1])],
    ),
    "no probability": ("BCELoss", {}, [torch.full((2,), 1.5), torch.ones(2)]),
    "a negative variance": (
        "GaussianNLLLoss",
        {},
        [torch.ones(3), torch.ones(3), -torch.ones(3)],
    ),
    "two sizes of probabilities": ("BCELoss", {}, [torch.ones(2), torch.ones(3)]),
    "two sizes of logits": ("BCEWithLogitsLoss", {}, [torch.ones(2), torch.ones(3)]),
    "two sizes of vectors": (
        "CosineEmbeddingLoss",
        {},
        [torch.ones(2, 3), torch.ones(2, 4), torch.ones(2)],
    ),
    "two ranks": ("MarginRankingLoss", {}, [torch.ones(2), torch.ones(2, 1), torch.ones(2)]),
    "a length too long": (
        "CTCLoss",
        {},
        [torch.zeros(3, 1, 2), torch.ones(1, 1), torch.tensor([4]), torch.tensor([1])],
    ),
    "no delta": ("HuberLoss", {"delta": 0.0}, [torch.ones(2), torch.ones(2)]),
    "no margin": ("TripletMarginLoss", {"margin": 0.0}, [torch.ones(2, 3)] * 3),
    "variances of another size": (
        "GaussianNLLLoss",
        {},
        [torch.ones(4, 3), torch.ones(4, 3), torch.ones(4, 2)],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_errors_are_of_classes_of_torch(what):
    name, options, tensors = WRONG[what]
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        getattr(torch.nn, name)(**options)(*tensors)
    with pytest.raises(theirs.type):
        getattr(ours_nn, name)(**options)(*tensors)


def test_errors_are_of_classes_of_ours_and_can_be_pickled():
    with pytest.raises(errors.LabelError) as caught:
        ours_functional.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    again = pickle.loads(pickle.dumps(caught.value))
    assert (type(again), again.argument, again.index) == (type(caught.value), "target", (1,))


def test_sizes_that_differ_are_broadcast_with_a_warning():
    pred = torch.ones(2, 3, requires_grad=True)
    with pytest.warns(UserWarning, match="broadcast"):
        value = ours_functional.mse_loss(pred, torch.zeros(3))
    assert value.item() == 1


@pytest.mark.parametrize("name", ["MSELoss", "BCEWithLogitsLoss", "CrossEntropyLoss"])
def test_compiles_as_one_graph(name):
    module = getattr(ours_nn, name)()
    x = torch.rand(4, 3, requires_grad=True)
    label = torch.tensor([0, 1, 2, 1]) if name == "CrossEntropyLoss" else torch.rand(4, 3)
    torch._dynamo.reset()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, label), module(x, label))
    grads = [torch.autograd.grad(f(x, label), x)[0] for f in (compiled, module)]
    assert torch.equal(*grads)


def test_trains_as_the_module_of_torch_does():
    data, label = torch.randn(64, 5), torch.arange(64) % 3
    losses = []
    for criterion in (ours_nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss()):
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3).double()
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
        for _ in range(20):
            optimizer.zero_grad()
            loss = criterion(layer(data.double()), label)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=FLOAT64)
