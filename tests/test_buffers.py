"""Results in the caller's own arrays: where they may lie, and that nothing is left unwritten."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import rustloss as rl
from contract import (
    DTYPES,
    HALF_TYPES,
    assert_same_bits,
    default_grads,
    losses_of,
    over_losses,
    place_of,
    remade,
    weights_of_classes,
)
from rustloss import _core, errors
from rustloss.testing import example, relayout
from rustloss.testing._inputs import broadcast_weight, weight_shapes
from rustloss.testing._registry import differentiable, input_of, spec_of, specs

HUBER = rl.HuberLoss()
IN_PLACE = [n for n, s in specs().items() if s.family == "elementwise"]
IN_PLACE += ["SoftmaxCrossEntropyLoss", "KLDivLoss"]
IN_PLACE += ["SoftmaxFocalLoss", "PolyLoss", "CategoricalHingeLoss"]
IN_PLACE += ["MultiMarginLoss", "MultiLabelMarginLoss"]
"""Losses that read every part of the prediction before they write there."""
POISONS = (0x5A, 0xA5)
"""Bytes that fresh results are filled with; the last one is that of the whole run."""
WIDE = (5, 1100)
"""More columns than a block has."""
NON_FINITE = [np.inf, 1.0, np.nan, -np.inf]


# Overlap


def test_interleaved_buffers_do_not_overlap():
    memory = np.arange(12.0)
    pred, grad = memory[::2], memory[1::2]
    expected = HUBER.value_and_grad(pred.copy(), np.zeros(6))[1]
    assert HUBER.value_and_grad(pred, np.zeros(6), grad_out=grad)[1] is grad
    assert_array_equal(grad, expected)
    assert_array_equal(pred, np.arange(0.0, 12.0, 2.0))


def test_buffers_may_be_next_to_each_other():
    memory = np.arange(12.0)
    HUBER.value_and_grad(memory[:4], np.zeros(4), out=memory[4:8], grad_out=memory[8:])
    assert_array_equal(memory[:4], np.arange(4.0))


def test_outputs_must_not_overlap_each_other():
    memory = np.zeros(5)
    with pytest.raises(errors.OutputError, match="grad_out: it overlaps out"):
        HUBER.value_and_grad(np.ones(3), np.zeros(3), out=memory[:3], grad_out=memory[2:])
    assert not memory.any()


LARGE = 300_000
"""Elements: enough for other Python threads to run meanwhile."""


def test_halves_of_one_array_are_input_and_output():
    memory = np.arange(2.0 * LARGE)
    pred, grad = memory[:LARGE], memory[LARGE:]
    expected = HUBER.grad(pred.copy(), np.zeros(LARGE))
    assert HUBER.grad(pred, np.zeros(LARGE), grad_out=grad) is grad
    assert_array_equal(grad, expected)
    assert_array_equal(pred, np.arange(float(LARGE)))


def test_halves_of_one_array_are_two_outputs():
    pred, label, memory = np.arange(1.0 * LARGE), np.zeros(LARGE), np.zeros((LARGE, 2))
    out, grad = memory[:, 0], memory[:, 1]
    loss = remade(HUBER, reduction="none")
    loss.value_and_grad(pred, label, out=out, grad_out=grad)
    expected = loss.value_and_grad(pred, label)
    assert_array_equal(out, expected[0])
    assert_array_equal(grad, expected[1])


def test_parts_of_one_array_belong_to_two_threads():
    rounds, memory = 20, np.zeros((2, LARGE))
    pred = np.random.default_rng(0).normal(size=(2, LARGE))
    expected = HUBER.grad(pred.ravel(), np.zeros(2 * LARGE)).reshape(2, LARGE)
    failures: list[BaseException] = []

    def work(row: int) -> None:
        try:
            for _ in range(rounds):
                HUBER.grad(pred[row], np.zeros(LARGE), grad_out=memory[row])
        except BaseException as error:  # noqa: BLE001 (shown by the main thread)
            failures.append(error)

    threads = [threading.Thread(target=work, args=(row,)) for row in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert_array_equal(memory, expected)


@pytest.mark.parametrize("shape", [(0, 5), (0,), (0, 2, 3)])
def test_empty_buffers_have_any_strides(shape):
    pred, label = np.zeros(shape), np.zeros(shape)
    for grad in (
        np.empty(shape),
        np.empty((0, *shape), order="F").sum(axis=0, keepdims=True)[0][:0],
        np.lib.stride_tricks.as_strided(np.zeros(1), shape, (0,) * len(shape)),
        np.lib.stride_tricks.as_strided(np.zeros(1), shape, (4,) * len(shape)),
    ):
        assert HUBER.value_and_grad(pred, label, grad_out=grad)[1] is grad
        assert HUBER.grad_hess(pred, label, hess_out=grad)[1] is grad


@pytest.mark.parametrize("shape", [(0, 2**60), (0, 2**31, 2**30, 2)])
def test_empty_arrays_with_axes_of_any_length(shape):
    pred, loss = np.empty(shape, np.int8), rl.SigmoidBCELoss()
    assert loss(pred, pred).shape == (0,)
    assert loss.grad(pred, pred, pos_weight=1.0, wrt="pos_weight") == 0.0
    # NumPy has no array of float64 with axes of this length.
    with pytest.raises(errors.ShapeError, match=r"pred: .* an array can hold, .* shape \(0, "):
        loss.grad(pred, pred)


class Denies(np.ndarray[Any, Any]):
    """Says of itself that it shares no memory."""

    def __array_function__(self, *_: Any) -> bool:
        return False

    def view(self, *_: Any, **__: Any) -> Any:
        return np.zeros(self.shape)


def test_overlap_is_not_what_a_subclass_says():
    memory = np.arange(6.0)
    pred, grad = memory[:4], memory[2:].view(Denies)
    for loss in (HUBER, rl.L2Loss()):
        with pytest.raises(errors.OutputError, match="grad_out: it overlaps pred"):
            loss.value_and_grad(pred, np.zeros(4), grad_out=grad)
    assert_array_equal(memory, np.arange(6.0))


# In place


def derivations(
    loss: rl.Loss, inputs: dict[str, Any]
) -> Iterator[Callable[[dict[str, Any], Any], dict[str, Any]]]:
    """Yield ways to the gradient by the first input, in a buffer if one is given."""
    first = default_grads(loss)[0]
    others = [name for name in differentiable(loss, inputs) if name != first]

    def pair(given: dict[str, Any], out: Any) -> dict[str, Any]:
        value, grad = loss.value_and_grad(**given, wrt=first, grad_out=out)
        return {"value": value, first: grad}

    def alone(given: dict[str, Any], out: Any) -> dict[str, Any]:
        return {first: loss.grad(**given, wrt=first, grad_out=out)}

    def several(given: dict[str, Any], out: Any) -> dict[str, Any]:
        outs = (None, out) if len(others) == 1 else (*[None] * len(others), out)
        value, grads = loss.value_and_grad(**given, wrt=(*others, first), grad_out=outs)
        return {"value": value, **dict(zip((*others, first), grads, strict=True))}

    def second(given: dict[str, Any], out: Any) -> dict[str, Any]:
        return dict(zip((first, "hess"), loss.grad_hess(**given, grad_out=out), strict=True))

    yield from (pair, alone, several)
    if spec_of(loss).hess:
        yield second


@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_gradient_may_replace_the_prediction(name, dtype, layout):
    optional = [i.name for i in spec_of(name).inputs]
    for loss in losses_of(name):
        for reduction in ("none", "sample", "sum"):
            for shape in ((3, 4), (19, 7), WIDE):
                made = remade(loss, reduction=reduction)
                inputs = example(made, shape, dtype=dtype, optional=optional)
                first = default_grads(loss)[0]
                for way in derivations(made, inputs):
                    expected = way(inputs, None)
                    pred = relayout(inputs[first], layout)
                    found = way({**inputs, first: pred}, pred)
                    assert found[first] is pred
                    assert_same_bits(found, expected)


@over_losses
def test_gradient_replaces_nothing_else(name):
    loss = spec_of(name).cls()
    inputs = example(loss, optional=["sample_weight"])
    before = {key: array.copy() for key, array in inputs.items()}
    for place, key in enumerate(default_grads(loss)):
        if place == 0 and name in IN_PLACE:
            continue
        with pytest.raises(errors.OutputError, match=f"grad_out: it overlaps {key}"):
            loss.grad(**inputs, wrt=key, grad_out=inputs[key])
    if name in IN_PLACE:
        first = default_grads(loss)[0]
        for key, array in inputs.items():
            if array.shape == inputs[first].shape and key != first:
                shared = {**inputs, key: inputs[first]}
                with pytest.raises(errors.OutputError, match=f"it overlaps {key}"):
                    loss.grad(**shared, wrt=first, grad_out=inputs[first])
        with pytest.raises(errors.OutputError, match=f"overlaps {first}"):
            loss.grad(**inputs, wrt=first, grad_out=inputs[first][::-1])
    for key, array in inputs.items():
        assert_array_equal(array, before[key])


# Kinds of arrays


@pytest.mark.parametrize("key", ["out", "grad_out", "hess_out"])
def test_a_masked_array_is_no_memory_for_results(key):
    """What is behind a mask would be hidden, as it is refused in inputs."""
    methods: dict[str, Any]
    methods = {"out": HUBER, "grad_out": HUBER.grad, "hess_out": HUBER.grad_hess}
    memory = np.full(3, 7.0)
    text = rf"{key}: expected a NumPy array, got a masked array; pass {key}\.data"
    for given in (np.ma.masked_equal(memory, 7), np.ma.masked_array(memory)):
        with pytest.raises(errors.OutputError, match=text) as caught:
            methods[key](np.ones(3), np.zeros(3), **{key: given})
        assert caught.value.argument == key
    both = (np.empty(3), np.ma.masked_array(memory))
    with pytest.raises(errors.OutputError, match=r"grad_out: .* got a masked array"):
        HUBER.grad(np.ones(3), np.zeros(3), wrt=("pred", "label"), grad_out=both)
    assert (memory == 7).all()


def test_memory_mapped_arrays_are_memory_for_results(tmp_path):
    out = np.memmap(tmp_path / "out", np.float64, "w+", shape=3)
    assert HUBER(np.ones(3), np.zeros(3), out=out) is out
    assert_array_equal(out, [0.5] * 3)


# Types


@pytest.mark.parametrize("dtype", HALF_TYPES)
@over_losses
def test_values_of_half_types_go_to_single_precision(name, dtype):
    for reduction in spec_of(name).reductions:
        loss = spec_of(name).cls(reduction=reduction)
        inputs = example(loss, dtype=dtype)
        value = np.asarray(loss(**inputs))
        out = np.full(value.shape, 7, np.float32)
        assert loss(**inputs, out=out) is out
        assert_same_bits({0: out.astype(value.dtype)}, {0: value})
        wide = {k: a.astype(np.float32) if a.dtype == dtype else a for k, a in inputs.items()}
        assert_same_bits({0: out}, {0: np.asarray(loss(**wide))})
        with pytest.raises(errors.OutputError, match="float64"):
            loss(**inputs, out=np.empty(value.shape))


def test_sums_of_half_types_keep_range_and_digits():
    pred = np.full((1, 4), 400, np.float16)
    assert rl.L2Loss()(pred, 0 * pred) == [80000.0]
    value = rl.SoftmaxCELoss()(np.zeros((1, 100), np.float16), [3])
    assert abs(value - np.log(100.0)) < np.finfo(np.float32).eps * 4


# Everything is written


def calls(loss: rl.Loss, inputs: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Return all results of all calls."""
    names = differentiable(loss, inputs)
    found: dict[str, Any] = {"value": loss(**inputs)}
    for wrt in (*names, names):
        value, grads = loss.value_and_grad(**inputs, **options, wrt=wrt)
        found[f"value beside {wrt}"] = value
        for way, several in {"": grads, "alone": loss.grad(**inputs, **options, wrt=wrt)}.items():
            for one, grad in zip(
                names if wrt is names else [wrt],
                several if wrt is names else [several],
                strict=True,
            ):
                found[f"{one} of {wrt} {way}"] = grad
    if spec_of(loss).hess:
        found["grad"], found["hess"] = loss.grad_hess(**inputs, **options)
    return found


