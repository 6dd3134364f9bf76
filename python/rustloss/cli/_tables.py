"""Inputs of a loss in files, read a chunk of samples at a time, and its values in others."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from rustloss._interop import as_array
from rustloss.cli._text import UsageError
from rustloss.errors import DTypeError, ShapeError

#: Inputs of some samples by name.
Chunk = dict[str, Any]

#: What a file begins with, by its format; the formats of the standard input, which is not searched.
BEGINNINGS = {"npz": b"PK", "parquet": b"PAR1", "feather": b"ARROW1"}
STREAMS = ("npz", "parquet", "arrow")
#: What NumPy and zip raise where a file is damaged.
DAMAGES = (
    *(ValueError, SyntaxError, tokenize.TokenError, EOFError),
    *(zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Source:
    """Inputs in chunks, and how many samples there are; None where the end of a stream tells."""

    length: int | None
    chunks: Iterator[Chunk]


@contextlib.contextmanager
def opened(
    sources: Sequence[str],
    *,
    rows: int | None,
    inputs: Collection[str],
    ragged: Collection[str] = (),
    columns: Mapping[str, str],
    stream: str = STREAMS[0],
) -> Iterator[Source]:
    """Open the inputs of a loss for a block of code.

    Parameters
    ----------
    sources : sequence of str
        One table (``.npz``, ``.parquet``, ``.feather``, ``.arrow``, or ``-`` for the standard
        input), or ``NAME=FILE.npy`` for each input.
    rows : int, optional
        How many samples make a chunk. None is for arrays that are read as a whole, whose first axes
        need not be their samples.
    inputs, ragged : collection of str
        The names of the loss's inputs, and of those that may be lists of different lengths.
    columns : mapping of str to str
        The columns of inputs that have another name in the table.
    stream : {"npz", "parquet", "arrow"}, default "npz"
        What the standard input holds.

    Raises
    ------
    UsageError
        If the sources do not go together, or name an input that the loss does not have.
    ShapeError, DTypeError
        If the arrays differ in length, or are of objects.
    OSError
        If a file cannot be read.
    """
    parts = (source.partition("=") for source in sources)
    single = [part for part in parts if part[1] and part[0].isidentifier()]
    if (single and len(single) < len(sources)) or (not single and len(sources) > 1):
        raise UsageError("expected one table, or NAME=FILE.npy for each input")
    for name in [*columns, *(name for name, _, _ in single)]:
        if name not in inputs:
            raise UsageError(f"{name}: expected one of the inputs, {', '.join(inputs)}")
    with contextlib.ExitStack() as stack:
        if single:
            arrays = {name: _array(stack, name, path) for name, _, path in single}
            yield _source(arrays, rows)
            return
        file, kind = _table(stack, sources[0], stream)
        by_column = {columns.get(name, name): name for name in inputs}
        if kind == "npz":
            arrays = _members(stack, file, by_column, _title(sources[0]))
            yield _source(arrays, rows)
        elif rows is None:
            raise UsageError(f"{sources[0]}: expected an .npz file, or NAME=FILE.npy")
        else:
            length, batches = _batches(file, kind, by_column, rows, _title(sources[0]))
            yield Source(length, (_named(batch, by_column, ragged) for batch in batches))


def _named(
    batch: Mapping[str, Any], by_column: Mapping[str, str], ragged: Collection[str]
) -> Chunk:
    """Return the columns of a batch by the names of their inputs, lists of one length as rows."""
    named = {by_column[at]: column for at, column in batch.items()}
    return {name: c if name in ragged else _as_rows(name, c) for name, c in named.items()}


def _array(stack: contextlib.ExitStack, name: str, path: str) -> Any:
    """Return the array of an ``.npy`` file; one number as it is."""
    return _read(name, stack.enter_context(Path(path).open("rb")), path)


def _title(source: str) -> str:
    """Return what errors call a table."""
    return "standard input" if source == "-" else source


def _source(arrays: Mapping[str, Any], rows: int | None) -> Source:
    if rows is None:
        return Source(None, iter([{name: a[:] if a.shape else a for name, a in arrays.items()}]))
    length = _length(arrays)
    chunks = (
        {name: a[at : at + rows] if a.shape else a for name, a in arrays.items()}
        for at in range(0, length, rows)
    )
    return Source(length, chunks)


def _length(arrays: Mapping[str, Any]) -> int:
    """Return the number of samples: what the first axes of all arrays agree on."""
    lengths = {name: len(array) for name, array in arrays.items() if array.shape}
    if len(set(lengths.values())) > 1:
        text = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ShapeError(f"expected as many samples in each array, but {text}")
    return next(iter(lengths.values()), 1)


def _table(stack: contextlib.ExitStack, source: str, stream: str) -> tuple[IO[bytes], str]:
    """Return a table's file, and its format."""
    if source == "-":
        if stream == "arrow":
            return sys.stdin.buffer, stream
        # The index of these formats is at the end.
        spool = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 (the stack closes it)
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.seek(0)
        return spool, stream
    file = stack.enter_context(Path(source).open("rb"))  # noqa: SIM115 (so it does)
    start = file.read(max(map(len, BEGINNINGS.values())))
    file.seek(0)
    for kind, beginning in BEGINNINGS.items():
        if start.startswith(beginning):
            return file, kind
    if start.startswith(npy.MAGIC_PREFIX):
        raise UsageError(f"{source} is one array: give it as NAME={source}")
    if start.startswith(b"\xff\xff\xff\xff"):  # how a message of Arrow begins
        return file, "arrow"
    raise OSError(f"{source}: expected an npz, Parquet, Feather or Arrow file")


