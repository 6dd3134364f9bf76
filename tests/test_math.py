"""The vector math against mpmath, at every instruction-set level of this CPU."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference.math_mpmath import FUNCTIONS, Exact, exact, ulp_error
from rustloss import _core

BOUND = dict.fromkeys(FUNCTIONS, 2.0) | {"log_factorial": 4.0}
"""The bounds in ulp that the documentation states (`src/math/mod.rs`)."""

DTYPES = ["float32", "float64"]
LEVELS: list[str] = _core.config()["isa_available"]
POINTS = 2_000
MANY_POINTS = 100_000

INF = float("inf")
NAN = float("nan")
LOG2 = float(np.log(2))

# Arguments, and what a function makes of them: to the bit, sign of zero included.
SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(-INF, 0), (-1e30, 0), (-0.0, 1), (0.0, 1), (1e30, INF), (INF, INF)],
    "exp_nonpositive": [(-INF, 0), (-1e30, 0), (-0.0, 1), (0.0, 1)],
    "expm1": [(-INF, -1), (-1e30, -1), (-0.0, -0.0), (0.0, 0.0), (1e30, INF), (INF, INF)],
    "log": [
        (-INF, NAN),
        (-1.0, NAN),
        (-1e-40, NAN),
        (-0.0, -INF),
        (0.0, -INF),
        (1.0, 0.0),
        (INF, INF),
    ],
    "log1p": [(-INF, NAN), (-1.5, NAN), (-1.0, -INF), (-0.0, -0.0), (0.0, 0.0), (INF, INF)],
    "sigmoid": [(-INF, 0), (-1e30, 0), (-0.0, 0.5), (0.0, 0.5), (1e30, 1), (INF, 1)],
    "sigmoid_neg": [(-INF, 1), (-1e30, 1), (-0.0, 0.5), (0.0, 0.5), (1e30, 0), (INF, 0)],
    "softplus": [(-INF, 0), (-1e30, 0), (INF, INF)],
    "softplus_neg_abs": [(-INF, 0), (-1e30, 0), (1e30, 0), (INF, 0)],
    "log_sigmoid": [(-INF, -INF), (1e30, -0.0), (INF, -0.0)],
    "log_factorial": [(-INF, NAN), (-0.5, NAN), (0.0, 0), (1.0, 0), (INF, INF)],
}


def special(name: str, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    x, y = np.array([*SPECIAL[name], (NAN, NAN)], dtype).T.copy()
    return x, y


def edges(name: str, dtype: str) -> tuple[list[float], np.ndarray[Any, Any]]:
    """Return where a function may change its method or its kind of result: some, and series."""
    info = np.finfo(dtype)
    first = info.minexp - info.nmant
    powers = 2.0 ** np.arange(first, info.maxexp)
    reductions = (np.arange(first - 2, info.maxexp + 2) + 0.5) * LOG2
    limits = [k * LOG2 for k in (info.minexp, first, first - 1, info.maxexp)]
    limits += [0.0, -104.0, -746.0, 89.0, 710.0]
    small = powers[powers < 1]
    octaves = np.concatenate([powers, powers * np.sqrt(0.5)])
    match name:
        case "exp" | "exp_nonpositive" | "expm1":
            tiny = [1e-8, -1e-8, 1e-17, -1e-17, -17.0, -18.0, -37.0, -38.0]
            return limits + tiny, np.concatenate([reductions, small, -small])
        case "log":
            return [float(info.max), float(info.tiny), 1.0, 0.5**0.5, 2**0.5], octaves
        case "log1p":
            single = [float(info.max), 2.0 ** (info.nmant + 2), 0.0, 2**0.5 - 1, 0.5**0.5 - 1]
            return single, np.concatenate([octaves, -small, octaves - 1])
        case "log_factorial":
            overflow = {"float32": 4.085e36, "float64": 2.5563e305}[dtype]
            return [overflow, *np.arange(30) / 2], powers
        case _:
            quarter = float(np.log(np.sqrt(2) - 1))  # exp(quarter) = sqrt(2) - 1
            single = [*limits, quarter, 2.0 ** (info.nmant + 1)]
            single += [-x for x in single]
            return single, np.concatenate([reductions, -reductions, small, -small])


def ranges(name: str, dtype: str) -> list[tuple[float, float]]:
    """Return where a function does what it is used for."""
    low, high = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}[dtype]
    match name:
        case "exp" | "exp_nonpositive" | "expm1":
            return [(low, high), (-40.0, 40.0), (-1.0, 1.0)]
        case "log":
            return [(0.0, 3.0), (0.9, 1.1), (0.0, 1e4)]
        case "log1p":
            return [(-1.0, 3.0), (-0.1, 0.1), (0.0, 1e4)]
        case "log_factorial":
            return [(0.0, 3.0), (0.0, 12.0), (0.0, 1e4)]
        case _:
            return [(low, -low), (-20.0, 20.0), (-2.0, 2.0)]


@functools.cache
def points(name: str, dtype: str, count: int) -> np.ndarray[Any, Any]:
    """Return at least `count` finite arguments of a function's domain."""
    rng = np.random.default_rng([count, *name.encode()])
    info = np.finfo(dtype)
    bits = np.dtype(f"u{info.bits // 8}")
    with np.errstate(over="ignore"):
        single, series = edges(name, dtype)
        middle = np.append(single, rng.permutation(series))[: count // 4].astype(dtype)
    steps = [middle]
    for direction in (-INF, INF):
        step = middle
        for _ in range(2):
            with np.errstate(over="ignore"):
                step = np.nextafter(step, np.array(direction, dtype))
            steps.append(step)
    spread = [rng.uniform(a, b, count).astype(dtype) for a, b in ranges(name, dtype)]
    every = rng.integers(0, 2**info.bits - 1, 4 * count, bits, endpoint=True).view(dtype)
    subnormal = rng.integers(0, 2**info.nmant - 1, count // 8, bits, endpoint=True).view(dtype)
    domain = {
        "exp_nonpositive": (-INF, 0.0),
        "log": (float(info.smallest_subnormal), INF),
        "log1p": (float(np.nextafter(np.array(-1, dtype), np.array(0, dtype))), INF),
        "log_factorial": (0.0, INF),
    }.get(name, (-INF, INF))

    def inside(x: np.ndarray[Any, Any], most: int) -> np.ndarray[Any, Any]:
        kept: np.ndarray[Any, Any] = x[np.isfinite(x) & (x >= domain[0]) & (x <= domain[1])]
        return kept[:most]

    parts = [inside(np.concatenate(steps), 5 * count), inside(every, count // 2)]
    parts += [inside(np.concatenate([subnormal, -subnormal]), count // 8)]
    parts += [inside(x, count // len(spread)) for x in spread]
    return np.unique(np.concatenate(parts))


@functools.cache
def truth(name: str, dtype: str, count: int) -> Exact:
    return exact(name, points(name, dtype, count))


CHILD = """
import sys
import numpy as np
from rustloss import _core
with np.load(sys.argv[1]) as data:
    results = {key: _core.vector_math(key.split("-")[0], data[key]) for key in data.files}
np.savez(sys.argv[2], **results)
"""


@functools.cache
def results(level: str, count: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return every function's values at a level, computed in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, computed = Path(folder) / "given.npz", Path(folder) / "computed.npz"
        arguments = {}
        for name in FUNCTIONS:
            for dtype in DTYPES:
                arguments[f"{name}-{dtype}"] = points(name, dtype, count)
                arguments[f"{name}-{dtype}-special"] = special(name, dtype)[0]
        np.savez(given, **arguments)  # type: ignore[arg-type]
        child = subprocess.run(
            [sys.executable, "-c", CHILD, given, computed],
            env=os.environ | {"RUSTLOSS_ISA": level},
            capture_output=True,
            text=True,
            check=False,
        )
        assert child.returncode == 0, child.stderr
        with np.load(computed) as data:
            return dict(data)


def check(name: str, dtype: str, level: str, count: int) -> None:
    x = points(name, dtype, count)
    assert len(x) >= count
    y = results(level, count)[f"{name}-{dtype}"]
    assert y.dtype == dtype
    error = ulp_error(y, truth(name, dtype, count))
    worst = int(error.argmax())
    at = f"{name}({float(x[worst])!r}) = {float(y[worst])!r}"
    print(f"{level} {dtype}: worst of {len(x)} is {error[worst]:.3f} ulp, {at}")
    assert error[worst] <= BOUND[name], at


def test_an_empty_instruction_set_is_as_none():
    code = "import rustloss; print(rustloss.show_config()['isa'])"
    own = {name: value for name, value in os.environ.items() if name != "RUSTLOSS_ISA"}
    levels = [
        subprocess.check_output([sys.executable, "-c", code], env=own | given, text=True).strip()
        for given in ({}, {"RUSTLOSS_ISA": ""})
    ]
    assert levels == [_core.config()["isa_available"][-1]] * 2


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_bounded(name, dtype, level):
    check(name, dtype, level, POINTS)


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_is_bounded_at_many_points(name, dtype, level):
    check(name, dtype, level, MANY_POINTS)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_limits_and_zeros_are_exact(name, dtype, level):
    x, expected = special(name, dtype)
    y = results(level, POINTS)[f"{name}-{dtype}-special"]
    np.testing.assert_array_equal(y, expected, err_msg=f"at {x}")
    number = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(y)[number], np.signbit(expected)[number], f"at {x}")


def test_levels_of_equal_arithmetic_agree_to_the_bit():
    pair = ("avx2", "avx512")
    if not set(pair) <= set(LEVELS):
        pytest.skip(f"this CPU has {LEVELS}")
    one, other = (results(level, POINTS) for level in pair)
    for key in one:
        np.testing.assert_array_equal(one[key], other[key], key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ulp_error_is_not_lenient(dtype):
    info = np.finfo(dtype)
    smallest = float(info.smallest_subnormal)
    one_up = 1 + float(info.eps)
    with np.errstate(over="ignore"):
        cases = [
            ("exp", 0.0, one_up, 1.0),
            ("exp", 0.0, 1 - float(info.epsneg), 0.5),
            ("exp", 0.0, NAN, INF),
            ("exp", -1e4, 0.0, 0.0),
            ("exp", -1e4, smallest, 1.0),
            ("exp", 1e4, INF, 0.0),
            ("exp", 1e4, float(info.max), 1.0),
            ("exp", 1e4, -INF, 2.0 ** (info.nmant + 2)),
            ("log", 1.0, 3 * smallest, 3.0),
            ("log", 1.0, float(info.tiny), 2.0**info.nmant),
            ("expm1", 2 * smallest, 0.0, 2.0),
        ]
    for name, x, y, expected in cases:
        error = ulp_error(np.array([y], dtype), exact(name, np.array([x], dtype)))
        assert error[0] == pytest.approx(expected, rel=1e-6, abs=1e-6), (name, x, y)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="cosh"):
        _core.vector_math("cosh", np.zeros(3))
    for bad in ([1.0], np.zeros(3, np.int64), np.zeros((2, 2)), np.zeros(6)[::2]):
        with pytest.raises(TypeError):
            _core.vector_math("exp", bad)
