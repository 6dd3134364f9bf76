"""CTC: posteriors of labels, the most probable path, and spans of labels."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import pickle
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from contract import DTYPES, HALF_TYPES
from rustloss import _core
from rustloss.testing.oracles.sequence import best_score, log_softmax, posteriors
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

VECTORS = json.loads((Path(__file__).parent / "golden" / "ctc_vectors.json").read_text())
INF, NAN = np.inf, np.nan
CASES = 60


def states_of(index: Any, length: int) -> Any:
    """Return the state of every frame: blank u is 2u, label u is 2u + 1."""
    before = np.maximum.accumulate(np.concatenate(([-1], index)))[:-1] + 1
    states = np.where(index >= 0, 2 * index + 1, 2 * before)
    assert states.max(initial=0) <= 2 * length
    return states


def path_of(index: Any, label: Any, blank: int) -> Any:
    """Return the class of every frame."""
    return np.append(label, blank)[index]


def collapsed(path: Any, blank: int) -> list[int]:
    return [int(k) for k, _ in itertools.groupby(path) if k != blank]


def merged(path: Any, scores: Any, blank: int) -> list[tuple[int, int, int, float]]:
    """Return class, start, end and mean score of every run of a class but the blank."""
    runs, t = [], 0
    for k, run in itertools.groupby(path):
        start, t = t, t + len(list(run))
        if k != blank:
            runs.append((int(k), start, t, float(np.mean(scores[start:t]))))
    return runs


# Posteriors


@pytest.mark.parametrize("dtype", over_precisions)
@given(batch=utterances())
def test_posteriors_are_the_textbook(batch: Utterances, dtype: Any) -> None:
    given_ = batch.of(dtype)
    found = rl.CTCLoss(blank=batch.blank).posteriors(**given_.inputs)
    assert found.dtype == dtype
    assert found.shape == (*batch.pred.shape[:2], batch.longest)
    expected = np.zeros(found.shape)
    for n, (label, length) in enumerate(zip(batch.labels, batch.lengths, strict=True)):
        if length > 0:
            frames = log_softmax(given_.pred[n, :length].astype(np.float64))
            expected[n, :length, : len(label)] = posteriors(frames, label, batch.blank)[1][:, 1::2]
    assert_allclose(found, expected, rtol=0, atol=GRADIENT[dtype])


@pytest.mark.parametrize("input_", ["logits", "log_probs", "log_probs_torch"])
@given(batch=utterances())
def test_posteriors_are_what_the_gradient_is_made_of(batch: Utterances, input_: Any) -> None:
    loss = rl.CTCLoss(blank=batch.blank, input=input_)
    pred = log_softmax(batch.pred) if input_ != "logits" else batch.pred
    found = everything(loss, **batch.inputs | {"pred": pred})
    own = {"logits": np.exp(log_softmax(pred)), "log_probs": np.zeros(1)}.get(input_, np.exp(pred))
    occupancy = np.zeros(pred.shape)
    for n, label in enumerate(batch.labels):
        by_label = found["posteriors"][n, :, : len(label)]
        np.add.at(occupancy[n].T, label, by_label.T)
        occupancy[n, :, batch.blank] = 1 - by_label.sum(axis=-1)
    slopes = own - occupancy
    slopes[np.arange(pred.shape[1]) >= batch.lengths[:, None]] = 0
    assert (found["posteriors"] >= 0).all()
    assert (found["posteriors"].sum(axis=-1) <= 1 + GRADIENT[np.float64]).all()
    assert_allclose(found["grad"], slopes, rtol=0, atol=GRADIENT[np.float64])


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_half_types_are_single_precision_rounded_once(dtype: Any) -> None:
    rng = np.random.default_rng(1)
    for _ in range(CASES):
        batch = random_utterances(rng, 3, int(rng.integers(1, 30)), 9, 9, 2.0).of(dtype)
        loss = rl.CTCLoss(blank=batch.blank)
        narrow = everything(loss, **batch.inputs)
        single = everything(loss, **batch.of(np.float32).inputs)
        assert_array_equal(narrow["index"], single["index"])
        for name in ("posteriors", "log_prob", "posterior"):
            assert narrow[name].dtype == dtype
            assert_allclose(
                narrow[name].astype(np.float32),
                single[name].astype(dtype).astype(np.float32),
                rtol=float(np.spacing(dtype(1))),
            )


# The best path


def best_of_all_paths(batch: Utterances) -> Any:
    """Try every path of a batch of one sample."""
    log_probs = log_softmax(batch.pred[0])
    frames, classes = log_probs.shape
    wanted = batch.labels[0].tolist()
    paths = itertools.product(range(classes), repeat=frames)
    fitting = [path for path in paths if collapsed(path, batch.blank) == wanted]
    scores = [log_probs[np.arange(frames), path].sum() for path in fitting]
    return np.array(fitting[int(np.argmax(scores))])


def test_best_of_all_paths() -> None:
    rng = np.random.default_rng(2)
    for _ in range(CASES):
        frames, classes = int(rng.integers(1, 6)), int(rng.integers(2, 5))
        batch = random_utterances(rng, 1, frames, classes, frames, 2.0)
        batch = dataclasses.replace(batch, lengths=np.array([frames]))
        path = best_of_all_paths(batch)
        loss = rl.CTCLoss(blank=batch.blank)
        alignment = loss.align(**batch.inputs)
        label, index = batch.labels[0], alignment.index[0]
        assert_array_equal(path_of(index, label, batch.blank), path)
        found = alignment.log_prob[0]
        log_probs = log_softmax(batch.pred[0])[np.arange(frames), path]
        assert_allclose(found, log_probs, rtol=LOSS[np.float64], atol=LOSS[np.float64])
        _, by_state = posteriors(log_softmax(batch.pred[0]), label, batch.blank)
        expected = by_state[np.arange(frames), states_of(index, len(label))]
        assert_allclose(alignment.posterior[0], expected, rtol=0, atol=GRADIENT[np.float64])


def check_alignment(batch: Utterances, dtype: Any) -> None:
    given_ = batch.of(dtype)
    loss = rl.CTCLoss(blank=batch.blank)
    value = loss(**given_.inputs).astype(np.float64)
    alignment = loss.align(**given_.inputs)
    assert alignment.index.dtype == np.int64
    assert alignment.log_prob.dtype == alignment.posterior.dtype == dtype
    for n, (label, length) in enumerate(zip(batch.labels, batch.lengths, strict=True)):
        index, log_prob = alignment.index[n, :length], alignment.log_prob[n, :length]
        path = path_of(index, label, batch.blank)
        assert collapsed(path, batch.blank) == label.tolist()
        assert (np.diff(index[index >= 0]) >= 0).all()
        assert_array_equal(np.unique(index[index >= 0]), np.arange(len(label)))
        score = log_prob.sum(dtype=np.float64)
        size = max(1.0, value[n])
        assert score <= -value[n] + LOSS[dtype] * size
        frames = log_softmax(given_.pred[n, :length].astype(np.float64))
        if length > 0:
            assert_allclose(
                score, best_score(frames, label, batch.blank), rtol=0, atol=LOSS[dtype] * size
            )
            # Rounding may choose another path, but none that is worse by more than that.
            own = frames[np.arange(length), path]
            assert_allclose(log_prob, own, rtol=LOSS[dtype], atol=LOSS[dtype] * size)
            _, by_state = posteriors(frames, label, batch.blank)
            expected = by_state[np.arange(length), states_of(index, len(label))]
            assert_allclose(alignment.posterior[n, :length], expected, rtol=0, atol=GRADIENT[dtype])


@pytest.mark.parametrize("dtype", over_precisions)
@given(batch=utterances(max_frames=40))
def test_alignment(batch: Utterances, dtype: Any) -> None:
    check_alignment(batch, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("scale", [1.0, 5.0, 30.0])
@pytest.mark.parametrize(("frames", "longest"), [(1500, 300), (4000, 500), (3000, 12)])
def test_long_alignment(frames: int, longest: int, scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    check_alignment(random_utterances(rng, 2, frames, 32, longest, scale), dtype)


@pytest.mark.parametrize(
    "vector", [pytest.param(v, id=v["name"]) for v in VECTORS["forced_alignment"]]
)
def test_published_path(vector: dict[str, Any]) -> None:
    frames, classes, blank = vector["T"], vector["C"], vector["blank"]
    (label,) = vector["labels"]
    pred = np.full((frames, classes), 0.01)
    pred[:, label] = 1
    for t, k in enumerate(vector["expected_path"]):
        if k == blank:
            pred[t, [label, blank]] = 0, 1
    alignment = rl.CTCLoss("TC", blank=blank).align(pred, [label])
    assert_array_equal(path_of(alignment.index, [label], blank), vector["expected_path"])


@pytest.mark.parametrize("case", VECTORS["unique_alignment"]["cases"], ids=str)
def test_the_only_path(case: dict[str, Any]) -> None:
    blank, label, path = VECTORS["unique_alignment"]["blank"], case["labels"], case["path"]
    batch = one(np.random.default_rng(4).normal(size=(len(path), 6)) * 3, label, blank)
    found = everything(rl.CTCLoss(blank=blank), **batch.inputs)
    log_probs = log_softmax(batch.pred[0])[np.arange(len(path)), path]
    assert_allclose(found["value"], -log_probs.sum(), rtol=LOSS[np.float64])
    assert_array_equal(path_of(found["index"][0], label, blank), path)
    assert_allclose(found["log_prob"][0], log_probs, rtol=LOSS[np.float64])
    assert_allclose(found["posterior"][0], 1, rtol=0, atol=GRADIENT[np.float64])
    sure = np.arange(len(label)) == found["index"][0][:, None]
    assert_allclose(found["posteriors"][0], sure, rtol=0, atol=GRADIENT[np.float64])


def test_ties_are_broken_as_documented() -> None:
    """The last label before the last blank; staying, then advancing, then skipping a blank."""

    def index(label: list[int], frames: int) -> list[int]:
        loss = rl.CTCLoss("TC", blank=0, input="log_probs")
        found: list[int] = loss.align(np.zeros((frames, 4)), label).index.tolist()
        return found

    assert index([1, 2], 4) == [0, 1, 1, 1]
    assert index([1, 1], 4) == [0, -1, 1, 1]
    assert index([], 2) == [-1, -1]


# Spans


@given(utterances(max_frames=30), st.sampled_from(DTYPES))
def test_spans_are_the_runs_of_the_path(batch: Utterances, dtype: Any) -> None:
    alignment = rl.CTCLoss(blank=batch.blank).align(**batch.of(dtype).inputs)
    assert len(alignment.spans()) == batch.samples
    for n, spans in enumerate(alignment.spans()):
        label, length = batch.labels[n], batch.lengths[n]
        assert [span.index for span in spans] == list(range(len(label)))
        covered = np.full(batch.pred.shape[1], -1)
        for span in spans:
            assert 0 <= span.start < span.end <= length
            covered[span.start : span.end] = span.index
        assert_array_equal(covered, alignment.index[n])
        path = path_of(alignment.index[n, :length], label, batch.blank)
        for field in ("log_prob", "posterior"):
            scores = getattr(alignment, field)[n, :length].astype(np.float64)
            # The classes, ends and means that torchaudio's merge_tokens gives.
            found = [(label[s.index], s.start, s.end, getattr(s, field)) for s in spans]
            expected = merged(path, scores, batch.blank)
            assert [row[:3] for row in found] == [row[:3] for row in expected]
            means = [row[3] for row in found], [row[3] for row in expected]
            assert_allclose(*means, rtol=LOSS[np.float64], atol=LOSS[np.float64])


@given(utterances())
def test_spans_of_any_layout(batch: Utterances) -> None:
    inputs = batch.inputs
    spans = rl.CTCLoss(blank=batch.blank).align(**inputs).spans()
    moved = {"pred": np.swapaxes(batch.pred, 0, 1)}
    assert rl.CTCLoss("TNC", blank=batch.blank).align(**inputs | moved).spans() == spans
    loss = rl.CTCLoss("TC", blank=batch.blank)
    for n, label in enumerate(batch.labels):
        assert loss.align(batch.pred[n], label, batch.lengths[n]).spans() == [spans[n]]


def test_alignment_is_a_frozen_record() -> None:
    rng = np.random.default_rng(5)
    batch = random_utterances(rng, 2, 9, 5, 3, 1.0)
    alignment = rl.CTCLoss(blank=batch.blank).align(**batch.inputs)
    with pytest.raises(dataclasses.FrozenInstanceError):
        alignment.index = alignment.index  # type: ignore[misc]
    for other in (pickle.loads(pickle.dumps(alignment)), copy.deepcopy(alignment)):
        assert other.layout == "NTC"
        for name in ("index", "log_prob", "posterior"):
            assert_array_equal(getattr(other, name), getattr(alignment, name), strict=True)
        assert other.spans() == alignment.spans()
    assert "Alignment(index=array(" in repr(alignment)


def test_other_losses_have_no_lattice() -> None:
    for function in (_core.posteriors, _core.align):
        with pytest.raises(TypeError, match="no such result"):
            function(rl.L2Loss(), [1.0], [1.0])
    assert not hasattr(rl.L2Loss(), "align")


@pytest.mark.parametrize("method", ["posteriors", "align"])
def test_other_threads_go_on_meanwhile(method: str) -> None:
    rng = np.random.default_rng(9)
    pred, label = rng.normal(size=(16, 2000, 32)), rng.integers(0, 31, (16, 300))
    running = threading.Event()

    def call() -> None:
        with rl.num_threads(1):
            loss = rl.CTCLoss()
            running.set()
            getattr(loss, method)(pred, label)
            running.clear()

    thread = threading.Thread(target=call)
    thread.start()
    turns = 0
    while thread.is_alive():
        time.sleep(1e-3)
        turns += running.is_set()
    thread.join()
    # Two may fall between the call and the flag; the call takes a tenth of a second.
    assert turns > 5


# The edges


def lattice_of(pred: Any, label: Any, *lengths: Any, **params: Any) -> dict[str, Any]:
    """Return posteriors and alignment."""
    loss = rl.CTCLoss(**{"blank": 0, **params})
    return {
        "posteriors": loss.posteriors(pred, label, *lengths),
        **dataclasses.asdict(loss.align(pred, label, *lengths)),
    }


def assert_no_path(found: dict[str, Any], chosen: Any) -> None:
    assert not found["posteriors"][chosen].any()
    assert (found["index"][chosen] == -1).all()
    assert (found["log_prob"][chosen] == -INF).all()
    assert not found["posterior"][chosen].any()


@pytest.mark.parametrize("infeasible", ["inf", "zero"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_infeasible_samples_have_no_path(dtype: Any, infeasible: Any) -> None:
    pred = np.zeros((4, 3, 4))
    pred[1, :, 2] = -INF
    pred[2, 1] = -INF
    labels = [[1, 1, 1], [1, 2, 1], [3, -1, -1], [3, -1, -1]]
    found = lattice_of(pred.astype(dtype), labels, [3, 3, 3, 2], infeasible=infeasible)
    assert_no_path(found, [0, 1, 2])
    assert found["index"][3].tolist() == [0, 0, -1]
    assert found["log_prob"][3, 2] == found["posterior"][3, 2] == 0
    assert found["posteriors"][3, :2, 0].all()
    assert not found["posteriors"][3, 2].any()
    assert not found["posteriors"][3, :, 1:].any()


@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_stays_in_its_sample(bad: float) -> None:
    pred = np.random.default_rng(6).normal(size=(3, 5, 4))
    labels, lengths = [[1, 2, 3], [3, -1, -1], [2, 2, -1]], [5, 4, 5]
    good = lattice_of(pred, labels, lengths)
    for t, k in np.ndindex(4, 4):
        spoilt = pred.copy()
        spoilt[1, t, k] = bad
        found = lattice_of(spoilt, labels, lengths)
        assert np.isnan(found["posteriors"][1, :4, :1]).all()
        assert np.isnan(found["log_prob"][1, :4]).all()
        assert np.isnan(found["posterior"][1, :4]).all()
        assert (found["index"][1] == -1).all()
        # Padding of labels and frames stays what it is.
        assert not found["posteriors"][1, :, 1:].any()
        for name in ("posteriors", "log_prob", "posterior"):
            assert not found[name][1, 4:].any()
            assert_array_equal(found[name][[0, 2]], good[name][[0, 2]])
        assert rl.CTCLoss(blank=0).align(spoilt, labels, lengths).spans()[1] == []


@pytest.mark.parametrize("dtype", over_precisions)
def test_sure_models_are_sure(dtype: Any) -> None:
    path = np.array([0, 1, 1, 0, 2, 2, 0])
    pred = np.where(path[:, None] == np.arange(3), 1e4, -1e4).astype(dtype)[None]
    found = lattice_of(pred, [[1, 2]])
    assert_array_equal(found["index"][0], [-1, 0, 0, -1, 1, 1, -1])
    assert not found["log_prob"].any()
    assert (found["posterior"] == 1).all()
    assert_array_equal(found["posteriors"][0], path[:, None] == [1, 2])


@pytest.mark.parametrize("dtype", over_precisions)
def test_gaps_of_400(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    pred = rng.choice([0.0, -400.0], (200, 5)) + rng.normal(size=(200, 5))
    check_alignment(one(pred, rng.integers(1, 5, 60)), dtype)


def test_impossible_classes_are_as_if_they_did_not_exist() -> None:
    rng = np.random.default_rng(8)
    batch = random_utterances(rng, 3, 12, 6, 5, 2.0)
    more = np.concatenate([batch.pred, np.full((3, 12, 2), -INF)], axis=-1)
    loss = rl.CTCLoss(blank=batch.blank)
    found, expected = (everything(loss, **batch.inputs | {"pred": p}) for p in (more, batch.pred))
    assert_array_equal(found["index"], expected["index"])
    for name in ("posteriors", "log_prob", "posterior"):
        assert_allclose(found[name], expected[name], rtol=0, atol=GRADIENT[np.float64])


def test_empty_labels_are_blank_all_along() -> None:
    for labels in ([[-1, -1], [-1, -1]], np.empty((2, 0), int)):
        found = lattice_of(np.zeros((2, 4, 3)), labels)
        assert found["posteriors"].shape == (2, 4, 0)
        assert (found["index"] == -1).all()
        assert_allclose(found["log_prob"], -np.log(3), rtol=LOSS[np.float64])
        assert (found["posterior"] == 1).all()
    assert rl.CTCLoss().align(np.zeros((2, 4, 3)), np.empty((2, 0), int)).spans() == [[], []]


def test_no_frames_and_no_samples() -> None:
    found = lattice_of(np.ones((2, 5, 3)), [[-1, -1], [1, 2]], [0, 0])
    for name in ("posteriors", "log_prob", "posterior"):
        assert not found[name].any()
    assert (found["index"] == -1).all()
    assert rl.CTCLoss().align(np.ones((2, 0, 3)), [[-1], [1]]).spans() == [[], []]
    shapes: dict[Any, tuple[int, int]] = {"NTC": (0, 5), "TNC": (5, 0)}
    for layout, shape in shapes.items():
        found = lattice_of(np.ones((*shape, 3)), np.empty((0, 2), int), layout=layout)
        assert found["posteriors"].shape == (*shape, 0)
        assert found["index"].shape == found["log_prob"].shape == shape
        assert rl.CTCLoss(layout).align(np.ones((*shape, 3)), np.empty((0, 2), int)).spans() == []


def test_weights_are_no_arguments() -> None:
    for method in ("posteriors", "align"):
        with pytest.raises(TypeError, match="sample_weight"):
            getattr(rl.CTCLoss(), method)(np.zeros((1, 2, 3)), [[0]], sample_weight=[1.0])


def test_integers_and_lists_are_double_precision() -> None:
    for pred in (np.zeros((1, 3, 3), np.int32), np.zeros((1, 3, 3)).tolist()):
        found = lattice_of(pred, [[1, 2]])
        assert {found[name].dtype.name for name in ("posteriors", "log_prob")} == {"float64"}