class _Rows:
    """An array in a file, whose rows are read from the first to the last."""

    def __init__(self, name: str, file: IO[bytes], title: str) -> None:
        self._file, self._title = file, title
        try:
            version = npy.read_magic(file)
            header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, columns_first, self._dtype = header(file)
        except DAMAGES as error:
            raise OSError(f"{title}: expected an array of NumPy: {error}") from error
        if self._dtype.hasobject:
            raise DTypeError(f"{title}: expected numbers, got an array of Python objects", name)
        self.whole: Any = None
        if len(self.shape) == 0 or (columns_first and len(self.shape) > 1):
            # Its rows are not behind each other in the file.
            numbers = self._numbers(int(np.prod(self.shape)))
            self.whole = numbers.reshape(self.shape, order="F" if columns_first else "C")

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Any:
        """Return the next rows, which must begin where the last ones ended."""
        if self.whole is not None:
            return self.whole[rows]
        start, stop, _ = rows.indices(len(self))
        shape = (stop - start, *self.shape[1:])
        return self._numbers(int(np.prod(shape))).reshape(shape)

    def _numbers(self, count: int) -> Any:
        try:
            read = self._file.read(count * self._dtype.itemsize)
        except DAMAGES as error:
            raise OSError(f"{self._title}: {error}") from error
        if len(read) < count * self._dtype.itemsize:
            raise OSError(f"{self._title}: the file ends before the array does")
        return np.frombuffer(read, self._dtype)


def _read(name: str, file: IO[bytes], title: str) -> Any:
    """Return the rows of an array in a file, or the number that it is."""
    rows = _Rows(name, file, title)
    return rows if rows.shape else rows.whole


def _members(
    stack: contextlib.ExitStack, file: IO[bytes], by_column: Mapping[str, str], title: str
) -> dict[str, Any]:
    """Return those arrays of an npz file that are inputs."""
    try:
        archive = stack.enter_context(zipfile.ZipFile(file))
        found = {at: name for at, name in by_column.items() if f"{at}.npy" in archive.namelist()}
        files = {at: stack.enter_context(archive.open(f"{at}.npy")) for at in found}
        return {found[at]: _read(found[at], file, f"{title}, {at}") for at, file in files.items()}
    except zipfile.BadZipFile as error:
        raise OSError(f"{title}: not an npz file: {error}") from error