def assert_all_written(loss: rl.Loss, inputs: dict[str, Any], **options: Any) -> None:
    """Check that results do not depend on what was in their memory before."""
    found = []
    for byte in POISONS:
        _core.poison(byte)
        found.append(calls(loss, inputs, **options))
    assert_same_bits(*found)


def configurations(name: str) -> Iterator[rl.Loss]:
    """Yield losses with every switch, and with all that leaves rows out."""
    yield from losses_of(name)
    if name == "SoftmaxCrossEntropyLoss":
        for options in (
            {"ignore_index": 1},
            {"ignore_index": -1, "label_smoothing": 0.1},
            {"label_smoothing": 1.0},
            {"ignore_index": 1, "from_logits": True},
            {"sparse_label": False, "label_smoothing": 0.1, "from_logits": True},
        ):
            yield rl.SoftmaxCELoss(**options)


def weights_for(loss: rl.Loss, inputs: dict[str, Any]) -> Iterator[Any]:
    """Yield no weights, and some with zeros: for all, per sample and per element."""
    yield None
    yield 0.0
    place = place_of(loss, inputs)
    for shape in {(place.n,), weight_shapes(loss, place)[-2]}:
        weight = np.arange(1.0, 1 + np.prod(shape, dtype=int)).reshape(shape)
        yield np.where(weight % 3 == 1, 0.0, weight)


