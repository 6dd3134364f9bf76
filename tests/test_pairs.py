"""Losses of all pairs of two batches: blocks of rows, memory, and InfoNCE as a cross-entropy."""

from __future__ import annotations

import itertools
import subprocess
import sys
from typing import Any, Literal

import numpy as np
import pytest

import rustloss as rl
from rustloss.errors import ParameterError, ShapeError
from rustloss.testing import check_gradient
from rustloss.testing.oracles import evaluate

Similarity = Literal["cosine", "dot"]
NAMES = ["SDMLLoss", "InfoNCELoss"]
EPS = {"float32": 2.0**-23, "float64": 2.0**-52}
BOUND = 8
"""Of value and gradients, in ulp of the sum of the absolute terms."""
over_names = pytest.mark.parametrize("name", NAMES)
over_similarities = pytest.mark.parametrize("similarity", ["cosine", "dot"])
over_directions = pytest.mark.parametrize("symmetric", [True, False])
over_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def draw(n: int, d: int, dtype: str = "float64", seed: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x1 = rng.standard_normal((n, d)) / d**0.5
    return x1.astype(dtype), (x1 + 0.3 * rng.standard_normal((n, d)) / d**0.5).astype(dtype)


def logits(x1: Any, x2: Any, similarity: str, temperature: float) -> Any:
    """Return the explicit matrix, of batches whose lengths float64 can square."""
    if similarity == "cosine":
        x1, x2 = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x2))
    return x1 @ x2.T / temperature


def chain(x1: Any, x2: Any, similarity: str, slopes: Any) -> list[Any]:
    """Return the gradients by both batches from that by the similarities."""
    if similarity == "dot":
        return [slopes @ x2, slopes.T @ x1]
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (x1, x2)]
    u, v = x1 / lengths[0], x2 / lengths[1]
    found = []
    for own, by, length in ((u, slopes @ v, lengths[0]), (v, slopes.T @ u, lengths[1])):
        found.append((by - own * (own * by).sum(axis=1, keepdims=True)) / length)
    return found


@pytest.mark.loss("InfoNCELoss", "SoftmaxCrossEntropyLoss")
@over_similarities
@over_directions
@over_dtypes
@pytest.mark.parametrize("n", [1, 2, 7, 130])
def test_info_nce_is_cross_entropy_on_similarities(
    n: int, dtype: str, symmetric: bool, similarity: Similarity
) -> None:
    temperature, d = 0.25, 19
    x1, x2 = draw(n, d, dtype)
    wide = x1.astype(np.float64), x2.astype(np.float64)
    matrix = logits(*wide, similarity, temperature)
    weight = np.random.default_rng(4).uniform(0.5, 2.0, n)
    weight[n // 2] = 0.0
    ce = rl.SoftmaxCrossEntropyLoss()
    expected, slopes = ce.value_and_grad(matrix, np.arange(n), weight)
    if symmetric:
        turned, turned_slopes = ce.value_and_grad(matrix.T, np.arange(n), weight)
        expected, slopes = (expected + turned) / 2, (slopes + turned_slopes.T) / 2
    loss = rl.InfoNCELoss(temperature, similarity, symmetric)
    value, grads = loss.value_and_grad(x1, x2, weight)
    assert value.dtype == grads[0].dtype == dtype
    # Terms: two logits of a size up to 1 / temperature and the logarithm of the sum.
    size = weight.max() * (2 * np.abs(matrix).max() + np.log(n) + 1)
    np.testing.assert_allclose(value, expected, rtol=0, atol=BOUND * EPS[dtype] * size)
    expected_grads = chain(*wide, similarity, slopes / temperature)
    largest = np.abs(slopes).sum(axis=1).max() / temperature
    for grad, expected_grad, x in zip(grads, expected_grads, wide, strict=True):
        of_unit = 1 / np.linalg.norm(x, axis=1).min() if similarity == "cosine" else 1.0
        # Each probability is off by as much as its logit, whose terms add up to 1 / temperature.
        size = 2 * largest * of_unit * (1 + 2 / temperature)
        np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=BOUND * EPS[dtype] * size)


