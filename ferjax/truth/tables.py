"""Tables of ids, from files or memory, as indices into lists of distinct ids."""

import codecs
import contextlib
import csv
import logging
import mmap
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Int32

Names = tuple[tuple[str, ...], ...]
"""The allowed names of each wanted column; the first present counts."""

Column = tuple[np.ndarray, Int32[np.ndarray, " rows"]]
"""Distinct values, in order of appearance, and each row's index into them."""

NOTHING = pa.array(["", "nan", "NaN", "NAN"])
"""Strings that are no id. Others that may look empty, such as None, can be classes."""

EMPTY = -1
"""Index of a cell that is empty or NaN."""

LONGEST = 290
"""Most characters of a message."""

LONGEST_CELL = 131_072
"""Most bytes of an id; Python's own reader of CSV stops there, too."""

NUMBER = r"^[+-]?\d+\.\d*$"
"""Numbers that can be written in several ways: 1.0 is 1, and 0.50 is 0.5."""

END = b"\n\x04 end of table \x04\n"
"""What follows a CSV that is read: a row with one cell, which is in a quote that never closes."""

QUOTED = re.compile(
    rb"(?P<before>\A(?:\xef\xbb\xbf)?|[,\r\n])"
    rb'"(?P<text>(?:[^"]+|"")*+)(?:"(?P<after>[^,\r\n]?)|\Z)'
)
"""A quoted cell, with the byte after its closing quote if that is part of the cell."""

MOST_ROWS = 2**31
BATCH_ROWS = 1 << 17
SEARCHED_ROWS = 1 << 20
TABLE_SIZE = 1 << 24


class TableError(ValueError):
    """A table that cannot be used; the message says in one line what to correct."""

    def __init__(self, message: str):
        super().__init__(shortened(message))


def warn(message: str) -> None:
    """Logs a warning of one line."""
    logging.warning("%s", shortened(message))


def shortened(text: str) -> str:
    """Returns a text as one line of at most `LONGEST` characters: cells of a table may be any."""
    line = "".join(letter if letter.isprintable() else " " for letter in text).strip()
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 100]} ... {line[-95:]}"


def read_columns(table: Any, columns: Names, *, may_be_empty: Sequence[str] = ()) -> list[Column]:
    """Reads columns as distinct values, in order of appearance, and each row's index into them.

    White space around values is no part of them.

    Args:
      table: see `annotations.Annotations.from_table`.
      columns: allowed names of each column.
      may_be_empty: the first names of columns with cells that may be empty; their index is `EMPTY`.

    Raises:
      TableError: see `annotations.Annotations.from_table`.
    """
    where = name_of(table)
    codes = [_Codes(f"{where}, column {names[0]}", names[0] in may_be_empty) for names in columns]
    rows = 0
    with one_line(where), ThreadPoolExecutor(len(columns)) as pool:
        pending: list[Future] = []
        for batch in _batches(table, columns):
            _wait(pending)  # one batch is numbered while the next is read
            pending = [
                pool.submit(code.add, column)
                for code, column in zip(codes, batch.columns, strict=True)
            ]
            rows += batch.num_rows
        _wait(pending)
        if not 0 < rows < MOST_ROWS:
            count = "no" if rows == 0 else f"at most {MOST_ROWS - 1:,} are possible, not {rows:,}"
            raise TableError(f"{where} has {count} rows")
        read = list(pool.map(_Codes.result, codes))
    _refuse_header(where, read, columns)
    return read


def _refuse_header(where: str, read: list[Column], columns: Names) -> None:
    """Refuses a row of names of columns: another file with a header was appended."""
    words = {name for names in columns for name in names}
    header = np.ones(len(read[0][1]), bool)
    for values, codes in reversed(read):  # labels first: there are few
        named = np.array([*(value in words for value in values.tolist()), False])
        if not named.any():
            return
        header &= named[codes]
    if header.any():
        row = int(header.argmax()) + 1
        raise TableError(f"{where}, row {row}: a header again; were several files joined?")


def ascending(values: np.ndarray) -> Int32[np.ndarray, " values"]:
    """Returns the order that sorts ids; as numbers, if all are whole numbers in strings."""
    ids = values.tolist()
    if all(isinstance(value, str) for value in ids):
        with contextlib.suppress(ValueError):
            ids = [int(value) for value in ids]
    return np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int32)


def positions(values: np.ndarray, among: np.ndarray) -> Int32[np.ndarray, " values"]:
    """Returns the index of each value in `among`, -1 if it is missing.

    Ids of different types are compared as numbers or booleans if all can be, else as strings; 1 and
    1.0 are equal, unless both are in `among`.
    """
    left, right = _common_type(pa.array(values), pa.array(among))
    indices = _index_in(left, right)
    if pa.types.is_string(left.type) and (rest := indices < 0).any():
        left = left.filter(pa.array(rest))
        indices[rest] = _index_in(_shortest_numbers(left), _shortest_numbers(right))
    return indices


