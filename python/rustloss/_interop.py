"""Arguments that are not plain NumPy arrays yet."""

from __future__ import annotations

import math
import operator
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rustloss.errors import ArgumentError, DTypeError, LabelError, ShapeError

#: Kinds of NumPy's types that hold real numbers.
_REAL_KINDS = "biuf"
_USUAL = {np.dtype(np.float32), np.dtype(np.float64)}
#: What makes one tensor of a list of them, by packages whose tensors NumPy reads one by one.
_STACKS = {"tensorflow": "tf.convert_to_tensor", "autograd": "autograd.numpy.array"}
#: Characters of somebody else's text that a message has room for.
_LONGEST = 200
#: Numbers that a list may hold by themselves.
_NUMBERS = (int, float, np.generic)
#: What NumPy reads an object's memory by; DLPack is for objects that have none of these.
_NUMPY_PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")
#: DLPack's numbers of devices whose memory the CPU reads: its own, and pages that a GPU shares.
_HOST_DEVICES = {1, 3, 11, 13}


def as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an aligned array of real numbers in native byte order.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : array_like
        An array of any layout and byte order, an object with ``__dlpack__``, a number, or nested
        sequences of numbers.

    Raises
    ------
    DTypeError
        If it is or holds a masked array, or anything but real numbers in the CPU's memory.
    """
    if type(value) is np.ndarray and value.dtype in _USUAL and value.flags.aligned:
        return value
    return _read(name, (), value)


def _read(name: str, index: tuple[int, ...], value: Any) -> NDArray[Any]:
    """Return as an array what stands at an index of an argument, ``()`` for all of it."""
    with _blame(name, index):
        return _as_array(name, index, value)


@contextmanager
def _blame(name: str, index: tuple[int, ...] = ()) -> Iterator[None]:
    """Turn what an argument's own code raises into an error that names the argument."""
    try:
        yield
    except (ArgumentError, MemoryError):
        raise
    except Exception as error:
        text = f"expected an array of real numbers ({_brief(error)})"
        if type(error).__name__ == "TracerArrayConversionError":
            text = f"{text}; {_stacking(name)}"
        raise _wrong(name, index, text) from error


def shape_and_dtype(name: str, value: Any) -> tuple[tuple[int, ...], str]:
    """Return the shape of an array and the name of its type, or of what stands for one.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : array_like or object
        Whatever has a `shape` and a `dtype`; its data are not looked at.

    Raises
    ------
    DTypeError
        If it has none, or is a masked array.
    ShapeError
        If a length is no whole number, or negative, or more than can be counted.
    """
    _refuse_masked(name, (), value)
    try:
        shape, dtype = tuple(value.shape), value.dtype
    except AttributeError as error:
        text = f"{name}: expected what has a shape and a dtype, got {type(value).__name__}"
        raise DTypeError(f"{text}; pass an array, or np.asarray({name})", name) from error
    try:
        lengths = tuple(map(operator.index, shape))
    except TypeError as error:
        text = f"{name}: expected whole numbers as lengths, got shape {shape}"
        raise ShapeError(text, name) from error
    if min(lengths, default=0) < 0 or math.prod(lengths) > sys.maxsize:
        text = f"{name}: expected lengths >= 0, of elements that can be counted, got shape {shape}"
        raise ShapeError(text, name)
    # Types of other libraries go by their names: torch's compiler traces this, and not what raises.
    word = str(np.dtype(dtype) if isinstance(dtype, type) else dtype).rpartition(".")[2]
    if word == "bfloat16":
        return lengths, word
    try:
        return lengths, np.dtype(word).name
    except TypeError:
        return lengths, word


def _wrong(name: str, index: tuple[int, ...], text: str) -> DTypeError:
    return DTypeError(f"{_place(name, index)}: {text}", name, index or None)


def _place(name: str, index: tuple[int, ...]) -> str:
    return name + "".join(f"[{i}]" for i in index)


