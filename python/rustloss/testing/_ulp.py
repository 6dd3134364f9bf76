"""Distances between floating-point numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Bits of the significand, and the least and the greatest exponent of a normal number.
_FORMATS = {
    "float16": (11, -14, 15),
    "bfloat16": (8, -126, 127),
    "float32": (24, -126, 127),
    "float64": (53, -1022, 1023),
}


def ulp_distance(actual: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """Return how far numbers are from what they should be, in units of the last place.

    The unit is that of the type of `actual` at `expected`, which may have more digits. It is the
    smallest subnormal number at 0 and among the subnormal numbers, so that an error there counts.

    Parameters
    ----------
    actual : array_like
        Numbers of type float16, bfloat16, float32 or float64.
    expected : array_like
        What they should be: real numbers of any type.

    Returns
    -------
    ndarray of float64
        0 where both are the same number, both NaN, or the same infinity (also by rounding); inf
        where only one of them is NaN, or one is infinite.

    Examples
    --------
    >>> import numpy as np
    >>> from rustloss.testing import ulp_distance
    >>> print(ulp_distance(np.float32([1, 0, np.nan]), [1 + 2.0**-24, 2.0**-149, 1]))
    [0.5 1.  inf]
    """
    got = np.asarray(actual)
    if got.dtype.name not in _FORMATS:
        raise TypeError(f"actual: expected floating-point numbers, got dtype {got.dtype}")
    bits, least, greatest = _FORMATS[got.dtype.name]
    wanted: NDArray[Any] = np.asarray(expected)
    wanted = wanted.astype(
        np.result_type(np.float64, wanted.dtype if wanted.dtype.kind == "f" else "f8")
    )
    with np.errstate(all="ignore"):
        # Compared in the type of `actual` as well, where what is too large is infinite.
        same = got == wanted.astype(got.dtype)
        wide = got.astype(wanted.dtype)
        exponent = np.where(wanted == 0, least, np.frexp(wanted)[1] - 1)
        exponent = np.clip(exponent, least, greatest) - (bits - 1)
        distance = np.abs(np.ldexp(wide, -exponent) - np.ldexp(wanted, -exponent))
        infinite = np.isinf(wide) | np.isinf(wanted)
        distance = np.where(infinite, np.where(same, 0.0, np.inf), distance)
        missing = np.isnan(wide) | np.isnan(wanted)
        both = np.isnan(wide) & np.isnan(wanted)
        return np.where(missing, np.where(both, 0.0, np.inf), distance).astype(np.float64)


def told_apart(a: Any, b: Any, digits: str = ".7g") -> tuple[str, str]:
    """Return two numbers as text: with few digits, or with all where few do not tell them apart."""
    texts = (f"{a:{digits}}", f"{b:{digits}}")
    return texts if texts[0] != texts[1] else (f"{a:.17g}", f"{b:.17g}")


def assert_ulp(actual: ArrayLike, expected: ArrayLike, ulp: float) -> None:
    """Fail if a number is farther from what it should be than some units of the last place.

    Parameters
    ----------
    actual, expected : array_like
        As for `ulp_distance`, and of one shape.
    ulp : float
        The largest distance that is allowed.

    Raises
    ------
    AssertionError
        If a number is farther away; the text names the index of the worst, both numbers and the
        distance. Also if the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from rustloss.testing import assert_ulp
    >>> assert_ulp(np.exp([0.0, 1.0]), [1.0, 2.718281828459045], 1)
    >>> assert_ulp(np.array([1.0, 0.1], np.float32), [1.0, 0.2], 1)
    Traceback (most recent call last):
        ...
    AssertionError: at [1] is 0.10000000149011612, expected 0.2: 6.71e+06 ulp, 1 allowed
    """
    got, wanted = np.asarray(actual), np.asarray(expected)
    if got.shape != wanted.shape:
        raise AssertionError(f"expected shape {wanted.shape}, got {got.shape}")
    distance = ulp_distance(got, wanted)
    if not distance.size or distance.max() <= ulp:
        return
    at = np.unravel_index(int(distance.argmax()), distance.shape)
    text = f"at {list(map(int, at))} is {float(got[at])!r}, expected {float(wanted[at])!r}"
    raise AssertionError(f"{text}: {distance[at]:.3g} ulp, {ulp:g} allowed")
