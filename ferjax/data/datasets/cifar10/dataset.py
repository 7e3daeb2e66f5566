"""CIFAR-10 as a training and a test split, with any lists of annotations."""

from pathlib import Path

import ml_collections
import numpy as np
from jaxtyping import Int32

from ferjax.data import prepared
from ferjax.data.datasets.cifar10 import files
from ferjax.data.datasets.cifar10.cifar10_dataset_builder import Builder
from ferjax.data.record import UNKNOWN, Dataset, Split
from ferjax.errors import UserError

CLEAN = "clean"
"""The coder who gave CIFAR-10's own labels."""


def load(config: ml_collections.ConfigDict) -> Dataset:
    """CIFAR-10, [32, 32, 3], annotated by whom `config` names.

    Args:
      config: `dir`, the folder of the files (see `files.INSTRUCTIONS`); `cache`, where prepared
        data go (empty: the user's cache folder); `lists`, CSV files beside them with columns
        `index` (place among the official training pictures) and one a coder, labels from 0 to 9
        or -1; `coders`, which of those columns to take, in this order, `clean` standing for
        CIFAR-10's own labels unless a list has a column of that name (empty: all of them);
        `subset`, how many training pictures to draw by `seed` (0: all).

    Raises:
      UserError: if a file is missing or malformed, or has no column of a name.
    """
    if not config.dir:
        raise UserError(f"data.dir is not set; {files.INSTRUCTIONS}")
    folder = Path(config.dir)
    checksum = prepared.checksum(folder, files.inputs(folder))
    builder = prepared.prepare(Builder, "cifar10", folder, config.cache, checksum)
    train, test = (_read(builder, split) for split in files.BINARY)
    said = {CLEAN: train.truth}
    for name in config.lists:
        said |= read_list(folder / name, len(train.truth))
    missing = [name for name in config.coders if name not in said]
    if missing:
        raise UserError(f"data.coders: no coder {missing[0]!r}, there are {', '.join(said)}")
    coders = tuple(config.coders) or tuple(said)
    train = _annotated(train, np.stack([said[name] for name in coders], axis=1))
    chosen = prepared.subset(train.names, config.subset, config.seed)
    return Dataset(
        classes=files.CLASSES,
        coders=coders,
        image_shape=(files.SIDE, files.SIDE, 3),
        splits={
            "train": train.take(chosen),
            "test": _annotated(test, np.full((len(test.truth), len(coders)), UNKNOWN, np.int32)),
        },
        label="majority" if len(coders) > 1 else coders[0],
        notes=tuple(
            f"coder {name} agrees with CIFAR-10's label on {(said[name] == said[CLEAN]).mean():.2%}"
            for name in coders
        ),
    )


def read_list(path: Path, pictures: int) -> dict[str, Int32[np.ndarray, " pictures"]]:
    """What each coder of a list says of every picture, -1 of those it does not list.

    Args:
      path: CSV with columns `index`, a place below `pictures`, and one a
        coder, labels from 0 to 9 or -1.
      pictures: how many there are.

    Raises:
      UserError: if the file is missing or malformed.
    """
    if not path.exists():
        raise UserError(f"data.lists: no file {path}")
    rows = prepared.read_rows(path, None)
    _, header = next(rows)
    if header[:1] != ["index"] or len(header) < 2 or len(set(header)) < len(header):
        raise UserError(f"{path}:1: expected the header index and one name a coder, {header}")
    said = np.full((pictures, len(header) - 1), UNKNOWN, np.int32)
    for line, (index, *labels) in rows:
        place = prepared.number(index, pictures - 1, path, line)
        said[place] = [
            UNKNOWN
            if label == str(UNKNOWN)
            else prepared.number(label, len(files.CLASSES) - 1, path, line)
            for label in labels
        ]
    return dict(zip(header[1:], said.T, strict=True))


def _read(builder: prepared.Builder, split: str) -> Split:
    """A split without annotations."""
    records = prepared.records(builder, [split])
    names, labels = [], []
    for record in records.__getitems__(range(len(records))):  # one call reads far faster
        picture = prepared.features(record)
        names.append(picture["name"].bytes_list.value[0].decode())
        labels.append(picture["label"].int64_list.value[0])
    return Split(
        images=prepared.PreparedImages(records, files.SIDE, channels=3),
        labels={},
        truth=np.array(labels, np.int32),
        truth_va=np.full((len(labels), 2), np.nan, np.float32),
        names=names,
    )


def _annotated(split: Split, annotations: Int32[np.ndarray, "rows coders"]) -> Split:
    va = np.full((*annotations.shape, 2), np.nan, np.float32)
    return split._replace(labels={"annotations": annotations, "va": va})
