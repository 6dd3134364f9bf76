"""Keras's losses beside ours of the same names, on the backend that KERAS_BACKEND names."""

from __future__ import annotations

import doctest
import importlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

import rustloss as rl
from frameworks.parity import FLOAT32, Draw

keras = pytest.importorskip("keras")
losses = importlib.import_module("rustloss.keras.losses")

BACKEND = keras.backend.backend()
# Keras's own formulas cancel more than ours; on other backends a Python number in one of them makes
# float32 of float64.
TOLERANCES = {"float32": FLOAT32, "float64": 1e-9 if BACKEND == "tensorflow" else FLOAT32}
TRAINED = 1e-4
"""Relative: float32 rounding, through some steps of training."""

REDUCTIONS = (None, "none", "sum", "mean", "sum_over_batch_size", "mean_with_sample_weight")

# Keras's own arrays do not know NumPy 2's way to ask for a copy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

over_names = pytest.mark.parametrize("name", losses.__all__)

Drawn = tuple[dict[str, Any], Any, Any]


# Calls: parameters, labels, predictions.


def shape(draw: Draw) -> tuple[int, ...]:
    return draw.pick((4,), (4, 1), (3, 4), (2, 3, 2))  # type: ignore[no-any-return]


def numbers(draw: Draw, shape: tuple[int, ...], low: float = -4, high: float = 4) -> Any:
    """Draw numbers that hit no kink: there each backend has a slope of its own."""
    return draw.random.uniform(low, high, shape)


def regression(draw: Draw) -> Drawn:
    size = shape(draw)
    return {}, numbers(draw, size), numbers(draw, size)


def positive(draw: Draw) -> Drawn:
    size = shape(draw)
    return {}, numbers(draw, size, 0.5, 4), numbers(draw, size, 0.5, 4)


def huber(draw: Draw) -> Drawn:
    return {"delta": draw.pick(0.5, 1.0, 2.0)}, *regression(draw)[1:]


def margin(draw: Draw) -> Drawn:
    size = shape(draw)
    signs = draw.signs(size)
    return {}, draw.pick(signs, (signs + 1) / 2), numbers(draw, size)


def one_hot(draw: Draw, size: tuple[int, ...]) -> Any:
    return np.eye(size[-1])[draw.random.integers(0, size[-1], size[:-1])]


def categorical_margin(draw: Draw) -> Drawn:
    size = draw.pick((4,), (3, 4), (2, 3, 2))
    return {}, one_hot(draw, size), numbers(draw, size)


def binary(draw: Draw) -> Drawn:
    size, from_logits = shape(draw), draw.pick(False, True)
    params = {"from_logits": from_logits, "label_smoothing": draw.pick(0.0, 0.25)}
    y_pred = numbers(draw, size) if from_logits else numbers(draw, size, 0.01, 0.99)
    return params, draw.random.integers(0, 2, size).astype(float), y_pred


def classes(draw: Draw) -> tuple[dict[str, Any], tuple[int, ...], Any]:
    size, from_logits = draw.pick((4,), (3, 4), (2, 3, 2)), draw.pick(False, True)
    y_pred = numbers(draw, size)
    if not from_logits:
        y_pred = np.exp(y_pred) / np.exp(y_pred).sum(-1, keepdims=True)
    return {"from_logits": from_logits}, size, y_pred


def distribution(draw: Draw, size: tuple[int, ...]) -> Any:
    """Draw rows that sum to 1 to the last digit: TensorFlow's gradient takes that for granted."""
    share = numbers(draw, size, 0.25, 1)
    return share / share.sum(-1, keepdims=True)


def categorical(draw: Draw) -> Drawn:
    params, size, y_pred = classes(draw)
    params["label_smoothing"] = draw.pick(0.0, 0.25)
    return params, draw.pick(one_hot(draw, size), distribution(draw, size)), y_pred


def sparse(draw: Draw) -> Drawn:
    params, size, y_pred = classes(draw)
    label = draw.random.integers(0, size[-1], size[:-1]).astype(float)
    if draw.pick(False, True):
        params["ignore_class"] = draw.pick(0, -1)
        label.flat[0] = params["ignore_class"]
    return params, draw.pick(label, label[..., None]), y_pred


def distributions(draw: Draw) -> Drawn:
    size = draw.pick((4,), (3, 4), (2, 3, 2))
    return {}, distribution(draw, size), distribution(draw, size)


def counts(draw: Draw) -> Drawn:
    size = shape(draw)
    return {}, draw.random.integers(0, 5, size).astype(float), numbers(draw, size, 0.1, 4)


