"""Reads labels by file name or by index: lists of lines, CSV and TSV tables, and Parquet.

Whatever a dataset, a crowd or a noise list writes down is read here. Columns stay in Arrow, since a
list may have a million rows. A mistake is reported as `PATH:LINE: what is wrong`; the line of a
Parquet file is its row, counted from 1.
"""

import codecs
import contextlib
import csv
import dataclasses
import re
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Int32, Int64

from ferjax.data.record import UNKNOWN, Names
from ferjax.errors import UserError

FILE, LABEL = "file", "label"
"""The columns of a list, see `read_list`."""

SPELLINGS = {
    FILE: ("file", "file name", "filename", "image", "image name", "name", "path"),
    LABEL: ("label", "emotion", "expression", "class"),
}
"""What a table may call the columns of a list, in any case."""

DELIMITERS = ",\t;"
PARQUET = b"PAR1"
DAMAGED = (pa.ArrowException, OSError, MemoryError, OverflowError, UnicodeError)
"""The errors that Arrow raises for a damaged Parquet file."""
SHOWN = 80
"""Letters of a line that an error shows."""

LINE = r'^(?:"(?P<quoted>[^"]*)"|(?P<plain>.*\S))\s+"?(?P<label>[^\s"]+)"?$'


@dataclasses.dataclass(frozen=True)
class Listing:
    """The rows of a list or table.

    Attributes:
      path: the file.
      columns: cells by column name, stripped of surrounding white space; '' for an empty cell.
      lines: [N], the line of the file that each row is from.
    """

    path: Path
    columns: dict[str, pa.StringArray]
    lines: Int64[np.ndarray, " rows"]

    def __len__(self) -> int:
        return len(self.lines)

    def error(self, row: int, message: str) -> UserError:
        """Returns the error that something is wrong with a row."""
        return UserError(f"{self.path}:{self.lines[row]}: {message}")

    def where(self, rows: Bool[np.ndarray, " rows"]) -> "Listing":
        """Returns the rows that are true."""
        columns = {name: cells.filter(pa.array(rows)) for name, cells in self.columns.items()}
        return Listing(self.path, columns, self.lines[rows])

    def numbers(
        self, column: str, largest: int, *, unknown: bool = False
    ) -> Int32[np.ndarray, " rows"]:
        """Returns a column as whole numbers from 0 to `largest`; with `unknown` also -1.

        Raises:
          UserError: naming the first cell that is none.
        """
        cells = self.columns[column]
        valid = pc.match_substring_regex(cells, rf"^({UNKNOWN}|\d{{1,9}})$")
        numbers = pc.cast(pc.if_else(valid, cells, "-2"), pa.int64()).to_numpy().astype(np.int32)
        wrong = (numbers > largest) | (numbers < (UNKNOWN if unknown else 0))
        if wrong.any():
            row = int(wrong.argmax())
            message = f"{_shown(cells[row].as_py())} is not a whole number from 0 to {largest}"
            raise self.error(row, message)
        return numbers

    def choices(
        self, column: str, known: Sequence[str], what: str = "label"
    ) -> Int32[np.ndarray, " rows"]:
        """Returns the index of each cell in `known`, in whatever case it is written.

        Raises:
          UserError: naming the first cell that is none of them.
        """
        indices = index_of(self.columns[column], known)
        if (indices == UNKNOWN).any():
            row = int((indices == UNKNOWN).argmax())
            cell = _shown(self.columns[column][row].as_py())
            raise self.error(row, f"unknown {what} {cell}, expected {', '.join(known)}")
        return indices

    def first_of(
        self, key: str, others: Sequence[str], what: str
    ) -> tuple[Int64[np.ndarray, " keys"], Int64[np.ndarray, " keys"]]:
        """Returns the first row of each different key, ascending, and how many rows it has.

        Args:
          key: a column.
          others: columns that must be equal where the key is.
          what: what these say of the key, for the error.

        Raises:
          UserError: naming the first row that says something else than the key's first one.
        """
        keys = self.columns[key].dictionary_encode().indices.to_numpy()
        _, first, counts = np.unique(keys, return_index=True, return_counts=True)
        differs = np.zeros(len(self), bool)
        for name in others:
            cells = self.columns[name]
            again = pc.not_equal(cells, cells.take(pa.array(first[keys])))
            differs |= again.to_numpy(zero_copy_only=False)
        if differs.any():
            row = int(differs.argmax())
            name = self.columns[key][row].as_py()[:SHOWN]
            raise self.error(row, f"{name} is listed again with {what}")
        return first, counts

    def rows_of(self, key: str, names: Sequence[str]) -> Int64[np.ndarray, " names"]:
        """Returns a row whose `key` each name is, -1 where there is none."""
        rows = pc.index_in(Names.of(names).array, value_set=self.columns[key])
        return pc.fill_null(rows, UNKNOWN).to_numpy().astype(np.int64)