@over_names
@pytest.mark.loss(*NAMES)
@pytest.mark.parametrize("reduction", ["sample", "mean", "weighted_mean", "none", "sum"])
@pytest.mark.parametrize("weights", ["none", "sample", "element"])
@over_dtypes
def test_blocks_change_last_bits_only(name: str, reduction: str, weights: str, dtype: str) -> None:
    n = 70
    x1, x2 = draw(n, 13, dtype)
    rng = np.random.default_rng(5)
    shape = {"none": None, "sample": (n,), "element": (n, n) if name == "SDMLLoss" else (n,)}
    weight = None if weights == "none" else rng.uniform(0.0, 2.0, shape[weights])
    if weight is not None:
        weight[::3] = 0.0
    whole_value, whole = getattr(rl, name)(reduction=reduction).value_and_grad(x1, x2, weight)
    for limit in (1, 20_000, 60_000):
        held = getattr(rl, name)(reduction=reduction, memory_limit=limit)
        value, grads = held.value_and_grad(x1, x2, weight)
        np.testing.assert_allclose(value, whole_value, rtol=BOUND * EPS[dtype], atol=EPS[dtype])
        np.testing.assert_array_equal(held(x1, x2, weight), value)
        for grad, expected in zip(grads, whole, strict=True):
            size = np.abs(expected).max()
            np.testing.assert_allclose(grad, expected, rtol=0, atol=BOUND * EPS[dtype] * size)


@over_names
@pytest.mark.loss(*NAMES)
@over_dtypes
def test_blocks_of_whole_tiles_change_no_bit(name: str, dtype: str) -> None:
    """Blocks of a multiple of 128 rows add up in the order that one block has."""
    n = 300
    x1, x2 = draw(n, 40, dtype)
    of_pair = 4 if name == "SDMLLoss" and dtype == "float32" else 8
    # Three quarters of it are 150 rows, of which blocks have 128.
    limit = 200 * n * of_pair
    symmetric = {"symmetric": False} if name == "InfoNCELoss" else {}
    results = [
        getattr(rl, name)(**symmetric, **held).value_and_grad(x1, x2)
        for held in ({}, {"memory_limit": limit})
    ]
    (value, grads), (held_value, held_grads) = results
    np.testing.assert_array_equal(value, held_value)
    for grad, held_grad in zip(grads, held_grads, strict=True):
        np.testing.assert_array_equal(grad, held_grad)


@over_names
@pytest.mark.loss(*NAMES)
@pytest.mark.parametrize("limit", [1 << 28, 1 << 17])
def test_threads_change_no_bit(name: str, limit: int) -> None:
    x1, x2 = draw(300, 70, "float32")
    loss, found = getattr(rl, name)(memory_limit=limit), []
    for threads in (1, 2, 3):
        with rl.num_threads(threads):
            value, grads = loss.value_and_grad(x1, x2)
        found.append([value.tobytes(), *(grad.tobytes() for grad in grads)])
    assert found[0] == found[1] == found[2]


@pytest.mark.loss("SDMLLoss")
@over_dtypes
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_sdml_of_vectors_close_together_and_far_from_zero(dtype: str, smoothing: float) -> None:
    """What products of matrices would lose is there: each gradient element has its own digits."""
    n, d = 150, 40
    rng = np.random.default_rng(6)
    middles = 50 + 3 * rng.standard_normal((3, d))
    x1, x2 = (
        (middles[np.arange(n) % 3] + 0.03 * rng.standard_normal((n, d))).astype(dtype)
        for _ in range(2)
    )
    x2[0] = x1[0]
    between = x1[:, None].astype(np.longdouble) - x2
    distances = (between**2).sum(axis=2)
    p = np.exp(distances.min(axis=1, keepdims=True) - distances)
    p /= p.sum(axis=1, keepdims=True)
    q = np.where(np.eye(n, dtype=bool), 1 - smoothing, smoothing / (n - 1))
    _, grads = rl.SDMLLoss(smoothing).value_and_grad(x1, x2)
    # The rounding of a distance is the relative error of a probability.
    sizes = q + p * (1 + 2 * (distances + distances.min(axis=1, keepdims=True)))
    for grad, sign, axis in zip(grads, (1, -1), (1, 0), strict=True):
        expected = 2 * sign * ((q - p)[:, :, None] * between).sum(axis=axis) / n
        size = 2 * (sizes[:, :, None] * np.abs(between)).sum(axis=axis) / n
        assert (np.abs(grad - expected) <= BOUND * EPS[dtype] * size).all()


