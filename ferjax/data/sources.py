"""Finds pictures in a folder tree, in a list of files or in ArrayRecord, whatever they are.

For faces that come without a dataset of their own. A picture that cannot be read is no error until
somebody wants it.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from array_record.python.array_record_data_source import ArrayRecordDataSource

from ferjax.data import labels
from ferjax.data.images import FileImages, RecordImages
from ferjax.data.labels import Listing
from ferjax.data.record import Images, Names
from ferjax.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
RECORDS = ".array_record"
"""What the name of an ArrayRecord file contains."""

LOOKED_FOR = 100
"""So many files of a list are looked for when it is opened."""


class Source(NamedTuple):
    """Pictures of one origin.

    Attributes:
      pictures: by row.
      names: of their files, relative to the origin.
      labels: of a labelled list what it says of each, of a tree the name of each one's folder; else
        empty.
      listing: the list, if it is one.
    """

    pictures: Images
    names: Names
    labels: Names
    listing: Listing | None = None


def find(path: Path, size: int, channels: int, *, labelled: bool = False) -> Source:
    """Finds the pictures of a folder in ascending order of their names, those of a list in its.

    Args:
      path: a folder, searched with all below it for pictures, or for ArrayRecord files if it holds
        any; one ArrayRecord file, whose records are picture files or examples with a feature
        `image`; or a list of pictures, relative to its folder, see `labels.read_list`.
      size: side of the squares that the pictures become, in pixels.
      channels: 1, grey; or 3, RGB.
      labelled: whether a list must have labels; each picture must be there then.

    Raises:
      UserError: if `path` does not exist or has no picture, for a line without a label, two labels
        of one picture, or a labelled one that is missing.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    files = _record_files(path) if path.is_dir() else [path]
    if files and RECORDS in files[0].name:
        if labelled:
            raise UserError(f"{path}: ArrayRecord has no labels; give a folder tree or a list")
        return _records(files, size, channels)
    listing = None if path.is_dir() else labels.read_list(path, labelled=labelled)
    root, names = (path, _tree(path)) if listing is None else (path.parent, _names_in(listing))
    if len(names) == 0:
        endings = ", ".join(ending[1:] for ending in ENDINGS)
        raise UserError(f"{path}: no picture ({endings}) in it")
    images = FileImages(size=size, channels=channels, root=str(root), names=names)
    words = _folders(names) if listing is None else _labels_in(listing)
    source = Source(images, names, words, listing)
    if labelled:
        _check_there(path, root, source)
    return source


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
    pictures = RecordImages(size=size, channels=channels, files=paths, names=names)
    return Source(pictures, names, _nothing(len(names)))


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
    names = Names.of(_walk(str(root), "")).array
    return Names(names.take(pc.sort_indices(names)))


def _folders(names: Names) -> Names:
    """The name of the folder of each file."""
    folders = pc.replace_substring_regex(names.array, r"/?[^/]*$", "")
    return Names(pc.replace_substring_regex(folders, r"^.*/", ""))


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
    """Returns whether it is a link to a folder that it lies in, however deep."""
    if not entry.is_symlink():
        return False
    return Path(entry.path).parent.resolve().is_relative_to(Path(entry.path).resolve())


def _text(name: str) -> str:
    """The name, with bytes that are no UTF-8 written out; such a file counts as damaged."""
    return name.encode("utf-8", "backslashreplace").decode()


def _names_in(listing: Listing) -> Names:
    """The files of a list, one of the first of which must be there: else it is no list."""
    names = Names(listing.columns[labels.FILE])
    first = names[:LOOKED_FOR]
    if first and not any((listing.path.parent / name).exists() for name in first):
        raise UserError(
            f"{listing.path}: no file {first[0]!r} beside it, nor any of the next "
            f"{len(first) - 1}; expected the name of a picture in each line, or a table with a "
            f"column {labels.FILE!r}"
        )
    return names


def _labels_in(listing: Listing) -> Names:
    """Returns the label that a list gives each file; empty words if it has no labels."""
    if labels.LABEL not in listing.columns:
        return _nothing(len(listing))
    listing.first_of(labels.FILE, [labels.LABEL], "another label")
    return Names(listing.columns[labels.LABEL])


def _check_there(path: Path, root: Path, source: Source) -> None:
    """Checks that all files are there and not empty, without reading them."""
    for row, name in enumerate(source.names):
        try:
            reason = "" if os.stat(os.path.join(root, name)).st_size else "empty file"
        except OSError as error:
            reason = error.strerror or "not readable"
        if reason and source.listing:
            raise source.listing.error(row, f"{name}: {reason}")
        if reason:
            raise UserError(f"{path}: {name}: {reason}")


def _nothing(count: int) -> Names:
    """Returns `count` empty words."""
    return Names(pa.array([""]).take(pa.nulls(count, pa.int64()).fill_null(0)))