def look_alikes(values: np.ndarray, *, capitals: bool = False) -> list[tuple[str, str]]:
    """Returns pairs of strings that differ only in how a number or a letter is written.

    Such as 1 and 1.0, a letter with its accent as one sign or as two, or signs that have no width.

    Args:
      values: distinct ids; there are pairs of strings only.
      capitals: whether pairs that differ in capital letters count.
    """
    if values.dtype.kind not in "OU":
        return []
    keys = strings = pa.array(values, pa.string())
    if pc.any(pc.match_substring_regex(keys, NUMBER)).as_py():
        keys = _shortest_numbers(keys)
    if not pc.all(pc.string_is_ascii(keys)).as_py():
        keys = pc.replace_substring_regex(pc.utf8_normalize(keys, "NFC"), r"\p{Cf}", "")
    if capitals:
        keys = pc.utf8_lower(keys)
    if keys is strings:
        return []
    codes = keys.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    again = np.flatnonzero(first[codes] != np.arange(len(codes)))
    return [(values[first[codes[row]]], values[row]) for row in again.tolist()]


def _index_in(values: pa.Array, among: pa.Array) -> Int32[np.ndarray, " values"]:
    indices = pc.fill_null(pc.index_in(values, value_set=among), -1)
    return indices.to_numpy(zero_copy_only=False).copy()


def _shortest_numbers(values: pa.StringArray) -> pa.StringArray:
    """Returns 1.0 as 1 and 0.50 as 0.5, and other strings as they are."""
    values = pc.replace_substring_regex(values, r"^([+-]?\d+)\.0*$", r"\1")
    return pc.replace_substring_regex(values, r"^([+-]?\d+\.\d*[1-9])0+$", r"\1")


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

    def __init__(self, where: str, may_be_empty: bool):
        self._where = where
        self._may_be_empty = may_be_empty
        self._known: list[pa.Array] = []
        self._count = 0
        self._codes: list[np.ndarray] = []
        self._rows = 0
        self._pending: list[pa.Array] = []
        self._table: _Table | None = _Table()

    def add(self, column: pa.Array) -> None:
        if len(column) == 0:
            return
        column = _plain(column, self._where)
        if self._table and _is_small_integer(column.type) and not column.null_count:
            numbered = self._table.number(column.to_numpy(), self._rows, self._count)
            if numbered:
                codes, new = numbered
                self._keep(codes, pa.array(new, column.type))
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

    def _keep(self, codes: np.ndarray, new: pa.Array) -> None:
        self._codes.append(codes)
        self._rows += len(codes)
        self._known.append(new)
        self._count += len(new)

    def _search(self) -> None:
        encoded = pa.chunked_array(self._pending).dictionary_encode()
        self._pending = []
        values = encoded.chunk(encoded.num_chunks - 1).dictionary  # that of all chunks
        indices = np.concatenate([_indices(chunk) for chunk in encoded.chunks])
        if pa.types.is_string(values.type):
            values.validate(full=True)  # Parquet may hold strings that are not UTF-8
            odd = {
                "holds a NUL byte": pc.match_substring(values, "\0"),
                f"has more than {LONGEST_CELL:,} bytes": pc.greater(
                    pc.binary_length(values), LONGEST_CELL
                ),
            }
            for what, wrong in odd.items():
                if pc.any(wrong).as_py():
                    self._refuse(np.append(wrong, False)[indices], what)
        codes, new = self._number(values)
        codes = np.append(codes, np.int32(EMPTY))[indices]  # the last is that of null
        if not self._may_be_empty:
            self._refuse(codes == EMPTY, "empty or NaN")
        self._keep(codes, new)

    def _number(self, values: pa.Array) -> tuple[np.ndarray, pa.Array]:
        """Returns the codes of distinct values, and the values that are new."""
        if pa.types.is_string(values.type):
            trimmed = pc.utf8_trim_whitespace(values)
            if not trimmed.equals(values):  # some may be equal now
                encoded = trimmed.dictionary_encode()
                codes, new = self._number(encoded.dictionary)
                return codes[encoded.indices.to_numpy()], new
            empty = pc.is_in(values, NOTHING)
        else:
            empty = values.is_null(nan_is_null=True)
        known = pa.concat_arrays(self._known) if self._known else values.slice(0, 0)
        codes = _index_in(values, known)
        is_new = (codes < 0) & ~empty.to_numpy(zero_copy_only=False)
        codes[is_new] = self._count + np.arange(is_new.sum(), dtype=np.int32)
        return codes, values.filter(pa.array(is_new))

    def _refuse(self, wrong: Bool[np.ndarray, " rows"], what: str) -> None:
        """Refuses rows that are wrong, naming the first."""
        if wrong.any():
            row = self._rows + int(wrong.argmax()) + 1
            raise TableError(f"{self._where}, row {row}: {what}")


def _indices(encoded: pa.DictionaryArray) -> Int32[np.ndarray, " rows"]:
    """Returns the rows' indices into the dictionary; -1, that is the last, for null."""
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)


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
    except (pa.ArrowException, MemoryError, OverflowError, UnicodeError) as error:
        raise TableError(f"{where}: {error}") from error


