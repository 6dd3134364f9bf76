"""A mean of values that come in batches."""

from __future__ import annotations

import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, Self, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rustloss._interop import as_array, refuse_misaligned
from rustloss.errors import CallError, ParameterError, ShapeError, WeightError

Array = NDArray[np.float64]
Method = TypeVar("Method", bound=Callable[..., Any])

#: Sums are kept as whole numbers of 2**-_UNIT, of which every product of two numbers is a multiple.
_UNIT = 2 * 1074
#: Numbers that are summed at once: few enough for the cache, and for sums without rounding.
_BLOCK = 2**13
#: Between 2**-_FAR and 2**_FAR nothing that is done to a number or a product leaves the range of
#: float64; outside, numbers are multiplied by a power of two first.
_FAR = 340
_SCALE = 2 * _FAR
#: Times a number, it moves the upper half of its digits to where they can be cut off.
_HALVES = 2.0**27 + 1


def _explained(title: str) -> Callable[[Method], Method]:
    """Return a decorator: a method that refuses wrong arguments in the words of a loss."""

    def of(method: Method) -> Method:
        _, *parameters = inspect.signature(method).parameters.values()
        names = tuple(p.name for p in parameters)
        ordered = tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
        takes = f"{title} takes {ordered or names}{'' if ordered else ' by name'}"

        @functools.wraps(method)
        def checked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if len(args) > len(ordered):
                text = f"expected at most {len(ordered)} arguments by position, got {len(args)}"
                raise CallError(f"{text}; {takes}")
            for name in kwargs:
                if name not in names:
                    raise CallError(f"{name}: unexpected argument; {takes}", name)
                if name in ordered[: len(args)]:
                    raise CallError(f"{name}: given twice; {takes}", name)
            for p in parameters[len(args) :]:
                if p.default is p.empty and p.name not in kwargs:
                    raise CallError(f"{p.name}: missing; {takes}", p.name)
            return method(self, *args, **kwargs)

        return cast("Method", checked)

    return of