def _batches(
    file: IO[bytes], kind: str, columns: Collection[str], rows: int, title: str
) -> tuple[int | None, Iterator[dict[str, Any]]]:
    """Return the length of an Arrow or Parquet table, and its columns batch by batch."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("Parquet and Arrow files need pyarrow: pip install pyarrow") from error
    found: Any
    try:
        if kind == "parquet":
            # Else all that is asked for is read ahead, the whole file that is.
            table = parquet.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20)
            names = [name for name in table.schema_arrow.names if name in columns]
            length, found = table.metadata.num_rows, table.iter_batches(rows, columns=names)
        elif kind == "feather":
            reader = pa.ipc.open_file(file)
            length = None
            found = (reader.get_batch(i) for i in range(reader.num_record_batches))
        else:
            length, found = None, pa.ipc.open_stream(file)
    except (pa.lib.ArrowException, OSError) as error:
        if getattr(error, "errno", None):  # it could not be read at all
            raise
        raise OSError(f"{title}: not a {kind} file: {error}") from error
    return length, _columns(found, columns, rows, title)


def _columns(
    batches: Any, columns: Collection[str], rows: int, title: str
) -> Iterator[dict[str, Any]]:
    """Return the columns of batches of Arrow that are asked for, so many rows at a time."""
    import pyarrow as pa

    try:
        for batch in batches:
            names = [name for name in batch.schema.names if name in columns]
            for at in range(0, batch.num_rows, rows):
                yield {name: batch.column(name).slice(at, rows) for name in names}
    except (pa.lib.ArrowException, OSError) as error:
        raise OSError(f"{title}: the table cannot be read on: {error}") from error


def _as_rows(name: str, column: Any) -> Any:
    """Return a column of lists of one length as an array of rows, and any other as it is."""
    if not hasattr(column, "offsets"):
        return column
    sizes = np.diff(column.offsets.to_numpy())
    if column.null_count or len(set(sizes.tolist())) > 1:
        raise ShapeError(f"{name}: expected lists of one length and no nulls", name)
    width = int(sizes[0]) if len(sizes) else 0
    return as_array(name, column.flatten()).reshape(len(column), width)


@contextlib.contextmanager
def _called(path: str) -> Iterator[None]:
    """Let errors name a file by its own name, not by that which it has until it is complete."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


class Values:
    """A file of values, written chunk by chunk: ``.npy``, ``.csv``, ``.parquet``; ``-`` is CSV.

    It has its name when all of it is written; until then its name ends in ``.part``.
    """

    def __init__(self, path: str) -> None:
        makers: dict[str, Callable[[IO[bytes]], Any]] = {
            ".npy": _Npy,
            ".csv": _Csv,
            ".parquet": _Parquet,
        }
        self._path = None if path == "-" else Path(path)
        suffix = self._path.suffix if self._path else ".csv"
        if suffix not in makers:
            raise UsageError(f"-o {path}: expected a name that ends in {', '.join(makers)}, or -")
        self._part = self._path.with_name(f"{self._path.name}.part") if self._path else None
        with _called(path):
            self._file = self._part.open("w+b") if self._part else sys.stdout.buffer
        try:
            self._writer = makers[suffix](self._file)
        except BaseException:
            self.discard()
            raise

    def write(self, values: np.ndarray[Any, Any]) -> None:
        """Write the values of the next samples."""
        self._writer.write(values)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
        if self._part and self._path:
            self._file.close()
            with _called(str(self._path)):
                self._part.replace(self._path)

    def discard(self) -> None:
        """Leave no file."""
        if self._part:
            self._file.close()
            self._part.unlink()


class _Npy:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._dtype, self._length = file, np.dtype(np.float64), 0

    def write(self, values: np.ndarray[Any, Any]) -> None:
        if not self._length:
            self._dtype = values.dtype
            self._header()
        self._length += len(values)
        self._file.write(values.tobytes())

    def _header(self) -> None:
        """Write the header, which NumPy pads so that any length fits into its first place."""
        self._file.seek(0)
        fields = {"descr": npy.dtype_to_descr(self._dtype), "fortran_order": False}
        npy.write_array_header_1_0(self._file, {**fields, "shape": (self._length,)})

    def close(self) -> None:
        self._header()


class _Csv:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._row = file, 0
        file.write(b"row,loss\n")

    def write(self, values: np.ndarray[Any, Any]) -> None:
        rows = enumerate(values, self._row)
        # The shortest digits that are read back as the same number of this type.
        self._file.write("".join(f"{i},{value!s}\n" for i, value in rows).encode())
        self._row += len(values)

    def close(self) -> None:
        self._file.flush()


class _Parquet:
    def __init__(self, file: IO[bytes]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError as error:
            raise UsageError("Parquet files need pyarrow: pip install pyarrow") from error
        self._pa, self._parquet, self._file = pa, parquet, file
        self._writer: Any = None

    def write(self, values: np.ndarray[Any, Any]) -> None:
        table = self._pa.table({"loss": values})
        self._writer = self._writer or self._parquet.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is None:
            self.write(np.zeros(0))
        self._writer.close()
