"""Arguments that are not plain NumPy arrays yet."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss.errors import DTypeError

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
