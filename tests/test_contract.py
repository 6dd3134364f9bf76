"""What every loss of the registry computes: values, derivatives, weights, reductions."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rustloss as rl
from contract import (
    DTYPES,
    HALF_TYPES,
    assert_same_bits,
    default_grads,
    everything,
    losses_of,
    over_losses,
    place_of,
    remade,
    weights_of_classes,
)
from rustloss.errors import ParameterError, ShapeError
from rustloss.testing import arguments, check_gradient, example
from rustloss.testing._inputs import broadcast_weight, weight_shapes
from rustloss.testing._registry import (
    Geometry,
    differentiable,
    geometry,
    input_of,
    ndims,
    spec_of,
)
from rustloss.testing._registry import inputs as registered_inputs

SUM_ULP = 2
"""Of a sum, relative to the sum of the absolute terms."""
ROUNDING_ULP = 0.5
"""Of one multiplication or division."""


# Values and derivatives


@over_losses
@given(data=st.data())
def test_derivatives_are_those_of_the_value(name, data):
    loss, inputs = data.draw(arguments(name, smooth=True))
    options: dict[str, Any] = {}
    if loss.reduction == "mean":
        options["denominator"] = data.draw(st.sampled_from([None, 4.0]))
    shape = np.shape(loss(**inputs))
    if data.draw(st.booleans()):
        seed = data.draw(st.integers(0, 1000))
        options["grad_output"] = np.random.default_rng(seed).integers(-3, 4, shape) / 2
    check_gradient(loss, **inputs, **options)


@over_losses
@given(data=st.data())
def test_entry_points_agree(name, data):
    loss, inputs = data.draw(arguments(name, layouts=True))
    wrt = differentiable(loss, inputs)
    found = everything(loss, inputs)
    ways = [{"value": loss(**inputs)}]
    positional = [inputs.get(i.name) for i in spec_of(loss).inputs if i.domain != "Offsets"]
    ways.append({"value": loss(*positional)})
    for one in wrt:
        value, grad = loss.value_and_grad(**inputs, wrt=one)
        ways.append({"value": value, one: grad})
        value, (grad,) = loss.value_and_grad(**inputs, wrt=[one])
        ways.append({"value": value, one: grad})
    value, grads = loss.value_and_grad(**inputs, wrt=wrt[::-1])
    ways.append({"value": value, **dict(zip(wrt[::-1], grads, strict=True))})
    value, grads = loss.value_and_grad(*positional)
    names = default_grads(loss)
    grads = grads if len(names) > 1 else (grads,)
    ways.append({"value": value, **dict(zip(names, grads, strict=True))})
    grads = loss.grad(*positional)
    ways.append(dict(zip(names, grads if len(names) > 1 else (grads,), strict=True)))
    ways.append(dict(zip(wrt, loss.grad(**inputs, wrt=wrt), strict=True)))
    ways += [{one: loss.grad(**inputs, wrt=one)} for one in wrt]
    if spec_of(loss).hess:
        grad, hess = loss.grad_hess(*positional)
        ways.append({names[0]: grad, "hess": hess})
    for way in ways:
        assert_same_bits(way, {key: found[key] for key in way})


@over_losses
@given(data=st.data())
def test_gradient_alone_is_the_product_with_a_vector(name, data):
    loss, inputs = data.draw(arguments(name))
    wrt = differentiable(loss, inputs)
    shape = np.shape(loss(**inputs))
    vector = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(size=shape)
    options: dict[str, Any] = {"wrt": wrt, "grad_output": vector}
    if loss.reduction == "mean":
        options["denominator"] = 4.0
    _, expected = loss.value_and_grad(**inputs, **options)
    buffers = tuple(np.empty_like(array) for array in expected)
    found = loss.grad(**inputs, **options, grad_out=buffers)
    assert all(array is buffer for array, buffer in zip(found, buffers, strict=True))
    assert_same_bits(dict(enumerate(found)), dict(enumerate(map(np.asarray, expected))))


@over_losses
def test_every_input_has_a_gradient_or_says_that_it_has_none(name):
    optional = [i.name for i in spec_of(name).inputs if i.domain != "Offsets"]
    for loss in losses_of(name):
        inputs = example(loss, optional=optional)
        with_gradient = differentiable(loss, inputs)
        for key, array in inputs.items():
            if key in with_gradient:
                _, grad = loss.value_and_grad(**inputs, wrt=key)
                assert np.shape(grad) == np.shape(array)
                continue
            for wrt in (key, (with_gradient[0], key)):
                for method in (loss.value_and_grad, loss.grad):
                    with pytest.raises(ParameterError, match=f"wrt: .* got '{key}'"):
                        method(**inputs, wrt=wrt)


@over_losses
@given(data=st.data())
def test_results_have_the_predictions_type(name, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    loss, inputs = data.draw(arguments(name, dtype=dtype))
    found = everything(loss, inputs, grad_output=np.float64(0.5))
    value = found.pop("value")
    by_element = spec_of(loss).unreduced == "Element" and loss.reduction == "none"
    assert value.dtype == (np.float32 if dtype in HALF_TYPES and not by_element else dtype)
    assert isinstance(value, np.ndarray) == (value.shape != ())
    pred = found.pop("hess", None)
    for key, grad in [
        *found.items(),
        *([(default_grads(loss)[0], pred)] if pred is not None else []),
    ]:
        assert grad.dtype == dtype
        assert grad.shape == np.shape(inputs[key])


# Weights


def assert_scaled(found: Any, plain: Any, factor: Any) -> None:
    """Check a product with powers of two, in which 0 removes what it meets."""
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found, np.where(factor == 0, 0, plain * factor))


def by_sample(x: Any, place: Geometry) -> Any:
    """Return what has the shape of the unreduced loss as a matrix with a row for each sample."""
    if place.samples is None:
        return x.reshape(1, -1)
    return np.moveaxis(x, place.samples, 0).reshape(place.n, -1)


def powers_of_two(data: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return weights that multiply exactly."""
    least = -2 if np.dtype(dtype).kind == "f" else 0
    most = 0 if dtype is bool else 3
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    weight = 2.0 ** rng.integers(least, most + 1, shape) * (rng.random(shape) > 0.25)
    return np.asarray(weight).astype(dtype)


