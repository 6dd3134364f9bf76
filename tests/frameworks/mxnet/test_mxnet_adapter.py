"""Losses on MXNet's arrays, under MXNet's autograd, in Gluon's ways of use."""

from __future__ import annotations

import doctest
import gc
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss.testing import example
from rustloss.testing._registry import differentiable, spec_of, specs

mx = pytest.importorskip("mxnet")
autograd, gluon, nd = mx.autograd, mx.gluon, mx.nd

from rustloss import mxnet as adapter  # noqa: E402  # needs MXNet

TRAINED = 1e-5
"""Relative: float32 rounding, through some steps of training."""

over_losses = pytest.mark.parametrize("name", list(specs()))
over_kinds = pytest.mark.parametrize("kind", ["nd", "np"])


def native(kind: str, array: Any) -> Any:
    make = nd.array if kind == "nd" else mx.np.array
    return make(array, dtype=np.asarray(array).dtype)


def of_kind(kind: str, array: Any) -> bool:
    return isinstance(array, mx.np.ndarray) == (kind == "np") and isinstance(array, nd.NDArray)


def arguments(loss: rl.Loss, dtype: Any = np.float32) -> dict[str, Any]:
    """Return valid arrays for all inputs of a loss that can be given together."""
    optional = [i.name for i in spec_of(loss).inputs if i.domain not in {"Offsets", "Scalar"}]
    return example(loss, optional=optional, dtype=dtype)


