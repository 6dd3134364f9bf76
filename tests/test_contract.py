"""What every loss of the registry keeps to, whatever it computes."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import sys
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rustloss as rl
from rustloss import testing
from rustloss.errors import ShapeError
from rustloss.testing import arguments, check_gradient, example, relayout
from rustloss.testing._inputs import broadcast_weight, weight_shapes
from rustloss.testing._registry import differentiable, geometry, is_sparse, spec_of, specs

SUM_ULP = 2
"""Of a sum, relative to the sum of the absolute terms."""
ROUNDING_ULP = 0.5
"""Of one multiplication or division."""
HALF_TYPES = [np.float16, ml_dtypes.bfloat16]
DTYPES = [*HALF_TYPES, np.float32, np.float64]
PER_SAMPLE = ["none", "sample", "sample_sum"]
THREADS = [2, 3, 8]

over_losses = pytest.mark.parametrize("name", list(specs()))
# A row of these does not depend on other rows.
over_rowwise = pytest.mark.parametrize("name", [n for n, s in specs().items() if not s.row_coupled])


def everything(loss: rl.Loss, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return all that a loss can compute: value, gradient by every input, second derivative."""
    wrt = differentiable(loss, inputs)
    value, grads = loss.value_and_grad(**inputs, wrt=wrt, **options)
    found = {"value": value, **dict(zip(wrt, grads, strict=True))}
    if spec_of(loss).hess:
        found["hess"] = loss.grad_hess(**inputs, **options)[1]
    return found