def _batches(table: Any, columns: Names) -> Iterator[pa.RecordBatch]:
    """Yields record batches of the wanted columns, in the given order."""
    if not isinstance(table, str | Path):
        table = _as_arrow(table, columns)
        yield from table.select(_column_names(table.column_names, columns, table)).to_batches()
        return
    try:
        yield from (_parquet_batches if _is_parquet(table) else _csv_batches)(table, columns)
    except OSError as error:
        raise TableError(f"cannot read {table}: {error.strerror or error}") from error


def _is_parquet(path: str | Path) -> bool:
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe may wait for ever
        raise TableError(f"cannot read {path}: a device or pipe; expected a file")
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1" or Path(path).suffix.lower() == ".parquet"


def _parquet_batches(path: str | Path, columns: Names) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        names = _column_names(file.schema_arrow.names, columns, path)
        for batch in file.iter_batches(BATCH_ROWS, columns=names):
            yield batch.select(names)


def _csv_batches(path: str | Path, columns: Names) -> Iterator[pa.RecordBatch]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            names = _column_names(next(csv.reader(file, strict=True), []), columns, path)
        with open(path, "rb") as file:
            yield from _csv_rows(path, _Csv(file), names)
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        _check_quotes(path)
        reason = _odd_line(path) or f": expected a CSV in UTF-8: {error}"
        raise TableError(f"{path}{reason}") from error


def _csv_rows(path: str | Path, file: "_Csv", names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields the columns of these names, after their header."""
    ended, invalid = [], []

    def judge(row: Any) -> str:
        if row.text.encode() == END.strip():
            ended.append(row)
            return "skip"
        invalid.append(
            f"row {row.number - 1}: {row.actual_columns} cells, not {row.expected_columns}"
        )
        return "error"

    options = {
        # With threads a row's number is unknown. Numbering ids takes the time, not parsing.
        "read_options": pa.csv.ReadOptions(use_threads=False),
        "parse_options": pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=judge),
        "convert_options": pa.csv.ConvertOptions(
            include_columns=names,
            column_types=dict.fromkeys(names, pa.string()),
            check_utf8=False,  # see `_Csv`
        ),
    }
    lines = 1
    try:
        with pa.csv.open_csv(file, **options) as reader:
            for batch in reader:
                lines += batch.num_rows
                yield batch
    except pa.ArrowInvalid as error:
        if not invalid:
            raise
        _check_quotes(path)
        raise TableError(f"{path}, {invalid[0]}") from error
    if not ended or lines < file.lines:  # some row has several lines: it may have taken in others
        _check_quotes(path)
    if not ended:
        raise TableError(f"{path} ends inside a quote")


class _Csv:
    """The bytes of a CSV and then `END`, for Arrow; counts the lines and checks the encoding.

    Arrow checks it, too, but prints a traceback for an invalid row that is not UTF-8.
    """

    closed = False

    def __init__(self, file: BinaryIO):
        self._file = file
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._rest = [END]
        self._last = b""
        self.lines = 0

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.lines += data.count(b"\n")
        if not data.isascii() or not data or self._utf8.getstate()[0]:
            self._utf8.decode(data, final=not data)
        if data:
            self._last = data[-1:]
            return data
        if self._rest:
            self.lines += self._last != b"\n"
        return self._rest.pop() if self._rest else b""

    def close(self) -> None:
        self.closed = True


def _check_quotes(path: str | Path) -> None:
    """Refuses a cell whose quote is never closed, or only by that of another cell in a later line.

    Args:
      path: a CSV. It is read again, so call this only if something is odd about it.
    """
    with (
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        for quoted in QUOTED.finditer(data):
            start, stop = quoted.span("text")
            if quoted["after"] is None or (quoted["after"] and data.find(b"\n", start, stop) >= 0):
                break
        else:
            return
        before, cell = data[: start - 1], data[start - 1 : stop].splitlines()[0]
        whole_lines = QUOTED.sub(rb"\g<before>cell", before).rpartition(b"\n")[0].splitlines()
        row, line = sum(map(bool, whole_lines)), before.count(b"\n") + 1
        text = cell[:40].decode(errors="replace")
        raise TableError(f"{path}, row {row} (line {line}): the quote in {text} is never closed")


def _odd_line(path: str | Path) -> str:
    """Returns what is wrong with the first line that is too long or not UTF-8, to follow a path."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if len(line) > LONGEST_CELL:
                return f", line {number}: {len(line):,} bytes in a line are too many"
            try:
                line.decode()
            except UnicodeDecodeError:
                return f", line {number}: expected a CSV in UTF-8"
    return ""


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
            raise TableError(f"{name_of(table)} has no column {wanted}, only {others}")
        if header.count(name) > 1:
            raise TableError(f"{name_of(table)} has several columns named {name}")
        present.append(name)
    return present


def name_of(table: Any) -> str:
    """Returns what messages call a table: its path, if it has one."""
    return str(table) if isinstance(table, str | Path) else "the table"