def tensors(kind: str, arrays: dict[str, Any], wanted: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return MXNet's arrays, with gradients for those that are wanted."""
    made = {name: native(kind, array) for name, array in arrays.items()}
    for name in wanted:
        made[name].attach_grad()
    return made


@over_losses
@over_kinds
@pytest.mark.parametrize("reduction", ["none", "sample", "mean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_records_value_and_gradient(name, kind, reduction, dtype):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = arguments(loss, dtype)
    wanted = differentiable(loss, arrays)
    given = tensors(kind, arrays, wanted)
    with autograd.record():
        value = loss(**given)
        assert of_kind(kind, value)
        arriving = np.random.default_rng(0).normal(size=value.shape).astype(value.dtype)
        # What arrives is not all ones.
        total = value * native(kind, arriving)
    total.backward()
    shape = np.shape(loss(**arrays))
    expected, grads = loss.value_and_grad(**arrays, wrt=wanted, grad_output=arriving.reshape(shape))
    assert_array_equal(value.asnumpy().reshape(shape), expected)
    for key, grad in zip(wanted, grads, strict=True):
        assert_array_equal(given[key].grad.asnumpy(), grad.astype(given[key].dtype), key)


@over_losses
@over_kinds
def test_methods_return_its_arrays(name, kind):
    loss = getattr(rl, name)()
    arrays = arguments(loss)
    given = tensors(kind, arrays)
    methods = ["value_and_grad", "grad", *(["grad_hess"] if spec_of(loss).hess else [])]
    for method in methods:
        results = flat(getattr(loss, method)(**given))
        expected = flat(getattr(loss, method)(**arrays))
        for result, numbers in zip(results, expected, strict=True):
            assert of_kind(kind, result)
            assert_array_equal(result.asnumpy(), numbers)


def flat(results: Any) -> list[Any]:
    return [x for part in results for x in flat(part)] if isinstance(results, tuple) else [results]


def test_inputs_are_not_copied():
    array = nd.arange(6).reshape((2, 3))
    there = adapter.view("pred", array)
    array[0, 1] = 7
    array.wait_to_read()
    assert_array_equal(there, [[0, 7, 2], [3, 4, 5]])
    del array
    gc.collect()
    assert_array_equal(there, [[0, 7, 2], [3, 4, 5]])


def test_results_are_not_copied(monkeypatch):
    given = []
    from_numpy = nd.from_numpy

    def watched(array, **options):
        given.append(array)
        return from_numpy(array, **options)

    monkeypatch.setattr(nd, "from_numpy", watched)
    result = rl.L2Loss(reduction="none")(nd.ones((2, 3)), nd.zeros((2, 3)))
    assert adapter.view("result", result).ctypes.data == given[0].ctypes.data


def test_docstring_examples():
    assert doctest.testmod(adapter).failed == 0


# The tutorial of Gluon's losses: every call of it beside Gluon's own class.

GRID = np.arange(-5, 5, 0.1, dtype=np.float32)
ONES, ZEROS = np.ones_like(GRID), np.zeros_like(GRID)
KL_OUTPUT = np.array([[0.39056206, 1.3068528, 0.39056206, -0.30258512]], np.float32)
RANDOM = np.random.default_rng(1)
TRIPLET = tuple(RANDOM.normal(size=(4, 3)).astype(np.float32) for _ in range(3))
TUTORIAL: dict[str, tuple[str, dict[str, Any], tuple[Any, ...]]] = {
    "basic": ("L2Loss", {}, (np.ones(2, "f"), 2 * np.ones(2, "f"))),
    "weighted": ("L2Loss", {}, (np.ones(2, "f"), 2 * np.ones(2, "f"), np.array([1, 2], "f"))),
    "L1": ("L1Loss", {}, (GRID, ZEROS)),
    "L2": ("L2Loss", {}, (GRID, ZEROS)),
    "Huber": ("HuberLoss", {"rho": 1}, (GRID, ZEROS)),
    "SigmoidBCE": ("SigmoidBinaryCrossEntropyLoss", {}, (GRID + 0.05, ONES)),
    "Hinge": ("HingeLoss", {}, (GRID, ONES)),
    "Logistic": ("LogisticLoss", {}, (GRID + 0.05, ONES)),
    "SoftmaxCE": (
        "SoftmaxCrossEntropyLoss",
        {},
        (np.array([[1, 10], [8, 2]], "f"), np.array([0, 1], "f")),
    ),
    "Triplet": ("TripletLoss", {}, TRIPLET),
    "PoissonNLL": ("PoissonNLLLoss", {"from_logits": False}, (GRID[60:, None], ONES[60:, None])),
    "CTC": (
        "CTCLoss",
        {},
        (RANDOM.normal(size=(2, 5, 4)).astype("f"), np.array([[0, 1], [2, -1]], "f")),
    ),
}
BY_FORMULA: dict[str, tuple[rl.Loss, tuple[Any, ...], list[float]]] = {
    # Gluon 1.9 has the sum over classes, and one mean over the whole batch.
    "KLDiv": (rl.KLDivLoss(from_logits=False), (KL_OUTPUT, [[0.3, 0.4, 0.1, 0.2]]), [0.0254239]),
    "alike": (rl.CosineEmbeddingLoss(), ([[1, 0, 1, 0, 1, 0]], [[1, 0, 1, 0, 1, 0]], [1]), [0]),
    "unlike": (rl.CosineEmbeddingLoss(), ([[1, 0, 1, 0, 1, 0]], [[0, 1, 0, 1, 0, 1]], [-1]), [0]),
}


@over_kinds
@pytest.mark.parametrize("topic", TUTORIAL)
def test_tutorial_call_is_as_gluon(topic, kind):
    name, params, arrays = TUTORIAL[topic]
    slopes = []
    for loss in (getattr(gluon.loss, name)(**params), getattr(rl, name)(**params)):
        loss.initialize()
        loss.hybridize()
        # Gluon takes the one kind everywhere, and the other only in its own mode.
        as_own = kind if isinstance(loss, rl.Loss) else "nd"
        given = [native(as_own, x) for x in arrays]
        given[0].attach_grad()
        with autograd.record():
            value = loss(*given)
        value.backward()
        slopes.append((value.asnumpy().reshape(-1), given[0].grad.asnumpy()))
    if name == "PoissonNLLLoss":  # Gluon 1.9 gives one mean of the batch, 2.0 one per sample.
        assert_allclose(slopes[1][0].mean(), slopes[0][0][0], rtol=TRAINED)
        assert_allclose(slopes[1][1] / len(GRID[60:]), slopes[0][1], rtol=TRAINED, atol=1e-7)
        return
    assert of_kind(kind, value)
    for ours, theirs in zip(slopes[1], slopes[0], strict=True):
        assert_allclose(ours, theirs, rtol=TRAINED, atol=1e-6)


@pytest.mark.parametrize("topic", BY_FORMULA)
def test_tutorial_number(topic):
    loss, arrays, expected = BY_FORMULA[topic]
    value = loss(*(nd.array(x) for x in arrays))
    assert_allclose(value.asnumpy(), expected, atol=1e-6)


def test_dense_net_of_the_tutorial():
    net = gluon.nn.Dense(1)
    net.initialize()
    X, y = nd.random.uniform(shape=(2, 4)), nd.array([2, 2])
    with autograd.record():
        output = net(X)
        value = rl.L2Loss()(output, y)
    value.backward()
    slope = (output.asnumpy()[:, 0] - 2) @ X.asnumpy()
    assert_allclose(net.weight.grad().asnumpy()[0], slope, rtol=TRAINED)


def trained(loss: Any, steps: int = 20) -> list[float]:
    """Return the losses of a training of two layers from a fixed start."""
    random = np.random.default_rng(2)
    X = nd.array(random.normal(size=(32, 6)))
    y = nd.array(random.integers(0, 3, 32))
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(8, activation="relu", in_units=6), gluon.nn.Dense(3, in_units=8))
    net.initialize()
    for parameter in net.collect_params().values():
        parameter.set_data(nd.array(random.normal(size=parameter.shape) / 2))
    net.hybridize()
    trainer = gluon.Trainer(net.collect_params(), "sgd", {"learning_rate": 0.5})
    history = []
    for _ in range(steps):
        with autograd.record():
            value = loss(net(X), y)
        value.backward()
        trainer.step(len(X))
        history.append(float(value.mean().asscalar()))
    return history


def test_trains_as_gluon_does():
    ours = trained(rl.SoftmaxCrossEntropyLoss())
    assert_allclose(ours, trained(gluon.loss.SoftmaxCrossEntropyLoss()), rtol=TRAINED)
    assert ours[-1] < 0.7 * ours[0]


def test_estimator_trains_a_block():
    random = np.random.default_rng(3)
    X, y = random.normal(size=(16, 4)).astype("f"), random.integers(0, 2, 16)
    data = gluon.data.DataLoader(gluon.data.ArrayDataset(X, y), batch_size=8)
    net = gluon.nn.Dense(2, in_units=4)
    net.initialize()
    before = net.weight.data().copy()
    block = adapter.LossBlock(rl.SoftmaxCrossEntropyLoss())
    assert isinstance(block, gluon.loss.Loss)
    trainer = gluon.Trainer(net.collect_params(), "sgd")
    estimator = gluon.contrib.estimator.Estimator(
        net, loss=block, trainer=trainer, context=mx.cpu()
    )
    estimator.fit(data, epochs=1)
    assert (net.weight.data() != before).sum().asscalar() > 0
    assert repr(block) == "LossBlock(SoftmaxCrossEntropyLoss())"


# What autograd's own Function would get wrong.


def test_adds_to_a_gradient_that_is_there():
    x = nd.array([1.0, 2.0])
    x.attach_grad("add")
    for _ in range(2):
        with autograd.record():
            value = rl.L2Loss()(x, nd.zeros(2))
        value.backward()
    assert_array_equal(x.grad.asnumpy(), [2, 4])


def test_one_array_in_two_places():
    x = nd.array([[1.0, 2.0]])
    x.attach_grad()
    with autograd.record():
        value = rl.L2Loss(reduction="sum")(x, 0.5 * x) + rl.L1Loss(reduction="sum")(
            x, nd.zeros_like(x)
        )
    value.backward()
    assert_array_equal(x.grad.asnumpy(), 0.25 * np.array([[1.0, 2.0]]) + 1)


@pytest.mark.parametrize("wanted", ["pred", "positive", "negative"])
def test_gradient_by_one_of_several_inputs(wanted):
    loss = rl.TripletLoss()
    arrays = dict(zip(("pred", "positive", "negative"), TRIPLET, strict=True))
    given = tensors("nd", arrays, tuple(arrays))
    with autograd.record():
        value = loss(**given)
    (grad,) = autograd.grad(value, [given[wanted]])
    assert_array_equal(grad.asnumpy(), loss.grad(**arrays, wrt=wanted))


def test_labels_of_another_precision():
    pred, label = nd.array([1.0, 2.0]), nd.array([0.0, 0.5], dtype="float64")
    pred.attach_grad()
    label.attach_grad()
    with autograd.record():
        value = rl.L2Loss()(pred, label)
    value.backward()
    assert label.grad.dtype == np.float64
    assert_array_equal(label.grad.asnumpy(), [-1.0, -1.5])


def test_class_labels_have_no_slope():
    pred, label = nd.array([[1.0, 2.0]]), nd.array([1])
    pred.attach_grad()
    label.attach_grad()
    with autograd.record():
        value = rl.SoftmaxCrossEntropyLoss()(pred, label)
    value.backward()
    assert_array_equal(label.grad.asnumpy(), [0])


def test_nothing_is_recorded_without_a_need():
    with autograd.record():
        value = rl.L2Loss()(nd.ones(2), nd.zeros(2))
    with pytest.raises(mx.MXNetError):
        value.backward()


def test_weights_have_no_gradient():
    weight = nd.ones(2)
    weight.attach_grad()
    with autograd.record(), pytest.raises(rl.errors.ParameterError, match=r"sample_weight\.detach"):
        rl.L2Loss()(nd.ones(2), nd.zeros(2), weight)


def test_second_derivative_is_refused():
    x = nd.ones(2)
    x.attach_grad()
    with autograd.record():
        value = rl.L2Loss()(x, nd.zeros(2))
        with pytest.raises(mx.MXNetError):
            autograd.grad(value, [x], create_graph=True)[0].backward()


# Other arguments.


def test_numpy_and_numbers_beside():
    pred = nd.array([1.0, 3.0])
    loss: Any = rl.L2Loss()
    for label in (np.ones(2, "f"), [1, 1]):
        assert_array_equal(loss(pred, label).asnumpy(), [0, 2])
        assert_array_equal(loss(label, pred, nd.array([1, 0.5])).asnumpy(), [0, 1])
    _, grad = rl.L2Loss().value_and_grad(pred, np.ones(2), grad_output=nd.array([1, 2]))
    assert_array_equal(grad.asnumpy(), [0, 4])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "int8", "bool"])
