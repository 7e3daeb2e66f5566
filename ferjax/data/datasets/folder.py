"""Faces of one's own, labelled or not, from a folder tree, a list of files or ArrayRecord."""

import hashlib
import logging
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int32, Int64

from ferjax.data import labels, sources, table
from ferjax.data.images import MAX_MEGAPIXELS
from ferjax.data.record import CLASSES, UNKNOWN, Concatenated, Dataset, Images, Names, Split
from ferjax.data.table import Table
from ferjax.errors import UserError

CHANNELS = (1, 3)
CHUNK = 64  # pictures decoded at once only to check them


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads the pictures at `path`, and those at `test_path` to evaluate on; see `sources.find`.

    Args:
      config: `path` and `test_path` (either may be empty: no faces); `coder`, the name of whoever
        gave the labels, or empty for faces that nobody labelled; `classes`, how many of `CLASSES`
        there are; `image_size` in pixels; `channels`, 1 (grey) or 3; `max_megapixels`, see
        `images.decode`. Labels are classes: the names of the pictures' folders, or what a list
        says.

    Returns:
      Training faces whose truth nobody knows: there is the coder's word alone. That of test faces
      is their label. A test picture listed twice counts once, and training pictures that are
      byte-identical to a test picture are left out.

    Raises:
      UserError: for a path without pictures, a label that is no class, a size out of range,
        labelled training pictures that are not there, or test pictures that are damaged or among
        the training ones.
    """
    table.check_size(config.image_size)
    if config.channels not in CHANNELS:
        raise UserError(f"data.channels must be 1 or 3, not {config.channels}")
    if not 2 <= config.classes <= len(CLASSES):
        raise UserError(f"data.classes must be 2 to {len(CLASSES)}, not {config.classes}")
    if not config.path and not config.test_path:
        raise UserError("data.path is not set: a folder of pictures, a list, or ArrayRecord")
    fields = {"train": config.path, "test": config.test_path}
    paths = {part: Path(path) for part, path in fields.items() if path}
    classes, shape = CLASSES[: config.classes], (config.image_size,) * 2 + (config.channels,)
    listed, images = read(
        paths, shape[0], shape[2], classes, config.coder, max_megapixels=config.max_megapixels
    )
    dataset = table.to_dataset(listed, images, {part: (part,) for part in fields}, shape)
    check_readable(dataset.test)
    check_apart(dataset.train, "data.path", {"data.test_path": dataset.test})
    return without_copies(dataset, [dataset.test])


def read(
    paths: Mapping[str, Path],
    size: int,
    channels: int,
    classes: tuple[str, ...],
    coder: str = "",
    *,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> tuple[Table, Images]:
    """Reads the pictures at some paths, and their labels.

    Of a test picture that is there several times only the first counts.

    Args:
      paths: 'train', 'test' or both.
      size: side of the squares that the pictures become, in pixels.
      channels: 1, grey; or 3, RGB.
      classes: names of the classes.
      coder: who labelled the pictures; '': nobody, those to train on have no labels.
      max_megapixels: see `images.decode`.

    Raises:
      UserError: for a path without pictures, a label that is no class, two labels of one test
        picture, or as `sources.find`.
    """
    origins = {
        part: sources.find(
            path,
            size,
            channels,
            labelled=part == "test" or bool(coder),
            max_megapixels=max_megapixels,
        )
        for part, path in paths.items()
    }
    given = {
        part: _labels(paths[part], source, classes)
        if part == "test" or coder
        else np.full(len(source.names), UNKNOWN, np.int32)
        for part, source in origins.items()
    }
    part = np.repeat(list(origins), [len(source.names) for source in origins.values()])
    every = np.concatenate(list(given.values()))
    coders = (coder,) if coder else ()
    first, notes = np.ones(len(part), bool), []
    if "test" in origins:
        first[part == "test"] = _first(paths["test"], origins["test"], given["test"])
        if not first.all():
            notes = [f"{paths['test']}: {np.sum(~first):,} rows of pictures listed before left out"]
    listed = Table(
        classes=classes,
        coders=coders,
        files=Names(pa.concat_arrays([source.names.array for source in origins.values()])),
        part=part,
        labels=np.repeat(every[:, None], len(coders), axis=1),
        truth=np.where(part == "test", every, UNKNOWN).astype(np.int32),
        keep=first,
        label=coder or "majority",
        notes=tuple(notes),
    )
    return listed, Concatenated([source.pictures for source in origins.values()])


def to_test(
    path: Path,
    size: int,
    channels: int,
    classes: Sequence[str],
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Split:
    """Loads labelled pictures to evaluate on, and decodes each one to see that it can be read.

    Raises:
      UserError: as `read`, or for a damaged picture.
    """
    listed, images = read(
        {"test": path}, size, channels, tuple(classes), max_megapixels=max_megapixels
    )
    for note in listed.notes:
        logging.warning("%s", note)
    parts = {"train": (), "test": ("test",)}
    split = table.to_dataset(listed, images, parts, (size, size, channels)).test
    check_readable(split)
    return split


def check_readable(split: Split) -> None:
    """Checks now, and not after hours of training, that every picture can be decoded.

    Raises:
      UserError: naming one that is damaged.
    """
    rows = np.arange(len(split.images))
    for first in range(0, len(rows), CHUNK):  # they need not all fit into memory
        split.images.faces(rows[first : first + CHUNK])


def check_apart(train: Split, train_field: str, tests: Mapping[str, Split]) -> None:
    """Checks that no file is trained and tested on, see `record.Images.paths`.

    Args:
      train: the training faces.
      train_field: the field of the config that they are from.
      tests: test faces by the field that they are from.

    Raises:
      UserError: naming one that is, and both fields.
    """
    paths = train.images.paths()
    for field, test in tests.items():
        shared = pc.is_in(paths, value_set=test.images.paths().drop_null())
        count = pc.sum(shared).as_py() or 0
        if count:
            first = train.names[pc.index(shared, pa.scalar(True)).as_py()]
            raise UserError(
                f"{field} shares {count:,} of its pictures with {train_field}: {first}"
                f"{', ...' if count > 1 else ''}"
            )


def without_copies(dataset: Dataset, tests: Sequence[Split]) -> Dataset:
    """Leaves out of training the pictures that are byte-identical to a test picture, with a note.

    Only files are compared, and only those as long as a test picture are read.
    """
    paths = dataset.train.images.paths()
    tested = pa.concat_arrays([test.images.paths() for test in tests])
    if len(paths) == paths.null_count:
        return dataset
    sizes, tested_sizes = _sizes(paths), _sizes(tested)
    rows = np.flatnonzero(np.isin(sizes, tested_sizes) & (sizes >= 0))
    digests = _digests(paths, rows)
    tested_digests = _digests(tested, np.flatnonzero(np.isin(tested_sizes, sizes[rows])))
    copies = rows[np.isin(digests, tested_digests)]
    if not len(copies):
        return dataset
    kept = np.setdiff1d(np.arange(len(paths)), copies).astype(np.int32)
    note = (
        f"{np.isin(tested_digests, digests).sum():,} test files are byte-identical to "
        f"{len(copies):,} training files, which are left out of training"
    )
    return dataset.with_split("train", dataset.train.take(kept))._replace(
        notes=(*dataset.notes, note)
    )


def _sizes(paths: pa.StringArray) -> Int64[np.ndarray, " paths"]:
    """Bytes of each file, -1 where there is none."""

    def size(path: str | None) -> int:
        try:
            status = os.stat(path or "")
        except (OSError, ValueError):
            return -1
        return status.st_size if stat.S_ISREG(status.st_mode) else -1

    return np.fromiter(map(size, Names(paths)), np.int64, len(paths))


def _digests(paths: pa.StringArray, rows: Int64[np.ndarray, " rows"]) -> np.ndarray:
    """Returns checksums of some files; a file that cannot be read equals no other."""

    def digest(path: str) -> str:
        try:
            with open(path, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:
            return path

    return np.array([digest(paths[row].as_py()) for row in rows.tolist()], str)


def _first(
    path: Path, source: sources.Source, given: Int32[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Returns True where a picture is listed for the first time, however its path is spelt."""
    keys = source.pictures.paths().dictionary_encode().indices.to_numpy()
    _, rows = np.unique(keys, return_index=True)
    again = given != given[rows[keys]]
    if again.any():
        row = int(again.argmax())
        message = f"{source.names[row]} is listed again with another label"
        raise (
            source.listing.error(row, message)
            if source.listing
            else UserError(f"{path}: {message}")
        )
    return np.isin(np.arange(len(keys)), rows)


def _labels(
    path: Path, source: sources.Source, classes: Sequence[str]
) -> Int32[np.ndarray, " rows"]:
    """Returns the class that each picture's label names."""
    if source.listing is not None:
        return source.listing.choices(labels.LABEL, classes)
    indices = labels.index_of(source.labels.array, classes)
    if (indices == UNKNOWN).any():
        row = int((indices == UNKNOWN).argmax())
        raise UserError(
            f"{path}: {source.names[row]}: label {source.labels[row]!r} is none of "
            f"{', '.join(classes)}"
        )
    return indices
