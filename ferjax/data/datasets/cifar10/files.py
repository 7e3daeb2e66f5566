"""CIFAR-10 as files: the official binary version, or pictures with lists of labels.

A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ferjax.data import prepared
from ferjax.errors import UserError

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
"""Bytes of a picture in the binary version: its label, then planes of red, green and blue."""

BINARY = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
ENDINGS = (".png", ".jpg", ".jpeg")
INSTRUCTIONS = (
    "expected data_batch_1.bin to data_batch_5.bin and test_batch.bin (the official binary "
    "version), or train and test (each a folder of pictures or a .tar, whose names in ascending "
    "order are the official one) with train_labels.csv and test_labels.csv (columns index, label, "
    "class)"
)


class Picture(NamedTuple):
    """One picture.

    Attributes:
      name: of its file, or its place in the official order.
      encoded: bytes of a picture file.
      label: in [0, 10).
    """

    name: str
    encoded: bytes
    label: int


def inputs(folder: Path) -> list[Path]:
    """All files that hold the data.

    Raises:
      UserError: if one is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {INSTRUCTIONS}")
    binary = [folder / name for names in BINARY.values() for name in names]
    if binary[0].exists():
        found = binary
    else:
        found = []
        for split in BINARY:
            source = _source(folder, split)
            pictures = sorted(source.iterdir()) if source.is_dir() else [source]
            found += [*pictures, _labels(folder, split)]
    missing = [path for path in found if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no such file; {INSTRUCTIONS}")
    return found


def read(folder: Path, split: str) -> Iterator[Picture]:
    """The pictures of 'train' or 'test' in the official order.

    Raises:
      UserError: for a file that is malformed, or a picture that is damaged or not 32×32.
    """
    if (folder / BINARY["train"][0]).exists():
        for name in BINARY[split]:
            yield from _read_binary(folder / name)
        return
    labels = _read_labels(_labels(folder, split))
    pictures = sorted(prepared.read_pictures(_source(folder, split), ENDINGS))
    if len(pictures) != len(labels):
        raise UserError(
            f"{_source(folder, split)} holds {len(pictures):,} pictures, but "
            f"{_labels(folder, split).name} lists {len(labels):,}"
        )
    for (name, encoded), label in zip(pictures, labels, strict=True):
        pixels = prepared.decode(encoded, channels=3)
        if pixels is None or pixels.shape[:2] != (SIDE, SIDE):
            raise UserError(f"{split}/{name}: not a picture of {SIDE}×{SIDE} pixels")
        yield Picture(name, encoded, label)


def _source(folder: Path, split: str) -> Path:
    return folder / split if (folder / split).is_dir() else folder / f"{split}.tar"


def _labels(folder: Path, split: str) -> Path:
    return folder / f"{split}_labels.csv"


def _read_labels(path: Path) -> list[int]:
    labels: list[int] = []
    for line, (index, label, name) in prepared.read_rows(path, ["index", "label", "class"]):
        if index != str(len(labels)):
            raise UserError(f"{path}:{line}: expected index {len(labels)}, found {index!r}")
        labels.append(prepared.number(label, len(CLASSES) - 1, path, line))
        if name != CLASSES[labels[-1]]:
            raise UserError(f"{path}:{line}: label {label} is {CLASSES[labels[-1]]}, not {name!r}")
    return labels


def _read_binary(path: Path) -> Iterator[Picture]:
    records = np.fromfile(path, np.uint8)
    if len(records) == 0 or len(records) % RECORD:
        raise UserError(f"{path}: {len(records):,} bytes are no records of {RECORD:,}")
    records = records.reshape(-1, RECORD)
    if (records[:, 0] >= len(CLASSES)).any():
        raise UserError(f"{path}: a label is not from 0 to {len(CLASSES) - 1}")
    for row, record in enumerate(records):
        pixels = record[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
        encoded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        yield Picture(f"{path.stem}/{row:05d}", encoded, int(record[0]))