@pytest.mark.parametrize("dtype", DTYPES)
@over_losses
def test_every_result_is_written(name, dtype):
    optional = [i.name for i in spec_of(name).inputs if i.domain not in ("Offsets", "Weight")]
    plain = spec_of(name).family in ("pairwise", "sequence")
    # What writes is one generic function: float64 is written as float32 is, bfloat16 as float16.
    many = dtype in (np.float32, np.float16)
    for loss in itertools.islice(configurations(name), None if many else 1):
        for shape in [None] if plain else [None, WIDE]:
            reductions = spec_of(name).reductions if shape is None else ("none", "sample", "mean")
            for reduction in reductions:
                made = remade(loss, reduction=reduction)
                for more in ([], ["pos_weight"]) if "BinaryCross" in name else ([],):
                    inputs = example(made, shape, dtype=dtype, optional=[*optional, *more])
                    for weight in weights_for(made, inputs):
                        inputs["sample_weight"] = weight
                        value = np.shape(made(**inputs))
                        for factor in (None, np.nan, np.resize(NON_FINITE, value)):
                            assert_all_written(made, inputs, grad_output=factor)


@pytest.mark.loss("CTCLoss")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["NTC", "TNC", "TC"])
def test_every_path_is_written(layout, dtype):
    loss = rl.CTCLoss(layout)
    inputs = example(loss, dtype=dtype, optional=["pred_lengths", "label_lengths"])
    for change in ({}, {"pred_lengths": 0 * inputs["pred_lengths"]}):
        found = []
        for byte in POISONS:
            _core.poison(byte)
            path = loss.align(**{**inputs, **change})
            results = {"posteriors": loss.posteriors(**{**inputs, **change})}
            parts = ("index", "log_prob", "posterior")
            found.append(results | {part: getattr(path, part) for part in parts})
        assert_same_bits(*found)


