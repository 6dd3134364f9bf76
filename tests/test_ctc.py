"""CTC: value and gradient against the textbook, what may not change them, and the edges.

The published vectors are in `test_golden.py`, all paths of short frames in `tests/ctc/exact.rs`,
posteriors and alignments in `test_ctc_align.py`, forms of labels and what is refused in
`test_ctc_calls.py`, inputs that lie far apart in `test_ctc_far.py`.
"""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import DTYPES, HALF_TYPES, assert_same_bits
from rustloss.testing import LAYOUTS, relayout
from rustloss.testing.oracles import evaluate
from utterances import (
    GRADIENT,
    LOSS,
    Utterances,
    everything,
    one,
    over_precisions,
    random_utterances,
    utterances,
)

pytestmark = pytest.mark.loss("CTCLoss")

INF, NAN = np.inf, np.nan
CASES = 40
"""Random shapes for each scale."""

# The textbook


def against_textbook(batch: Utterances, dtype: Any, rounding: float = 0.0, **params: Any) -> None:
    """Compare value and gradient; `rounding` is half a unit of the gradient's own type."""
    params = {"blank": batch.blank, **params}
    given = batch.of(dtype)
    exact, slopes, _ = evaluate("CTCLoss", params, **given.of(np.float64).inputs)
    value, grad = rl.CTCLoss(**params).value_and_grad(**given.inputs)
    assert value.dtype == (np.float32 if dtype in HALF_TYPES else dtype)
    assert grad.dtype == dtype
    assert np.isfinite(exact).all()
    bound = LOSS.get(dtype, LOSS[np.float32])
    errors_of_value = np.abs(value.astype(np.float64) - exact)
    size = np.maximum(1, np.abs(exact))
    assert (errors_of_value <= bound * size).all(), (value, exact)
    bound = GRADIENT.get(dtype, GRADIENT[np.float32])
    assert_allclose(grad.astype(np.float64), slopes["pred"], rtol=rounding, atol=bound)