def read_list(path: str | Path, *, labelled: bool = True) -> Listing:
    """Reads a list of files, with their labels.

    A text has one `<file name> <label>` a line, the name in quotes or not; without labels just the
    names. A table (CSV, TSV or Parquet) has columns that are called one of `SPELLINGS`. Names may
    have backslashes, which become slashes.

    Args:
      path: the list.
      labelled: whether it must have labels.

    Returns:
      The columns `file` and, if labelled, `label`; blank lines are left out.

    Raises:
      UserError: for a file that cannot be read or is no text, or a line without a label.
    """
    path = Path(path)
    wanted = (FILE, LABEL) if labelled else (FILE,)
    data = _bytes(path)
    if data.startswith(PARQUET):
        header = _parquet_header(path)
    else:
        header = _cells(_text(path, data).partition(b"\n")[0])
    spelt = {name: _spelling(header, name) for name in wanted}
    if all(spelt.values()):
        table = read_table(path, list(spelt.values()))
        columns = {name: table.columns[spelling] for name, spelling in spelt.items()}
        listing = Listing(path, columns, table.lines)
    elif data.startswith(PARQUET):
        raise UserError(f"{path}:1: expected columns {' and '.join(wanted)}, not {header}")
    else:
        listing = _split_lines(path, _text(path, data), labelled)
    names = pc.replace_substring(listing.columns[FILE], "\\", "/")
    return dataclasses.replace(listing, columns=listing.columns | {FILE: names})


def read_table(path: str | Path, columns: Sequence[str] = ()) -> Listing:
    """Reads a CSV, TSV or Parquet table whose first row names its columns.

    Args:
      path: the table; cells are separated by whichever of comma, tab and semicolon its header has
        most.
      columns: those to read, of a table that may have others; (): all.

    Raises:
      UserError: for a file that cannot be read or is no text, a column that is missing or there
        twice, a row of another length, a header in the middle, or a quote that is not closed on its
        line.
    """
    path = Path(path)
    data = _bytes(path)
    if data.startswith(PARQUET):
        return _read_parquet(path, columns)
    first, _, rest = _text(path, data).partition(b"\n")
    header = _cells(first)
    columns = _check_header(path, header, columns)
    _check_quotes(path, rest, _delimiter(first))
    listing = _read_csv(path, len(header), rest, _delimiter(first))
    cells = {name: listing.columns[str(header.index(name))] for name in columns}
    listing = dataclasses.replace(listing, columns=cells)
    _refuse_header(listing)
    return listing


def index_of(words: pa.StringArray, known: Sequence[str]) -> Int32[np.ndarray, " words"]:
    """Returns the index of each word in `known`, in whatever case it is written; -1 for none."""
    lower = pa.array([name.lower() for name in known], pa.string())
    indices = pc.index_in(pc.utf8_lower(words), value_set=lower)
    return pc.fill_null(indices, UNKNOWN).to_numpy()


