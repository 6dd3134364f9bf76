"""The accuracy that the documentation promises, against mpmath, at every level of this CPU."""

from __future__ import annotations

import math
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import mpmath
import numpy as np
import pytest

import rustloss as rl
from reference.exact import Truth, split, truth, ulp_error
from reference.math_mpmath import PRECISION
from reference.points import CASES, DTYPES, Case, run
from rustloss import _core
from rustloss.testing._registry import specs

if TYPE_CHECKING:
    from collections.abc import Iterator

SUM = 2.0
"""The bound of sums in ulp of the sum of the absolute terms."""

SMALL_RESULTS = 8.0
"""The bound of a poly loss, in ulp of each result itself."""

LEVELS: list[str] = _core.config()["isa_available"]
DENSER = 100
FEWER = 500
"""Of the points of an elementwise case, dozens of every kind; `make test-slow` takes all, often."""
SUMMANDS, MANY_SUMMANDS = 300_000, 10_000_000
UNJUDGED = 0.3
"""The most numbers of a case that go unjudged: gradients at a kink, KL's by a label of 0."""

DTYPE = pytest.mark.parametrize("dtype", DTYPES)
over_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.loss}-{case.title}")


def set_level(level: str) -> None:
    os.environ["RUSTLOSS_ISA"] = level