def _as_array(name: str, index: tuple[int, ...], value: Any) -> NDArray[Any]:
    _refuse_masked(name, index, value)
    if isinstance(value, (str, bytes)) or value is None:
        raise _wrong(name, index, f"expected real numbers, got {reprlib.repr(value)}")
    _refuse_foreign(name, index, value)
    if isinstance(value, (list, tuple)):
        refuse_lists_of_tensors(name, value)
        _refuse_elements(name, index, value)
    _refuse_nulls(name, index, value)
    if hasattr(getattr(value, "type", None), "permutation"):
        return as_array(name, _tensors(name, _combined(value)))
    if _is_fixed_size_list(value):
        return _rows(name, value)
    array = _from_dlpack(name, index, value) if _is_dlpack_alone(value) else np.asarray(value)
    if array.dtype == object:
        array = _of_objects(name, value, array)
    dtype = array.dtype.newbyteorder("=")
    if dtype.name == "bfloat16":
        pass
    elif dtype.kind not in _REAL_KINDS:
        raise _wrong(name, index, f"expected real numbers, got dtype {_brief(array.dtype)}")
    elif dtype.itemsize > np.dtype(np.float64).itemsize:
        raise _wrong(name, index, f"expected at most 64-bit numbers, got dtype {array.dtype}")
    return np.require(np.asarray(array, dtype=dtype), requirements=["ALIGNED"])


