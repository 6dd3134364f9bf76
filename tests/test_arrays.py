"""How arrays lie in memory, how they are cut, and who computes: none of it changes a bit."""

from __future__ import annotations

import contextlib
import gc
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rustloss as rl
from contract import (
    DTYPES,
    HALF_TYPES,
    PER_SAMPLE,
    assert_same_bits,
    batch_axis_of,
    batch_axis_of_result,
    default_grads,
    everything,
    losses_of,
    over_losses,
    over_rowwise,
    place_of,
    remade,
    samples,
)
from rustloss.testing import LAYOUTS, arguments, example, relayout
from rustloss.testing._inputs import layout_for
from rustloss.testing._registry import input_of, spec_of, specs

THREADS = [2, 3, 8]
TOTALS = ["sum", "mean", "batch_mean", "weighted_mean", "sample_weighted_mean"]
LEAST_LEAK = 16
"""Bytes: the head of an object of Python."""


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
        expected = [np.asarray(value), *(grads if several else (grads,))]
        assert_same_bits(dict(enumerate([out, *buffers])), dict(enumerate(expected)))
        assert_same_bits(
            dict(enumerate(buffers)),
            dict(enumerate(loss.grad(**inputs, wrt=default_grads(loss)))),
        )
        if spec_of(name).hess:
            grad, hess = loss.grad_hess(**inputs)
            assert_same_bits({0: grad}, {0: grads[0] if several else grads})
            grad_out, hess_out = buffer(grad), buffer(hess)
            found_grad, found_hess = loss.grad_hess(**inputs, grad_out=grad_out, hess_out=hess_out)
            assert found_grad is grad_out
            assert found_hess is hess_out
            assert_same_bits({0: grad_out, 1: hess_out}, {0: grad, 1: hess})


