"""CIFAR-10, and lists of what others say of its pictures.

A. Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32, UInt8

from ferjax.data import labels, prepared, table
from ferjax.data.record import UNKNOWN, Dataset, Names
from ferjax.data.table import Table
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
INDEX, LABEL, CLASS = "index", "label", "class"
CLEAN = "clean"
"""The coder who gave CIFAR-10's own labels."""

INSTRUCTIONS = (
    "expected data_batch_1.bin to data_batch_5.bin and test_batch.bin, or train and test (each a "
    "folder of pictures or a .tar, with names in the official order) with train_labels.csv and "
    "test_labels.csv (index, label, class)"
)


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads CIFAR-10, [32, 32, 3], annotated by whom `config` names.

    Args:
      config: `dir`, the folder of the files (see `INSTRUCTIONS`); `cache`, where prepared data go
        (empty: the user's cache folder); `lists`, tables beside them with columns `index` (of the
        official training pictures) and one a coder, labels from 0 to 9 or -1; `coders`, which of
        those columns to take, in this order, `clean` standing for CIFAR-10's own labels unless a
        list has a column of that name (empty: all of them); `subset`, how many training pictures
        to draw by `seed` (0: all).

    Raises:
      UserError: if a file is missing or malformed, or has no column of a name.
    """
    if not config.dir:
        raise UserError(f"data.dir is not set; {INSTRUCTIONS}")
    root = Path(config.dir)
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {INSTRUCTIONS}")
    official = (root / BINARY["train"][0]).exists()
    listed, pictures = _read_binary(root) if official else _read_pictures(root)
    lists = [root / name for name in config.lists]
    listed = annotated(listed, lists, tuple(config.coders))
    ready = prepared.prepare("cifar10", pictures, config.cache, shape=(SIDE, SIDE))
    return table.to_dataset(
        listed,
        ready.images(SIDE, channels=3),
        {"train": ("train",), "test": ("test",)},
        (SIDE, SIDE, 3),
        subset=config.subset,
        seed=config.seed,
    )


def annotated(listed: Table, lists: Sequence[Path], coders: tuple[str, ...] = ()) -> Table:
    """Returns the table with what coders say of the training pictures.

    Args:
      listed: the pictures; its one coder is `CLEAN`.
      lists: tables of coders, see `read_list`.
      coders: those to take; (): all, `CLEAN` first.

    Raises:
      UserError: for a list that is missing or malformed, or a coder that none has.
    """
    training = listed.part == "train"
    clean = listed.truth[training]
    annotations = {CLEAN: clean}
    for path in lists:
        annotations |= read_list(path, len(clean))
    missing = [name for name in coders if name not in annotations]
    if missing:
        raise UserError(f"data.coders: no coder {missing[0]!r}, there are {', '.join(annotations)}")
    coders = coders or tuple(annotations)
    labels_of = np.full((len(training), len(coders)), UNKNOWN, np.int32)
    labels_of[training] = np.stack([annotations[name] for name in coders], axis=1)
    notes = [
        f"coder {name} agrees with CIFAR-10's label on {(annotations[name] == clean).mean():.2%}"
        for name in coders
    ]
    label = "majority" if len(coders) > 1 else coders[0]
    return listed._replace(coders=coders, labels=labels_of, label=label).with_notes(notes)


def read_list(path: Path, pictures: int) -> dict[str, Int32[np.ndarray, " pictures"]]:
    """Reads what each coder of a list says of every picture, -1 of those it does not list.

    Args:
      path: a table with columns `index`, below `pictures`, and one a coder, labels from 0 to 9 or
        -1.
      pictures: how many there are.

    Raises:
      UserError: if the file is missing or malformed.
    """
    if not path.exists():
        raise UserError(f"data.lists: no file {path}")
    listing = labels.read_table(path)
    header = list(listing.columns)
    if header[:1] != [INDEX] or len(header) < 2:
        raise UserError(f"{path}:1: expected the header index and one name a coder, not {header}")
    index = listing.numbers(INDEX, pictures - 1)
    annotations = {name: np.full(pictures, UNKNOWN, np.int32) for name in header[1:]}
    for name, given in annotations.items():
        given[index] = listing.numbers(name, len(CLASSES) - 1, unknown=True)
    return annotations


def read_truth(path: Path) -> Int32[np.ndarray, " rows"]:
    """Reads CIFAR-10's own labels of a part.

    Raises:
      UserError: naming the line that is malformed, out of order, or whose label and class differ.
    """
    listing = labels.read_table(path, [INDEX, LABEL, CLASS])
    index = listing.numbers(INDEX, len(listing) - 1)
    label = listing.numbers(LABEL, len(CLASSES) - 1)
    named = listing.choices(CLASS, CLASSES, "class")
    for row in np.flatnonzero(index != np.arange(len(listing))).tolist():
        raise listing.error(row, f"expected index {row}, not {index[row]}")
    for row in np.flatnonzero(label != named).tolist():
        raise listing.error(
            row, f"label {label[row]} is {CLASSES[label[row]]}, not {CLASSES[named[row]]!r}"
        )
    return label


@dataclasses.dataclass(frozen=True)
class BinaryPictures(prepared.Pictures):
    """The pictures of the official binary version, encoded as PNG."""

    root: Path
    files: Names

    def inputs(self) -> list[Path]:
        """See `prepared.Pictures.inputs`."""
        return _binary_files(self.root)

    def read(self) -> Iterator[bytes | None]:
        """See `prepared.Pictures.read`."""
        for path in self.inputs():
            for record in _records(path):
                pixels = record[1:].reshape(3, SIDE, SIDE).transpose(1, 2, 0)
                yield cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()


def _read_binary(root: Path) -> tuple[Table, prepared.Pictures]:
    paths = _binary_files(root)
    records = {path: _records(path) for path in paths}
    names = Names.of(
        f"{path.stem}/{row:05d}" for path, part in records.items() for row in range(len(part))
    )
    tests = len(records[paths[-1]])
    truth = np.concatenate([part[:, 0] for part in records.values()]).astype(np.int32)
    return _table(names, names, len(names) - tests, truth), BinaryPictures(root, names)


def _binary_files(root: Path) -> list[Path]:
    """All files of the binary version, the test batch last."""
    paths = [root / name for names in BINARY.values() for name in names]
    _check_there(paths)
    return paths


def _records(path: Path) -> UInt8[np.ndarray, "rows bytes"]:
    size = path.stat().st_size
    if size == 0 or size % RECORD:
        raise UserError(f"{path}: {size:,} bytes are no records of {RECORD:,}")
    records = np.memmap(path, np.uint8, "r").reshape(-1, RECORD)
    if (records[:, 0] >= len(CLASSES)).any():
        raise UserError(f"{path}: a label is not from 0 to {len(CLASSES) - 1}")
    return records


def _read_pictures(root: Path) -> tuple[Table, prepared.Pictures]:
    files, truths = [], []
    for part in BINARY:
        path = root / f"{part}_labels.csv"
        source = prepared.find_source(root, part)
        _check_there([source or root / f"{part}.tar", path])
        names, truth = prepared.list_pictures(root, part), read_truth(path)
        if len(names) != len(truth):
            raise UserError(
                f"{source} holds {len(names):,} pictures, but {path.name} lists {len(truth):,}"
            )
        files.append(names.array)
        truths.append(truth)
    every = Names(pa.concat_arrays(files))
    names = Names(pc.replace_substring_regex(every.array, "^.*/", ""))
    listed = _table(names, every, len(files[0]), np.concatenate(truths))
    return listed, prepared.Files(root, every)


def _check_there(paths: Sequence[Path]) -> None:
    missing = [path for path in paths if not path.exists()]
    if missing:
        raise UserError(f"{missing[0]}: no such file; {INSTRUCTIONS}")


def _table(names: Names, files: Names, training: int, truth: Int32[np.ndarray, " rows"]) -> Table:
    """The pictures with CIFAR-10's own labels, which coder `CLEAN` gave to the training ones."""
    part = np.repeat(["train", "test"], [training, len(names) - training])
    return Table(
        classes=CLASSES,
        coders=(CLEAN,),
        files=files,
        part=part,
        labels=np.where(part == "train", truth, UNKNOWN).astype(np.int32)[:, None],
        truth=truth,
        names=names,
    )
