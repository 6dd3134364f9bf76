"""Arguments that are not plain NumPy arrays yet."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss.errors import DTypeError, ShapeError

#: Kinds of NumPy's types that hold real numbers.
_REAL_KINDS = "biuf"


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an aligned array of real numbers in native byte order.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : array_like
        An array of any layout and byte order, a number, or nested sequences of numbers.

    Raises
    ------
    DTypeError
        If it is a masked array, or holds anything but real numbers.
    """
    if isinstance(value, np.ma.MaskedArray):
        text = f"{name}: expected a plain array, got a masked array; pass the mask as sample_weight"
        raise DTypeError(text, name)
    if isinstance(value, (str, bytes)) or value is None:
        raise DTypeError(f"{name}: expected real numbers, got {value!r}", name)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise DTypeError(f"{name}: expected an array of real numbers ({error})", name) from error
    dtype = array.dtype.newbyteorder("=")
    if dtype.name == "bfloat16":
        pass
    elif dtype.kind not in _REAL_KINDS:
        raise DTypeError(f"{name}: expected real numbers, got dtype {array.dtype}", name)
    elif dtype.itemsize > np.dtype(np.float64).itemsize:
        text = f"{name}: expected at most 64-bit numbers, got dtype {array.dtype}"
        raise DTypeError(text, name)
    return np.require(np.asarray(array, dtype=dtype), requirements=["ALIGNED"])


def tokens(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return label sequences as one array and, if they are ragged, the offsets in it.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : array_like, sequence of array_like, or Arrow list array
        Padded labels, or one sequence of labels for each sample.
    """
    if hasattr(value, "offsets") and hasattr(value, "values"):  # an Arrow list array, not copied
        offsets = np.asarray(value.offsets)
        flat = np.asarray(value.values)[offsets[0] : offsets[-1]]
        return as_array(name, flat), offsets - offsets[0]
    if not isinstance(value, (list, tuple)) or len({np.shape(item) for item in value}) <= 1:
        return as_array(name, value), None
    rows = [as_array(f"{name}[{i}]", item) for i, item in enumerate(value)]
    for i, row in enumerate(rows):
        if row.ndim != 1:
            text = f"{name}[{i}]: expected one dimension, got shape {row.shape}"
            raise ShapeError(text, name, (i,))
    offsets = np.cumsum([0, *map(len, rows)])
    flat = np.concatenate([row for row in rows if len(row)] or [np.empty(0, np.int64)])
    return flat, offsets
