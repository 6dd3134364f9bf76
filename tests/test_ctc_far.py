"""CTC of inputs that lie far apart: masks of every size, against all paths in exact integers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import rustloss as rl
from utterances import GRADIENT, LOSS, over_precisions

pytestmark = pytest.mark.loss("CTCLoss")

INF = np.inf
CASES = 40
UNIT = 2**1074
"""Every finite float64 is a whole number of these parts of 1."""

TIE = 10**8
"""Paths that differ by less than a part of 1 like this count as equally good."""


def whole(x: Any) -> int:
    """Return a number in parts of 1, exactly."""
    numerator, denominator = float(x).as_integer_ratio()
    return numerator * (UNIT // denominator)


def log_sum(terms: list[int]) -> tuple[int, float]:
    """Return the greatest of logarithms, and the logarithm of their sum beyond it."""
    top = max(terms)
    return top, float(
        np.log(sum(np.exp(-((top - x) / UNIT)) for x in terms if top - x < 800 * UNIT))
    )


@dataclass
class Exact:
    """What a sample of few frames gives: by all its paths, one by one."""

    loss: float
    grad: Any
    posteriors: Any
    best: int


def state_paths(label: Any, frames: int) -> Any:
    """Yield every path of states: blank u is 2u, label u is 2u + 1."""
    end = 2 * len(label)

    def follow(path: tuple[int, ...]) -> Any:
        if len(path) == frames:
            if path[-1] >= end - 1:
                yield path
            return
        last = path[-1]
        steps = [last, last + 1]
        if last % 2 and last + 2 < end and label[last // 2] != label[last // 2 + 1]:
            steps.append(last + 2)
        for state in steps:
            if state <= end:
                yield from follow((*path, state))

    for first in (0, 1)[: 1 + bool(len(label))]:
        yield from follow((first,))


def exactly(pred: Any, label: Any, blank: int, input_: str = "logits") -> Exact:
    frames, classes = pred.shape
    cells: list[list[Any]] = [[whole(x) if x > -INF else None for x in row] for row in pred]
    paths = []
    for path in state_paths(label, frames):
        own = [cells[t][label[s // 2] if s % 2 else blank] for t, s in enumerate(path)]
        if None not in own:
            paths.append((path, sum(own)))
    best, beyond = log_sum([score for _, score in paths])
    occupancy, posteriors = np.zeros((frames, classes)), np.zeros((frames, len(label)))
    for path, score in paths:
        gap = best - score
        p = np.exp(-(gap / UNIT) - beyond) if gap < 800 * UNIT else 0.0
        for t, s in enumerate(path):
            occupancy[t, label[s // 2] if s % 2 else blank] += p
            if s % 2:
                posteriors[t, s // 2] += p
    norms = [log_sum([x for x in row if x is not None]) for row in cells]
    mass, rest = sum(top for top, _ in norms), sum(more for _, more in norms)
    if input_ != "logits":
        mass, rest = 0, 0.0
    loss = (mass - best) / UNIT + (rest - beyond) if abs(mass - best) < UNIT << 1024 else INF
    soft = np.zeros((frames, classes))
    for t, k in np.ndindex(frames, classes):
        x = cells[t][k]
        if input_ == "logits" and x is not None:
            top, more = norms[t]
            soft[t, k] = np.exp(-((top - x) / UNIT) - more) if top - x < 800 * UNIT else 0.0
        elif input_ == "log_probs_torch":
            soft[t, k] = np.exp(pred[t, k])
    return Exact(loss, soft - occupancy, posteriors, best)


def check(pred: Any, label: Any, blank: int, input_: Any = "logits") -> None:
    dtype = pred.dtype.type
    exact = exactly(pred.astype(np.float64), label, blank, input_)
    loss = rl.CTCLoss("TC", blank=blank, input=input_)
    value, grad = loss.value_and_grad(pred, label)
    with np.errstate(over="ignore"):
        expected = dtype(exact.loss)
    assert_allclose(value, expected, rtol=LOSS[dtype], atol=LOSS[dtype])
    assert_array_equal(loss(pred, label), value)
    if np.isfinite(exact.loss):
        # Exponentials of log-probabilities have any size.
        rtol = 0.0 if input_ == "logits" else 2 * np.finfo(dtype).eps
        assert_allclose(grad, exact.grad, rtol=rtol, atol=GRADIENT[dtype])
        assert_allclose(loss.posteriors(pred, label), exact.posteriors, atol=GRADIENT[dtype])
    found = loss.align(pred, label)
    states = found.index
    assert states.max(initial=-1) == len(label) - 1
    score = sum(
        whole(pred[t, label[u] if u >= 0 else blank]) for t, u in enumerate(states.tolist())
    )
    assert abs(score - exact.best) * TIE <= UNIT


def random_case(rng: np.random.Generator) -> tuple[Any, Any, int]:
    frames, classes = int(rng.integers(1, 8)), int(rng.integers(2, 5))
    blank = int(rng.integers(classes))
    label: Any = []
    while True:
        label = rng.choice(np.delete(np.arange(classes), blank), rng.integers(0, 4))
        if len(label) + (label[1:] == label[:-1]).sum() <= frames:
            return rng.normal(size=(frames, classes)) * 3, label, blank


MASKS = [-7e5, -1e7, -1e9, -1e16, -1e20, -1e30, "min"]


@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("mask", MASKS, ids=str)
@pytest.mark.parametrize("input_", ["logits", "log_probs", "log_probs_torch"])
def test_masks(mask: Any, dtype: Any, input_: Any) -> None:
    """From few masked cells, which paths avoid, to nothing but masked ones."""
    rng = np.random.default_rng(MASKS.index(mask))
    mask = np.finfo(dtype).min if mask == "min" else mask
    for _, share in itertools.product(range(CASES // 4), [0.1, 0.4, 0.7, 1.0]):
        pred, label, blank = random_case(rng)
        pred = np.where(rng.random(pred.shape) < share, mask, pred)
        check(pred.astype(dtype), label, blank, input_)


@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("scale", [1e3, 1e5, 1e6, 1e12, 1e16, 1e18, 1e25, 1e36, 1e100, 1e300])
def test_scales(scale: float, dtype: Any) -> None:
    rng = np.random.default_rng(1)
    scale = min(scale, float(np.finfo(dtype).max) / 1e3)
    for _ in range(CASES):
        pred, label, blank = random_case(rng)
        check((pred * scale).astype(dtype), label, blank)


@pytest.mark.parametrize("dtype", over_precisions)
def test_masks_of_several_sizes(dtype: Any) -> None:
    """What decides may be the smallest of them."""
    rng = np.random.default_rng(2)
    most = float(np.finfo(dtype).max)
    sizes = [0.0, -3e5, -1e8, -1e20, -1e35, -most / 16, -most / 8]
    for _ in range(CASES):
        pred, label, blank = random_case(rng)
        check((pred + rng.choice(sizes, pred.shape)).astype(dtype), label, blank)


@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("mask", [-1e9, -1e20, "min"])
def test_masks_are_as_impossible_where_a_path_avoids_them(mask: Any, dtype: Any) -> None:
    rng = np.random.default_rng(3)
    pred = rng.normal(size=(4, 60, 8)).astype(dtype)
    label = rng.integers(1, 8, (4, 12))
    masked = rng.random(pred.shape) < 0.2
    masked[..., 0] = False
    number = np.finfo(dtype).min if mask == "min" else mask
    found, expected = (
        rl.CTCLoss(blank=0).value_and_grad(np.where(masked, x, pred).astype(dtype), label)
        for x in (number, -INF)
    )
    assert_array_equal(found[0], expected[0])
    assert_array_equal(found[1], expected[1])


def test_a_wide_gap_and_long_utterances() -> None:
    """Every path goes through one masked frame: as without it, but for the loss."""
    rng = np.random.default_rng(4)
    pred, label = rng.normal(size=(1, 400, 6)), rng.integers(1, 6, (1, 70))
    loss = rl.CTCLoss(blank=0, input="log_probs")
    value, grad = loss.value_and_grad(pred, label)
    masked = pred.copy()
    masked[0, 200] = pred[0, 200] * 2.0**-10 - 2.0**40
    plain = masked.copy()
    plain[0, 200] += 2.0**40
    found, expected = loss.value_and_grad(masked, label), loss.value_and_grad(plain, label)
    assert_allclose(found[0] - 2.0**40, expected[0], atol=LOSS[np.float64] * 2.0**40)
    assert_allclose(found[1], expected[1], atol=GRADIENT[np.float64])
    assert np.isfinite(value).all()
    assert np.isfinite(grad).all()
    # Masks that no path avoids, and memory for the rows of a few frames only.
    pred[0, ::7] = -1e25
    held = rl.CTCLoss(blank=0, input="log_probs", memory_limit=700_000)
    for a, b in zip(
        held.value_and_grad(pred, label), loss.value_and_grad(pred, label), strict=True
    ):
        assert_array_equal(a, b)
    assert_array_equal(held.align(pred, label).index, loss.align(pred, label).index)


@pytest.mark.parametrize("dtype", over_precisions)
@pytest.mark.parametrize("high", [50.0, 100.0, 600.0, 720.0, 1000.0, 1e6])
def test_exponentials_out_of_range(high: float, dtype: Any) -> None:
    """PyTorch's gradient is exp(pred) less the occupancy: infinite there, and as ever elsewhere."""
    pred = np.array([[high, 0.5, -1.0, -2.0], [0.3, -0.2, high, 0.1]], dtype)
    value, grad = rl.CTCLoss("TC", blank=0, input="log_probs_torch").value_and_grad(pred, [1])
    _, own = rl.CTCLoss("TC", blank=0, input="log_probs").value_and_grad(pred, [1])
    with np.errstate(over="ignore"):
        expected = np.exp(pred.astype(np.float64)).astype(dtype)
    assert np.isfinite(value)
    rtol = 4 * np.finfo(dtype).eps
    assert_allclose(grad, expected + own, rtol=rtol, atol=GRADIENT[dtype])