@pytest.mark.loss(*NAMES)
@over_names
@over_dtypes
def test_a_vector_without_weight_may_hold_anything(name: str, dtype: str) -> None:
    x1, x2 = draw(140, 20, dtype)
    params = {"symmetric": False, "similarity": "dot"} if name == "InfoNCELoss" else {}
    loss = getattr(rl, name)(**params)
    weight = np.ones(140)
    weight[3] = 0.0
    expected = loss.value_and_grad(x1, x2, weight)[1]
    x1[3, 5:7] = np.nan, np.inf
    grads = loss.value_and_grad(x1, x2, weight)[1]
    assert not grads[0][3].any()
    np.testing.assert_allclose(grads[1], expected[1], rtol=BOUND * EPS[dtype], atol=EPS[dtype])


PEAK = """
import re, sys
from pathlib import Path
import numpy as np
import rustloss as rl

def kilobytes(key):
    return int(re.search(rf"{key}:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

rl.set_num_threads(2)
name, reduction, limit, by_pair = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "pairs"
x = np.random.default_rng(0).standard_normal((3000, 8)).astype(np.float32)
loss = getattr(rl, name)(memory_limit=limit, reduction=reduction)
loss.value_and_grad(x[:8], x[:8])
out = np.ones((3000, 3000) if by_pair else 3000, np.float32)
weight = np.ones((3000, 3000), np.float32) if by_pair else None
Path("/proc/self/clear_refs").write_text("5")
before = kilobytes("VmRSS")
loss.value_and_grad(x, x[::-1], weight, out=out)
print((kilobytes("VmHWM") - before) << 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.loss(*NAMES)
@pytest.mark.parametrize(
    ("name", "reduction", "of"),
    [
        ("InfoNCELoss", "sample", "rows"),
        ("SDMLLoss", "sample", "rows"),
        ("SDMLLoss", "none", "pairs"),
    ],
)
def test_memory_stays_below_the_limit(name: str, reduction: str, of: str) -> None:
    """One float32 matrix of all pairs has 36 MB here; what is of the batches' size, 0.3 MB."""

    def peak(limit: int) -> int:
        command = [sys.executable, "-c", PEAK, name, reduction, str(limit), of]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    limit, linear = 12_000_000, 4_000_000
    assert peak(limit) <= limit + linear
    assert peak(1 << 30) > 30_000_000


@pytest.mark.loss("InfoNCELoss")
@over_similarities
@over_directions
@pytest.mark.parametrize("temperature", [1e-300, 1e-3, 1.0, 1e3, 1e300])
@pytest.mark.parametrize("scale", [1e-300, 1e-20, 1.0, 1e20, 1e150])
def test_info_nce_of_any_temperature_and_scale(
    similarity: Similarity, symmetric: bool, temperature: float, scale: float
) -> None:
    x1, x2 = draw(5, 3)
    loss = rl.InfoNCELoss(temperature, similarity, symmetric)
    value, grads = loss.value_and_grad(scale * x1, scale * x2)
    assert (value >= 0).all()
    assert not any(np.isnan(grad).any() for grad in grads)
    if similarity == "cosine":
        # A power of two changes nothing but the scale of the gradients.
        power = 2.0**40
        again, turned = loss.value_and_grad(power * scale * x1, x2 * scale)
        np.testing.assert_array_equal(again, value)
        # What is subnormal has the digits that there are.
        least = power * 2.0**-1074
        np.testing.assert_allclose(turned[0] * power, grads[0], rtol=2**-50, atol=least)