def _of_objects(name: str, value: Any, array: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers of columns of several types, or of rows; other objects as they are."""
    if hasattr(value, "iloc") and hasattr(value, "columns"):  # a table of pandas
        columns = [as_array(name, value.iloc[:, j]) for j in range(value.shape[1])]
        return np.stack(columns, axis=1)
    if array.ndim == 1 and any(np.ndim(row) for row in array):
        return _of_rows(name, value)
    return array


def _of_rows(name: str, value: Any) -> NDArray[Any]:
    """Return the numbers of sequences of one length as a matrix."""
    try:
        # What is not Arrow's has its sequences as objects.
        array, offsets = tokens(name, value if hasattr(value, "type") else list(value))
    except LabelError as error:
        index = error.index or ()
        text = f"{name}[{', '.join(map(str, index))}]: expected a row of numbers without nulls"
        raise DTypeError(text, name, index) from error
    if offsets is None or array.ndim > 1:
        return array
    lengths = np.diff(offsets)
    other = np.flatnonzero(lengths != lengths[0])
    if len(other):
        i = int(other[0])
        text = f"{name}[{i}]: expected a row of {lengths[0]} numbers as the first, got {lengths[i]}"
        raise ShapeError(text, name, (i,))
    return array.reshape(len(lengths), -1)


def _tensors(name: str, value: Any) -> NDArray[Any]:
    """Return an Arrow array of tensors of one shape."""
    _refuse_nulls(name, (), value.storage)
    return np.asarray(value.to_numpy_ndarray())


def _brief(thing: object) -> str:
    text = str(thing)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def _refuse_masked(name: str, index: tuple[int, ...], value: Any) -> None:
    if isinstance(value, np.ma.MaskedArray):
        text = "expected a plain array, got a masked array; pass the mask as sample_weight"
        raise _wrong(name, index, text)


def _refuse_elements(name: str, index: tuple[int, ...], values: Sequence[Any]) -> None:
    """Refuse what stands in a list, at any depth, and would be refused by itself."""
    kinds = set(map(type, values))
    odd = {kind for kind in kinds if kind is not np.ndarray and not issubclass(kind, _NUMBERS)}
    if not odd:
        return
    for i, value in enumerate(values):
        at = (*index, i)
        if isinstance(value, (list, tuple)):
            _refuse_elements(name, at, value)
        elif type(value) in odd:
            _refuse_masked(name, at, value)
            _refuse_foreign(name, at, value)
            if _is_dlpack_alone(value):
                text = f"expected numbers, got DLPack's; pass np.from_dlpack({_place(name, at)})"
                raise _wrong(name, at, text)


def _is_dlpack_alone(value: Any) -> bool:
    """Return whether DLPack is the only way to the numbers of an object."""
    return hasattr(value, "__dlpack__") and not any(hasattr(value, x) for x in _NUMPY_PROTOCOLS)


def _from_dlpack(name: str, index: tuple[int, ...], value: Any) -> NDArray[Any]:
    """Return the memory of an object with ``__dlpack__``, not copied."""
    device, _ = value.__dlpack_device__()
    if device not in _HOST_DEVICES:
        kind = type(value)
        text = f"expected memory of the CPU, got {kind.__module__}.{kind.__name__} on DLPack's"
        raise _wrong(name, index, f"{text} device {int(device)}; copy it to the host first")
    return np.from_dlpack(value)


def _refuse_foreign(name: str, index: tuple[int, ...], value: Any) -> None:
    """Refuse an array of another library that NumPy cannot read, or only at a price.

    Element by element, for one; or, of a lazy array, all of it at once.
    """
    packages = {str(cls.__module__).partition(".")[0] for cls in type(value).__mro__}
    place, remedy = _place(name, index), ""
    if "torch" in packages:
        steps = {
            ".detach()": getattr(value, "requires_grad", False),
            ".cpu()": getattr(getattr(value, "device", None), "type", "cpu") != "cpu",
            ".float()": str(getattr(value, "dtype", "")) == "torch.bfloat16",
        }
        needed = "".join(step for step, needs in steps.items() if needs)
        remedy = f"pass {place}{needed}.numpy()" if needed else ""
    elif hasattr(value, "__cuda_array_interface__"):
        remedy = f"copy it to the host first, with CuPy by {place}.get()"
    elif "dask" in packages:
        remedy = f"call the loss on each block, as by map_blocks, or pass {place}.compute()"
    elif hasattr(value, "todense"):  # SciPy's and PyData's sparse arrays
        remedy = f"pass {place}.todense()"
    elif "polars" in packages and hasattr(value, "collect"):
        remedy = f"pass {place}.collect()"
    elif "mxnet" in packages:
        remedy = f"pass {place}.asnumpy()"
    elif "tensorflow" in packages and not hasattr(value, "numpy"):
        remedy = "a symbolic tensor has none: call through tf.numpy_function, or pass .numpy()"
    elif "jax" in packages and "Tracer" in type(value).__name__:
        alone = "a traced value has none: call through jax.pure_callback"
        remedy = _stacking(name) if index else alone
    if remedy:
        kind = type(value)
        text = f"expected numbers in an array, got {kind.__module__}.{kind.__name__}"
        raise _wrong(name, index, f"{text}; {remedy}")


def _stacking(name: str) -> str:
    """Return what to do with traced values of JAX in a list."""
    return f"make traced values one array, as by jnp.stack({name})"


def refuse_lists_of_tensors(name: str, value: Any) -> None:
    """Refuse sequences of tensors that NumPy would read, and that would lose their gradients.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : object
        The argument; anything but a list or a tuple passes.

    Raises
    ------
    DTypeError
        If an element, at any depth, is a tensor of TensorFlow or an array that autograd traces.
    """
    if not isinstance(value, (list, tuple)) or not any(x in sys.modules for x in _STACKS):
        return
    kinds = set(map(type, value))
    for kind in kinds:
        package = kind.__module__.partition(".")[0]
        if package in _STACKS:
            text = f"{name}: expected an array, got a {type(value).__name__} of {kind.__name__}"
            raise DTypeError(f"{text}; pass {_STACKS[package]}({name})", name)
    if not kinds.isdisjoint((list, tuple)):
        for row in value:
            refuse_lists_of_tensors(name, row)


def refuse_misaligned(named: Mapping[str, Any]) -> None:
    """Refuse arguments of one call that pandas would pair by index or column, NumPy by position.

    Parameters
    ----------
    named : mapping of str to object
        The arguments by name. What has no index takes that of the others.

    Raises
    ------
    ShapeError
        If two have different indices, or the same columns in different places.
    """
    indices = ((name, getattr(value, "index", None)) for name, value in named.items())
    indexed: list[tuple[str, Any]] = [x for x in indices if hasattr(x[1], "equals")]
    for name, index in indexed[1:]:
        first, expected = indexed[0]
        if index is not expected and not index.equals(expected):
            text = f"{name}: expected the index of {first}, got another, {_brief(index)}"
            remedy = f"align them, as by {name}.loc[{first}.index], or pass {name}.to_numpy()"
            raise ShapeError(f"{text}; {remedy} to pair by position", name)
    _refuse_moved_columns(named)


def _refuse_moved_columns(named: Mapping[str, Any]) -> None:
    """Refuse tables that have columns of one name in different places."""
    columns = ((name, _column_names(value)) for name, value in named.items())
    tables = [(name, found) for name, found in columns if found]
    for name, found in tables[1:]:
        first, expected = tables[0]
        if found == expected:
            continue
        places = {column: place for place, column in enumerate(expected)}
        for place, column in enumerate(found):
            if places.get(column, place) != place:
                text = f"{name}: expected the column {column!r} where {first} has it"
                remedy = "give both one order, or pass arrays to pair by position"
                raise ShapeError(f"{text}, got it in place {place}; {remedy}", name)


def _column_names(value: Any) -> list[Any] | None:
    """Return the names of the columns of a table."""
    if hasattr(value, "collect"):  # lazy, and refused later
        return None
    # Arrow has the columns themselves under the other name.
    names = getattr(value, "column_names" if hasattr(value, "column_names") else "columns", None)
    return list(names) if isinstance(names, Iterable) else None


def _refuse_nulls(name: str, index: tuple[int, ...], value: Any) -> None:
    null = _first_null(value)
    if null is None:
        return
    text = f"{_place(name, index)}[{', '.join(map(str, null))}]: expected a number, got a null"
    raise DTypeError(f"{text}; fill nulls in or drop their rows first", name, (*index, *null))


def _first_null(value: Any) -> tuple[int, ...] | None:
    """Return the index of the first null, None if there is none."""
    nulls = _nulls(value)
    return None if nulls is None or not nulls.any() else tuple(map(int, np.argwhere(nulls)[0]))


def _nulls(value: Any) -> NDArray[np.bool_] | None:
    """Return where a column or a table has no number, None for what has a number everywhere."""
    if hasattr(value, "isna"):  # pandas, whose columns of NumPy's types have NaN but no nulls
        dtypes = value.dtypes if hasattr(value, "columns") else [value.dtype]
        may = np.array([not isinstance(dtype, np.dtype) for dtype in dtypes], bool)
        return np.asarray(value.isna(), bool) & may if may.any() else None
    if hasattr(value, "is_null"):  # a column of Arrow or polars
        nulls = np.asarray(value.is_null(), bool)
        if nulls.any():
            return nulls
        # Rows of a fixed size have nulls of their own.
        if _is_fixed_size_list(value):
            flat = _combined(value).flatten()
            return np.asarray(flat.is_null(), bool).reshape(-1, value.type.list_size)
        row = getattr(getattr(value, "dtype", None), "shape", ())
        return np.asarray(value.reshape((-1,)).is_null(), bool).reshape(-1, *row) if row else nulls
    columns = getattr(value, "itercolumns", None) or getattr(value, "get_columns", None)
    if columns is None:
        return None
    found = [_nulls(column) for column in columns()]  # a table of Arrow or polars
    return np.stack([nulls for nulls in found if nulls is not None], axis=1)


def tokens(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Return label sequences as an array and, if they came as a list, the offsets in it.

    Parameters
    ----------
    name : str
        The argument's name, for errors.
    value : array_like, sequence of array_like, or Arrow list array
        Labels in one array, or one sequence of labels for each sample.

    Returns
    -------
    array : ndarray
        The labels as they are, or for a list one sequence behind another. Rows of one length stay
        rows: they may be padded.
    offsets : ndarray, optional
        Where each sequence begins, and where the last one ends.
    """
    with _blame(name):
        return _tokens(name, value)


def _tokens(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any] | None]:
    value = _combined(value)
    if hasattr(value, "offsets") and hasattr(value, "sizes"):
        return _list_view_array(name, value)
    if hasattr(value, "offsets") and hasattr(value, "values"):  # an Arrow list array, not copied
        return _list_array(name, value)
    if _is_fixed_size_list(value):
        return _fixed_size_list_array(name, value)
    if getattr(value, "dtype", None) is not None and _holds_sequences(value):
        value = list(value)
    if not isinstance(value, (list, tuple)):
        return as_array(name, value), None
    if value and all(_is_number(name, i, x) for i, x in enumerate(value)):
        return as_array(name, value), None
    rows = [_row(name, i, row) for i, row in enumerate(value)]
    offsets = np.cumsum([0, *map(len, rows)])
    if rows and len({len(row) for row in rows}) == 1:
        return np.stack(rows), offsets
    return np.concatenate([row for row in rows if len(row)] or [np.empty(0, np.int64)]), offsets