@over_losses
@given(data=st.data())
def test_weights_multiply(name, data):
    loss, inputs = data.draw(
        arguments(name, given={"sample_weight": False}, reduction="none", weight=None)
    )
    place = place_of(loss, inputs)
    dtype = data.draw(
        st.sampled_from([bool, np.uint8, np.int64, np.float16, np.float32, np.float64])
    )
    weight = powers_of_two(data, data.draw(st.sampled_from(weight_shapes(loss, place))), dtype)
    factor = data.draw(st.sampled_from([None, 0.5, 4]))
    plain = everything(loss, inputs)
    inputs["sample_weight"] = weight
    found = everything(remade(loss, weight=factor), inputs)

    of_element = broadcast_weight(weight, place) * (1.0 if factor is None else factor)
    assert_scaled(found["value"], plain["value"], of_element)
    rows = by_sample(of_element, place)
    spec = spec_of(loss)
    if spec.family == "elementwise":
        of_input = of_element
    elif not spec.row_coupled and (rows == rows[:, :1]).all():
        along = [place.n if axis == place.batch else 1 for axis in range(len(place.shape))]
        of_input = rows[:, 0].reshape(along)
    else:
        return
    for key in [*default_grads(loss), *(["hess"] if spec.hess else [])]:
        assert_scaled(found[key], plain[key], of_input)


@over_losses
@given(data=st.data())
def test_weight_zero_removes_whatever_is_there(name, data):
    loss, inputs = data.draw(arguments(name, given={"sample_weight": False}))
    place, spec = place_of(loss, inputs), spec_of(loss)
    removed = np.random.default_rng(data.draw(st.integers(0, 1000))).random(place.n) < 0.5
    inputs["sample_weight"] = (
        np.where(removed, 0, 2) if place.batch is not None else 2 * ~removed[0]
    )
    expected = everything(loss, inputs)
    poison = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    # A row of the second input of a loss of pairs belongs to the loss of every other row; in both
    # directions, so does a row of the first.
    alone = 0 if loss._params.get("symmetric") else 1
    poisoned = default_grads(loss)[: alone if spec.row_coupled else None]
    if spec.family == "elementwise":
        poisoned += [
            i.name for i in spec.inputs if i.gradient == "OnRequest" and i.domain != "Weight"
        ]
    for key in poisoned:
        array = inputs[key] = np.array(inputs[key])
        if place.batch is None:
            array[...] = np.where(removed[0], poison, array)
        else:
            np.moveaxis(array, place.batch, 0)[removed] = poison
    found = everything(loss, inputs)
    # Broadcast weights of a term have no place among the samples.
    for key in found:
        if key != "pos_weight":
            assert_same_bits({key: found[key]}, {key: expected[key]})