def test_integers(dtype):
    pred = nd.array([[1.0, 3.0], [2.0, 0.0]])
    label = nd.array([1, 0]).astype(dtype)
    expected = rl.SoftmaxCrossEntropyLoss()(pred.asnumpy(), [1, 0])
    assert_array_equal(rl.SoftmaxCrossEntropyLoss()(pred, label).asnumpy(), expected)


@over_kinds
def test_no_samples(kind):
    value = rl.L2Loss()(native(kind, np.empty((0, 3), "f")), native(kind, np.empty((0, 3), "f")))
    assert value.shape == (0,)


def test_shape_of_one_number():
    pred, label = mx.np.array([1.0, 3.0]), mx.np.array([1.0, 1.0])
    loss = rl.L2Loss(reduction="mean")
    assert loss(pred, label).shape == (1,)
    with mx.util.np_shape(True):
        assert loss(pred, label).shape == ()


@pytest.mark.parametrize("module", [nd, mx.np])
def test_results_have_the_context_of_the_prediction(module):
    context = mx.cpu(1)
    pred, label = (module.array(x, ctx=context) for x in ([1.0, 3.0], [0.0, 1.0]))
    pred.attach_grad()
    gluons = [gluon.loss.L2Loss()] if module is nd else []
    for kind in (rl.L2Loss(), *gluons):
        with autograd.record():
            value = kind(pred * 1, label) + label
        value.backward()
        assert value.ctx == pred.grad.ctx == context
        assert_array_equal(pred.grad.asnumpy(), [1.0, 2.0])
    assert [x.ctx for x in rl.L2Loss().value_and_grad(pred, label)] == [context, context]