def _holds_sequences(value: Any) -> bool:
    """Return whether the elements of an array, or of a column, are sequences."""
    text = str(value.dtype).lower()
    return text == "object" or text.startswith("list")


def _is_number(name: str, i: int, value: Any) -> bool:
    """Return whether element `i` of a list of labels is no sequence."""
    if isinstance(value, _NUMBERS):
        return True
    if isinstance(value, (list, tuple)) or _is_dlpack_alone(value):
        return False
    with _blame(name, (i,)):
        return np.ndim(value) == 0


def _row(name: str, i: int, row: Any) -> NDArray[Any]:
    """Return row `i` of a list of sequences."""
    if row is None or (not isinstance(row, (str, bytes)) and _is_number(name, i, row)):
        text = f"{name}[{i}]: expected a sequence of labels, got {reprlib.repr(row)}"
        raise LabelError(text, name, (i,))
    if isinstance(row, (list, tuple)):
        for j, label in enumerate(row):
            if label is None:
                raise _null(name, i, j)
    array = _read(name, (i,), row)
    if array.ndim != 1:
        text = f"{name}[{i}]: expected one dimension, got shape {array.shape}"
        raise ShapeError(text, name, (i,))
    return array


def _null(name: str, i: int, j: int | None = None) -> LabelError:
    """Return the error about a sequence, or a label in it, that is null."""
    index, what = ((i,), "a sequence of labels") if j is None else ((i, j), "a label")
    place = "".join(f"[{k}]" for k in index)
    return LabelError(f"{name}{place}: expected {what}, got a null", name, index)