@over_losses
def test_labels_of_weight_zero_are_not_checked(name):
    for loss in losses_of(name):
        inputs = example(loss, optional=["sample_weight"])
        checked = {"Classes": 99, "Sign": 0.5}
        domain = {i.name: i.domain for i in registered_inputs(loss)}.get("label")
        if domain not in checked:
            continue
        inputs["sample_weight"][1] = 0.0
        expected = everything(loss, inputs)
        inputs["label"] = inputs["label"].astype(float)
        inputs["label"][1] = checked[domain]
        found = everything(loss, inputs)
        assert_same_bits(
            {k: v for k, v in found.items() if k != "label"},
            {k: v for k, v in expected.items() if k != "label"},
        )


# Reductions


def class_weights(loss: rl.Loss, inputs: dict[str, Any], place: Geometry) -> Any:
    """Return what counts in the weighted means beside `sample_weight`."""
    params, ones = loss._params, np.ones(place.unreduced)
    if place.classes is None or "Classes" not in {i.domain for i in registered_inputs(loss)}:
        return ones
    classes = place.shape[place.classes]
    given = [params[key] for key in weights_of_classes(loss) if params[key] is not None]
    weights = np.array(given[0]) if given else np.ones(classes)
    label = np.asarray(inputs["label"]).reshape(ones.shape).astype(int)
    kept = label != params["ignore_index"]
    return np.where(kept, weights[np.clip(label, 0, classes - 1)], 0.0)


@over_losses
@given(data=st.data())
def test_reductions_are_those_of_numpy(name, data):
    loss, inputs = data.draw(arguments(name))
    place = place_of(loss, inputs)
    denominator = data.draw(st.sampled_from([None, 5.0])) if loss.reduction == "mean" else None
    weight = broadcast_weight(inputs.get("sample_weight", 1.0), place)
    unweighted = {k: v for k, v in inputs.items() if k != "sample_weight"}
    unreduced = np.asarray(remade(loss, reduction="none", weight=None)(**unweighted))
    eps = float(np.finfo(unreduced.dtype).eps)
    with np.errstate(invalid="ignore"):
        terms = np.where(weight == 0, 0.0, unreduced.astype(float) * weight)
    weight = weight * class_weights(loss, inputs, place)
    rows, row_weights = by_sample(terms, place), by_sample(weight, place)
    if loss.reduction == "none":
        parts = [(term, 1.0) for term in terms.reshape(-1, 1)]
    elif loss.reduction == "sample":
        parts = [(row, len(row)) for row in rows]
    elif loss.reduction == "sample_sum":
        parts = [(row, 1.0) for row in rows]
    elif loss.reduction == "sample_weighted_mean":
        parts = [(row, math.fsum(w)) for row, w in zip(rows, row_weights, strict=True)]
    elif loss.reduction == "target_mean":
        lengths = inputs.get("label_lengths")
        if lengths is None:
            label = np.asarray(inputs["label"])
            tokens = label.T if label.ndim > 1 and loss.label_layout == "TN" else label
            lengths = (np.atleast_2d(tokens) != -1).sum(axis=1)
        parts = [(rows.ravel() / np.maximum(lengths, 1), place.n)]
    else:
        divisors = {
            "sum": 1.0,
            "mean": terms.size if denominator is None else denominator,
            "batch_mean": place.n,
            "weighted_mean": math.fsum(weight.ravel()),
        }
        parts = [(terms.ravel(), divisors[loss.reduction])]
    factor = 1.0 if loss.weight is None else loss.weight
    options = {} if denominator is None else {"denominator": denominator}
    values = np.asarray(loss(**inputs, **options))
    assert values.size == len(parts)
    for value, (part, divisor) in zip(values.ravel(), parts, strict=True):
        expected = factor * math.fsum(part) / divisor if divisor else 0.0
        scale = factor * math.fsum(np.abs(part)) / divisor if divisor else 0.0
        # The product with a weight, with the factor, and the division by a divisor that is a sum.
        bound = (SUM_ULP + 4 * ROUNDING_ULP) * eps * scale
        assert value == expected or abs(value - expected) <= bound, (value, expected)