def _bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a pipe may wait for ever
            raise UserError(f"{path}: a device or pipe; expected a file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _text(path: Path, data: bytes) -> bytes:
    """Converts text to UTF-8 without a byte order mark, its lines ending in LF or CR LF."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
        with contextlib.suppress(UnicodeDecodeError):
            data = data.decode("utf-16").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    end = data.find(b"\0")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        end = error.start if end < 0 else min(end, error.start)
    if end >= 0:
        line = data.count(b"\n", 0, end) + 1
        raise UserError(f"{path}:{line}: expected a list or table, but this is not UTF-8 text")
    return data


def _delimiter(header: bytes) -> str:
    return max(DELIMITERS, key=header.decode().count)


def _cells(header: bytes) -> list[str]:
    rows = csv.reader([header.decode().strip()], delimiter=_delimiter(header))
    try:
        return [cell.strip() for cell in next(rows, [])]
    except csv.Error:  # a line that is no header, such as all of a JSON file
        return []


def _spelling(header: Sequence[str], name: str) -> str:
    """What a header calls one of the columns of a list; '' if it has no such column."""
    spelt = {cell.lower(): cell for cell in header}
    return next((spelt[word] for word in SPELLINGS[name] if word in spelt), "")


def _check_header(path: Path, header: list[str], columns: Sequence[str]) -> Sequence[str]:
    """The columns to read."""
    columns = columns or header
    for name in columns:
        if header.count(name) != 1:
            times = "no" if name not in header else "more than one"
            raise UserError(f"{path}:1: {times} column {name!r}, there are {', '.join(header)}")
    return columns


def _refuse_header(listing: Listing) -> None:
    """Refuses a row that repeats the header: another file with one was appended."""
    again = np.ones(len(listing), bool)
    for name, cells in listing.columns.items():
        again &= pc.equal(cells, name).to_numpy(zero_copy_only=False)
    if again.any():
        raise listing.error(int(again.argmax()), "the header again; were several files joined?")


def _split_lines(path: Path, text: bytes, labelled: bool) -> Listing:
    every = pc.split_pattern(pa.array([text.decode()]), "\n").values
    every = pc.utf8_trim_whitespace(every)
    filled = pc.not_equal(every, "").to_numpy(zero_copy_only=False)
    listing = Listing(path, {FILE: every}, np.arange(1, len(every) + 1)).where(filled)
    cells = listing.columns[FILE]
    if not labelled:
        names = pc.replace_substring_regex(cells, r'^"(.*)"$', r"\1")
        return dataclasses.replace(listing, columns={FILE: names})
    parts = pc.extract_regex(cells, LINE)
    if parts.null_count:
        row = pc.index(pc.is_null(parts), pa.scalar(True)).as_py()
        raise listing.error(
            row, f"expected '<file name> <label>', got {_shown(cells[row].as_py())}"
        )
    quoted, plain, label = parts.flatten()
    names = pc.if_else(pc.equal(plain, ""), quoted, plain)
    return dataclasses.replace(listing, columns={FILE: names, LABEL: label})


def _shown(line: str) -> str:
    return repr(line if len(line) <= SHOWN else f"{line[:SHOWN]}...")


def _check_quotes(path: Path, rest: bytes, delimiter: str) -> None:
    """Checks that every quote is closed on its line: Arrow would take the next rows into the cell.

    Args:
      path: for the error.
      rest: the lines after the header.
      delimiter: what separates cells.
    """
    if b'"' not in rest:
        return
    lines = pc.split_pattern(pa.array([rest.decode()]), "\n").values
    start = f"(^|{re.escape(delimiter)})"
    unquoted = pc.replace_substring_regex(lines, rf'{start}"(?:[^"]|"")*"', r"\1")
    opened = pc.index(pc.match_substring_regex(unquoted, rf'{start}"'), pa.scalar(True)).as_py()
    if opened >= 0:
        line = _shown(lines[opened].as_py().rstrip())
        raise UserError(f"{path}:{opened + 2}: a quote is not closed on its line: {line}")


def _read_csv(path: Path, width: int, rest: bytes, delimiter: str) -> Listing:
    """The rows after the header; columns are called '0', '1', ..."""
    names = [str(number) for number in range(width)]
    skipped: list[int] = []
    wrong: list[Any] = []

    def judge(row: Any) -> str:
        if not row.text.strip():
            skipped.append(row.number)
            return "skip"
        wrong.append(row)
        return "error"

    try:
        table = pa.csv.read_csv(
            # Arrow refuses to read nothing.
            pa.BufferReader(rest if rest.strip() else b"\n"),
            read_options=pa.csv.ReadOptions(use_threads=False, column_names=names),
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, ignore_empty_lines=False, invalid_row_handler=judge
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if not wrong:  # a row longer than Arrow's blocks
            sizes = [len(line) for line in rest.split(b"\n")]
            longest = int(np.argmax(sizes))
            raise UserError(
                f"{path}:{longest + 2}: a line of {sizes[longest]:,} bytes, which is too long"
            ) from error
        bad = wrong[0]
        line = f"{path}:{bad.number + 1}"
        raise UserError(
            f"{line}: {bad.actual_columns} columns, expected {bad.expected_columns}"
        ) from error
    lines = np.delete(np.arange(2, len(table) + len(skipped) + 2), np.array(skipped, int) - 1)
    columns = {name: _stripped(table[name]) for name in names}
    filled = np.zeros(len(table), bool)  # a blank line is no row
    for cells in columns.values():
        filled |= pc.not_equal(cells, "").to_numpy(zero_copy_only=False)
    return Listing(path, columns, lines).where(filled)


def _parquet_header(path: Path) -> list[str]:
    try:
        return pq.read_schema(path).names
    except DAMAGED as error:
        raise UserError(f"{path}: not a readable Parquet table ({error})") from error


def _read_parquet(path: Path, columns: Sequence[str]) -> Listing:
    try:
        columns = _check_header(path, _parquet_header(path), columns)
        table = pq.read_table(path, columns=list(columns))
        cells = {
            name: _stripped(pc.fill_null(pc.cast(table[name], pa.string()), "")) for name in columns
        }
        for column in cells.values():
            column.validate(full=True)  # strings may not be UTF-8
    except DAMAGED as error:
        raise UserError(f"{path}: not a readable Parquet table of labels ({error})") from error
    listing = Listing(path, cells, np.arange(1, len(table) + 1))
    for column in cells.values():
        nul = pc.match_substring(column, "\0").to_numpy(zero_copy_only=False)
        if nul.any():
            raise listing.error(int(nul.argmax()), "a NUL byte")
    return listing


def _stripped(cells: pa.ChunkedArray) -> pa.StringArray:
    whole = cells.combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # what Arrow gives for no chunk at all
        whole = pa.concat_arrays(whole.chunks) if whole.num_chunks else pa.array([], pa.string())
    return pc.utf8_trim_whitespace(whole)