def _refuse_null_rows(name: str, value: Any) -> None:
    """Refuse an Arrow array of sequences where one of them is null."""
    index = _first_null(value)
    if index is not None:
        raise _null(name, *index)


def _list_array(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    offsets = as_array(name, value.offsets)
    if not len(offsets):  # Arrow's other form of no sequences at all
        offsets = np.zeros(1, np.int64)
    values = value.values
    whole = offsets.ndim == 1 and offsets.dtype.kind in "iu"
    offsets = offsets.astype(np.int64)
    if not whole or offsets[0] < 0 or offsets[-1] > len(values) or (np.diff(offsets) < 0).any():
        text = f"{name}: expected offsets that ascend from 0 to the number of values, {len(values)}"
        raise ShapeError(text, name)
    _refuse_null_rows(name, value)
    values = values[offsets[0] : offsets[-1]]
    offsets = offsets - offsets[0]
    return _labels(name, values, offsets), offsets


def _labels(name: str, values: Any, offsets: NDArray[Any]) -> NDArray[Any]:
    """Return the labels of sequences that lie one behind another."""
    index = _first_null(values)
    if index is not None:
        (at,) = index
        i = int(np.searchsorted(offsets, at, side="right")) - 1
        raise _null(name, i, int(at - offsets[i]))
    return as_array(name, values)


def _list_view_array(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the labels of an Arrow list view, whose rows may lie in any order or overlap."""
    _refuse_null_rows(name, value)
    offsets = np.append(0, np.cumsum(as_array(name, value.sizes)))
    return _labels(name, value.flatten(), offsets), offsets


def _combined(value: Any) -> Any:
    """Return an Arrow chunked array as one array, and anything else as it is."""
    return value.combine_chunks() if hasattr(value, "combine_chunks") else value


def _is_fixed_size_list(value: Any) -> bool:
    """Return whether it is an Arrow array, chunked or not, of rows of one length."""
    return hasattr(getattr(value, "type", None), "list_size")


def _fixed_size_list_array(name: str, value: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    _refuse_null_rows(name, value)
    return _rows(name, value), np.arange(len(value) + 1) * value.type.list_size


def _rows(name: str, value: Any) -> NDArray[Any]:
    """Return the rows of an Arrow array of rows of one length."""
    flat = as_array(name, _combined(value).flatten())
    return flat.reshape(len(value), value.type.list_size, *flat.shape[1:])
