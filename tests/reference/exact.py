"""Value and derivatives of every loss as sums of exact terms, and the distance to them in ulp.

A formula takes the parameters and one sample as mpmath numbers, and gives the value, the gradient
with respect to each input and the second derivative with respect to the prediction, every number
of them as its terms. Their sum is the truth, the sum of their sizes what the error is measured
against. A quantity that is one term, or a sum of terms of one sign, is thus measured against
itself. An empty tuple is a number that nothing is asked of: a gradient too near a kink to say on
which side of it the sample lies.

The formulas are in `exact_elementwise`, `exact_rowwise`, `exact_margins`, `exact_pairwise` and
`exact_sequence`; here is what they are made of, and what is computed from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import mpmath
import numpy as np

from .math_mpmath import PRECISION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    Terms = tuple[Any, ...]
    Quantities = dict[str, list[Terms]]

BITS = 53
FAR = 2000
"""Exponents are cut there, far outside float64."""

FORMULAS: dict[str, Callable[..., Quantities]] = {}


def formula(name: str) -> Callable[[Callable[..., Quantities]], Callable[..., Quantities]]:
    """Register the formula of the class `name`."""

    def register(function: Callable[..., Quantities]) -> Callable[..., Quantities]:
        FORMULAS[name] = function
        return function

    return register


ZERO, ONE = mpmath.mpf(0), mpmath.mpf(1)


def undecided(terms: Terms, eps: float) -> bool:
    """Tell whether a sum is so near 0 that its promised 4 ulp let its sign go either way."""
    return bool(abs(mpmath.fsum(terms)) <= 4 * eps * size(terms))


def cut_off(terms: Terms) -> Terms:
    """Return terms of the same size whose sum is 0."""
    return size(terms) / 2, -size(terms) / 2


def doubtful(terms: Iterable[Any]) -> Terms:
    """Return terms of the same size that cancel: what is lost to the rounding of others."""
    return tuple(side * term / 2 for term in terms for side in (1, -1))


def size(terms: Terms | list[Any]) -> Any:
    return abs(terms[0]) if len(terms) == 1 else mpmath.fsum(terms, absolute=True)


WHOLE = ("SDMLLoss", "InfoNCELoss")
"""Losses whose samples are not on their own: the batch is the sample."""


class Truth(NamedTuple):
    """Real numbers ``(high + low) * 2**exponent`` and the exponent of what errors count against.

    ``1 <= abs(high) < 2``, or 0. NaN stands for a number that nothing is asked of.
    """

    high: NDArray[Any]
    low: NDArray[Any]
    exponent: NDArray[Any]
    against: NDArray[Any]


def truth(
    loss: str, params: Mapping[str, Any], inputs: Mapping[str, NDArray[Any]], asked: Iterable[str]
) -> dict[str, Truth]:
    """Compute what is asked for, of finite inputs: "value", the gradient by an input, "hess".

    The first input decides the dtype whose ulp make a sign uncertain.
    """
    params = {**params, "eps": float(np.finfo(next(iter(inputs.values())).dtype).eps)}
    samples: Any = zip(*(x.tolist() for x in inputs.values()), strict=True)
    if loss in WHOLE:
        samples = [[x.tolist() for x in inputs.values()]]
    found: dict[str, list[tuple[float, float, int, int]]] = {name: [] for name in asked}
    with mpmath.workprec(PRECISION):
        for sample in samples:
            quantities = FORMULAS[loss](params, *map(to_mpf, sample))
            for name, numbers in found.items():
                numbers += map(split, quantities[name])
    return {name: Truth(*map(np.array, zip(*n, strict=True))) for name, n in found.items()}


def to_mpf(x: Any) -> Any:
    return [to_mpf(v) for v in x] if isinstance(x, list) else mpmath.mpf(x)


def split(terms: Terms) -> tuple[float, float, int, int]:
    if not terms:
        return np.nan, np.nan, 0, 0
    against = magnitude(size(terms))
    sign, mantissa, shift, bits = (terms[0] if len(terms) == 1 else mpmath.fsum(terms))._mpf_
    if not mantissa:
        return 0.0, 0.0, against, against
    cut = 2 * BITS - bits
    mantissa = mantissa << cut if cut > 0 else mantissa >> -cut
    side = -1.0 if sign else 1.0
    high = side * (mantissa >> BITS) * 2.0 ** (1 - BITS)
    low = side * (mantissa % 2**BITS) * 2.0 ** (1 - 2 * BITS)
    return high, low, min(max(shift + bits - 1, -FAR), FAR), against


def magnitude(x: Any) -> int:
    """Return the exponent of the largest power of two up to x."""
    _, mantissa, shift, bits = x._mpf_
    return min(max(shift + bits - 1, -FAR), FAR) if mantissa else -FAR


def ulp_error(y: NDArray[Any], exact: Truth) -> NDArray[np.float64]:
    """Measure results against the truth, in ulp of the sum of the sizes of its terms.

    The smallest subnormal number is one ulp below the normal numbers and at 0; infinity stands for
    the power of two after the largest finite number, and so does every truth beyond it.
    """
    info = np.finfo(y.dtype)
    high, low, exponent, against = (part.copy() for part in exact)
    beyond = exponent >= info.maxexp
    high[beyond], low[beyond], exponent[beyond] = np.sign(high[beyond]), 0, info.maxexp
    unit = np.where(beyond, info.maxexp - 1, np.maximum(against, info.minexp)) - info.nmant
    # A truth far below the unit is 0; seen from the others' exponent, differences are exact.
    nothing = exponent < unit - 2 * BITS
    high[nothing], low[nothing] = 0, 0
    exponent = np.where(high == 0, unit, exponent)
    wide = y.astype(np.float64).reshape(high.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.ldexp(wide, -exponent)
        infinite = np.isinf(wide)
        scaled[infinite] = np.ldexp(np.sign(wide[infinite]), info.maxexp - exponent[infinite])
        error = np.ldexp(np.abs((scaled - high) - low), exponent - unit)
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(np.isnan(exact.high), 0.0, error)