@over_losses
def test_class_weights_of_zero_leave_nothing_unwritten(name):
    spec = spec_of(name)
    if not weights_of_classes(name):
        pytest.skip("has no class weights")
    forms: list[dict[str, Any]] = [{"label_smoothing": 0.25}, {"sparse_label": False}]
    known = [options for options in forms if options.keys() <= spec.params.keys()]
    for classes in (5, 1100):
        weights = {key: [0.0, *range(1, classes)] for key in weights_of_classes(name)}
        for options in ({}, *known):
            loss = spec.cls(**weights, **options)
            for factor in (None, np.nan, np.inf):
                inputs = example(loss, (4, classes))
                if input_of(loss, "label").is_discrete:
                    inputs["label"][:2] = 0
                assert_all_written(loss, inputs, grad_output=factor)


@pytest.mark.parametrize("shape", [None, WIDE])
@over_losses
def test_weight_zero_is_zero_whatever_gradient_arrives(name, shape):
    spec = spec_of(name)
    if spec.family in ("pairwise", "sequence") and shape is not None:
        pytest.skip("has another shape")
    for loss in configurations(name):
        for reduction in spec.reductions:
            made = remade(loss, reduction=reduction)
            inputs = example(made, shape)
            place = place_of(made, inputs)
            weight = np.arange(place.n) % 2
            inputs["sample_weight"] = weight
            value = np.shape(made(**inputs))
            if spec.row_coupled or place.batch is None:
                continue
            out = np.broadcast_to(broadcast_weight(weight, place), place.unreduced) == 0
            arriving = np.full(value, 1.0)
            if value == place.unreduced:
                arriving[out] = np.nan
            elif value == (place.n,):
                arriving[weight == 0] = np.inf
            names = default_grads(made)
            plain = made.grad(**inputs, wrt=names)
            grads = made.grad(**inputs, grad_output=arriving, wrt=names)
            for grad, other in zip(grads, plain, strict=True):
                assert not np.moveaxis(np.asarray(grad), place.batch, 0)[weight == 0].any()
                # A probability of exactly 0 or 1 has an infinite slope of its own.
                np.testing.assert_array_equal(np.isfinite(grad), np.isfinite(other))
