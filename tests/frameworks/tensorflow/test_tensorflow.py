"""Losses on TensorFlow's tensors: eagerly, in graphs, and differentiated by TensorFlow."""

from __future__ import annotations

import doctest
import importlib
from typing import Any, Self

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from rustloss.testing import example
from rustloss.testing._inputs import Values, inputs_of
from rustloss.testing._registry import differentiable, spec_of, specs

tf = pytest.importorskip("tensorflow")
adapter = importlib.import_module("rustloss.tensorflow")

STEP = 2.0**-16
BY_DIFFERENCES = 1e-6
"""Of central differences with that step in double precision, relative and absolute."""
ROUNDING = 1e-12
"""Relative: the order of a float64 sum."""
TRAINED = 1e-5
"""Relative: float32 rounding, through some steps of training."""

over_losses = pytest.mark.parametrize("name", list(specs()))
over_elementwise = pytest.mark.parametrize(
    "name", [name for name, spec in specs().items() if spec.family == "elementwise"]
)
over_reductions = pytest.mark.parametrize("reduction", ["none", "sample", "mean"])
over_modes = pytest.mark.parametrize("mode", ["eager", "graph", "unknown sizes"])


def optional(loss: rl.Loss) -> list[str]:
    return [i.name for i in spec_of(loss).inputs if i.domain not in {"Offsets", "Scalar"}]


def smooth(loss: rl.Loss) -> dict[str, Any]:
    """Return valid input far from kinks and the edges of domains."""
    return inputs_of(
        loss, (2, 3), Values(np.random.default_rng(0), smooth=True), optional=optional(loss)
    )


def in_mode(mode: str, function: Any, arrays: dict[str, Any]) -> Any:
    """Call a function of tensors by name, in a graph or not."""
    tensors = {name: tf.constant(array) for name, array in arrays.items()}
    if mode == "eager":
        return function(**tensors)
    if mode == "graph":
        return graph_of(function)(**tensors)
    shapes = {k: tf.TensorSpec([None] * x.shape.rank, x.dtype) for k, x in tensors.items()}
    return graph_of(function).get_concrete_function(**shapes)(**tensors)


def graph_of(function: Any) -> Any:
    """Return a graph of a function, or of a loss, which has no signature for TensorFlow to read."""

    def named(**tensors: Any) -> Any:
        return function(**tensors)

    return tf.function(named)


@over_losses
@over_modes
@over_reductions
def test_value_and_gradient(name, mode, reduction):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = example(loss, dtype=np.float32, optional=optional(loss))
    wrt = differentiable(loss, arrays)
    arriving = np.random.default_rng(0).normal(size=loss(**arrays).shape).astype(np.float32)

    def function(**tensors: Any) -> Any:
        wanted = [tensors[key] for key in wrt]
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            value = loss(**tensors)
        return value, tape.gradient(value, wanted, output_gradients=tf.constant(arriving))

    value, grads = in_mode(mode, function, arrays)
    expected, slopes = loss.value_and_grad(**arrays, wrt=wrt, grad_output=arriving)
    assert_array_equal(value.numpy(), expected)
    for key, grad, slope in zip(wrt, grads, slopes, strict=True):
        assert grad.dtype == arrays[key].dtype
        assert_array_equal(grad.numpy(), slope.astype(arrays[key].dtype), key)


@over_losses
@over_modes
def test_methods(name, mode):
    loss = getattr(rl, name)()
    arrays = example(loss, dtype=np.float32, optional=optional(loss))
    for method in ["value_and_grad", "grad", *(["grad_hess"] if spec_of(loss).hess else [])]:
        found = tf.nest.flatten(in_mode(mode, getattr(loss, method), arrays))
        expected = tf.nest.flatten(getattr(loss, method)(**arrays))
        for result, numbers in zip(found, expected, strict=True):
            assert tf.is_tensor(result)
            assert_array_equal(result.numpy(), numbers)


