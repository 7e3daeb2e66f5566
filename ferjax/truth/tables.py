"""Tables of ids, from files or memory, as indices into lists of distinct ids."""

import contextlib
import csv
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Int32

Names = tuple[tuple[str, ...], ...]
"""The allowed names of each wanted column; the first present counts."""

NOTHING = pa.array(["", "nan", "NaN", "NAN"])
"""Strings that are no id. Others that may look empty, such as None, can be classes."""

LONGEST = 300
"""Most characters of a message."""

MOST_ROWS = 2**31
BATCH_ROWS = 1 << 17
SEARCHED_ROWS = 1 << 20
TABLE_SIZE = 1 << 24


class TableError(ValueError):
    """A table that cannot be used; the message says in one line what to correct."""


def read_columns(table: Any, columns: Names) -> list[tuple[np.ndarray, Int32[np.ndarray, " rows"]]]:
    """Reads columns as distinct values, in order of appearance, and each row's index into them.

    Args:
      table: see `annotations.Annotations.from_table`.
      columns: allowed names of each column.

    Raises:
      TableError: see `annotations.Annotations.from_table`.
    """
    codes = [_Codes(f"{name_of(table)}, column {names[0]}") for names in columns]
    row = 0
    with ThreadPoolExecutor(len(columns)) as pool:
        pending: list[Future] = []
        for batch in _batches(table, columns):
            _wait(pending)  # one batch is numbered while the next is read
            pending = [
                pool.submit(code.add, column, row)
                for code, column in zip(codes, batch.columns, strict=True)
            ]
            row += batch.num_rows
        _wait(pending)
        if not 0 < row < MOST_ROWS:
            rows = (
                "no rows" if row == 0 else f"{row:,} rows; at most {MOST_ROWS - 1:,} are possible"
            )
            raise TableError(f"{name_of(table)} has {rows}")
        return list(pool.map(_Codes.result, codes))


def ascending(values: np.ndarray) -> Int32[np.ndarray, " values"]:
    """Returns the order that sorts ids; as numbers, if all are whole numbers in strings."""
    ids = values.tolist()
    if all(isinstance(value, str) for value in ids):
        with contextlib.suppress(ValueError):
            ids = [int(value) for value in ids]
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int32)


def positions(values: np.ndarray, among: np.ndarray) -> Int32[np.ndarray, " values"]:
    """Returns the index of each value in `among`, -1 if it is missing.

    Ids of different types are compared as numbers or booleans if all can be, else as strings.
    """
    left, right = _common_type(pa.array(values), pa.array(among))
    indices = pc.fill_null(pc.index_in(left, value_set=right), -1)
    return indices.to_numpy(zero_copy_only=False).copy()