def directions(draw: Draw) -> Drawn:
    size = draw.pick((4,), (3, 4), (2, 3, 2))
    return {}, numbers(draw, size), numbers(draw, size)


def words(draw: Draw) -> Drawn:
    lengths = draw.random.integers(1, 4, 3)
    label = draw.random.integers(1, 4, (3, 3)) * (np.arange(3) < lengths[:, None])
    return {}, label.astype(float), numbers(draw, (3, 8, 4))


CALLS: dict[str, Callable[[Draw], Drawn]] = {
    "CTC": words,
    "BinaryCrossentropy": binary,
    "CategoricalCrossentropy": categorical,
    "CategoricalHinge": categorical_margin,
    "CosineSimilarity": directions,
    "Hinge": margin,
    "Huber": huber,
    "KLDivergence": distributions,
    "MeanAbsoluteError": regression,
    "MeanAbsolutePercentageError": regression,
    "MeanSquaredError": regression,
    "MeanSquaredLogarithmicError": positive,
    "Poisson": counts,
    "SparseCategoricalCrossentropy": sparse,
    "SquaredHinge": margin,
}


# Parity.


def value_and_gradient(loss: Any, y_true: Any, y_pred: Any, weight: Any) -> tuple[Any, Any]:
    """Return the value, and the gradient of its sum by the prediction."""
    if BACKEND == "tensorflow":
        tf = importlib.import_module("tensorflow")
        x = tf.constant(y_pred)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = loss(y_true, x, sample_weight=weight)
        grad = tape.gradient(value, x)
    elif BACKEND == "torch":
        torch = importlib.import_module("torch")
        x = torch.tensor(y_pred, requires_grad=True)
        value = loss(y_true, x, sample_weight=weight)
        value.sum().backward()
        grad = x.grad
    else:
        jax = importlib.import_module("jax")
        value, backward = jax.vjp(
            lambda x: loss(y_true, x, sample_weight=weight), jax.numpy.asarray(y_pred)
        )
        (grad,) = backward(jax.numpy.ones_like(value))
    return keras.ops.convert_to_numpy(value), keras.ops.convert_to_numpy(grad)


def check_agreement(name: str, draw: Draw, dtype: str) -> None:
    params, y_true, y_pred = CALLS[name](draw)
    params |= {"reduction": draw.pick(*REDUCTIONS), "dtype": dtype}
    samples = y_pred.shape[:1] if name == "CTC" else y_pred.shape[:-1]
    weight = draw.pick(None, draw.random.integers(0, 4, samples) / 2)
    call = (y_true.astype(dtype), y_pred.astype(dtype), weight)
    got = value_and_gradient(getattr(losses, name)(**params), *call)
    want = value_and_gradient(getattr(keras.losses, name)(**params), *call)
    tolerance = TOLERANCES[dtype]
    for x, y in zip(got, want, strict=True):
        assert x.shape == y.shape
        assert x.dtype == y.dtype
        assert_allclose(x, y, rtol=tolerance, atol=tolerance * max(1, np.abs(y).max()))


@pytest.mark.parametrize("name", [name for name in losses.__all__ if name != "CTC"])
@settings(deadline=None, max_examples=30 if BACKEND == "tensorflow" else 10)
@given(data=st.data())
def test_agrees(name: str, data: st.DataObject) -> None:
    draw = Draw(data)
    check_agreement(name, draw, draw.pick("float32", "float64"))


@pytest.mark.timeout(600)
@settings(deadline=None, max_examples=4)
@given(data=st.data())
def test_ctc_agrees(data: st.DataObject) -> None:
    """Few calls, as Keras's own is compiled for minutes, and in the one precision that it has."""
    check_agreement("CTC", Draw(data), "float32")


def test_every_class_has_a_call() -> None:
    assert sorted(CALLS) == sorted(losses.__all__)


@over_names
def test_class_is_like_that_of_keras(name: str) -> None:
    ours, theirs = getattr(losses, name), getattr(keras.losses, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)
    assert ours().get_config().items() >= theirs().get_config().items()
    assert ours().fn.__module__ == losses.__name__
    assert ours.__doc__