@over_losses
@over_reductions
def test_shapes_are_known_to_a_graph(name, reduction):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = example(loss, dtype=np.float32)
    function = graph_of(loss)
    value = loss(**arrays)
    known = {k: tf.TensorSpec(np.shape(x), np.asarray(x).dtype) for k, x in arrays.items()}
    assert function.get_concrete_function(**known).output_shapes == value.shape
    if name != "CTCLoss":
        unknown = {k: tf.TensorSpec([None, *x.shape[1:]], x.dtype) for k, x in known.items()}
        sizes = function.get_concrete_function(**unknown).output_shapes
        assert sizes.is_compatible_with(value.shape)
        assert sizes[1:] == value.shape[1:] or spec_of(name).row_coupled


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float32, tf.float64])
@pytest.mark.parametrize("reduction", ["none", "sample"])
@over_modes
def test_precisions(dtype, reduction, mode):
    loss = rl.HuberLoss(reduction=reduction)
    arrays = {
        key: array.astype(dtype.as_numpy_dtype) for key, array in example(loss, (2, 3)).items()
    }

    def function(**tensors: Any) -> Any:
        return loss(**tensors), loss.grad(**tensors)

    found = in_mode(mode, function, arrays)
    for result, expected in zip(found, (loss(**arrays), loss.grad(**arrays)), strict=True):
        assert result.dtype.as_numpy_dtype == expected.dtype
        assert_array_equal(result.numpy(), expected)


# Derivatives beside TensorFlow's own differences.


def assert_slopes_agree(function: Any, array: Any) -> None:
    ((found,), (expected,)) = tf.test.compute_gradient(function, [tf.constant(array)], STEP)
    assert np.abs(expected).max() > 0
    assert_allclose(found, expected, BY_DIFFERENCES, BY_DIFFERENCES)


@over_losses
def test_gradient_by_differences(name):
    loss = getattr(rl, name)()
    arrays = example(loss) if spec_of(loss).family == "sequence" else smooth(loss)
    first = spec_of(loss).inputs[0].name
    others = {key: tf.constant(array) for key, array in arrays.items() if key != first}
    assert_slopes_agree(lambda x: tf.sin(loss(**{first: x}, **others)), arrays[first])


@over_elementwise
@over_reductions
@pytest.mark.parametrize("graph", [False, True])
def test_second_derivative_by_differences(name, reduction, graph):
    loss = getattr(rl, name)(reduction=reduction)
    arrays = smooth(loss)
    first = spec_of(loss).inputs[0].name
    others = {key: tf.constant(array) for key, array in arrays.items() if key != first}

    def slope(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            # Curved, so that what arrives at the value depends on the prediction too.
            value = tf.reduce_sum(tf.sin(loss(x, **others)))
        return tape.gradient(value, x)

    assert_slopes_agree(tf.function(slope) if graph else slope, arrays[first])


def second(loss: rl.Loss, arrays: dict[str, Any], by: str) -> Any:
    tensors = {key: tf.convert_to_tensor(array) for key, array in arrays.items()}
    first = spec_of(loss).inputs[0].name
    with tf.GradientTape() as outer:
        outer.watch(tensors[by])
        with tf.GradientTape() as inner:
            inner.watch(tensors[first])
            value = loss(**tensors)
        slope = inner.gradient(value, tensors[first])
    return outer.gradient(slope, tensors[by])


@over_losses
def test_second_derivative_is_right_or_refused(name):
    loss = getattr(rl, name)()
    arrays = example(loss)
    first = spec_of(loss).inputs[0].name
    row = loss.signature(**arrays)
    if spec_of(loss).family == "elementwise" or row.hess == "zero":
        assert_array_equal(second(loss, arrays, first), loss.grad_hess(**arrays)[1])
    else:
        with pytest.raises(NotImplementedError, match="derivative"):
            second(loss, arrays, first)


@pytest.mark.parametrize("graph", [False, True])
def test_third_derivative_is_refused(graph):
    def third(x: Any) -> Any:
        with tf.GradientTape() as outer:
            outer.watch(x)
            curve = second(rl.L2Loss(), {"pred": x, "label": tf.zeros(3)}, "pred")
        return outer.gradient(curve, x)

    with pytest.raises(NotImplementedError, match="got one more"):
        (tf.function(third) if graph else third)(tf.ones(3))


def test_results_of_other_methods_cannot_be_differentiated():
    x = tf.ones(3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value, _ = rl.L2Loss().value_and_grad(x, tf.zeros(3))
    with pytest.raises(NotImplementedError, match="call the loss"):
        tape.gradient(value, x)


def test_mixed_second_derivative_is_no_number():
    assert np.isnan(second(rl.L2Loss(), example(rl.L2Loss()), "label")).all()


def test_gradient_by_weights_is_no_number():
    weight = tf.Variable([1.0, 2.0])
    with tf.GradientTape() as tape:
        value = rl.L2Loss()(tf.constant([1.0, 2.0]), tf.zeros(2), weight)
    assert np.isnan(tape.gradient(value, weight)).all()


@over_elementwise
def test_forward_mode(name):
    loss = getattr(rl, name)(reduction="mean")
    arrays = smooth(loss)
    first = spec_of(loss).inputs[0].name
    expected = loss.grad(**arrays, wrt=first).sum()
    x = tf.constant(arrays.pop(first))
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)) as accumulator:
        value = loss(**{first: x}, **arrays)
    assert_allclose(accumulator.jvp(value), expected, rtol=ROUNDING)