def _common_type(left: pa.Array, right: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Casts two arrays to one type."""
    if left.type == right.type:
        return left, right
    kinds = [ids.type for ids in (left, right) if not pa.types.is_string(ids.type)]
    for kind in (*kinds, pa.float64()):
        with contextlib.suppress(pa.ArrowException):  # some value is not of this type
            return left.cast(kind), right.cast(kind)
    return left.cast(pa.string()), right.cast(pa.string())


def _wait(pending: Sequence[Future]) -> None:
    """Waits for all columns and raises the error of the first that failed."""
    for future in pending:
        future.result()


class _Codes:
    """Numbers values by first appearance, batch by batch.

    Whole numbers in a narrow range are looked up in a table. Other values are searched for among
    the known ones, many batches at a time, because each search hashes all known values.
    """

    def __init__(self, where: str):
        self._where = where
        self._known: list[pa.Array] = []
        self._count = 0
        self._codes: list[np.ndarray] = []
        self._pending: list[pa.Array] = []
        self._table: _Table | None = _Table()

    def add(self, column: pa.Array, first_row: int) -> None:
        if len(column) == 0:
            return
        column = _plain(column, self._where)
        self._refuse_empty(column, first_row)
        if self._table and _is_small_integer(column.type):
            numbered = self._table.number(column.to_numpy(), first_row, self._count)
            if numbered:
                codes, new = numbered
                self._keep([codes], pa.array(new, column.type))
                return
        self._table = None  # for good: from now on values are searched for
        self._pending.append(column)
        if sum(map(len, self._pending)) >= max(SEARCHED_ROWS, self._count):
            self._search()

    def result(self) -> tuple[np.ndarray, Int32[np.ndarray, " rows"]]:
        if self._pending:
            self._search()
        known = [values.to_numpy(zero_copy_only=False) for values in self._known]
        return np.concatenate(known), np.concatenate(self._codes)

    def _keep(self, codes: list[np.ndarray], new: pa.Array) -> None:
        self._codes += codes
        self._known.append(new)
        self._count += len(new)

    def _refuse_empty(self, column: pa.Array, first_row: int) -> None:
        empty = column.is_null(nan_is_null=True)
        if pa.types.is_string(column.type):
            empty = pc.or_(empty, pc.is_in(column, NOTHING))
        if pc.any(empty).as_py():
            row = first_row + empty.index(True).as_py() + 1
            raise TableError(f"{self._where}, row {row}: empty or NaN")

    def _search(self) -> None:
        encoded = pa.chunked_array(self._pending).dictionary_encode()
        self._pending = []
        values = encoded.chunk(encoded.num_chunks - 1).dictionary  # that of all chunks
        known = pa.concat_arrays(self._known) if self._known else values.slice(0, 0)
        indices = pc.index_in(values, value_set=known)
        new = values.filter(indices.is_null())
        codes = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False).copy()
        codes[codes < 0] = self._count + np.arange(len(new), dtype=np.int32)
        self._keep([codes[chunk.indices.to_numpy()] for chunk in encoded.chunks], new)


class _Table:
    """The code of every whole number between the least and the largest seen; -1 if not seen."""

    def __init__(self) -> None:
        self._low = 0
        self._codes = np.empty(0, np.int32)

    def number(
        self, values: np.ndarray, rows_before: int, known: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Returns the values' codes and the new values in order; None if the range is too wide.

        Args:
          values: of a batch.
          rows_before: number of rows in earlier batches.
          known: number of values seen before; new values are numbered from there.
        """
        values = values.astype(np.int64, copy=False)
        if not self._reach(int(values.min()), int(values.max()), rows_before + len(values)):
            return None
        offsets = values - self._low
        codes = self._codes[offsets]
        unseen = np.flatnonzero(codes < 0)
        if len(unseen) == 0:
            return codes, values[:0]
        # For equal offsets the last write counts: in reverse order, the first row of each value.
        self._codes[offsets[unseen][::-1]] = unseen[::-1]
        first = unseen[self._codes[offsets[unseen]] == unseen]
        self._codes[offsets[first]] = known + np.arange(len(first), dtype=np.int32)
        return self._codes[offsets], values[first]

    def _reach(self, low: int, high: int, rows: int) -> bool:
        """Widens the table and returns True, unless it would be large compared to the rows."""
        if len(self._codes):
            low, high = min(low, self._low), max(high, self._low + len(self._codes) - 1)
        size = high - low + 1
        if size > max(TABLE_SIZE, 4 * rows):
            return False
        if size > len(self._codes):
            codes = np.full(size, -1, np.int32)
            codes[self._low - low : self._low - low + len(self._codes)] = self._codes
            self._low, self._codes = low, codes
        return True


def _is_small_integer(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) and kind != pa.uint64()


def _plain(column: pa.Array, where: str) -> pa.Array:
    """Converts a column to whole numbers, floats, booleans or strings.

    Raises:
      TableError: for a type that cannot be written as a string.
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    with one_line(f"{where}, of type {kind}"):
        if pa.types.is_float16(kind):
            return column.cast(pa.float32())
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            return column
        return column.cast(pa.string())


@contextlib.contextmanager
def one_line(where: str) -> Iterator[None]:
    """Turns an error of Arrow, which may be long, into a `TableError` of one line."""
    try:
        yield
    except pa.ArrowException as error:
        raise TableError(f"{where}: {' '.join(str(error).split())[:LONGEST]}") from error


def _batches(table: Any, columns: Names) -> Iterator[pa.RecordBatch]:
    """Yields record batches of the wanted columns, in the given order."""
    try:
        with one_line(name_of(table)):
            if isinstance(table, str | Path):
                yield from (_parquet_batches if _is_parquet(table) else _csv_batches)(
                    table, columns
                )
            else:
                table = _as_arrow(table, columns)
                yield from table.select(
                    _column_names(table.column_names, columns, table)
                ).to_batches()
    except OSError as error:
        raise TableError(f"cannot read {table}: {error.strerror or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"{name_of(table)} is neither Parquet nor a CSV in UTF-8: {error}"
        ) from error


def _is_parquet(path: str | Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1" or Path(path).suffix.lower() == ".parquet"


def _parquet_batches(path: str | Path, columns: Names) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        names = _column_names(file.schema_arrow.names, columns, path)
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            yield batch.select(names)


def _csv_batches(path: str | Path, columns: Names) -> Iterator[pa.RecordBatch]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        names = _column_names(next(csv.reader(file), []), columns, path)
    invalid = []

    def keep(row: Any) -> str:
        invalid.append(
            f"row {row.number - 1}: {row.actual_columns} cells, not {row.expected_columns}"
        )
        return "error"

    options = {
        # With threads a row's number is unknown. Numbering ids takes the time, not parsing.
        "read_options": pa.csv.ReadOptions(use_threads=False),
        "parse_options": pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=keep),
        "convert_options": pa.csv.ConvertOptions(
            include_columns=names, column_types=dict.fromkeys(names, pa.string())
        ),
    }
    try:
        with pa.csv.open_csv(path, **options) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        if not invalid:
            raise
        raise TableError(f"{path}, {invalid[0]}") from error


def _as_arrow(table: Any, columns: Names) -> pa.Table:
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pa.RecordBatch):
        return pa.Table.from_batches([table])
    if not hasattr(table, "columns"):
        raise TableError(f"expected a pandas or Arrow table or a path, not {type(table).__name__}")
    names = _column_names(list(table.columns), columns, table)
    return pa.Table.from_pandas(table[names], preserve_index=False)


def _column_names(header: list[str], columns: Names, table: Any) -> list[str]:
    """Returns the name in the header of each wanted column."""
    if not header:
        raise TableError(f"{name_of(table)} is empty")
    present = []
    for names in columns:
        name = next((name for name in names if name in header), None)
        if name is None:
            wanted, others = " or ".join(names), ", ".join(map(str, header))
            raise TableError(f"{name_of(table)} has no column {wanted}, only {others}"[:LONGEST])
        if header.count(name) > 1:
            raise TableError(f"{name_of(table)} has several columns named {name}")
        present.append(name)
    return present


def name_of(table: Any) -> str:
    """Returns what messages call a table: its path, if it has one."""
    return str(table) if isinstance(table, str | Path) else "the table"
