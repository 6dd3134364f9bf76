"""The streaming mean is the exact quotient, rounded once, however its batches are cut."""

from __future__ import annotations

import inspect
import math
import multiprocessing
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rustloss as rl
from rustloss import _mean, errors
from rustloss.testing import ulp_distance

INF, NAN = math.inf, math.nan
LARGEST, LEAST = float(np.finfo(np.float64).max), 5e-324
ROUNDINGS = 3.0
"""fsum(products) / fsum(weights) rounds each sum and the quotient, by half an ulp, and products."""

finite = st.floats(allow_nan=False, allow_infinity=False)
weights = st.floats(0, allow_infinity=False)
pairs = st.lists(st.tuples(finite, weights), min_size=1, max_size=60)


def whole(number: float) -> int:
    """Return a number in units of the least one."""
    numerator, denominator = number.as_integer_ratio()
    return numerator * (2**1074 // denominator)


def exact(values: Any, given_weights: Any = None) -> float:
    """Return the mean by integers, whose quotient Python rounds once."""
    v = list(map(whole, np.ravel(values).tolist()))
    w = (
        [2**1074] * len(v)
        if given_weights is None
        else list(map(whole, np.asarray(given_weights, float).tolist()))
    )
    return sum(a * b for a, b in zip(v, w, strict=True)) / (sum(w) << 1074) if sum(w) else 0.0


@given(pairs)
def test_mean_is_the_rounded_quotient(batch: list[tuple[float, float]]) -> None:
    v, w = zip(*batch, strict=True)
    assert rl.Mean().update(v, w).result() == exact(v, w)
    assert rl.Mean().update(v).result() == exact(v)


@given(pairs, st.randoms(use_true_random=False), st.integers(1, 5))
def test_splits_and_orders_give_the_same_bits(
    batch: list[tuple[float, float]], random: Any, parts: int
) -> None:
    whole = rl.Mean().update(*zip(*batch, strict=True))
    means = [rl.Mean() for _ in range(parts)]
    for v, w in random.sample(batch, len(batch)):
        random.choice(means).update(v, w)
    merged = rl.Mean()
    for mean in random.sample(means, parts):
        merged.merge(pickle.loads(pickle.dumps(mean)))
    assert pickle.dumps(merged) == pickle.dumps(whole)
    assert merged.result().hex() == whole.result().hex()


LONG = 2 * _mean._BLOCK + 5
SERIES = {
    "longest digits": np.full(LONG, 1 - 2.0**-53),
    "largest": np.full(LONG, LARGEST),
    "least": np.full(LONG, LEAST),
    "cancelling": np.resize([1.0, -1.0, 2.0**-60], LONG),
    "half an ulp too many": np.resize([1.0, 2.0**-53, 2.0**-106], LONG),
    "any scale": np.ldexp(np.linspace(-1, 1, LONG), np.arange(LONG) % 2000 - 1000),
    "usual": np.random.default_rng(0).standard_normal(LONG),
}


@pytest.mark.parametrize("series", SERIES)
@pytest.mark.parametrize("of", ["usual", "any scale", "longest digits"])
def test_long_batches(series: str, of: str) -> None:
    v, w = SERIES[series], abs(SERIES[of])
    assert rl.Mean().update(v).result() == exact(v)
    assert rl.Mean().update(v, w).result() == exact(v, w)
    ahead, behind = rl.Mean().update(v[: LONG // 7], w[: LONG // 7]), rl.Mean()
    behind.update(v[LONG // 7 :][::-1], w[LONG // 7 :][::-1]).merge(ahead)
    assert behind.result() == exact(v, w)


def test_mean_is_fsum_but_for_the_rounding() -> None:
    v, w = SERIES["usual"], abs(SERIES["usual"][::-1])
    by_fsum = math.fsum(v * w) / math.fsum(w)
    assert ulp_distance(rl.Mean().update(v, w).result(), by_fsum) <= ROUNDINGS
    assert ulp_distance(rl.Mean().update(v).result(), math.fsum(v) / len(v)) <= ROUNDINGS


@pytest.mark.parametrize(
    ("values", "given_weights", "mean"),
    [
        ([LARGEST, LARGEST], None, LARGEST),
        ([LARGEST, LARGEST], [LARGEST, LARGEST], LARGEST),
        ([LEAST, LEAST], [LEAST, LEAST], LEAST),
        ([LEAST, 0.0], None, 0.0),
        ([LARGEST, LEAST], [LEAST, LARGEST], 2 * LEAST),
        ([INF, 1.0], None, INF),
        ([-INF, -INF], [1.0, LEAST], -INF),
        ([INF, -INF], None, NAN),
        ([INF, NAN], None, NAN),
        ([NAN, 3.0], [0.0, 1.0], 3.0),
        ([INF, 3.0], [0, 2], 3.0),
        ([INF, NAN], 0, 0.0),
        ([[1, 2], [3, 4]], 0.25, 2.5),
        (True, None, 1.0),
        (
            np.array([0.1, 0.2], np.float32),
            None,
            float(np.float32(0.1) + np.float64(np.float32(0.2))) / 2,
        ),
        (np.array([1.0, 3.0], np.float16), np.array([3, 1], np.uint8), 1.5),
    ],
)
def test_ends_of_the_range(values: Any, given_weights: Any, mean: float) -> None:
    for order in (1, -1):
        found = rl.Mean()
        parts = np.ravel(values)[::order], np.ravel(given_weights)[::order]
        for i, v in enumerate(parts[0]):
            found.update(v, None if given_weights is None else parts[1][i % parts[1].size])
        for result in (found.result(), rl.Mean().update(values, given_weights).result()):
            assert result == mean or (math.isnan(result) and math.isnan(mean))


def test_mean_of_nothing() -> None:
    assert math.isnan(rl.Mean().result())
    assert rl.Mean(empty="zero").result() == 0.0
    assert math.isnan(rl.Mean().update(np.zeros((0, 3))).result())
    assert rl.Mean().update([1.0], 0).result() == 0.0
    with pytest.raises(errors.ParameterError, match=r"empty: expected .*'zero'.* got 'none'"):
        rl.Mean(empty="none")  # type: ignore[arg-type]


def test_mean_is_the_weighted_mean_of_a_loss() -> None:
    rng = np.random.default_rng(1)
    pred, label, weight = rng.standard_normal((2, 100, 3)), np.zeros((2, 100, 3)), rng.random(100)
    mean, loss = rl.Mean(), rl.L2Loss(reduction="none")
    for p, y in zip(pred, label, strict=True):
        mean.update(loss(p, y), np.broadcast_to(weight[:, None], p.shape))
    whole = rl.L2Loss(reduction="weighted_mean")
    args = (pred.reshape(200, 3), label.reshape(200, 3), np.tile(weight, 2))
    assert ulp_distance(whole(*args), mean.result()) <= ROUNDINGS
    assert mean.count == 600


@pytest.mark.parametrize(
    ("values", "given_weights", "error", "text"),
    [
        ("spam", None, errors.DTypeError, "values: expected real numbers, got 'spam'"),
        ([1j], None, errors.DTypeError, "values: expected real numbers, got dtype complex128"),
        ([1.0], ["a"], errors.DTypeError, "weights: expected real numbers"),
        ([1.0, 2.0], [1.0], errors.ShapeError, r"weights: .* shape \(2,\), got \(1,\)"),
        ([[1.0], [2.0]], [1.0, 2.0], errors.ShapeError, r"shape \(2, 1\), got \(2,\)"),
        ([[1.0, 2.0]], [[1.0, -2.0]], errors.WeightError, r"weights\[0, 1\]: .* >= 0, got -2"),
        ([1.0], INF, errors.WeightError, "weights: expected a finite number >= 0, got inf"),
        ([1.0], [NAN], errors.WeightError, r"weights\[0\]: expected a finite number >= 0, got nan"),
    ],
)
def test_bad_batches_change_nothing(
    values: Any, given_weights: Any, error: type[Exception], text: str
) -> None:
    mean = rl.Mean().update([1.0, 2.0])
    before = pickle.dumps(mean)
    with pytest.raises(error, match=text):
        mean.update(values, given_weights)
    assert pickle.dumps(mean) == before


#: The class, of which no checker of types knows what it takes.
UNTYPED: Any = rl.Mean


@pytest.mark.parametrize(
    ("call", "argument", "text"),
    [
        (lambda: UNTYPED("zero"), None, r"by position, got 1; Mean takes \('empty',\) by name"),
        (lambda: UNTYPED(reduction="mean"), "reduction", r"reduction: unexpected .*'empty'"),
        (lambda: UNTYPED().update(), "values", r"values: missing; .*\('values', 'weights'\)"),
        (lambda: UNTYPED().update([1.0], sample_weight=1), "sample_weight", "takes .*'weights'"),
        (lambda: UNTYPED().update([1.0], 1, weights=1), "weights", "weights: given twice"),
        (lambda: UNTYPED().update([1.0], 1, "mean"), None, "at most 2 .* got 3; Mean.update"),
        (lambda: UNTYPED().merge(), "other", r"other: missing; Mean.merge takes \('other',\)"),
    ],
)
def test_arguments_that_there_are_not(call: Any, argument: str | None, text: str) -> None:
    with pytest.raises(errors.CallError, match=text) as found:
        call()
    assert found.value.argument == argument


@pytest.mark.parametrize("other", [3, None, [rl.Mean()]])
def test_only_means_are_merged(other: Any) -> None:
    with pytest.raises(TypeError, match=r"^other: expected a Mean, got "):
        rl.Mean().merge(other)


def test_signatures_are_those_of_the_methods() -> None:
    assert list(inspect.signature(rl.Mean).parameters) == ["empty"]
    assert list(inspect.signature(rl.Mean.update).parameters) == ["self", "values", "weights"]


def scored(chunk: Any) -> rl.Mean:
    return rl.Mean().update(rl.HuberLoss()(chunk, 0 * chunk))


def test_means_of_processes_are_merged() -> None:
    numbers = SERIES["usual"]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        means = pool.map(scored, np.array_split(numbers, 7))
    merged = rl.Mean()
    for mean in means[::-1]:
        merged.merge(mean)
    assert repr(merged) == repr(scored(numbers))
