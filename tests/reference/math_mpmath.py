"""The functions of the vector math in mpmath, and the honest distance to them in ulp."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mpmath
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

PRECISION = 256
"""Bits: 77 digits, 200 more than the results are compared in."""

PAIR = 53
"""Bits in each half of an exact value."""

TINY = mpmath.mpf(2) ** -80


def softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


def log_factorial(t: Any) -> Any:
    # The sum t + 1 would lose a tiny t; two terms of the series leave an error of order t^3.
    if t < TINY:
        return t * (mpmath.zeta(2) / 2 * t - mpmath.euler)
    return mpmath.loggamma(t + 1)


FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "exp": mpmath.exp,
    "exp_nonpositive": mpmath.exp,
    "expm1": mpmath.expm1,
    "log": mpmath.log,
    "log1p": mpmath.log1p,
    "sigmoid": sigmoid,
    "sigmoid_neg": lambda x: sigmoid(-x),
    "softplus": softplus,
    "softplus_neg_abs": lambda x: softplus(-abs(x)),
    "log_sigmoid": lambda x: -softplus(-x),
    "log_factorial": log_factorial,
}


class Exact(NamedTuple):
    """Real numbers `(high + low) * 2**exponent` with `1 <= abs(high) < 2`, or 0."""

    high: np.ndarray[Any, Any]
    low: np.ndarray[Any, Any]
    exponent: np.ndarray[Any, Any]


def exact(name: str, x: np.ndarray[Any, Any]) -> Exact:
    """Compute a function of finite numbers, to twice the precision of float64.

    Parameters
    ----------
    name : str
        One of `FUNCTIONS`.
    x : ndarray
        Finite float32 or float64 numbers of the function's domain.

    Returns
    -------
    Exact
        Exponents are cut at 1200 in size, which is far outside float64.
    """
    function = FUNCTIONS[name]
    high, low = np.zeros(len(x)), np.zeros(len(x))
    exponent = np.zeros(len(x), np.int64)
    with mpmath.workprec(PRECISION):
        for i, value in enumerate(x.tolist()):
            sign, mantissa, shift, bits = function(mpmath.mpf(value))._mpf_
            if not mantissa:
                continue
            cut = 2 * PAIR - bits
            mantissa = mantissa << cut if cut > 0 else mantissa >> -cut
            side = -1.0 if sign else 1.0
            high[i] = side * (mantissa >> PAIR) * 2.0 ** (1 - PAIR)
            low[i] = side * (mantissa % 2**PAIR) * 2.0 ** (1 - 2 * PAIR)
            exponent[i] = min(max(shift + bits - 1, -1200), 1200)
    return Exact(high, low, exponent)


def ulp_error(y: np.ndarray[Any, Any], truth: Exact) -> np.ndarray[Any, Any]:
    """Measure results against exact values.

    Parameters
    ----------
    y : ndarray
        Results, float32 or float64.
    truth : Exact
        What they should be.

    Returns
    -------
    ndarray
        Distances in ulp: the spacing of the dtype in the exact value's binade; the smallest
        subnormal number below the normal ones and for 0; the largest spacing beyond overflow,
        where infinity stands for the power of two after the largest finite number.
    """
    info = np.finfo(y.dtype)
    high, low, exponent = (part.copy() for part in truth)
    beyond = exponent >= info.maxexp
    high[beyond], low[beyond], exponent[beyond] = np.sign(high[beyond]), 0, info.maxexp
    nothing = (high == 0) | (exponent < info.minexp - 2 * PAIR)
    high[nothing], low[nothing], exponent[nothing] = 0, 0, info.minexp

    # In units of 2**exponent, where both differences are exact for a y that is near.
    wide = y.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(wide, -exponent)
        infinite = np.isinf(wide)
        scaled[infinite] = np.ldexp(np.sign(wide[infinite]), info.maxexp - exponent[infinite])
        distance = np.abs((scaled - high) - low)
        spacing = np.clip(exponent, info.minexp, info.maxexp - 1) - info.nmant
        error = np.ldexp(distance, exponent - spacing)
    return np.where(np.isnan(error), np.inf, error)