@pytest.mark.loss("InfoNCELoss")
@over_directions
def test_sure_and_right_rows_keep_their_digits(symmetric: bool) -> None:
    x = 10.0 * np.eye(3)
    value, (grad, _) = rl.InfoNCELoss(1.0, "dot", symmetric).value_and_grad(x, x)
    np.testing.assert_allclose(value, np.log1p(2 * np.exp(-100.0)), rtol=2**-50)
    np.testing.assert_allclose(np.diag(grad), -20 * np.exp(-100.0), rtol=2**-48)


@pytest.mark.loss("InfoNCELoss")
@over_directions
def test_a_zero_vector_has_cosine_and_gradient_zero(symmetric: bool) -> None:
    x1, x2 = draw(4, 3)
    x1[1] = 0.0
    value, (grad, other) = rl.InfoNCELoss(symmetric=symmetric).value_and_grad(x1, x2)
    assert not grad[1].any()
    assert np.isfinite(value).all()
    assert np.isfinite(other).all()
    if not symmetric:
        assert value[1] == pytest.approx(np.log(4), rel=2**-50)


@pytest.mark.loss("InfoNCELoss")
@over_similarities
def test_a_dropped_sample_stays_a_wrong_answer(similarity: Similarity) -> None:
    x1, x2 = draw(4, 3)
    weight = np.array([1.0, 0.0, 1.0, 1.0])
    loss = rl.InfoNCELoss(similarity=similarity)
    value, (by_x1, by_x2) = loss.value_and_grad(x1, x2, weight)
    np.testing.assert_array_equal(value, loss(x1, x2) * weight)
    assert by_x1[1].any()
    assert by_x2[1].any()
    rows = rl.InfoNCELoss(similarity=similarity, symmetric=False)
    x1[1] = np.nan
    value, (by_x1, by_x2) = rows.value_and_grad(x1, x2, weight)
    assert value[1] == 0
    assert not by_x1[1].any()
    assert np.isfinite(by_x2).all()


@pytest.mark.loss("InfoNCELoss")
@over_similarities
@over_directions
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_few_samples(similarity: Similarity, symmetric: bool, dtype: str) -> None:
    loss = rl.InfoNCELoss(0.5, similarity, symmetric)
    one = np.ones((1, 3), dtype)
    value, grads = loss.value_and_grad(one, 2 * one)
    assert value.tolist() == [0.0]
    assert not any(grad.any() for grad in grads)
    nothing = np.ones((0, 3), dtype)
    value, grads = loss.value_and_grad(nothing, nothing)
    assert value.shape == (0,)
    assert [grad.shape for grad in grads] == [(0, 3)] * 2
    assert loss(np.ones((2, 0)), np.ones((2, 0))) == pytest.approx([np.log(2)] * 2)


@pytest.mark.loss("InfoNCELoss")
def test_shapes_and_parameters_are_checked() -> None:
    x = np.ones((3, 2))
    for x1, x2 in [(x, x[:2]), (x, x.T), (x[0], x[0]), (x[None], x[None])]:
        with pytest.raises(ShapeError):
            rl.InfoNCELoss()(x1, x2)
    for params in ({"temperature": 0.0}, {"temperature": 5e-324}, {"memory_limit": 0}):
        with pytest.raises(ParameterError):
            rl.InfoNCELoss(**params)


@pytest.mark.loss("InfoNCELoss")
@pytest.mark.parametrize(
    ("similarity", "symmetric", "limit"),
    list(itertools.product(["cosine", "dot"], [True, False], [1 << 28, 1])),
)
def test_gradients_are_derivatives(similarity: Similarity, symmetric: bool, limit: int) -> None:
    x1, x2 = draw(5, 4)
    loss = rl.InfoNCELoss(0.5, similarity, symmetric, memory_limit=limit)
    check_gradient(loss, x1, x2)
    params = {"temperature": 0.5, "similarity": similarity, "symmetric": symmetric}
    value, grads, _ = evaluate("InfoNCELoss", params, x1, x2)
    ours, slopes = loss.value_and_grad(x1, x2)
    np.testing.assert_allclose(ours, value, rtol=1e-14)
    for grad, expected in zip(slopes, grads.values(), strict=True):
        np.testing.assert_allclose(grad, expected, rtol=0, atol=1e-14)