def shapes_for(name: str) -> list[tuple[int, ...] | None]:
    family = spec_of(name).family
    return [None] if family in ("pairwise", "sequence") else [(19, 7), (3, 5, 4)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@over_losses
def test_layout_of_memory_does_not_matter(name, dtype, layout):
    optional = [i.name for i in spec_of(name).inputs if i.domain != "Offsets"]
    for loss in losses_of(name):
        for shape in shapes_for(name):
            for option in (None, "grad_output"):
                inputs = example(loss, shape, dtype=dtype, optional=optional)
                inputs = {k: relayout(a, layout_for(loss, k, layout)) for k, a in inputs.items()}
                before = {k: np.array(a, order="C") for k, a in inputs.items()}
                plain = {k: a.astype(a.dtype.newbyteorder("=")) for k, a in before.items()}
                value = np.asarray(loss(**plain))
                factor = relayout(np.arange(1.0, 1 + value.size).reshape(value.shape), layout)
                options = {option: factor} if option else {}
                plain_options = {option: np.array(factor, np.float64)} if option else {}
                found = everything(loss, inputs, **options)
                assert_same_bits(found, everything(loss, plain, **plain_options))
                for key, array in inputs.items():
                    assert np.array_equal(array, before[key], equal_nan=True), key


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@over_rowwise
def test_few_elements_have_the_bits_of_tiles(name, dtype):
    """Up to 1024 elements in C order are computed at once; what lies apart is cut into tiles."""
    spec = spec_of(name)
    if spec.family in ("pairwise", "sequence"):
        pytest.skip("has no work on single elements")
    for reduction in spec.reductions:
        for weight in (None, 0.3):
            loss = spec.cls(reduction=reduction, weight=weight)
            for shape in [(8, 8), (1, 1024), (1024, 1), (4, 16, 16), (1025, 1), (5, 60)]:
                inputs = example(loss, shape, dtype=dtype)
                apart = {key: relayout(array, "strided") for key, array in inputs.items()}
                tiles = everything(loss, apart)
                assert_same_bits(everything(loss, inputs), tiles)
                value, grads = loss.value_and_grad(*inputs.values())
                names = default_grads(loss)
                found = dict(zip(names, grads if len(names) > 1 else (grads,), strict=True))
                found = {"value": value, **found}
                assert_same_bits(found, {key: tiles[key] for key in found})


@pytest.mark.parametrize("batch_axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
@over_rowwise
def test_mixed_layouts_of_wide_arrays_do_not_matter(name, dtype, batch_axis):
    if spec_of(name).family in ("pairwise", "sequence"):
        pytest.skip("has one batch axis")
    loss = spec_of(name).cls(batch_axis=batch_axis)
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
            if getattr(loss, "label_layout", "NT") == "TN":  # a list is one sequence per sample
                lists["label"] = np.asarray(whole["label"]).T.tolist()
            expected = everything(loss, floats)
            assert_same_bits(everything(loss, whole), expected)
            if kind is not bool:
                assert_same_bits(everything(loss, lists), expected)


@pytest.mark.parametrize("name", [n for n, s in specs().items() if s.family == "elementwise"])
def test_python_numbers_are_one_sample(name):
    first, *others = [i.name for i in spec_of(name).inputs if i.required]
    numbers = {first: 0.25, **dict.fromkeys(others, 1)}
    for loss in losses_of(name):
        for reduction in spec_of(name).reductions:
            loss = remade(loss, reduction=reduction)
            results: Any = loss.value_and_grad(**numbers, wrt=first)
            value, grad = results
            lists = {key: [x] for key, x in numbers.items()}
            results = loss.value_and_grad(**lists, wrt=first)
            array, slope = results
            assert isinstance(value, np.float64)
            assert isinstance(grad, np.float64)
            assert (value, grad) == (array.item(), slope.item())


# Axes


@over_losses
@given(data=st.data())
def test_batch_axis_is_where_the_samples_are(name, data):
    loss, inputs = data.draw(arguments(name, reduction=data.draw(st.sampled_from(PER_SAMPLE))))
    place = place_of(loss, inputs)
    if place.batch is None or spec_of(loss).family == "sequence":
        return
    inputs.pop("sample_weight", None)
    inputs.pop("pos_weight", None)
    changes = {"batch_axis": 0}
    if place.classes is not None and "axis" in loss._params:
        order = [place.batch, *(a for a in range(len(place.shape)) if a != place.batch)]
        changes["axis"] = order.index(place.classes)
    moved = {
        k: a if (axis := batch_axis_of(loss, inputs, k)) is None else np.moveaxis(a, axis, 0)
        for k, a in inputs.items()
    }
    found, first = everything(loss, inputs), everything(remade(loss, **changes), moved)
    for key, array in found.items():
        axis = batch_axis_of_result(loss, inputs, key)
        expected = first[key] if axis is None else np.moveaxis(first[key], 0, axis)
        assert_same_bits({key: array}, {key: expected})


@pytest.mark.parametrize("width", [63, 1024, 1025, 2050])
@over_rowwise
def test_batch_axis_of_wide_samples_is_where_the_samples_are(name, width):
    spec = spec_of(name)
    if spec.family == "sequence":
        pytest.skip("has no batch axis")
    # The samples lie side by side: one in each column.
    has_axis = "axis" in spec.params
    shape, batch_axis = (3, width, 5) if has_axis else (width, 5), -1
    axis, axis_moved = ({"axis": 0}, {"axis": 1}) if has_axis else ({}, {})
    for reduction in PER_SAMPLE:
        loss = spec.cls(batch_axis=batch_axis, reduction=reduction, **axis)
        inputs = example(loss, shape)
        moved = {
            k: np.moveaxis(a, batch_axis_of(loss, inputs, k) or 0, 0).copy()
            for k, a in inputs.items()
        }
        found = everything(loss, inputs)
        first = everything(remade(loss, batch_axis=0, **axis_moved), moved)
        for key, array in found.items():
            along = batch_axis_of_result(loss, inputs, key) or 0
            assert_same_bits({key: array}, {key: np.moveaxis(first[key], 0, along)})


@pytest.mark.parametrize("shape", [(5, 1025), (19, 2050), (3, 5, 410)])
@pytest.mark.parametrize("dtype", DTYPES)
@over_rowwise
def test_layouts_of_wide_arrays_may_differ(name, dtype, shape):
    if spec_of(name).family == "sequence":
        pytest.skip("has frames instead")
    loss = spec_of(name).cls(reduction="none")
    inputs = example(loss, shape, dtype=dtype, optional=["sample_weight"])
    expected = everything(loss, inputs)
    for key, array in inputs.items():
        for layout in ("F", "strided", "reversed"):
            mixed = {**inputs, key: relayout(array, layout)}
            assert_same_bits(everything(loss, mixed), expected)
            out = relayout(np.zeros_like(expected["value"]), layout)
            loss(**inputs, out=out)
            assert_same_bits({"value": out}, {"value": expected["value"]})


@pytest.mark.parametrize("shape", [(1100, 3), (300, 40), (70, 1063), (9, 520, 3)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [n for n in specs() if spec_of(n).family == "elementwise"])
def test_samples_that_lie_side_by_side_have_the_same_sums(name, dtype, shape):
    rng = np.random.default_rng(0)
    weights = [None, rng.random(shape[0]), rng.random(shape).astype(np.float32)]
    reductions = [*PER_SAMPLE, *TOTALS]
    if name != "L2Loss":  # What sums is compiled once for all losses.
        weights, reductions = weights[::2], ["none", "sample", "sum"]
    plain = example(spec_of(name).cls(), shape, dtype=dtype)
    lying = {k: np.asfortranarray(a) for k, a in plain.items()}
    first = spec_of(name).inputs[0].name
    mixed = [{**lying, first: plain[first]}, {**plain, first: lying[first]}]
    for reduction in reductions:
        loss = spec_of(name).cls(reduction=reduction)
        for weight in weights:
            expected = everything(loss, {**plain, "sample_weight": weight})
            for inputs in (lying, *mixed):
                found = everything(loss, {**inputs, "sample_weight": weight})
                assert_same_bits(found, expected)


@over_losses
def test_gradients_lie_in_memory_as_their_inputs_do(name):
    loss = spec_of(name).cls(reduction="none")
    inputs = {k: np.asfortranarray(a) for k, a in example(loss).items()}
    value, grads = loss.value_and_grad(**inputs)
    assert np.asarray(value).flags.c_contiguous
    grads = grads if isinstance(grads, tuple) else (grads,)
    for grad, key in zip(grads, default_grads(loss), strict=True):
        assert grad.strides == np.zeros_like(inputs[key], grad.dtype).strides
    if spec_of(name).hess:
        assert all(a.strides == grads[0].strides for a in loss.grad_hess(**inputs))


def label_forms(label: Any) -> list[Any]:
    """Return a label in other shapes that mean the same."""
    forms = [label.reshape(-1), np.squeeze(label)]
    return [*forms, *(np.expand_dims(label, axis) for axis in range(label.ndim + 1))]


@over_losses
@given(data=st.data())
def test_label_may_lack_or_have_axes_of_size_one(name, data):
    spec = spec_of(name)
    loss, inputs = data.draw(arguments(name))
    if spec.family in ("sequence", "pairwise"):
        return
    entries = [i.name for i in spec.inputs if i.required and i.shape != "Broadcast"][1:]
    expected = everything(loss, inputs)
    for key in entries:
        for form in label_forms(np.asarray(inputs[key])):
            if form.ndim == 1 and form.size != np.size(inputs[key]):
                continue
            found = everything(loss, {**inputs, key: form})
            slope = found.pop(key, None)
            assert_same_bits(found, {k: expected[k] for k in found})
            if slope is not None:
                back = np.asarray(slope).reshape(expected[key].shape)
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
    key = data.draw(st.sampled_from(default_grads(loss)))
    # There is no negative variance, and no infinite probability.
    kinds = {"Variance": [np.nan, np.inf], "PredictedProbability": [np.nan]}
    domain = input_of(loss, key).domain
    poison = data.draw(st.sampled_from(kinds.get(domain, [np.nan, np.inf, -np.inf])))
    array = inputs[key] = np.array(inputs[key])
    array[tuple(sample if axis == place.batch else 0 for axis in range(array.ndim))] = poison
    found = everything(loss, inputs)
    for key, array in found.items():
        if key == "pos_weight":
            continue
        axis = batch_axis_of_result(loss, inputs, key)
        if axis is not None:
            others = [np.delete(x, sample, axis) for x in (array, clean[key])]
            assert_same_bits({key: others[0]}, {key: others[1]})
    # A weight of the positive term may leave nothing of the element.
    weights = {"sample_weight", "pos_weight"} & inputs.keys()
    if np.isnan(poison) and not weights and spec_of(loss).family == "elementwise":
        axis = place.samples if reduction == "none" else 0
        assert np.isnan(np.take(found["value"], sample, axis)).any()


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
        axis = batch_axis_of_result(loss, inputs, key)
        joined = np.concatenate([p[key] for p in parts], axis or 0)
        assert_same_bits({key: joined}, {key: array})


@pytest.mark.parametrize("width", [1, 2, 7, 15, 16, 17, 31, 33, 64, 65, 127, 1023, 1025, 2049])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@over_rowwise
def test_rows_of_any_length_may_be_computed_apart(name, dtype, width):
    if spec_of(name).family == "sequence":
        pytest.skip("has frames instead")
    # A sum is the mean before it is divided.
    for reduction in ("none", "sample"):
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
    return sizes.get(spec_of(name).family, (557, 563))


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
    if spec.family in ("sequence", "pairwise"):
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


# Memory


@pytest.mark.parametrize("calls", [300, pytest.param(100_000, marks=pytest.mark.slow)])
@over_losses
def test_calls_leave_nothing_behind(name, calls):
    loss = spec_of(name).cls()
    inputs = example(loss, optional=["sample_weight"])
    wrong = {**inputs, "sample_weight": np.full(5, -1.0)}
    held = [*inputs.values(), *wrong.values(), loss]

    def traced():
        gc.collect()
        traces = tracemalloc.take_snapshot()
        domains = (np.lib.tracemalloc_domain, 0)
        kept = [traces.filter_traces([tracemalloc.DomainFilter(True, d)]) for d in domains]
        return [sum(trace.size for trace in found.traces) for found in kept]

    def call(times):
        for _ in range(times):
            loss.value_and_grad(**inputs)
            with contextlib.suppress(ValueError):
                loss.value_and_grad(**wrong)

    def after_calls():
        call(calls)
        return traced()

    call(50)
    counts = [sys.getrefcount(a) for a in held]
    tracemalloc.start()
    try:
        call(50)
        # Snapshots take some of Python's own memory now and then; a leak grows every time.
        sizes = np.array([traced(), *(after_calls() for _ in range(3))])
        arrays, objects = np.diff(sizes, axis=0).min(0)
    finally:
        tracemalloc.stop()
    assert [sys.getrefcount(a) for a in held] == counts
    assert arrays == 0
    assert objects < LEAST_LEAK * calls
