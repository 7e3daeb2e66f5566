"""Checksums that tell data apart, so that a run is not resumed on other data."""

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from ferjax.data.record import UNKNOWN, Dataset, Images, Split

SAMPLED_FACES = 256
"""At most so many faces of a split, evenly spaced, tell its images from others."""


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """Returns what tells a dataset from others: labels of all faces and pixels of some."""
    splits = {name: x for name, x in dataset.splits.items() if name != "validation"}
    return {
        "classes": list(dataset.classes),
        "coders": list(dataset.coders),
        "notes": list(dataset.notes),
        "faces": {name: len(split.images) for name, split in splits.items()},
        "checksums": {name: checksum_of(split) for name, split in splits.items()},
    }


def checksum_of(split: Split) -> int:
    """Returns a checksum over names, labels, truth and the pixels of some faces.

    Raises:
      UserError: if one of these is damaged though somebody labelled it.
    """
    checksum = checksum_of_names(split.names)
    for array in (*(split.labels[name] for name in sorted(split.labels)), split.truth):
        checksum = zlib.crc32(np.ascontiguousarray(array).tobytes(), checksum)
    rows = _sample(split.images)
    faces, readable = split.images.read(rows)
    labelled = (split.labels["annotations"][rows] != UNKNOWN).any(axis=1)
    labelled |= split.truth[rows] != UNKNOWN
    split.images.faces(rows[labelled & ~readable])  # says which one is damaged
    return zlib.crc32(faces.tobytes(), checksum)


def checksum_of_names(names: Sequence[str]) -> int:
    """Returns a checksum over file names."""
    checksum = 0
    for name in names:
        checksum = zlib.crc32(name.encode() + b"\n", checksum)
    return checksum


def checksum_of_pictures(images: Images) -> int:
    """Returns a checksum over the pixels of some pictures; damaged ones count as black."""
    return zlib.crc32(images.read(_sample(images))[0].tobytes())


def _sample(images: Images) -> Int32[np.ndarray, " rows"]:
    count = min(len(images), SAMPLED_FACES)
    return np.linspace(0, len(images) - 1, count).astype(np.int32)