def test_right_predictions_keep_their_digits() -> None:
    loss = losses.BinaryCrossentropy(from_logits=True, reduction="none")
    value = loss(np.ones((1, 1), np.float32), np.full((1, 1), 60, np.float32))
    assert_allclose(keras.ops.convert_to_numpy(value), [np.exp(-60.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred"),
    [
        ("SparseCategoricalCrossentropy", [3], [[0.5, 0.3, 0.2]]),
        ("BinaryCrossentropy", [[2.0]], [[0.5]]),
        ("CategoricalHinge", [[0.5, 0.5]], [[1.0, 2.0]]),
        ("Hinge", [[0.5]], [[1.0]]),
        ("Poisson", [[-1.0]], [[1.0]]),
        ("CTC", [[5]], [[[1.0, 2.0], [1.0, 2.0]]]),
    ],
)
def test_bad_labels_raise(name: str, y_true: Any, y_pred: Any) -> None:
    with pytest.raises(Exception, match=r"label|target"):
        getattr(losses, name)()(np.array(y_true), np.array(y_pred))


# Training.


def model_for(y_pred_shape: tuple[int, ...], activation: str | None) -> Any:
    """Return a model from four numbers to predictions of a shape."""
    keras.utils.set_random_seed(0)
    size = int(np.prod(y_pred_shape))
    return keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(size, activation=activation),
            keras.layers.Reshape(y_pred_shape),
        ]
    )


TRAININGS: dict[str, tuple[dict[str, Any], tuple[int, ...], str | None]] = {
    "MeanSquaredError": ({}, (2,), None),
    "BinaryCrossentropy": ({}, (1,), "sigmoid"),
    "SparseCategoricalCrossentropy": ({"from_logits": True, "ignore_class": 1}, (3,), None),
    "CTC": ({}, (6, 3), None),
}


