"""What the arguments of the helpers must be, so that a wrong one is named where it is given."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from rustloss._loss import Loss
from rustloss.errors import DTypeError, ParameterError
from rustloss.testing._registry import Spec, spec_of

_FLOATS = ("float16", "bfloat16", "float32", "float64")


def instance(loss: Any, name: str = "loss") -> Loss:
    """Return a loss; a class or a name, whose parameters nobody said, is none."""
    if isinstance(loss, Loss):
        spec_of(loss)
        return loss
    text = f"{name}: expected a loss of this library with its parameters, such as HuberLoss(),"
    raise TypeError(f"{text} got {loss!r}")


def a_callable(function: Any, name: str) -> None:
    """Refuse what cannot be called, and the class of a loss."""
    if not callable(function) or (isinstance(function, type) and issubclass(function, Loss)):
        text = "expected a function, or a loss with its parameters, such as HuberLoss()"
        raise TypeError(f"{name}: {text}, got {function!r}")


def float_type(dtype: DTypeLike) -> np.dtype[Any]:
    """Return the type of predictions."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        # NumPy knows the name from then on.
        import ml_dtypes  # noqa: F401
    try:
        found = np.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.name not in _FLOATS:
        got = reprlib.repr(dtype)
        raise DTypeError(f"dtype: expected one of {_FLOATS}, got {got}", "dtype")
    return found


def names(given: Any, allowed: Collection[str], name: str, what: str) -> tuple[str, ...]:
    """Return a collection of names, all of them allowed."""
    wanted = f"{name}: expected {what}, {tuple(allowed)}"
    if isinstance(given, str | bytes) or not isinstance(given, Collection):
        raise ParameterError(f"{wanted} as a list, got {given!r}", name)
    for one in given:
        if one not in allowed:
            raise ParameterError(f"{wanted}, got {one!r}", name)
    return tuple(given)


def switches(given: Any, spec: Spec) -> dict[str, bool]:
    """Return which optional inputs are there, by name."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        text = f"given: expected a dictionary of names and truth values, got {given!r}"
        raise ParameterError(text, "given")
    names(given.keys(), spec.optional, "given", "names of optional inputs")
    return {name: bool(is_there) for name, is_there in given.items()}


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def whole(number: Any, least: int, name: str) -> int:
    """Return a whole number that is not too small."""
    if not _is_whole(number) or number < least:
        text = f"{name}: expected a whole number >= {least}, got {number!r}"
        raise ParameterError(text, name)
    return int(number)


def not_negative(number: Any, name: str) -> float:
    """Return a number that is not below 0."""
    is_real = isinstance(number, int | float | np.integer | np.floating)
    if is_real and not isinstance(number, bool) and number >= 0:
        return float(number)
    raise ParameterError(f"{name}: expected a number >= 0, got {number!r}", name)


def fixed_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape; a number is that of one axis."""
    sides = (shape,) if _is_whole(shape) else shape
    if isinstance(sides, tuple | list) and all(_is_whole(n) and n >= 0 for n in sides):
        return tuple(int(n) for n in sides)
    text = "expected whole numbers >= 0 as a tuple, one number, or a hypothesis strategy of such"
    raise ParameterError(f"shape: {text}, got {shape!r}", "shape")