class Mean:
    """The mean of values that come in batches, exact whatever their order.

    It is ``sum(w * v) / sum(w)``, over all values v with their weights w, rounded once: products
    and sums are exact. Batches may therefore be cut, ordered and merged in any way and give the
    same bits. It is what ``reduction="weighted_mean"`` is of one batch, but for the rounding.

    Values are read as float64. NaN gives NaN, infinite values of one sign that infinity, and of
    both signs NaN. A value of weight 0 is out, whatever it holds. Finite values have a finite mean,
    also where their sum is beyond float64.

    Parameters
    ----------
    empty : {"nan", "zero"}, default "nan"
        The mean of nothing. Values that all weigh 0 have the mean 0.

    Examples
    --------
    >>> import rustloss as rl
    >>> loss, mean = rl.HuberLoss(), rl.Mean()
    >>> mean.update(loss([0.5, 2.0], [1.0, 2.0])).update(loss([4.0], [2.0]))
    Mean(count=3, result=0.5416666666666666)
    >>> other = rl.Mean().update([1e100, 1.0, -1e100], weights=[1.0, 2.0, 1.0])
    >>> other.result(), mean.merge(other).count
    (0.5, 6)
    """

    __slots__ = ("_count", "_empty", "_not_finite", "_total", "_weight")

    @_explained("Mean")
    def __init__(self, *, empty: Literal["nan", "zero"] = "nan") -> None:
        if empty not in ("nan", "zero"):
            text = f"empty: expected one of ('nan', 'zero'), got {empty!r}"
            raise ParameterError(text, "empty")
        self._empty = empty
        self._count = 0
        self._total = 0
        self._weight = 0
        # The sum of the values that are not finite, which is 0 of none.
        self._not_finite = 0.0

    @property
    def count(self) -> int:
        """How many values have come, those of weight 0 included."""
        return self._count

    @_explained("Mean.update")
    def update(self, values: ArrayLike, weights: ArrayLike | None = None) -> Self:
        """Add a batch of values.

        Parameters
        ----------
        values : array_like
            Numbers, in an array of any shape.
        weights : array_like, optional
            A number, or an array of the shape of `values`; 1 by default.

        Returns
        -------
        Mean
            Itself.

        Raises
        ------
        rustloss.errors.CallError
            If an argument has another name, `sample_weight` for one.
        rustloss.errors.DTypeError
            If either holds anything but real numbers.
        rustloss.errors.ShapeError
            If there is not one weight for each value, or they have indices that differ.
        rustloss.errors.WeightError
            If a weight is negative or not finite.
        """
        refuse_misaligned({"values": values, "weights": weights})
        v = _numbers("values", values)
        w = None if weights is None else _weights(weights, v.shape)
        self._count += v.size
        v = v.reshape(-1)
        for start in range(0, v.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            if w is None:
                self._add(v[block], None)
                self._weight += v[block].size << _UNIT
            else:
                # What has no weight does not count, whatever it holds.
                self._add(np.where(w[block] == 0, 0.0, v[block]), w[block])
                self._weight += _sum(w[block])
        return self

    def _add(self, values: Array, weights: Array | None) -> None:
        is_finite = np.isfinite(values)
        if not is_finite.all():
            # Infinities of both signs are a NaN, which is the result to be.
            with np.errstate(invalid="ignore"):
                self._not_finite += float(values[~is_finite].sum())
            values = np.where(is_finite, values, 0.0)
        self._total += _sum(values, weights)

    @_explained("Mean.merge")
    def merge(self, other: Mean) -> Self:
        """Add all that another mean has seen, in another process perhaps.

        Parameters
        ----------
        other : Mean
            The other, which stays as it is.

        Returns
        -------
        Mean
            Itself.

        Raises
        ------
        TypeError
            If the other is no mean.
        rustloss.errors.CallError
            If it is not given, or by another name.
        """
        if not isinstance(other, Mean):
            raise TypeError(f"other: expected a Mean, got {reprlib.repr(other)}")
        self._count += other._count
        self._total += other._total
        self._weight += other._weight
        self._not_finite += other._not_finite
        return self

    def result(self) -> float:
        """Return the mean of all values so far."""
        if self._not_finite != 0:
            return self._not_finite
        if self._count == 0:
            return math.nan if self._empty == "nan" else 0.0
        # Python rounds the quotient of two integers once.
        return self._total / self._weight if self._weight else 0.0

    def __repr__(self) -> str:
        return f"Mean(count={self.count}, result={self.result()!r})"


def _numbers(name: str, numbers: Any) -> Array:
    return as_array(name, numbers).astype(np.float64, copy=False)


def _weights(weights: Any, shape: tuple[int, ...]) -> Array:
    """Return a weight for each value of a batch of that shape, checked."""
    w = _numbers("weights", weights)
    if w.shape not in ((), shape):
        text = f"weights: expected a number or an array of shape {shape}, got {w.shape}"
        raise ShapeError(text, "weights")
    bad = np.argwhere(~((w >= 0) & (w < np.inf)))
    if len(bad):
        index = tuple(map(int, bad[0]))
        value = float(w[index])
        place = f"weights[{', '.join(map(str, index))}]" if index else "weights"
        text = f"{place}: expected a finite number >= 0, got {value:g}"
        raise WeightError(text, "weights", index, value)
    return np.broadcast_to(w, shape).reshape(-1)


def _sum(values: Array, weights: Array | None = None) -> int:
    """Return the exact sum of a block, of its products with weights if there are any."""
    total = 0
    for chosen, v, exponent in _near(values):
        if weights is None:
            total += _shifted(_rounds(v), exponent)
            continue
        for few, w, other in _near(weights[chosen]):
            rounds = (r for product in _products(v[few], w) for r in _rounds(product))
            total += _shifted(rounds, exponent + other)
    return total


def _near(x: Array) -> Iterator[tuple[slice | NDArray[np.bool_], Array, int]]:
    """Yield parts of x as numbers that are not far from 1, with an exponent of two."""
    size = np.abs(x)
    large, small = size > 2.0**_FAR, (size < 2.0**-_FAR) & (size > 0)
    if not (large.any() or small.any()):
        yield slice(None), x, 0
        return
    for part, exponent in ((small, -_SCALE), (~(small | large), 0), (large, _SCALE)):
        if part.any():
            yield part, np.ldexp(x[part], -exponent), exponent


def _products(v: Array, w: Array) -> Iterator[Array]:
    """Yield arrays whose sum is v * w: the products as float64 has them, and what that lacks."""
    product = v * w
    yield product
    (v_upper, v_lower), (w_upper, w_lower) = _halves(v), _halves(w)
    rest = v_upper * w_upper - product
    rest += v_upper * w_lower
    rest += v_lower * w_upper
    rest += v_lower * w_lower
    yield rest


def _halves(x: Array) -> tuple[Array, Array]:
    """Return two arrays whose sum is x: numbers so short that their products are exact."""
    wide = x * _HALVES
    upper = wide - (wide - x)
    return upper, x - upper


def _rounds(x: Array) -> Iterator[float]:
    """Yield numbers whose sum is that of x.

    A round takes from every number what lies above one digit for all. The sum of that has no digit
    too many, and in most blocks two rounds leave nothing.
    """
    while largest := max(x.max(initial=0.0), -x.min(initial=0.0)):
        anchor = _BLOCK * math.ldexp(1.0, math.frexp(largest)[1])
        upper = (x + anchor) - anchor
        yield float(upper.sum())
        x = x - upper


def _shifted(numbers: Iterator[float], exponent: int) -> int:
    """Return the sum of numbers times a power of two."""
    total = 0
    for number in numbers:
        digits, own = math.frexp(number)
        shift = _UNIT + exponent + own - 53
        whole = int(math.ldexp(digits, 53))
        # Nothing is lost to the right: a sum of exact terms is a multiple of the unit.
        total += whole << shift if shift >= 0 else whole >> -shift
    return total