def trained(kind: Any, name: str) -> tuple[Any, list[float]]:
    params, size, activation = TRAININGS[name]
    random = np.random.default_rng(1)
    X = random.normal(size=(30, 4)).astype(np.float32)
    y = {
        "MeanSquaredError": random.normal(size=(30, 2)),
        "BinaryCrossentropy": random.integers(0, 2, (30, 1)),
        "SparseCategoricalCrossentropy": random.integers(0, 3, 30),
        "CTC": random.integers(1, 3, (30, 2)),
    }[name].astype(np.float32)
    model = model_for(size, activation)
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=getattr(kind, name)(**params))
    # The last batch is smaller.
    history = model.fit(X, y, epochs=4, batch_size=8, shuffle=False, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize("name", TRAININGS)
def test_trains_as_keras_does(name: str) -> None:
    _, ours = trained(losses, name)
    assert_allclose(ours, trained(keras.losses, name)[1], rtol=TRAINED)
    assert ours[-1] < ours[0]


def test_saved_model_has_the_loss(tmp_path: Any) -> None:
    model, _ = trained(losses, "SparseCategoricalCrossentropy")
    model.save(tmp_path / "model.keras")
    loss = keras.models.load_model(tmp_path / "model.keras").loss
    assert type(loss) is losses.SparseCategoricalCrossentropy
    assert loss.get_config() == model.loss.get_config()


def other_parameters(kind: Any) -> dict[str, Any]:
    """Return values that are not the defaults; of the type Keras keeps none in a configuration."""
    values: dict[str, Any] = {"delta": 3.0, "axis": 1, "from_logits": True, "label_smoothing": 0.25}
    values |= {"ignore_class": 2, "reduction": "sum", "name": "mine"}
    names = inspect.signature(kind).parameters.keys() - {"dtype"}
    return {name: values[name] for name in names}


@over_names
def test_configuration_comes_back(name: str) -> None:
    kind = getattr(losses, name)
    loss = kind(**other_parameters(kind))
    made = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(made) is type(loss)
    assert made.get_config() == loss.get_config()
    assert {key: made.get_config()[key] for key in other_parameters(kind)} == other_parameters(kind)


def test_saved_model_has_the_numbers_of_its_loss(tmp_path: Any) -> None:
    model = model_for((2,), None)
    model.compile(optimizer="sgd", loss=losses.Huber(delta=3.0))
    X, y = np.ones((4, 4), np.float32), np.full((4, 2), 10, np.float32)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.evaluate(X, y, verbose=0) == model.evaluate(X, y, verbose=0)


# Shapes and axes.


def check_call(name: str, y_true: Any, y_pred: Any, **params: Any) -> None:
    """Check value and gradient of a call against Keras's."""
    params["reduction"] = "none"
    call = (np.asarray(y_true, np.float32), np.asarray(y_pred, np.float32), None)
    got = value_and_gradient(getattr(losses, name)(**params), *call)
    want = value_and_gradient(getattr(keras.losses, name)(**params), *call)
    for x, y in zip(got, want, strict=True):
        assert x.shape == y.shape
        assert_allclose(x, y, rtol=FLOAT32, atol=FLOAT32)


BROADCAST = [name for name in losses.__all__ if "Crossentropy" not in name and name != "CTC"]


@pytest.mark.parametrize("name", BROADCAST)
@pytest.mark.parametrize("shapes", ["N1", "C", "1C", "pred N1", "1NC"])
def test_labels_broadcast(name: str, shapes: str) -> None:
    random = np.random.default_rng(3)
    y_pred, y_true = random.uniform(0.1, 0.9, (2, 4, 3))
    if "Hinge" in name:
        y_true = np.eye(3)[random.integers(0, 3, 4)]
    y_true, y_pred = {
        "N1": (y_true[:, :1], y_pred),
        "C": (y_true[0], y_pred),
        "1C": (y_true[:1], y_pred),
        "pred N1": (y_true, y_pred[:, :1]),
        "1NC": (y_true[None], np.stack([y_pred, y_pred / 2])),
    }[shapes]
    if name == "CosineSimilarity" and "N1" in shapes:
        with pytest.raises(rl.errors.ShapeError, match=r"^y_true: expected vectors of the size"):
            losses.CosineSimilarity()(y_true, y_pred)
    elif name == "CategoricalHinge" and shapes == "N1":
        with pytest.raises(Exception, match="label"):
            losses.CategoricalHinge()(y_true, y_pred)
    else:
        check_call(name, y_true, y_pred)


@pytest.mark.parametrize("name", [*BROADCAST, "BinaryCrossentropy", "CategoricalCrossentropy"])
def test_flat_labels_of_a_matrix_are_refused(name: str) -> None:
    y_true, y_pred = np.ones(12, np.float32), np.full((4, 3), 0.5, np.float32)
    for module in (keras.losses, losses):
        with pytest.raises(Exception, match=r"(?i)shape|rank|broadcast|size"):
            getattr(module, name)()(y_true, y_pred)


@pytest.mark.parametrize("name", ["CategoricalCrossentropy", "CosineSimilarity"])
@pytest.mark.parametrize("axis", [0, -3, 1, -1])
def test_vectors_along_any_axis(name: str, axis: int) -> None:
    y_true, y_pred = np.random.default_rng(4).uniform(0.1, 0.9, (2, 3, 3, 3))
    if name == "CategoricalCrossentropy":
        y_true = np.moveaxis(np.eye(3)[np.arange(9).reshape(3, 3) % 3], -1, axis)
    check_call(name, y_true, y_pred, axis=axis)


@pytest.mark.parametrize("name", ["CategoricalCrossentropy", "CosineSimilarity"])
def test_one_vector(name: str) -> None:
    y_true, y_pred = np.array([[0.0, 1.0, 0.0], [0.25, 0.5, 0.25]], np.float32)
    expected = float(getattr(keras.losses, name)()(y_true, y_pred))
    assert_allclose(float(getattr(losses, name)()(y_true, y_pred)), expected, rtol=FLOAT32)


@pytest.mark.parametrize("bad", [np.nan, 0.5])
def test_the_bad_label_among_good_ones_is_named(bad: float) -> None:
    with pytest.raises(Exception, match=rf"label\[0, 2\].*got {bad}"):
        losses.Hinge()(np.array([[0, 1, bad]], np.float32), np.zeros((1, 3), np.float32))


@pytest.mark.skipif(BACKEND == "jax", reason="JAX's own error has another text")
@pytest.mark.parametrize(("label", "at"), [([1, 0, 3], 1), ([0, 1, 0], 0), ([1, -1, 3], 1)])
def test_labels_of_ctc_end_at_their_zeros(label: list[int], at: int) -> None:
    text = rf"^label\[0, {at}\].* a label in y_true ends where only zeros follow$"
    with pytest.raises(rl.errors.LabelError, match=text):
        losses.CTC()(np.array([label], np.float32), np.zeros((1, 8, 4), np.float32))


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_words_for_the_reduction_mean_what_they_do_here(reduction: Any) -> None:
    pred, label = np.random.default_rng(5).normal(size=(2, 6, 4)).astype(np.float32)
    weight = np.linspace(0.0, 2.0, 6, dtype=np.float32)
    expected = keras.losses.MeanAbsoluteError(reduction=reduction)(label, pred, weight)
    value = rl.L1Loss(reduction=reduction)(pred, label, weight)
    assert_allclose(value, float(expected), rtol=FLOAT32)


def test_docstring_examples() -> None:
    assert doctest.testmod(losses).failed == 0