@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
def test_random_shapes(scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(int(scale))
    for _ in range(CASES):
        samples, frames, classes = rng.integers(1, [5, 60, 39]).tolist()
        longest = int(rng.integers(0, frames // 2 + 1))
        batch = random_utterances(rng, samples, frames, classes + 1, longest, scale)
        against_textbook(batch, dtype)


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types(dtype: Any) -> None:
    rounding = float(ml_dtypes.finfo(dtype).eps) / 2
    rng = np.random.default_rng(7)
    for _ in range(CASES):
        batch = random_utterances(rng, 3, int(rng.integers(1, 40)), 9, 12, 2.0)
        against_textbook(batch, dtype, rounding)


def test_losses_of_half_types_have_the_range_of_single_precision() -> None:
    # In each frame label and blank are 600 below the best class, and every path has one run.
    frames = 130
    pred = np.zeros((1, frames, 3), np.float16)
    pred[..., 1] = 600
    exact = 600.0 * frames - np.log(frames * (frames + 1) / 2)
    assert exact > np.finfo(np.float16).max
    assert_allclose(rl.CTCLoss()(pred, [[0]]), [exact], rtol=LOSS[np.float32])


@pytest.mark.parametrize("input_", ["log_probs", "log_probs_torch"])
def test_log_probabilities_need_not_sum_to_1(input_: Any) -> None:
    rng = np.random.default_rng(8)
    for _ in range(CASES):
        batch = random_utterances(rng, 3, int(rng.integers(1, 30)), 6, 9, 2.0)
        # A loss below 0 is as it should be.
        against_textbook(batch, np.float64, input=input_)


@pytest.mark.parametrize("input_", ["log_probs", "log_probs_torch"])
def test_equal_log_probabilities_lose_nothing_from_frame_to_frame(input_: Any) -> None:
    """On a single path that adds up to 0, rounding of one kind would add up, too."""
    pred = np.full((1, 1000, 3), [0.5, 0, 0], np.float32)
    label = np.tile([1, 2], 500)[None]
    loss = rl.CTCLoss(blank=0, input=input_)
    assert abs(loss(pred, label)[0]) <= LOSS[np.float32]


LONG = [(1, 4000, 64, 500), (1, 4000, 30, 20), (3, 1500, 32, 300), (1, 2000, 5000, 30)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
@pytest.mark.parametrize("shape", LONG, ids=str)
def test_long_utterances(shape: tuple[int, int, int, int], scale: float, dtype: Any) -> None:
    samples, frames, classes, longest = shape
    rng = np.random.default_rng(9)
    batch = random_utterances(rng, samples, frames, classes, longest, scale)
    others = np.delete(np.arange(classes), batch.blank)
    # As long as they may be.
    labels = [rng.choice(others, longest) for _ in range(samples)]
    lengths = np.full(samples, frames)
    against_textbook(replace(batch, labels=labels, lengths=lengths), dtype)


# What may not change the result

FORMS = ("ended by -1", "padded", "flat with lengths", "flat with offsets", "list", "Arrow list")


class ArrowList:
    """Looks like a slice of an Arrow list array: offsets need not begin at 0."""

    def __init__(self, labels: list[Any]) -> None:
        self.values = np.concatenate([[99, 99], *labels, [99]]).astype(np.int64)
        self.offsets = np.cumsum([2, *map(len, labels)])


def labels_in(form: str, batch: Utterances) -> dict[str, Any]:
    """Return the arguments that say what the labels are."""
    counts = np.array([len(label) for label in batch.labels])
    flat = np.concatenate(batch.labels)
    return {
        "ended by -1": {"label": batch.padded()},
        "padded": {"label": batch.padded(12345), "label_lengths": counts},
        "flat with lengths": {"label": flat, "label_lengths": counts},
        "flat with offsets": {"label": flat, "label_offsets": np.cumsum([0, *counts])},
        "list": {"label": batch.labels},
        "Arrow list": {"label": ArrowList(batch.labels)},
    }[form]


@pytest.mark.parametrize("form", FORMS)
@given(st.data())
def test_labels_in_any_form(form: str, data: st.DataObject) -> None:
    batch = data.draw(utterances()).of(data.draw(st.sampled_from(over_precisions)))
    loss = rl.CTCLoss(blank=batch.blank)
    given_ = labels_in(form, batch) | {"pred_lengths": batch.lengths}
    assert_same_bits(everything(loss, pred=batch.pred, **given_), everything(loss, **batch.inputs))


@given(utterances())
def test_layouts_are_the_same_numbers(batch: Utterances) -> None:
    expected = everything(rl.CTCLoss(blank=batch.blank), **batch.inputs)
    inputs = batch.inputs
    moved = {"pred": np.swapaxes(batch.pred, 0, 1), "label": inputs["label"].T}
    loss = rl.CTCLoss("TNC", "TN", blank=batch.blank)
    assert_same_bits(everything(loss, **inputs | moved), expected)
    for n in range(batch.samples):
        single = {"pred": batch.pred[n], "label": batch.labels[n]}
        lengths = {"pred_lengths": batch.lengths[n]}
        found = everything(rl.CTCLoss("TC", blank=batch.blank), **single, **lengths)
        own = {name: array[n : n + 1] for name, array in expected.items()}
        own["posteriors"] = own["posteriors"][..., : len(batch.labels[n])]
        assert_same_bits(found, own)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "broadcast"])
@given(st.data())
def test_memory_layouts_are_the_same_numbers(layout: str, data: st.DataObject) -> None:
    batch = data.draw(utterances()).of(data.draw(st.sampled_from(DTYPES)))
    inputs = {name: relayout(array, layout) for name, array in batch.inputs.items()}
    loss = rl.CTCLoss(blank=batch.blank)
    assert_same_bits(everything(loss, **inputs), everything(loss, **batch.inputs))


@pytest.mark.parametrize("samples", [1, 3])
def test_same_bits_for_any_thread_count(samples: int) -> None:
    """With one long sample, two threads share it."""
    rng = np.random.default_rng(0)
    batch = random_utterances(rng, samples, 800, 20, 150, 5.0)
    loss = rl.CTCLoss(blank=batch.blank)
    with rl.num_threads(1):
        expected = everything(loss, **batch.inputs)
    for n in (2, 3, 8):
        with rl.num_threads(n):
            assert_same_bits(everything(loss, **batch.inputs), expected)


@given(utterances(), st.data())
def test_padding_is_not_read(batch: Utterances, data: st.DataObject) -> None:
    loss = rl.CTCLoss(blank=batch.blank)
    expected = everything(loss, **batch.inputs)
    pred = batch.pred.copy()
    behind = np.arange(pred.shape[1]) >= batch.lengths[:, None]
    pred[behind] = data.draw(st.sampled_from([0.0, NAN, INF, -INF, 1e300]))
    garbage = data.draw(st.sampled_from([-7, 10**9, batch.blank]))
    counts = {"label_lengths": [len(label) for label in batch.labels]}
    found = everything(
        loss, **batch.inputs | {"pred": pred, "label": batch.padded(garbage)}, **counts
    )
    assert_same_bits(found, expected)
    label = np.pad(batch.padded(), [(0, 0), (0, 3)], constant_values=-1)
    label[:, -2:] = garbage
    assert_same_bits(everything(loss, **batch.inputs | {"pred": pred, "label": label}), expected)
    for name in ("grad", "posteriors", "log_prob", "posterior"):
        assert not found[name][behind].any()
    assert (found["index"][behind] == -1).all()


@given(utterances(), st.data())
def test_samples_do_not_know_of_each_other(batch: Utterances, data: st.DataObject) -> None:
    loss = rl.CTCLoss(blank=batch.blank)
    expected = everything(loss, **batch.inputs)
    chosen = data.draw(st.lists(st.integers(0, batch.samples - 1), min_size=1, max_size=5))
    part = batch.take(chosen)
    own = {name: array[chosen] for name, array in expected.items()}
    own["posteriors"] = own["posteriors"][..., : part.longest]
    assert_same_bits(everything(loss, **part.inputs), own)


@pytest.mark.parametrize(
    ("pred", "paths"),
    [
        ([(0, -INF), (0, 0), (0, 0), (0, 0), (0, 0), (-INF, 0)], 5),
        ([(0, -INF), (-INF, 0), (0, 0), (0, 0), (0, 0), (-INF, 0)], 1),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_impossible_class_takes_no_other_path_along(
    pred: list[Any], paths: int, dtype: Any
) -> None:
    """A class of probability 0 ends the heaviest paths, and what is left is 2^-1053 of them."""
    frames = np.array([(-200, 0), (-250, 0), (-280, 0), *pred], dtype)
    loss = rl.CTCLoss(layout="TC", blank=0, input="log_probs")
    expected = 730 - np.log(paths)
    assert_allclose(loss(frames, [1]), expected, rtol=1e-6)
    value, grad = loss.value_and_grad(frames, [1])
    assert_allclose(value, expected, rtol=1e-6)
    assert_allclose(grad.sum(axis=1), -1, rtol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_what_a_thread_keeps_from_sample_to_sample_does_not_show(seed: int) -> None:
    """A new thread has nothing of other samples yet."""
    rng = np.random.default_rng(seed)
    sizes = [(1, 4, 0), (9, 40, 7), (40, 3, 8), (70, 12, 30), (300, 30, 60), (500, 5, 200)]
    scales = (1.0, 30.0, 300.0)
    batches = [random_utterances(rng, 2, *size, float(scale)) for size in sizes for scale in scales]
    found: dict[int, Any] = {}

    def compute(i: int) -> None:
        with rl.num_threads(1):
            found[i] = everything(rl.CTCLoss(blank=batches[i].blank), **batches[i].inputs)

    for i in range(len(batches)):
        thread = Thread(target=compute, args=(i,))
        thread.start()
        thread.join()
    fresh = dict(found)
    for i in rng.permutation(len(batches)):
        compute(int(i))
        assert_same_bits(found[int(i)], fresh[int(i)])


@given(utterances(), st.data())
def test_classes_may_be_renamed(batch: Utterances, data: st.DataObject) -> None:
    classes = batch.pred.shape[-1]
    to = np.array(data.draw(st.permutations(range(classes))))
    pred = np.empty_like(batch.pred)
    pred[..., to] = batch.pred
    renamed = Utterances(
        pred, [to[label] for label in batch.labels], batch.lengths, to[batch.blank]
    )
    found = everything(rl.CTCLoss(blank=int(renamed.blank)), **renamed.inputs)
    expected = everything(rl.CTCLoss(blank=batch.blank), **batch.inputs)
    found["grad"] = found["grad"][..., to]
    assert_array_equal(found.pop("index"), expected.pop("index"))
    for name, array in found.items():
        bound = GRADIENT[np.float64] if name != "value" else LOSS[np.float64]
        assert_allclose(array, expected[name], rtol=LOSS[np.float64], atol=bound, err_msg=name)


@given(utterances(), st.data())
def test_logits_may_be_shifted(batch: Utterances, data: st.DataObject) -> None:
    """Multiples of 1/8 stay exact under the shift, so that ties stay ties."""
    on_grid = replace(batch, pred=np.round(batch.pred * 8) / 8)
    shift = data.draw(st.integers(-1000, 1000)) + np.arange(batch.pred.shape[1])[:, None]
    shifted = replace(on_grid, pred=on_grid.pred + shift)
    loss = rl.CTCLoss(blank=batch.blank)
    found, expected = everything(loss, **shifted.inputs), everything(loss, **on_grid.inputs)
    assert_array_equal(found.pop("index"), expected.pop("index"))
    for name, array in found.items():
        bound = GRADIENT[np.float64] if name != "value" else LOSS[np.float64]
        assert_allclose(array, expected[name], rtol=LOSS[np.float64], atol=bound, err_msg=name)


@pytest.mark.parametrize("dtype", over_precisions)
@given(batch=utterances())
def test_gradient_rows_sum_to_0(batch: Utterances, dtype: Any) -> None:
    _, grad = rl.CTCLoss(blank=batch.blank).value_and_grad(**batch.of(dtype).inputs)
    assert_allclose(grad.astype(np.float64).sum(axis=-1), 0, rtol=0, atol=GRADIENT[dtype])


# The edges

UNIFORM = np.log(3)


def test_empty_labels() -> None:
    pred = np.zeros((2, 4, 3))
    forms: list[Any] = [[[-1, -1], [-1, -1]], np.empty((2, 0), int), [[], []]]
    for labels in forms:
        value, grad = rl.CTCLoss(blank=1).value_and_grad(pred, labels)
        assert_allclose(value, 4 * UNIFORM, rtol=LOSS[np.float64])
        assert_allclose(grad, np.broadcast_to([1 / 3, -2 / 3, 1 / 3], grad.shape), rtol=1e-15)
    value = rl.CTCLoss(blank=1)(pred, [[0, 2], [-1, -1]])
    assert value[1] == value[1].dtype.type(4 * UNIFORM)
    assert np.isfinite(value).all()


def test_no_frames_and_no_samples() -> None:
    loss = rl.CTCLoss()
    value, grad = loss.value_and_grad(np.ones((2, 5, 3)), [[-1], [0]], [0, 0])
    assert_array_equal(value, [0, INF])
    assert not grad.any()
    value, grad = loss.value_and_grad(np.ones((2, 0, 3)), [[-1], [0]])
    assert_array_equal(value, [0, INF])
    assert grad.shape == (2, 0, 3)
    value, grad = loss.value_and_grad(np.ones((0, 5, 3)), np.empty((0, 2), int))
    assert (value.shape, grad.shape) == ((0,), (0, 5, 3))


@pytest.mark.parametrize("scale", [60, 100, 150, 200])
def test_no_path_outweighs_all_of_them(scale: float) -> None:
    """Few frames and far logits: a path that is all but lost halfway may win in the end."""
    rng = np.random.default_rng(3)
    for _ in range(CASES):
        classes, labels, slack = (
            int(rng.choice(some)) for some in ([2, 5, 20, 40], [1, 2, 5, 8, 20], [0, 1, 2, 5, 20])
        )
        label = np.ones(labels, int) if rng.random() < 0.5 else rng.integers(1, classes, labels)
        frames = labels + np.count_nonzero(np.diff(label) == 0) + slack
        pred = rng.normal(size=(64, frames, classes)) * scale
        loss, label = rl.CTCLoss(blank=0), np.broadcast_to(label, (64, labels))
        value, _ = loss.value_and_grad(pred, label)
        assert_same_bits({"value": loss(pred, label)}, {"value": value})
        best = -loss.align(pred, label).log_prob.sum(1)
        assert (value <= best + LOSS[np.float64] * best).all()


def test_a_path_that_is_all_but_lost_halfway() -> None:
    logits = [[-400, -234], [109, 370], [-17, -282], [-475, -71], [-10, 127], [101, -262]]
    pred, label = np.array([logits], float), [[1, 1, 1]]
    loss = rl.CTCLoss(blank=0)
    # Of the three paths that there are the best one has a loss of 500, the next one of 666.
    value, grad = loss.value_and_grad(pred, label)
    assert_allclose([value, loss(pred, label)], 500.0, rtol=LOSS[np.float64])
    assert_allclose(grad[0, 4], [-1, 1], atol=GRADIENT[np.float64])
    assert_allclose(loss.posteriors(pred, label)[0, 3], [0, 1, 0], atol=GRADIENT[np.float64])


@pytest.mark.parametrize("infeasible", ["inf", "zero"])
@pytest.mark.parametrize(
    ("pred", "label"),
    [
        (np.zeros((2, 3)), [1, 1]),
        (np.full((4, 3), [0, -INF, 0]), [1, 2]),
        (np.vstack([np.zeros((2, 3)), np.full((1, 3), -INF)]), [1]),
    ],
    ids=["too few frames", "impossible label", "impossible frame"],
)
def test_infeasible(pred: Any, label: list[int], infeasible: Any) -> None:
    loss = rl.CTCLoss(blank=0, infeasible=infeasible)
    value, grad = loss.value_and_grad(pred[None], [label])
    assert value == (INF if infeasible == "inf" else 0)
    assert not grad.any()
    assert not np.signbit(grad).any()


def test_impossible_classes_are_as_if_they_did_not_exist() -> None:
    rng = np.random.default_rng(1)
    batch = random_utterances(rng, 3, 12, 6, 5, 2.0)
    without = rl.CTCLoss(blank=batch.blank).value_and_grad(**batch.inputs)
    more = np.concatenate([batch.pred, np.full((3, 12, 2), -INF)], axis=-1)
    value, grad = rl.CTCLoss(blank=batch.blank).value_and_grad(**batch.inputs | {"pred": more})
    assert_allclose(value, without[0], rtol=LOSS[np.float64])
    assert_allclose(grad[..., :6], without[1], rtol=0, atol=GRADIENT[np.float64])
    assert not grad[..., 6:].any()
    # Impossible at one frame only, and in the label.
    pred = rng.normal(size=(6, 4))
    pred[2, 1] = -INF
    against_textbook(one(pred, [1, 2, 1]), np.float64)


@pytest.mark.parametrize("dtype", over_precisions)
def test_sure_models(dtype: Any) -> None:
    """Logits of +-1e4 along a path: the loss is 0 and never less, or the gap to that path."""
    path = np.array([0, 1, 1, 0, 2, 2, 0])
    pred = np.where(path[:, None] == np.arange(3), 1e4, -1e4)
    value, grad = rl.CTCLoss(blank=0).value_and_grad(pred.astype(dtype)[None], [[1, 2]])
    assert value == 0
    assert not grad.any()
    value, grad = rl.CTCLoss(blank=0).value_and_grad(pred.astype(dtype)[None], [[2, 1]])
    exact, _, _ = evaluate("CTCLoss", {"blank": 0}, pred[None], [[2, 1]])
    assert_allclose(value, exact, rtol=LOSS[dtype])
    assert value >= 2e4
    assert np.isfinite(grad).all()
    # Right and sure, with digits left: the only way to fail is to be wrong twice.
    twice = np.array([[0, 30.0], [0, 30.0]], dtype)
    assert 0 <= rl.CTCLoss(blank=0)(twice[None], [[1]]) < 1e-14


@pytest.mark.parametrize("dtype", over_precisions)
def test_gaps_of_400(dtype: Any) -> None:
    pred = np.array([[0, 0, -400], [0, -400, 0]])
    value = rl.CTCLoss(blank=0)(pred.astype(dtype)[None], [[2, 1]])
    assert_allclose(value, 800 + 2 * np.log(2), rtol=LOSS[dtype])
    against_textbook(one(pred, [2, 1]), dtype)
    rng = np.random.default_rng(2)
    wide = rng.choice([0.0, -400.0], (200, 5))
    against_textbook(one(wide, rng.integers(1, 5, 60)), dtype)


@pytest.mark.parametrize("input_", ["logits", "log_probs", "log_probs_torch"])
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_stays_in_its_sample(bad: float, input_: Any) -> None:
    rng = np.random.default_rng(3)
    batch = random_utterances(rng, 3, 9, 5, 4, 1.0)
    batch = replace(batch, lengths=np.array([9, 8, 9]))
    loss = rl.CTCLoss(blank=batch.blank, input=input_)
    good = everything(loss, **batch.inputs)
    for t, k in np.ndindex(8, 5):
        pred = batch.pred.copy()
        pred[1, t, k] = bad
        value, grad = loss.value_and_grad(**batch.inputs | {"pred": pred})
        assert np.isnan(value[1])
        assert np.isnan(grad[1, :8]).all()
        assert not grad[1, 8:].any()
        assert_array_equal(value[[0, 2]], good["value"][[0, 2]])
        assert_array_equal(grad[[0, 2]], good["grad"][[0, 2]])
