"""Arguments that are not plain NumPy arrays yet."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss.errors import ArgumentError, DTypeError, ShapeError

#: Kinds of NumPy's types that hold real numbers.
_REAL_KINDS = "biuf"
#: Characters of somebody else's text that a message has room for.
_LONGEST = 200


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
    try:
        return _as_array(name, value)
    except (ArgumentError, MemoryError):
        raise
    except Exception as error:
        text = f"{name}: expected an array of real numbers ({_brief(error)})"
        raise DTypeError(text, name) from error


def _as_array(name: str, value: Any) -> NDArray[Any]:
    if isinstance(value, np.ma.MaskedArray):
        text = f"{name}: expected a plain array, got a masked array; pass the mask as sample_weight"
        raise DTypeError(text, name)
    if isinstance(value, (str, bytes)) or value is None:
        raise DTypeError(f"{name}: expected real numbers, got {reprlib.repr(value)}", name)
    _refuse_foreign(name, value)
    if isinstance(value, (list, tuple)) and value:
        _refuse_foreign(f"{name}[0]", value[0])
    _refuse_nulls(name, value)
    array = np.asarray(value)
    dtype = array.dtype.newbyteorder("=")
    if dtype.name == "bfloat16":
        pass
    elif dtype.kind not in _REAL_KINDS:
        text = f"{name}: expected real numbers, got dtype {_brief(array.dtype)}"
        raise DTypeError(text, name)
    elif dtype.itemsize > np.dtype(np.float64).itemsize:
        text = f"{name}: expected at most 64-bit numbers, got dtype {array.dtype}"
        raise DTypeError(text, name)
    return np.require(np.asarray(array, dtype=dtype), requirements=["ALIGNED"])


def _brief(thing: object) -> str:
    text = str(thing)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _refuse_foreign(name: str, value: Any) -> None:
    """Refuse an array of another library that NumPy cannot read, or only element by element."""
    packages = {str(cls.__module__).partition(".")[0] for cls in type(value).__mro__}
    remedy = ""
    if "torch" in packages:
        steps = {
            ".detach()": getattr(value, "requires_grad", False),
            ".cpu()": getattr(getattr(value, "device", None), "type", "cpu") != "cpu",
            ".float()": str(getattr(value, "dtype", "")) == "torch.bfloat16",
        }
        needed = "".join(step for step, needs in steps.items() if needs)
        remedy = f"pass {name}{needed}.numpy()" if needed else ""
    elif "mxnet" in packages:
        remedy = f"pass {name}.asnumpy()"
    elif "tensorflow" in packages and not hasattr(value, "numpy"):
        remedy = "a symbolic tensor has none: call through tf.numpy_function, or pass .numpy()"
    elif "jax" in packages and "Tracer" in type(value).__name__:
        remedy = "a traced value has none: call through jax.pure_callback"
    if remedy:
        kind = type(value)
        text = f"{name}: expected numbers in an array, got {kind.__module__}.{kind.__name__}"
        raise DTypeError(f"{text}; {remedy}", name.partition("[")[0])


def _refuse_nulls(name: str, value: Any) -> None:
    nulls = _nulls(value)
    if nulls is None or not nulls.any():
        return
    index = tuple(map(int, np.argwhere(nulls)[0]))
    text = f"{name}[{', '.join(map(str, index))}]: expected a number, got a null"
    raise DTypeError(f"{text}; fill nulls in or drop their rows first", name, index)


def _nulls(value: Any) -> NDArray[np.bool_] | None:
    """Return where a column or a table has no number, None for what has a number everywhere."""
    if hasattr(value, "isna"):  # pandas, whose columns of NumPy's types have NaN but no nulls
        dtypes = value.dtypes if hasattr(value, "columns") else [value.dtype]
        may = np.array([not isinstance(dtype, np.dtype) for dtype in dtypes], bool)
        return np.asarray(value.isna(), bool) & may if may.any() else None
    if hasattr(value, "is_null"):  # a column of Arrow or polars
        return np.asarray(value.is_null(), bool)
    columns = getattr(value, "itercolumns", None) or getattr(value, "get_columns", None)
    if columns is None:
        return None
    found = [_nulls(column) for column in columns()]  # a table of Arrow or polars
    return np.stack([nulls for nulls in found if nulls is not None], axis=1)


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
