"""Pictures in a folder tree, in a list of files or in ArrayRecord: read by row, whatever they are.

For faces that come without a builder of their own. A picture that cannot be read is no error until
somebody wants it: `Pictures.read` tells which ones those are.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Bool, Int, UInt8

from ferjax.data import prepared
from ferjax.data.record import Images, Names
from ferjax.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
RECORDS = ".array_record"
"""What the name of an ArrayRecord file contains."""

MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*")
"""First bytes of pictures."""


LOOKED_FOR = 100
"""So many files of a list are looked for when it is opened."""


class Source(NamedTuple):
    """What was found.

    Attributes:
      pictures: by row.
      names: of their files, relative to where they were looked for.
      labels: the word after each name in a labelled list, the name of each one's folder in a tree;
        else empty.
    """

    pictures: Images
    names: Names
    labels: Names


def find(path: Path, size: int, channels: int, *, labelled: bool = False) -> Source:
    """The pictures at a place, in ascending order of their names; those of a list in its order.

    Args:
      path: a folder, searched with all below it for pictures, or for ArrayRecord files if it holds
        any; one ArrayRecord file, whose records are picture files or examples with a feature
        `image`; or a text file with the name of a picture in each line, relative to its folder.
      size: side of the squares that the pictures become, in pixels.
      channels: 1, grey; or 3, RGB.
      labelled: whether the lines of a list end in a label, after a space; each picture must be
        there then.

    Raises:
      UserError: if there is no such place, no picture, a line without a label, two labels of one
        picture, or a labelled one that is missing.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = _record_files(path) if path.is_dir() else [path]
    if files and RECORDS in files[0].name:
        if labelled:
            raise UserError(f"{path}: ArrayRecord has no labels; give a folder tree or a list")
        return _records(files, size, channels)
    if path.is_dir():
        root, names = path, _tree(path)
        folders = pc.replace_substring_regex(names.array, r"/?[^/]*$", "")
        labels = Names(pc.replace_substring_regex(folders, r"^.*/", ""))
    else:
        root = path.parent
        names, labels = _list(path, labelled)
        _check_beginning(path, names)
    if len(names) == 0:
        endings = ", ".join(ending[1:] for ending in ENDINGS)
        raise UserError(f"{path}: no picture ({endings}) in it")
    if labelled:
        _check_there(path, root, names)
    return Source(Pictures(str(root), names, None, size, channels), names, labels)