def test_forward_mode_with_labels_that_have_a_gradient_is_refused():
    pred = tf.ones(3)
    with tf.autodiff.ForwardAccumulator(pred, pred):  # noqa: SIM117  # what raises is the call
        with pytest.raises(NotImplementedError, match="forward mode"):
            rl.L2Loss()(pred, tf.zeros(3))


# What reaches the loss.


class Watched(rl.L2Loss):
    """A loss that keeps what it is called with."""

    __slots__ = ("calls",)

    calls: list[Any]

    def __new__(cls, **options: Any) -> Self:
        made = super().__new__(cls, **options)
        made.calls = []
        return made

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        return super().__call__(*args, **kwargs)

    def grad(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append(kwargs)
        return super().grad(*args, **kwargs)


def test_inputs_are_not_copied():
    loss, tensor = Watched(), tf.random.normal((100,))
    adapter.call(loss, "__call__", (tensor, tf.zeros(100)), {})
    assert np.shares_memory(loss.calls[0]["pred"], np.asarray(tensor))


def test_a_graph_leaves_out_the_gradient_by_labels():
    loss = Watched()

    @tf.function
    def function(pred: Any, label: Any) -> Any:
        return tf.gradients(adapter.call(loss, "__call__", (pred, label), {}), pred)

    function(tf.ones(3), tf.zeros(3))
    assert [kwargs["wrt"] for kwargs in loss.calls if "wrt" in kwargs] == [("pred",)]


@over_modes
def test_numpy_variables_and_numbers_beside(mode):
    variable = tf.Variable([1.0, 3.0])

    def function(label: Any) -> Any:
        beside = rl.L2Loss()(variable, np.array([1, 1], np.float32), sample_weight=2)
        return beside, rl.L2Loss()([1.0, 3.0], label)

    beside, other = in_mode(mode, function, {"label": np.array([1, 1], np.float32)})
    assert_array_equal(beside, [0, 4])
    assert_array_equal(other, [0, 2])


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool", "float32"])
@over_modes
def test_class_labels(dtype, mode):
    pred = np.array([[1, 3], [2, 0]], np.float32)
    found = in_mode(
        mode, rl.SoftmaxCELoss(), {"pred": pred, "label": np.array([1, 0]).astype(dtype)}
    )
    assert_array_equal(found, rl.SoftmaxCELoss()(pred, [1, 0]))


@over_modes
def test_no_samples(mode):
    empty = {"pred": np.empty((0, 3), np.float32), "label": np.empty((0, 3), np.float32)}
    assert in_mode(mode, rl.L2Loss(), empty).shape == (0,)


# Errors.

BAD = {"pred": np.array([[1, 3], [2, 0]], np.float32), "label": np.array([0, 2])}


def test_errors_keep_their_class():
    with pytest.raises(rl.errors.LabelError, match=r"label\[1\]"):
        in_mode("eager", rl.SoftmaxCELoss(), BAD)


def test_errors_in_graphs_keep_their_text():
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"LabelError: label\[1\]"):
        in_mode("graph", rl.SoftmaxCELoss(), BAD)