def test_inputs_are_read_again_by_backward():
    """As those of MXNet's own operators are, and as its page says."""
    pred = nd.array([1.0, 3.0])
    pred.attach_grad()

    def slope(function: Any, keep: Any) -> Any:
        label = nd.array([0.5, 1.0])
        with autograd.record():
            value = function(pred, keep(label))
        label[:] = 0
        value.backward()
        return pred.grad.asnumpy()

    assert_array_equal(slope(lambda x, y: x * y, lambda y: y), [0.0, 0.0])
    assert_array_equal(slope(rl.L2Loss(), lambda y: y), [1.0, 3.0])
    assert_array_equal(slope(rl.L2Loss(), lambda y: y.copy()), [0.5, 2.0])


def test_errors_keep_their_class():
    pred = nd.array([[1.0, 3.0], [2.0, 0.0]])
    pred.attach_grad()
    with autograd.record(), pytest.raises(rl.errors.LabelError, match=r"label\[1\]"):
        rl.SoftmaxCrossEntropyLoss()(pred, nd.array([0, 2]))
    assert not autograd.is_recording()


@pytest.mark.parametrize(
    ("array", "remedy"),
    [
        (lambda: mx.sym.var("x"), "outside of hybrid_forward"),
        (lambda: gluon.Parameter("weight", shape=(2, 3)), "what the network returns"),
        (lambda: nd.ones((2, 3)).tostype("csr"), "tostype"),
    ],
)
def test_what_has_no_dense_memory(array, remedy):
    with pytest.raises(rl.errors.DTypeError, match=remedy) as caught:
        rl.L2Loss()(nd.ones((2, 3)), array())
    assert caught.value.argument == "label"


def test_no_memory_for_results():
    with pytest.raises(rl.errors.OutputError, match="out: "):
        rl.L2Loss()(nd.ones(2), nd.zeros(2), out=np.empty(2, "f"))


def test_call_errors():
    with pytest.raises(rl.errors.CallError, match="at most 3"):
        rl.L2Loss()(*[nd.ones(2)] * 4)
    with pytest.raises(rl.errors.CallError, match="label: expected one value"):
        rl.L2Loss()(nd.ones(2), nd.ones(2), label=nd.ones(2))
    with pytest.raises(rl.errors.CallError, match="spam"):
        rl.L2Loss()(nd.ones(2), nd.ones(2), spam=1)
