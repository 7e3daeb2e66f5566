"""Faces of one's own, labelled or not, from a folder tree, a list of files or ArrayRecord."""

from pathlib import Path

import ml_collections
import numpy as np
from jaxtyping import Int32

from ferjax.data import sources
from ferjax.data.record import CLASSES, UNKNOWN, Dataset, Names, Split
from ferjax.errors import UserError

MIN_SIZE = 8
CHANNELS = (1, 3)


def load(config: ml_collections.ConfigDict) -> Dataset:
    """The pictures at `path`, and those at `test_path` to evaluate on; see `sources.find`.

    Args:
      config: `path` and `test_path` (either may be empty: no faces); `coder`, the name of whoever
        gave the labels, or empty for faces that nobody labelled; `classes`, how many of `CLASSES`
        there are; `image_size` in pixels; `channels`, 1 (grey) or 3. Labels are names of the
        pictures' folders, or the last words in the lines of a list: classes, or their places.

    Raises:
      UserError: for a place without pictures, a label that is no class, or a size out of range.
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
    return Dataset(
        classes=CLASSES[: config.classes],
        coders=coders,
        image_shape=(config.image_size, config.image_size, config.channels),
        train=_split(config, config.path, labelled=bool(config.coder), coders=len(coders)),
        test=_split(config, config.test_path, labelled=True, coders=len(coders)),
        label=config.coder or "majority",
    )


def _split(config: ml_collections.ConfigDict, path: str, *, labelled: bool, coders: int) -> Split:
    """What is at a path; its labels are known for truth, and given by each coder there is."""
    if not path:
        faces: sources.Pictures | np.ndarray = np.zeros(
            (0, config.image_size, config.image_size, config.channels), np.uint8
        )
        names, labels = Names.of(()), np.empty(0, np.int32)
    else:
        found = sources.find(Path(path), config.image_size, config.channels, labelled=labelled)
        faces, names = found.pictures, found.names
        labels = np.full(len(names), UNKNOWN, np.int32)
        if labelled:
            labels = _classes(found.labels, names, config.classes)
    return Split(
        images=faces,
        labels={
            "annotations": np.repeat(labels[:, None], coders, axis=1),
            "va": np.full((len(labels), coders, 2), np.nan, np.float32),
        },
        truth=labels,
        truth_va=np.full((len(labels), 2), np.nan, np.float32),
        names=names,
    )


def _classes(words: Names, names: Names, count: int) -> Int32[np.ndarray, " rows"]:
    """Places of labels among the classes, whose names or places they are."""
    encoded = words.array.dictionary_encode()
    known = {name: place for place, name in enumerate(CLASSES[:count])}
    known |= {str(place): place for place in range(count)}
    different = encoded.dictionary.to_pylist()
    places = np.array([known.get(word.lower(), UNKNOWN) for word in different], np.int32)
    found = places[encoded.indices.to_numpy()]
    if (found == UNKNOWN).any():
        row = int((found == UNKNOWN).argmax())
        raise UserError(
            f"{names[row]}: label {words[row]!r} is none of {', '.join(CLASSES[:count])}"
        )
    return found