@pytest.mark.parametrize(
    ("tensor", "remedy"),
    [
        (tf.ragged.constant([[1.0], [1.0, 2.0]]), r"pass pred\.to_tensor\(\)"),
        (tf.sparse.from_dense([[0.0, 1.0]]), r"pass tf\.sparse\.to_dense\(pred\)"),
        (tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1])), "make it with its dense_shape"),
    ],
)
def test_what_is_not_dense(tensor, remedy):
    with pytest.raises(rl.errors.DTypeError, match=rf"^pred: .*; {remedy}$") as caught:
        rl.L2Loss()(tensor, tf.zeros((2, 2)))
    assert caught.value.argument == "pred"


def test_unknown_number_of_axes():
    function = tf.function(lambda x: rl.L2Loss()(x, x))
    # TensorFlow makes another error of what is raised in a graph, with the text in it.
    with pytest.raises(Exception, match=r"ShapeError: pred: .*ensure_shape"):
        function.get_concrete_function(tf.TensorSpec(None, tf.float32))


def test_no_memory_for_results():
    with pytest.raises(rl.errors.OutputError, match="grad_out: "):
        rl.L2Loss().grad(tf.ones(2), tf.zeros(2), grad_out=np.empty(2, np.float32))


def test_a_compiler_that_cannot_says_so():
    function = tf.function(lambda x: rl.L2Loss()(x, tf.zeros(2)), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="PyFunc"):
        function(tf.ones(2))


# Training.


def trained(loss: Any, graph: bool) -> list[float]:
    """Return the losses of a training of two layers from a fixed start."""
    random = np.random.default_rng(2)
    X = tf.constant(random.normal(size=(32, 6)), tf.float32)
    y = tf.constant(random.integers(0, 3, 32))
    first, last = (
        tf.Variable(random.normal(size=shape) / 2, dtype=tf.float32) for shape in ((6, 8), (8, 3))
    )

    def step() -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(tf.nn.relu(X @ first) @ last, y))
        for variable, slope in zip((first, last), tape.gradient(value, (first, last)), strict=True):
            variable.assign_sub(0.5 * slope)
        return value

    step = tf.function(step) if graph else step
    return [float(step()) for _ in range(20)]


@pytest.mark.parametrize("graph", [False, True])
def test_trains_as_tensorflow_does(graph):
    own = trained(lambda x, y: tf.nn.sparse_softmax_cross_entropy_with_logits(y, x), graph)
    ours = trained(rl.SoftmaxCELoss(), graph)
    assert_allclose(ours, own, rtol=TRAINED)
    assert ours[-1] < 0.7 * ours[0]


def test_docstring_examples():
    assert doctest.testmod(adapter).failed == 0


# What TensorFlow would lose without a word.


def rows_of(loss: rl.Loss, mapped: Any) -> tuple[Any, Any]:
    """Return the gradient of a loss mapped over rows, and the expected one."""
    pred, label = tf.constant([[1.0, 3.0], [2.0, 5.0]]), tf.constant([[0.0, 1.0], [1.0, 1.0]])
    with tf.GradientTape() as tape:
        tape.watch(pred)
        value = tf.reduce_sum(mapped(lambda rows: loss(rows[0], rows[1]), (pred, label)))
    return tape.gradient(value, pred), pred - label