@pytest.fixture(scope="module")
def at_level() -> Iterator[dict[str, ProcessPoolExecutor]]:
    """Give a process for each level: it is chosen when the library is loaded."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        yield {
            level: stack.enter_context(
                ProcessPoolExecutor(1, context, initializer=set_level, initargs=(level,))
            )
            for level in LEVELS
        }


def worst(shares: Any, inputs: dict[str, Any], level: str, name: str) -> str:
    """Describe the point of the largest error."""
    at = np.unravel_index(shares.argmax(), shares.shape)
    near = {}
    for key, x in inputs.items():
        point = x[at] if x.shape == shares.shape else x[at[0]]
        near[key] = point.tolist() if point.size <= 16 else f"{point.size} numbers"
    count = int((shares > 1).sum())
    return f"{level}, {name}: {count} of {shares.size} beyond the bound, worst at {at}: {near}"


def check(
    case: Case,
    dtype: str,
    seeds: range,
    at_level: dict[str, ProcessPoolExecutor],
    most: int | None = None,
) -> None:
    unjudged: dict[str, list[float]] = {}
    for seed in seeds:
        inputs = {key: x[:most] for key, x in case.inputs(dtype, seed).items()}
        running = {
            level: process.submit(run, case.job(inputs)) for level, process in at_level.items()
        }
        exact = case.truth(inputs)
        for name, numbers in exact.items():
            unjudged.setdefault(name, []).append(np.isnan(numbers.high).mean())
        for level, results in running.items():
            for name, (error, shares) in case.errors(inputs, exact, results.result()).items():
                assert results.result()[name].dtype == dtype
                share = shares.max()
                print(f"{level} {dtype} {name}: {error.max():.2f} ulp, {share:.2f} of the bound")
                assert share <= 1, worst(shares, inputs, level, name)
    for name, means in unjudged.items():
        assert np.mean(means) <= UNJUDGED, name


@DTYPE
@over_cases
def test_error_is_bounded(case, dtype, at_level):
    elementwise = specs()[case.loss].family == "elementwise"
    check(case, dtype, range(1), at_level, FEWER if elementwise else None)


# 32,000 classes take more than two minutes.
@pytest.mark.timeout(600)
@pytest.mark.slow
@DTYPE
@over_cases
def test_error_is_bounded_at_many_points(case, dtype, at_level):
    check(case, dtype, range(1, DENSER + 1), at_level)


@pytest.mark.loss("PolyLoss")
@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("classes", [2, 5, 300])
@pytest.mark.parametrize("epsilon", [-1.0, -0.7, -0.5, 1.0])
@DTYPE
def test_poly_keeps_the_digits_of_small_results(dtype, epsilon, classes, axis):
    rng = np.random.default_rng(classes)
    rows = 200 if classes < 10 else 40
    pred = rng.uniform(-1, 1, (rows, classes))
    pred[:, 0] += np.linspace(-30, 30, rows)
    pred[::2, 2:] -= 17
    inputs = {"pred": pred.astype(dtype), "label": rng.integers(0, 2, rows)}
    exact = truth("PolyLoss", {"epsilon": epsilon}, inputs, ["value", "pred", "hess"])
    if not axis:
        inputs["pred"] = np.ascontiguousarray(inputs["pred"].T)
    loss = rl.PolyLoss(epsilon, axis=axis, batch_axis=axis + 1)
    value, (grad, hess) = loss(**inputs), loss.grad_hess(**inputs)
    results = {"value": value, "pred": grad, "hess": hess}
    for name, numbers in exact.items():
        result = results[name] if axis or name == "value" else results[name].T
        # Against the result itself, whatever it is the sum of.
        error = ulp_error(result, numbers._replace(against=numbers.exponent)).max()
        print(f"{name}: {error:.2f} ulp")
        assert error <= SMALL_RESULTS, name


def summands(kind: str, dtype: str, count: int) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng([count, *kind.encode()])
    x = {
        "uniform": lambda: rng.uniform(0, 1, count),
        "constant": lambda: np.full(count, 0.1),
        "of any scale": lambda: np.ldexp(rng.uniform(-1, 1, count), rng.integers(-40, 0, count)),
        "falling": lambda: 1 / np.arange(1, count + 1),
        "cancelling": lambda: rng.standard_normal(count) + 1e3 * (-1.0) ** np.arange(count),
    }[kind]()
    return x.astype(dtype)


def check_sum(kind: str, dtype: str, count: int) -> None:
    x = summands(kind, dtype, count)
    # Of one class that is its own log-probability, minus the loss is the summand itself.
    labels = np.zeros(count, np.int64)
    rows = x.reshape(2, -1, 1), labels.reshape(2, -1)
    flat = x.reshape(-1, 1), labels
    zero = np.zeros_like(x)
    sums = [
        (-rl.SoftmaxCELoss(from_logits=True, reduction="sum")(*flat), [x]),
        (
            -rl.SoftmaxCELoss(from_logits=True, axis=2, reduction="sample_sum")(*rows),
            np.split(x, 2),
        ),
        (rl.L1Loss(reduction="sum")(x, zero), [abs(x)]),
        (rl.L1Loss(reduction="sample_sum")(x.reshape(2, -1), zero), np.split(abs(x), 2)),
    ]
    for results, parts in sums:
        for result, part in zip(np.atleast_1d(results), parts, strict=True):
            numbers = part.tolist()
            total, size = math.fsum(numbers), math.fsum(map(abs, numbers))
            unit = np.spacing(np.array(size, dtype)).astype(np.float64)
            # fsum is right to half an ulp of its result, which is what it is compared in.
            error = abs(float(result) - total) / unit
            print(f"{dtype}, {kind}: {error:.2f} ulp of the sum of {count} sizes")
            assert error <= SUM


KIND = pytest.mark.parametrize(
    "kind", ["uniform", "constant", "of any scale", "falling", "cancelling"]
)


@DTYPE
@KIND
def test_sums_are_as_good_as_their_terms(kind, dtype):
    check_sum(kind, dtype, SUMMANDS)


@pytest.mark.slow
@DTYPE
@KIND
def test_long_sums_are_as_good_as_their_terms(kind, dtype):
    check_sum(kind, dtype, MANY_SUMMANDS)


@DTYPE
def test_ulp_error_is_not_lenient(dtype):
    info = np.finfo(dtype)
    eps, smallest, largest = float(info.eps), float(info.smallest_subnormal), float(info.max)
    mpf = mpmath.mpf
    with mpmath.workprec(PRECISION):
        cases = [
            ([1.0], 1 + eps, 1.0),
            ([1.0], 1 - eps / 2, 0.5),
            ([mpf(1) + mpf(eps) / 8], 1.0, 0.125),
            ([1.0, -1.0], eps, 0.5),
            ([3.0, -1.0, -2.0], 4 * eps, 1.0),
            ([1e10, -1e10], 1e5, 1e5 / np.spacing(np.array(2e10, dtype)).astype(float)),
            ([0.0], smallest, 1.0),
            (
                [0.0],
                1.0,
                math.ldexp(1, info.nmant - info.minexp) if dtype == "float32" else math.inf,
            ),
            ([mpf(smallest) / 3], 0.0, 1 / 3),
            ([mpf(10) ** -400], 0.0, 0.0),
            ([mpf(10) ** 400], math.inf, 0.0),
            ([mpf(10) ** 400], largest, 1.0),
            ([mpf(10) ** 400], -math.inf, 2.0 ** (info.nmant + 2)),
            ([1.0], math.nan, math.inf),
            ([], 7.0, 0.0),
        ]
        exact = [
            Truth(*map(np.array, zip(split(tuple(map(mpf, c[0]))), strict=True))) for c in cases
        ]
    for (terms, y, expected), numbers in zip(cases, exact, strict=True):
        error = ulp_error(np.array([y], dtype), numbers)
        assert error[0] == pytest.approx(expected, rel=1e-6, abs=1e-6), (terms, y)
