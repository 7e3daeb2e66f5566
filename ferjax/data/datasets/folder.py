"""Faces of one's own, labelled or not, from a folder tree, a list of files or ArrayRecord."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from ferjax.data import sources
from ferjax.data.record import CLASSES, UNKNOWN, Dataset, InMemory, Names, Split
from ferjax.errors import UserError

MIN_SIZE = 8
CHANNELS = (1, 3)


def load(config: ml_collections.ConfigDict) -> Dataset:
    """The pictures at `path`, and those at `test_path` to evaluate on; see `sources.find`.

    Args:
      config: `path` and `test_path` (either may be empty: no faces); `coder`, the name of whoever
        gave the labels, or empty for faces that nobody labelled; `classes`, how many of `CLASSES`
        there are; `image_size` in pixels; `channels`, 1 (grey) or 3. Labels are classes: the names
        of the pictures' folders, or the last words in the lines of a list.

    Returns:
      Training faces whose truth nobody knows: there is the coder's word alone. That of test faces
      is their label.

    Raises:
      UserError: for a place without pictures, a label that is no class, a size out of range,
        labelled training pictures that are not there, or test pictures that are damaged or among
        the training ones.
    """
    if config.image_size < MIN_SIZE:
        raise UserError(f"data.image_size must be at least {MIN_SIZE}, not {config.image_size}")
    if config.channels not in CHANNELS:
        raise UserError(f"data.channels must be 1 or 3, not {config.channels}")
    if not 2 <= config.classes <= len(CLASSES):
        raise UserError(f"data.classes must be 2 to {len(CLASSES)}, not {config.classes}")
    if not config.path and not config.test_path:
        raise UserError("data.path is not set: a folder of pictures, a list, or ArrayRecord")
    coders = (config.coder,) if config.coder else ()
    size, channels, classes = config.image_size, config.channels, CLASSES[: config.classes]
    train = test = _no_faces(size, channels, len(coders))
    if config.path and coders:
        train = labelled(Path(config.path), size, channels, classes, len(coders))
        train = train._replace(truth=np.full_like(train.truth, UNKNOWN))
    elif config.path:
        found = sources.find(Path(config.path), size, channels)
        train = _split(found, np.full(len(found.names), UNKNOWN, np.int32), coders=0)
    if config.test_path:
        test = to_test(Path(config.test_path), size, channels, classes, len(coders))
        check_apart(train, "data.path", {"data.test_path": test})
    return Dataset(
        classes=classes,
        coders=coders,
        image_shape=(size, size, channels),
        splits={"train": train, "test": test},
        label=config.coder or "majority",
    )


def labelled(
    path: Path, size: int, channels: int, classes: Sequence[str], coders: int = 0
) -> Split:
    """The pictures at a place whose truth is known, and given by each coder; see `sources.find`.

    Raises:
      UserError: for a place without pictures, a label that is no class, or as `sources.find`.
    """
    found = sources.find(path, size, channels, labelled=True)
    return _split(found, _classes(path, found, classes), coders)


def to_test(path: Path, size: int, channels: int, classes: Sequence[str], coders: int = 0) -> Split:
    """The same, of pictures that are all looked at now, and not after hours of training.

    Raises:
      UserError: as `labelled`, or for a damaged picture.
    """
    split = labelled(path, size, channels, classes, coders)
    for row in range(len(split.images)):
        split.images[row]  # one at a time: they need not all fit into memory
    return split


def check_apart(train: Split, train_field: str, tests: Mapping[str, Split]) -> None:
    """Whether no training picture is a test picture, too, see `sources.Pictures.paths`.

    Args:
      train: the training faces.
      train_field: the field of the config that they are from.
      tests: test faces by the field that they are from.

    Raises:
      UserError: naming one that is, and both fields.
    """
    if not isinstance(train.images, sources.Pictures):
        return  # there are none
    paths = train.images.paths()
    for field, test in tests.items():
        if not isinstance(test.images, sources.Pictures):
            continue
        shared = pc.is_in(paths, value_set=test.images.paths())
        count = pc.sum(shared).as_py()
        if count:
            first = train.names[pc.index(shared, pa.scalar(True)).as_py()]
            raise UserError(
                f"{field} shares {count:,} of its pictures with {train_field}: {first}"
                f"{', ...' if count > 1 else ''}"
            )


def _split(found: sources.Source, truth: Int32[np.ndarray, " rows"], coders: int) -> Split:
    """Pictures, with their truth for the label that each coder gave."""
    return Split(
        images=found.pictures,
        labels={
            "annotations": np.repeat(truth[:, None], coders, axis=1),
            "va": np.full((len(truth), coders, 2), np.nan, np.float32),
        },
        truth=truth,
        truth_va=np.full((len(truth), 2), np.nan, np.float32),
        names=found.names,
    )


def _no_faces(size: int, channels: int, coders: int) -> Split:
    faces = InMemory(np.zeros((0, size, size, channels), np.uint8))
    nothing = sources.Source(faces, Names.of(()), Names.of(()))
    return _split(nothing, np.zeros(0, np.int32), coders)


def _classes(
    path: Path, found: sources.Source, classes: Sequence[str]
) -> Int32[np.ndarray, " rows"]:
    """Places of the labels found at `path` among the classes, whose names they are."""
    encoded = found.labels.array.dictionary_encode()
    known = {name: place for place, name in enumerate(classes)}
    different = encoded.dictionary.to_pylist()
    places = np.array([known.get(word.lower(), UNKNOWN) for word in different], np.int32)
    truth = places[encoded.indices.to_numpy()]
    if (truth == UNKNOWN).any():
        row = int((truth == UNKNOWN).argmax())
        raise UserError(
            f"{path}: {found.names[row]}: label {found.labels[row]!r} is none of "
            f"{', '.join(classes)}"
        )
    return truth
