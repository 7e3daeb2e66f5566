"""Finds pictures in a folder tree, in a list of files or in ArrayRecord, whatever they are.

For faces that come without a dataset of their own. A picture that cannot be read is no error until
somebody wants it.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from array_record.python.array_record_data_source import ArrayRecordDataSource

from ferjax.data import labels
from ferjax.data.images import MAX_MEGAPIXELS, FileImages, RecordImages, check_limit
from ferjax.data.labels import Listing
from ferjax.data.record import Images, Names
from ferjax.errors import UserError

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
RECORDS = ".array_record"
"""What the name of an ArrayRecord file contains."""

SHOWN = 8
"""So many endings of other files a warning names."""

LETTERS = 80
"""So many letters of a file name an error shows."""

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


def find(
    path: Path,
    size: int,
    channels: int,
    *,
    labelled: bool = False,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Source:
    """Finds the pictures of a folder in ascending order of their names, those of a list in its.

    Files of a folder that are no pictures by `ENDINGS` are left out, with a warning.

    Args:
      path: a folder, searched with all below it for pictures, or for ArrayRecord files if it holds
        any; one ArrayRecord file, whose records are picture files or examples with a feature
        `image`; or a list of pictures, relative to its folder, see `labels.read_list`.
      size: side of the squares that the pictures become, in pixels.
      channels: 1, grey; or 3, RGB.
      labelled: whether a list must have labels; each picture must be there then.
      max_megapixels: see `images.decode`.

    Raises:
      UserError: if `path` does not exist, cannot be read or has no picture, for a line without a
        label, two labels of one picture, or a labelled one that is missing.
    """
    check_limit(max_megapixels)
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder")
    if not path.is_dir() and not path.is_file():
        raise UserError(f"{path}: neither a folder nor a regular file")
    files = _record_files(path) if path.is_dir() else [path]
    if files and RECORDS in files[0].name:
        if labelled:
            raise UserError(f"{path}: ArrayRecord has no labels; give a folder tree or a list")
        return _records(files, size, channels, max_megapixels)
    listing = None if path.is_dir() else labels.read_list(path, labelled=labelled)
    root, names = (path, _tree(path)) if listing is None else (path.parent, _names_in(listing))
    images = FileImages(
        size=size, channels=channels, root=str(root), names=names, max_megapixels=max_megapixels
    )
    words = _folders(names) if listing is None else _labels_in(listing)
    source = Source(images, names, words, listing)
    if labelled:
        _check_there(path, root, source)
    return source


def _records(files: list[Path], size: int, channels: int, max_megapixels: float) -> Source:
    paths = tuple(str(path) for path in files)
    counts = [_count(path) for path in paths]
    if sum(counts) == 0:
        raise UserError(f"{files[0]}: no record in it")
    names = Names.of(
        f"{path.name}:{row}"
        for path, count in zip(files, counts, strict=True)
        for row in range(count)
    )
    pictures = RecordImages(
        size=size, channels=channels, files=paths, names=names, max_megapixels=max_megapixels
    )
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
    """Names of all pictures below a folder, ascending; at least one."""
    others: Counter[str] = Counter()

    def pictures() -> Iterator[str]:
        for name in files_below(root):
            if is_picture(name):
                yield name
            else:
                others[os.path.splitext(name)[1].lower() or "without one"] += 1

    names = Names.of(pictures()).array
    endings = sorted(others, key=lambda ending: (-others[ending], ending))[:SHOWN]
    counts = ", ".join(f"{others[ending]:,} {ending}" for ending in endings)
    if len(names) == 0:
        known = ", ".join(ending[1:] for ending in ENDINGS)
        raise UserError(
            f"{root}: no picture ({known}) in it{f', but by ending {counts}' if counts else ''}"
        )
    if counts:
        logging.warning("%s: left out files that are no pictures by their ending: %s", root, counts)
    return Names(names.take(pc.sort_indices(names)))


def is_picture(name: str) -> bool:
    """Returns whether a file is a picture by its ending."""
    return name.lower().endswith(ENDINGS)


def _folders(names: Names) -> Names:
    """The name of the folder of each file."""
    folders = pc.replace_substring_regex(names.array, r"/?[^/]*$", "")
    return Names(pc.replace_substring_regex(folders, r"^.*/", ""))


def files_below(folder: Path) -> Iterator[str]:
    """Yields the name of each file in a folder and all below it, relative to it; nothing hidden.

    Links to folders are followed unless they lead back.

    Raises:
      UserError: for a folder that cannot be read.
    """
    try:
        yield from _walk(str(folder), "")
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}") from error


def _walk(folder: str, prefix: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if not _leads_back(entry):
                    yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield _text(f"{prefix}{entry.name}")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a ring of links
        return False


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
    if not first:
        raise UserError(f"{listing.path}: no picture is listed in it")
    if not any(os.path.exists(os.path.join(listing.path.parent, name)) for name in first):
        raise UserError(
            f"{listing.path}: no file {first[0][:LETTERS]!r} beside it, nor any of the next "
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
    """Checks that all files are there, regular and not empty, without reading them."""
    for row, name in enumerate(source.names):
        try:
            status = os.stat(os.path.join(root, name))
            reason = "" if status.st_size else "empty file"
            reason = reason if stat.S_ISREG(status.st_mode) else "not a regular file"
        except OSError as error:
            reason = error.strerror or "not readable"
        except ValueError:  # a null byte
            reason = "not a file name"
        if reason and source.listing:
            raise source.listing.error(row, f"{name[:LETTERS]}: {reason}")
        if reason:
            raise UserError(f"{path}: {name}: {reason}")


def _nothing(count: int) -> Names:
    """Returns `count` empty words."""
    return Names(pa.array([""]).take(pa.nulls(count, pa.int64()).fill_null(0)))