@over_losses
@given(data=st.data())
def test_grad_output_scales_the_gradient(name, data):
    loss, inputs = data.draw(arguments(name))
    place = place_of(loss, inputs)
    plain = everything(loss, inputs)
    kind = data.draw(st.sampled_from([float, int, np.float16, np.float32, list]))

    def given_as(factor):
        return np.asarray(factor).tolist() if kind is list else np.asarray(factor, kind)

    for number in (2.0, 4.0, -1.0):
        found = everything(loss, inputs, grad_output=given_as(number))
        assert_same_bits({"value": found.pop("value")}, {"value": plain["value"]})
        for key, array in found.items():
            np.testing.assert_array_equal(array, plain[key] * array.dtype.type(number), key)
    per_sample = loss.reduction in ("sample", "sample_sum") and not spec_of(loss).row_coupled
    if per_sample and place.batch is not None:
        factor = 2.0 ** np.arange(place.n)
        found = everything(loss, inputs, grad_output=given_as(factor))
        along = [1] * len(place.shape)
        along[place.batch] = place.n
        for key in default_grads(loss):
            np.testing.assert_array_equal(found[key], plain[key] * factor.reshape(along), key)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@over_losses
def test_nothing_has_a_mean_by_choice(name, empty):
    spec, nothing = spec_of(name), np.nan if empty == "nan" else 0.0
    for reduction in spec.reductions:
        loss = spec.cls(reduction=reduction, empty=empty)
        shapes: list[tuple[int, ...]] = [(0, 3, 4), (2, 0, 4), (2, 3, 0)]
        if spec.family in ("pairwise", "sequence"):
            shapes = [(0, 3, 4)[: ndims(loss)[0]]]
        for axis, shape in enumerate(shapes):
            if geometry(loss, tuple(max(n, 2) for n in shape)).classes == axis:
                continue
            place = geometry(loss, shape)
            found = everything(loss, example(loss, shape, optional=["sample_weight"]))
            value = np.asarray(found["value"])
            if reduction == "none":
                assert value.shape == place.unreduced
            elif reduction in ("sample", "sample_sum", "sample_weighted_mean"):
                assert value.shape == (place.n,)
            else:
                assert value.shape == ()
            # `batch_mean` divides by the number of samples, which a zero-size axis leaves alone.
            mean = "mean" in reduction or reduction == "sample"
            counted = place.n if reduction == "batch_mean" else math.prod(place.unreduced)
            if value.size and math.prod(place.unreduced) == 0:
                expected = nothing if mean and counted == 0 else 0.0
                np.testing.assert_array_equal(value, expected)


@over_losses
def test_no_classes_are_an_error_of_rows_that_are_there(name):
    spec = spec_of(name)
    if not {i.domain for i in spec.inputs} & {
        "SoftClasses",
        "Classes",
        "ClassSets",
        "Distribution",
    }:
        pytest.skip("no classes")
    everything(spec.cls(), example(spec.cls(), (0, 0)))
    per_vector = input_of(spec.cls(), "label").shape == "PerVector"
    label = np.zeros(2) if per_vector else np.zeros((2, 0))
    with pytest.raises(ShapeError, match="pred"):
        spec.cls()(np.zeros((2, 0)), label)


# Objects


@over_losses
@given(data=st.data())
def test_losses_are_values(name, data):
    loss, _ = data.draw(arguments(name))
    twin = remade(loss)
    assert twin is not loss
    copies = [pickle.loads(pickle.dumps(loss, protocol)) for protocol in range(2, 6)]
    for same in [twin, copy.copy(loss), copy.deepcopy(loss), eval(repr(loss), vars(rl)), *copies]:
        assert type(same) is type(loss)
        assert same == loss
        assert hash(same) == hash(loss)
        assert repr(same) == repr(loss)
        assert same._params == loss._params
    other = remade(loss, weight=7.0)
    assert other != loss
    assert loss != name
    assert len({loss, twin, other}) == 2


@over_losses
def test_repr_shows_what_was_set(name):
    cls = spec_of(name).cls
    assert repr(cls()) == f"{cls.__name__}()"
    assert repr(cls(reduction="none")) == f"{cls.__name__}(reduction='none')"


@over_losses
def test_losses_cannot_be_changed(name):
    loss = spec_of(name).cls()
    before = dict(loss._params)
    for key in (*before, "spam"):
        with pytest.raises(AttributeError):
            setattr(loss, key, 1)
        with pytest.raises(AttributeError):
            delattr(loss, key)
        with pytest.raises(TypeError):
            loss._params[key] = 1
    for key, value in before.items():
        assert getattr(loss, key) == value or getattr(loss, key) is value
    with pytest.raises(AttributeError, match="spam"):
        _ = loss.spam
    assert loss._params == before