@dataclasses.dataclass(frozen=True)
class Pictures(Images):
    """Pictures [size, size, channels] in files, or in records.

    Attributes:
      root: folder that the names are relative to.
      names: of the files.
      records: the ArrayRecord files that hold them instead.
      size: pixels of the side.
      channels: 1, grey; or 3, RGB.
    """

    root: str
    names: Names
    records: tuple[str, ...] | None
    size: int
    channels: int

    may_be_damaged = True

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, row: int) -> str:
        """See `record.Images.name_of`."""
        return f"{self.root}: {self.names[row]}"

    def paths(self) -> pa.StringArray:
        """Where the pictures are, from the root of the file system, however a list spells it.

        Links to folders are followed, links to pictures are not.
        """
        real = functools.cache(os.path.realpath)

        def path(name: str) -> str:
            folder, file = os.path.split(os.path.join(self.root, name))
            return os.path.join(real(folder), file)

        return Names.of(map(path, self.names)).array

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `record.Images.read`."""
        faces = np.zeros((len(rows), self.size, self.size, self.channels), np.uint8)
        readable = np.zeros(len(rows), bool)
        for place, encoded in enumerate(self._encoded(rows.tolist())):
            image = prepared.decode(encoded, self.channels)
            if image is not None:
                faces[place] = prepared.resize(image, self.size)
                readable[place] = True
        return faces, readable

    def _encoded(self, rows: list[int]) -> Iterator[bytes]:
        if self.records is not None:
            yield from map(_picture_of, _records_at(_opened(self.records), rows))
            return
        for row in rows:
            try:
                yield Path(self.root, self.names[row]).read_bytes()
            except OSError:
                yield b""


@functools.lru_cache(maxsize=8)
def _opened(files: tuple[str, ...]) -> ArrayRecordDataSource:
    """Opened once in each process: what is open cannot be sent to pipeline workers."""
    return ArrayRecordDataSource(list(files))


def _records_at(source: ArrayRecordDataSource, rows: list[int]) -> list[bytes]:
    """The records of some rows, no bytes for those in a damaged part of a file."""
    try:
        return source.__getitems__(rows)
    except (RuntimeError, ValueError):
        if len(rows) == 1:
            return [b""]
        return [record for row in rows for record in _records_at(source, [row])]


def _picture_of(record: bytes) -> bytes:
    if record.startswith(MAGIC):
        return record
    try:
        return prepared.features(record)["image"].bytes_list.value[0]
    except Exception:  # whatever the parser says of bytes that are no example
        return b""


def _records(files: list[Path], size: int, channels: int) -> Source:
    paths = tuple(str(path) for path in files)
    counts = [_count(path) for path in paths]
    if sum(counts) == 0:
        raise UserError(f"{files[0]}: no record in it")
    names = Names.of(
        f"{path.name}:{row}"
        for path, count in zip(files, counts, strict=True)
        for row in range(count)
    )
    pictures = Pictures(str(files[0].parent), names, paths, size, channels)
    return Source(pictures, names, Names.of("" for _ in range(len(names))))


def _count(path: str) -> int:
    try:
        return len(ArrayRecordDataSource([path]))
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{path}: not a readable ArrayRecord file") from error


def _record_files(folder: Path) -> list[Path]:
    """The ArrayRecord files in a folder, which may hold a million others."""
    with os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries if RECORDS in entry.name)


def _tree(root: Path) -> Names:
    """Names of all pictures below a folder, ascending; nothing hidden is one."""
    names = Names.of(_walk(str(root), ""))
    return Names(names.array.take(pc.sort_indices(names.array)))


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if not _leads_back(entry):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            elif entry.name.lower().endswith(ENDINGS):
                yield _text(f"{prefix}{entry.name}")


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether it is a link to a folder that it lies in, however deep."""
    if not entry.is_symlink():
        return False
    return Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def _text(name: str) -> str:
    """The name, with bytes that are no UTF-8 written out; such a file counts as damaged."""
    return name.encode("utf-8", "backslashreplace").decode()


def _list(path: Path, labelled: bool) -> tuple[Names, Names]:
    try:
        lines = Names.of(_lines(path))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: neither a picture list nor ArrayRecord ({error})") from error
    if not labelled:
        return lines, Names.of("" for _ in range(len(lines)))
    parts = pc.extract_regex(lines.array, r"^(?P<name>.*\S)\s+(?P<label>\S+)$")
    if parts.null_count:
        line = pc.index(pc.is_null(parts), pa.scalar(True)).as_py()
        raise UserError(
            f"{path}: expected '<file name> <label>' in every line, got {lines[line]!r}"
        )
    names, labels = parts.field("name"), parts.field("label")
    different = pa.table({"name": names, "label": labels}).group_by(["name", "label"])
    counts = pc.value_counts(different.aggregate([])["name"])
    several = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(several):
        raise UserError(f"{path}: {several[0]['values']} has different labels in different lines")
    return Names(names), Names(labels)


def _check_beginning(path: Path, names: Names) -> None:
    """Whether any of the first files of a list is there: else it is not what it is taken for."""
    first = names[:LOOKED_FOR]
    if first and not any((path.parent / name).exists() for name in first):
        raise UserError(
            f"{path}: no file {first[0]!r} beside it, nor any of the next {len(first) - 1}; "
            "expected the name of a picture in each line, without quotes or commas"
        )


def _check_there(path: Path, root: Path, names: Names) -> None:
    """Whether all files are there, and something in them; does not read them."""
    for name in names:
        try:
            size = os.stat(os.path.join(root, name)).st_size
        except OSError as error:
            raise UserError(f"{path}: {name}: {error.strerror}") from error
        if size == 0:
            raise UserError(f"{path}: {name} is empty")


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield line.strip()