@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_vectorized_map_does_not_lose_the_gradient(in_graph):
    loss = rl.L2Loss(reduction="sum")

    def mapped(function: Any, rows: Any) -> Any:
        return tf.map_fn(function, rows, fn_output_signature=tf.float32)

    run = tf.function(rows_of) if in_graph else rows_of
    assert_array_equal(*run(loss, mapped))
    # TensorFlow makes another error of what is raised in a graph, with the text in it.
    with pytest.raises(
        Exception if in_graph else LookupError,
        match=r"take the gradient inside .*, or use tf\.map_fn",
    ):
        run(loss, tf.vectorized_map)


def test_vectorized_map_of_values_and_of_gradients_inside():
    loss = rl.L2Loss(reduction="sum")
    pred, label = tf.constant([[1.0, 3.0], [2.0, 5.0]]), tf.constant([[0.0, 1.0], [1.0, 1.0]])

    def slope(rows: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(rows[0])
            value = loss(rows[0], rows[1])
        return tape.gradient(value, rows[0])

    values = tf.vectorized_map(lambda rows: loss(rows[0], rows[1]), (pred, label))
    assert_array_equal(values, [loss(*rows) for rows in zip(pred, label, strict=True)])
    assert_array_equal(tf.vectorized_map(slope, (pred, label)), pred - label)


def test_jacobian_and_hessian():
    pred, label = tf.constant([[1.0, 3.0], [2.0, 5.0]]), tf.zeros((2, 2))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(pred)
        with tf.GradientTape() as inner:
            inner.watch(pred)
            value = rl.L2Loss(reduction="sum")(pred, label)
        slope = inner.gradient(value, pred)
        elements = rl.L2Loss(reduction="none")(pred, label)
    assert_array_equal(tf.reshape(outer.jacobian(slope, pred), (4, 4)), np.eye(4))
    expected = np.diag(pred.numpy().ravel())
    assert_array_equal(tf.reshape(outer.jacobian(elements, pred), (4, 4)), expected)


@pytest.mark.parametrize("name", ["pred", "label", "sample_weight"])
@pytest.mark.parametrize("in_graph", [False, True], ids=["eager", "graph"])
def test_lists_of_tensors_are_refused(name, in_graph):
    x = tf.Variable([1.0, 2.0])

    def run() -> Any:
        given = {"pred": x, "label": [0.0, 1.0]} | {name: [x[0], (x[1] if in_graph else 2.0)]}
        return rl.L2Loss(reduction="sum")(**given)

    text = rf"{name}: expected an array, got a list of .*; pass tf\.convert_to_tensor\({name}\)"
    with pytest.raises(Exception if in_graph else rl.errors.DTypeError, match=text):
        (tf.function(run) if in_graph else run)()


def test_lists_of_lists_of_tensors_are_refused():
    x = tf.constant([1.0, 2.0])
    with pytest.raises(rl.errors.DTypeError, match=r"^pred: expected an array, got a "):
        rl.L2Loss()([[0.0, 1.0], (1.0, x[0])], np.zeros((2, 2)))


def test_slices_with_a_shape_are_dense():
    whole = tf.IndexedSlices(tf.ones((1, 2)), tf.constant([1]), tf.constant([2, 2]))
    assert_array_equal(rl.L2Loss()(whole, np.zeros((2, 2))), [0.0, 0.5])


def test_forward_mode_over_a_tape_says_what_it_asks_for():
    x = tf.constant([0.5, 1.0])
    with tf.autodiff.ForwardAccumulator(x, tf.ones_like(x)):
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = rl.SigmoidBCELoss(reduction="sum")(x, np.ones(2, np.float32))
        with pytest.raises(NotImplementedError, match="forward mode asks for one of its own"):
            tape.gradient(value, x)