def assert_same_bits(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in found.items():
        other = expected[name]
        assert type(array) is type(other), name
        assert (array.dtype, array.shape) == (other.dtype, other.shape), name
        bits = f"u{array.dtype.itemsize}"
        same = np.ascontiguousarray(array).view(bits) == np.ascontiguousarray(other).view(bits)
        missing = np.isnan(array) & np.isnan(other)
        assert (same.reshape(array.shape) | missing).all(), (name, array, other)


def remade(loss: rl.Loss, **changes: Any) -> rl.Loss:
    return type(loss)(**{**loss._params, **changes})


def place_of(loss: rl.Loss, inputs: dict[str, Any]) -> Any:
    return geometry(loss, np.shape(inputs[spec_of(loss).inputs[0].name]))


def default_grads(loss: rl.Loss) -> list[str]:
    return [i.name for i in spec_of(loss).inputs if i.gradient == "Default"]


def batch_axis_of(loss: rl.Loss, inputs: dict[str, Any], name: str) -> int | None:
    """Return which axis of an input counts samples."""
    place, shape = place_of(loss, inputs), np.shape(inputs[name])
    if name == "label" and spec_of(loss).rule == "sequence":
        return loss.label_layout.index("N") if place.batch is not None else None
    if shape == place.shape:
        return place.batch
    return place.samples if shape == place.unreduced else 0 if shape == (place.n,) else None


def samples(loss: rl.Loss, inputs: dict[str, Any], chosen: slice) -> dict[str, Any]:
    """Return some samples of a call."""
    parts = {}
    for name, array in inputs.items():
        axis = batch_axis_of(loss, inputs, name)
        parts[name] = array if axis is None else array[(slice(None),) * axis + (chosen,)]
    return parts


def by_sample(x: Any, place: Any) -> Any:
    """Return what has the shape of the unreduced loss as a matrix with a row for each sample."""
    return np.moveaxis(x, place.samples, 0).reshape(place.n, -1) if x.ndim else x.reshape(1, 1)


def losses_of(name: str) -> list[rl.Loss]:
    """Return a loss with its defaults, and one for each other value of its switches."""
    spec, found = spec_of(name), [spec_of(name).cls()]
    for key, param in spec.params.items():
        words = param.detail if param.kind in {"Choice", "FlagOr"} else ()
        flags = (True, False) if param.kind in {"Flag", "FlagOr"} else ()
        found += [spec.cls(**{key: v}) for v in (*words, *flags) if v != param.default]
    return found


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
    if spec_of(loss).hess:
        grad, hess = loss.grad_hess(*positional)
        ways.append({names[0]: grad, "hess": hess})
    for way in ways:
        assert_same_bits(way, {key: found[key] for key in way})


@over_losses
@given(data=st.data())
def test_results_have_the_predictions_type(name, data):
    dtype = data.draw(st.sampled_from(DTYPES))
    loss, inputs = data.draw(arguments(name, dtype=dtype))
    found = everything(loss, inputs, grad_output=np.float64(0.5))
    value = found.pop("value")
    total = value.shape == () and loss.reduction not in (*PER_SAMPLE, "sample_weighted_mean")
    assert value.dtype == (np.float32 if total and dtype in HALF_TYPES else dtype)
    assert isinstance(value, np.ndarray) == (value.shape != ())
    pred = found.pop("hess", None)
    for key, grad in [*found.items(), *([(default_grads(loss)[0], pred)] if pred is not None else [])]:
        assert grad.dtype == dtype
        assert grad.shape == np.shape(inputs[key])


# Weights


def assert_scaled(found: Any, plain: Any, factor: Any) -> None:
    """Check a product with powers of two, in which 0 removes what it meets."""
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(found, np.where(factor == 0, 0, plain * factor))


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
    loss, inputs = data.draw(arguments(name, weighted=False, reduction="none", weight=None))
    place = place_of(loss, inputs)
    dtype = data.draw(st.sampled_from([bool, np.uint8, np.int64, np.float16, np.float32, np.float64]))
    weight = powers_of_two(data, data.draw(st.sampled_from(weight_shapes(loss, place))), dtype)
    factor = data.draw(st.sampled_from([None, 0.5, 4]))
    plain = everything(loss, inputs)
    inputs["sample_weight"] = weight
    found = everything(remade(loss, weight=factor), inputs)

    of_element = broadcast_weight(weight, place) * (1.0 if factor is None else factor)
    assert_scaled(found["value"], plain["value"], of_element)
    rows = by_sample(of_element, place)
    spec = spec_of(loss)
    if spec.rule == "elementwise":
        of_input = of_element
    elif not spec.row_coupled and (rows == rows[:, :1]).all():
        along = [1] * len(place.shape)
        along[place.batch or 0] = place.n
        of_input = rows[:, 0].reshape(along if place.batch is not None else ())
    else:
        return
    for key in [*default_grads(loss), *(["hess"] if spec.hess else [])]:
        assert_scaled(found[key], plain[key], of_input)


@over_losses
@given(data=st.data())
def test_weight_zero_removes_whatever_is_there(name, data):
    loss, inputs = data.draw(arguments(name, weighted=False))
    place, spec = place_of(loss, inputs), spec_of(loss)
    removed = np.random.default_rng(data.draw(st.integers(0, 1000))).random(place.n) < 0.5
    inputs["sample_weight"] = np.where(removed, 0, 2) if place.batch is not None else 2 * ~removed[0]
    expected = everything(loss, inputs)
    poison = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    # A row of the second input of a loss of pairs belongs to the loss of every other row.
    poisoned = default_grads(loss)[: 1 if spec.row_coupled else None]
    if spec.rule == "elementwise":
        poisoned += [i.name for i in spec.inputs if i.gradient == "OnRequest" and i.domain != "Weight"]
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
        domain = {i.name: i.domain for i in spec_of(loss).inputs}.get("label")
        if domain not in checked or (domain == "Classes" and not is_sparse(loss, domain)):
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


def class_weights(loss: rl.Loss, inputs: dict[str, Any], place: Any) -> Any:
    """Return what counts in the weighted means beside `sample_weight`."""
    params, ones = loss._params, np.ones(place.unreduced)
    if "class_weight" not in params:
        return ones
    label, classes = np.asarray(inputs["label"]), place.shape[place.classes]
    weights = np.ones(classes) if params["class_weight"] is None else np.array(params["class_weight"])
    if not params["sparse_label"]:
        return np.tensordot(np.asarray(label, float), weights, (place.classes, 0)).reshape(ones.shape)
    label = label.reshape(ones.shape).astype(int)
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
        assert abs(value - expected) <= bound, (value, expected)


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
        for axis, shape in enumerate([(0, 3, 4), (2, 0, 4), (2, 3, 0)]):
            if spec.rule in ("pairwise", "sequence") and axis > 0:
                continue
            shape = shape[:2] if spec.rule == "pairwise" else shape
            place = geometry(loss, shape)
            if place.classes == axis:
                continue
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
    loss = spec_of(name).cls()
    if spec_of(name).rule not in ("classes", "divergence"):
        pytest.skip("no classes")
    everything(loss, example(loss, (0, 0)))
    with pytest.raises(ShapeError, match="pred"):
        loss(np.zeros((2, 0)), np.zeros(2 if is_sparse(loss, "Classes") else (2, 0)))


# Buffers


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
@pytest.mark.parametrize("dtype", DTYPES)
@over_losses
def test_results_go_where_they_are_wanted(name, dtype, layout):
    for reduction in ("none", "sample", "sum"):
        loss = spec_of(name).cls(reduction=reduction)
        inputs = example(loss, dtype=dtype, optional=["sample_weight"])
        value, grads = loss.value_and_grad(**inputs)
        several = isinstance(grads, tuple)

        def buffer(like):
            return relayout(np.full(like.shape, 7, like.dtype), layout)

        out = buffer(value)
        assert loss(**inputs, out=out) is out
        assert_same_bits({"value": out}, {"value": np.asarray(value)})
        out = buffer(value)
        buffers = tuple(map(buffer, grads if several else (grads,)))
        given_value, given_grads = loss.value_and_grad(
            **inputs, out=out, grad_out=buffers if several else buffers[0]
        )
        assert given_value is out
        for found, there in zip(given_grads if several else (given_grads,), buffers, strict=True):
            assert found is there
        expected = {"value": np.asarray(value), **dict(enumerate(grads if several else (grads,)))}
        assert_same_bits({"value": out, **dict(enumerate(buffers))}, expected)
        if spec_of(name).hess:
            _, hess = loss.grad_hess(**inputs)
            grad_out, hess_out = buffer(grads), buffer(hess)
            found_grad, found_hess = loss.grad_hess(**inputs, grad_out=grad_out, hess_out=hess_out)
            assert found_grad is grad_out
            assert found_hess is hess_out
            assert_same_bits({0: grad_out, 1: hess_out}, {0: grads, 1: hess})


def shapes_for(name: str) -> list[tuple[int, ...] | None]:
    rule = spec_of(name).rule
    return [None] if rule in ("pairwise", "sequence") else [(19, 7), (3, 5, 4)]


@pytest.mark.parametrize("layout", testing.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@over_losses
def test_layout_of_memory_does_not_matter(name, dtype, layout):
    optional = [i.name for i in spec_of(name).inputs if i.domain != "Offsets"]
    for loss in losses_of(name):
        for shape in shapes_for(name):
            for given in (None, "grad_output"):
                inputs = example(loss, shape, dtype=dtype, optional=optional)
                inputs = {k: relayout(a, layout) for k, a in inputs.items()}
                before = {k: np.array(a) for k, a in inputs.items()}
                plain = {k: a.astype(a.dtype.newbyteorder("=")) for k, a in before.items()}
                factor = relayout(np.arange(1.0, 1 + np.size(loss(**plain))), layout)
                options = {given: factor} if given else {}
                plain_options = {given: np.array(factor, np.float64)} if given else {}
                found = everything(loss, inputs, **options)
                assert_same_bits(found, everything(loss, plain, **plain_options))
                for key, array in inputs.items():
                    assert np.array_equal(array, before[key], equal_nan=True), key


@pytest.mark.parametrize("batch_axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@over_rowwise
def test_mixed_layouts_of_wide_arrays_do_not_matter(name, dtype, batch_axis):
    if spec_of(name).rule in ("pairwise", "sequence"):
        pytest.skip("has one batch axis")
    loss = spec_of(name).cls(batch_axis=batch_axis)
    if spec_of(name).rule in ("classes", "divergence"):
        loss = remade(loss, axis=-1)
    inputs = example(loss, (33, 3, 70), dtype=dtype, optional=["sample_weight"])
    expected = everything(loss, inputs)
    for layout in ("F", "strided", "reversed"):
        for key, array in inputs.items():
            mixed = {**inputs, key: relayout(array, layout)}
            assert_same_bits(everything(loss, mixed), expected)


@pytest.mark.parametrize("dtype", HALF_TYPES)
@over_losses
@given(data=st.data())
def test_half_types_are_single_precision_rounded_once(name, dtype, data):
    loss, inputs = data.draw(arguments(name, dtype=dtype))
    wide = {k: a.astype(np.float32) if a.dtype == dtype else a for k, a in inputs.items()}
    found, expected = everything(loss, inputs), everything(loss, wide)
    for key, array in found.items():
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(array, np.asarray(expected[key]).astype(array.dtype), key)


@over_losses
def test_whole_numbers_truth_values_and_lists_are_float64(name):
    for loss in losses_of(name):
        inputs = example(loss)
        names = default_grads(loss)
        for kind in (bool, np.int8, np.uint8, np.int64, np.uint64):
            whole = {k: (a > 0).astype(kind) if k in names else a for k, a in inputs.items()}
            floats = {k: a.astype(float) if k in names else a for k, a in whole.items()}
            lists = {k: np.asarray(a).tolist() for k, a in whole.items()}
            expected = everything(loss, floats)
            assert_same_bits(everything(loss, whole), expected)
            if kind is not bool:
                assert_same_bits(everything(loss, lists), expected)


@pytest.mark.parametrize("name", [n for n, s in specs().items() if s.family == "elementwise"])
def test_python_numbers_are_one_sample(name):
    for loss in losses_of(name):
        for reduction in spec_of(name).reductions:
            loss = remade(loss, reduction=reduction)
            value, grad = loss.value_and_grad(0.25, 1)
            array, slope = loss.value_and_grad([0.25], [1])
            assert isinstance(value, np.float64)
            assert isinstance(grad, np.float64)
            assert (value, grad) == (array.item(), slope.item())


# Axes


@over_losses
@given(data=st.data())
def test_batch_axis_is_where_the_samples_are(name, data):
    loss, inputs = data.draw(arguments(name, reduction=data.draw(st.sampled_from(PER_SAMPLE))))
    place = place_of(loss, inputs)
    if place.batch is None or spec_of(loss).rule == "sequence":
        return
    inputs.pop("sample_weight", None)
    inputs.pop("pos_weight", None)
    changes = {"batch_axis": 0}
    if "axis" in loss._params:
        order = [place.batch, *(a for a in range(len(place.shape)) if a != place.batch)]
        changes["axis"] = order.index(place.classes)
    moved = {
        k: a if (axis := batch_axis_of(loss, inputs, k)) is None else np.moveaxis(a, axis, 0)
        for k, a in inputs.items()
    }
    found, first = everything(loss, inputs), everything(remade(loss, **changes), moved)
    for key, array in found.items():
        origin = default_grads(loss)[0] if key == "hess" else key
        if key == "value":
            axis = place.samples if loss.reduction == "none" else 0
        else:
            axis = batch_axis_of(loss, inputs, origin)
        expected = first[key] if axis is None else np.moveaxis(first[key], 0, axis)
        assert_same_bits({key: array}, {key: expected})


def label_forms(label: Any) -> list[Any]:
    """Return a label in other shapes that mean the same."""
    forms = [label.reshape(-1), np.squeeze(label)]
    return [*forms, *(np.expand_dims(label, axis) for axis in range(label.ndim + 1))]


@over_losses
@given(data=st.data())
def test_label_may_lack_or_have_axes_of_size_one(name, data):
    spec = spec_of(name)
    loss, inputs = data.draw(arguments(name))
    if spec.rule in ("sequence", "pairwise"):
        return
    entries = [i.name for i in spec.inputs if i.required][1:]
    expected = everything(loss, inputs)
    for key in entries:
        for form in label_forms(np.asarray(inputs[key])):
            if spec.rule == "divergence" and form.ndim == 1 and form.size != np.size(inputs[key]):
                continue
            found = everything(loss, {**inputs, key: form})
            slope = found.pop(key, None)
            assert_same_bits(found, {k: expected[k] for k in found})
            if slope is not None:
                back = np.reshape(slope, expected[key].shape)
                assert_same_bits({key: back}, {key: np.asarray(expected[key])})


# Samples


@over_rowwise
@given(data=st.data())
def test_bad_numbers_stay_in_their_sample(name, data):
    reduction = data.draw(st.sampled_from([*PER_SAMPLE, "sample_weighted_mean"]))
    loss, inputs = data.draw(arguments(name, reduction=reduction))
    place = place_of(loss, inputs)
    if place.batch is None:
        return
    clean = everything(loss, inputs)
    sample = data.draw(st.integers(0, place.n - 1))
    poison = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    key = data.draw(st.sampled_from(default_grads(loss)))
    array = inputs[key] = np.array(inputs[key])
    array[tuple(sample if axis == place.batch else 0 for axis in range(array.ndim))] = poison
    found = everything(loss, inputs)
    for key, array in found.items():
        if key == "pos_weight":
            continue
        if key == "value":
            axis = place.samples if reduction == "none" else 0
        else:
            axis = batch_axis_of(loss, inputs, default_grads(loss)[0] if key == "hess" else key)
        if axis is not None:
            others = [np.delete(x, sample, axis) for x in (array, clean[key])]
            assert_same_bits({key: others[0]}, {key: others[1]})
    if np.isnan(poison) and "sample_weight" not in inputs and spec_of(loss).rule == "elementwise":
        axis = place.samples if reduction == "none" else 0
        assert np.isnan(np.moveaxis(found["value"], axis, 0)[sample]).any()


@over_rowwise
@given(data=st.data())
def test_samples_may_be_computed_apart(name, data):
    reduction = data.draw(st.sampled_from(PER_SAMPLE))
    loss, inputs = data.draw(arguments(name, reduction=reduction, max_side=40))
    inputs.pop("pos_weight", None)
    if np.ndim(inputs.get("sample_weight")) != 1:
        inputs.pop("sample_weight", None)
    place = place_of(loss, inputs)
    if place.batch is None:
        return
    whole = everything(loss, inputs)
    cut = data.draw(st.integers(0, place.n))
    parts = [
        everything(loss, samples(loss, inputs, chosen))
        for chosen in (slice(0, cut), slice(cut, None))
    ]
    for key, array in whole.items():
        if key == "value":
            axis = place.samples if reduction == "none" else 0
        else:
            axis = batch_axis_of(loss, inputs, default_grads(loss)[0] if key == "hess" else key)
        joined = np.concatenate([p[key] for p in parts], axis or 0)
        assert_same_bits({key: joined}, {key: array})


@pytest.mark.parametrize("width", [1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 127, 1023, 1025, 2049])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@over_rowwise
def test_rows_of_any_length_may_be_computed_apart(name, dtype, width):
    if spec_of(name).rule == "sequence":
        pytest.skip("has frames instead")
    for reduction in PER_SAMPLE:
        loss = spec_of(name).cls(reduction=reduction)
        inputs = example(loss, (37, width), dtype=dtype)
        whole = everything(loss, inputs)
        for cut in (1, 2, 5, 16, 36):
            parts = [
                everything(loss, samples(loss, inputs, chosen))
                for chosen in (slice(0, cut), slice(cut, None))
            ]
            joined = {k: np.concatenate([p[k] for p in parts]) for k in whole}
            assert_same_bits(joined, whole)


def big_shape(name: str) -> tuple[int, ...]:
    """Return a shape that is worth several threads."""
    sizes = {"pairwise": (150, 40), "sequence": (12, 120, 30)}
    return sizes.get(spec_of(name).rule, (557, 563))


@pytest.mark.parametrize("dtype", DTYPES)
@over_losses
def test_number_of_threads_does_not_matter(name, dtype):
    spec = spec_of(name)
    for reduction in spec.reductions if dtype == np.float32 else ["sample"]:
        loss = spec.cls(reduction=reduction)
        inputs = example(loss, big_shape(name), dtype=dtype, optional=["sample_weight"])
        with rl.num_threads(1):
            expected = everything(loss, inputs)
        for n in THREADS:
            with rl.num_threads(n):
                assert_same_bits(everything(loss, inputs), expected)


@over_rowwise
def test_number_of_threads_does_not_matter_for_gathered_samples(name):
    spec = spec_of(name)
    if spec.rule in ("sequence", "pairwise", "angle"):
        pytest.skip("samples lie one behind the other")
    axes = {"axis": 0} if "axis" in spec.params else {}
    for reduction in ("none", "sample", "sum"):
        loss = spec.cls(batch_axis=1, reduction=reduction, **axes)
        inputs = example(loss, big_shape(name), dtype=np.float32, optional=["sample_weight"])
        with rl.num_threads(1):
            expected = everything(loss, inputs)
        for n in THREADS:
            with rl.num_threads(n):
                assert_same_bits(everything(loss, inputs), expected)


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
            loss._params[key] = 1  # type: ignore[index]
    for key, value in before.items():
        assert getattr(loss, key) == value or getattr(loss, key) is value
    with pytest.raises(AttributeError, match="spam"):
        _ = loss.spam
    assert loss._params == before


@pytest.mark.parametrize("calls", [200, pytest.param(100_000, marks=pytest.mark.slow)])
@over_losses
def test_calls_leave_nothing_behind(name, calls):
    loss = spec_of(name).cls()
    inputs = example(loss, optional=["sample_weight"])
    wrong = {**inputs, "sample_weight": np.full(5, -1.0)}

    def call():
        loss.value_and_grad(**inputs)
        with pytest.raises(ValueError, match="sample_weight"):
            loss.value_and_grad(**wrong)

    for _ in range(20):
        call()
    counts = [sys.getrefcount(a) for a in [*inputs.values(), *wrong.values(), loss]]
    gc.collect()
    tracemalloc.start()
    try:
        call()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(calls):
            call()
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(a) for a in [*inputs.values(), *wrong.values(), loss]] == counts
    # Less than a byte a call.
    assert after - before < max(calls, 10_000)
