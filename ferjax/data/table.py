"""What a dataset is: a table with a row for each picture, and how it becomes splits."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32

from ferjax.data import noise, prepared
from ferjax.data.record import Dataset, Images, Names, Split
from ferjax.errors import UserError

MIN_SIZE = 8
"""Pixels to which a face may be shrunk."""


class Table(NamedTuple):
    """What is known about the pictures of a dataset, row by row.

    Attributes:
      classes: class names; of faces the first of `record.CLASSES`.
      coders: names of the coders.
      files: of the pictures: `FOLDER/NAME`, in a folder or in `FOLDER.tar`; see `prepared.Files`.
      part: [N] strings, the part of the dataset that each picture is in, such as 'train'.
      labels: [N, coders] int32, what each coder says, -1 where nothing.
      truth: [N] int32, the class to evaluate by, -1 where nobody knows it.
      names: what noise lists and messages call the pictures; None: as their files.
      votes: [N, classes] int32, how many taggers chose each class.
      va: [N, coders, 2] float32, valence and arousal that each coder gave, nan where none.
      truth_va: [N, 2] float32, those to evaluate by.
      groups: equal for pictures of one person, where that is known.
      keep: [N] bool, which pictures count; the others are only compared with them. None: all.
      label: what a face is trained on unless the config says otherwise, see `data.targets`.
      notes: one line for each thing the user should know.
    """

    classes: tuple[str, ...]
    coders: tuple[str, ...]
    files: Names
    part: np.ndarray
    labels: Int32[np.ndarray, "rows coders"]
    truth: Int32[np.ndarray, " rows"]
    names: Names | None = None
    votes: Int32[np.ndarray, "rows classes"] | None = None
    va: Float32[np.ndarray, "rows coders 2"] | None = None
    truth_va: Float32[np.ndarray, "rows 2"] | None = None
    groups: Sequence[str] = ()
    keep: Bool[np.ndarray, " rows"] | None = None
    label: str = "majority"
    notes: tuple[str, ...] = ()

    def where(self, rows: Bool[np.ndarray, " rows"]) -> "Table":
        """Returns the rows that are true."""
        if rows.all():
            return self
        indices = np.flatnonzero(rows)
        changed: dict[str, Any] = {}
        for name in ("part", "labels", "truth", "votes", "va", "truth_va", "keep"):
            value = getattr(self, name)
            changed[name] = None if value is None else value[indices]
        for name in ("files", "names", "groups"):
            value = getattr(self, name)
            changed[name] = Names.of(value).take(indices) if value else value
        return self._replace(**changed)

    def with_notes(self, notes: Sequence[str]) -> "Table":
        """Returns the table with more notes."""
        return self._replace(notes=(*self.notes, *notes))


def load(
    name: str,
    table: Table,
    root: Path,
    *,
    size: int,
    channels: int,
    cache: str = "",
    train: Sequence[str] = ("train",),
    test: Sequence[str] = ("test",),
    subset: int = 0,
    seed: int = 0,
    drop_copies: bool = True,
    skip_corrupt: bool | None = None,
) -> Dataset:
    """Prepares the pictures of a table once and makes splits of it.

    Args:
      name: of the dataset, for the folder of the prepared data.
      table: the dataset.
      root: folder that the table's files are relative to.
      size: side of the squares that the pictures become, in pixels.
      channels: 1, grey; or 3, RGB.
      cache: where prepared data go; empty: the user's cache folder.
      train: parts to train on.
      test: parts to test on.
      subset: how many training pictures to draw (0: all).
      seed: of the draw, which depends on names and not on their order.
      drop_copies: whether to leave out of training what is also in a test part.
      skip_corrupt: whether to go on without pictures that cannot be read, see `prepared.prepare`.

    Raises:
      UserError: for a mistake in the data, or a part or size that makes no sense.
    """
    check_size(size)
    parts = {"train": tuple(train), "test": tuple(test)}
    check_parts(table, parts)
    pictures = prepared.prepare(
        name, prepared.Files(root, table.files), cache, skip_corrupt=skip_corrupt
    )
    table = readable(table, pictures)
    table = group_copies(table, pictures.digests, train, test, drop=drop_copies)
    images = pictures.images(size, channels)
    return to_dataset(table, images, parts, (size, size, channels), subset=subset, seed=seed)


def readable(table: Table, pictures: prepared.Prepared) -> Table:
    """Returns the rows whose picture was prepared, with notes on the others."""
    notes = []
    if pictures.skipped:
        count = len(pictures.skipped)
        notes.append(f"{count:,} unreadable images skipped, listed in {pictures.listed}")
    return table.where(pictures.readable).with_notes(notes)


def group_copies(
    table: Table, digests: Names, train: Sequence[str], test: Sequence[str], *, drop: bool
) -> Table:
    """Groups pictures of equal bytes: they show the same person, at least.

    Args:
      table: what to group, unless it has groups.
      digests: of the pictures, equal for equal bytes.
      train: parts that are trained on.
      test: parts that are tested on.
      drop: whether training pictures that are in a test part, too, no longer count.
    """
    content = digests.array.dictionary_encode().indices.to_numpy()
    keep = _kept(table)
    training, testing = np.isin(table.part, train), np.isin(table.part, test)
    copies = training & np.isin(content, content[testing])
    copied = np.isin(content[testing], content[copies]).sum()
    notes = []
    if copied:
        fate = "left out of" if drop else "kept in"
        notes.append(
            f"{copied:,} {' + '.join(test)} files are byte-identical to {copies.sum():,} training "
            f"files; {np.sum(copies & keep):,} faces {fate} training"
        )
    redundant = training.sum() - len(np.unique(content[training]))
    if redundant:
        notes.append(f"{redundant:,} training files are redundant copies of others (kept)")
    return table._replace(
        groups=table.groups or digests, keep=keep & ~copies if drop else keep
    ).with_notes(notes)


def to_dataset(
    table: Table,
    images: Images,
    parts: Mapping[str, Sequence[str]],
    image_shape: tuple[int, int, int],
    *,
    subset: int = 0,
    seed: int = 0,
) -> Dataset:
    """Makes splits of the rows that count.

    Args:
      table: the dataset.
      images: of its rows.
      parts: those that make up each split, in this order; 'train' and 'test' must be among them.
      image_shape: (height, width, channels).
      subset: how many training faces to draw (0: all).
      seed: of the draw, which depends on names and not on their order.

    Raises:
      UserError: for more faces to draw than there are.
    """
    keep = _kept(table)
    names = Names.of(table.names or table.files)
    rows = {split: _rows(table.part, keep, wanted) for split, wanted in parts.items()}
    drawn = draw(names.take(rows["train"]), subset, seed)
    notes = []
    if len(drawn) < len(rows["train"]):
        notes.append(f"a subset of {len(drawn):,} of {len(rows['train']):,} training faces")
        rows["train"] = rows["train"][drawn]
    shape = table.labels.shape
    no_va = np.full((*shape, 2), np.nan, np.float32)
    labels = {"annotations": table.labels, "va": no_va if table.va is None else table.va}
    if table.votes is not None:
        labels["votes"] = table.votes
    every = Split(
        images=images,
        labels=labels,
        truth=table.truth,
        truth_va=np.full((shape[0], 2), np.nan, np.float32)
        if table.truth_va is None
        else table.truth_va,
        names=names,
        groups=table.groups,
    )
    return Dataset(
        classes=table.classes,
        coders=table.coders,
        image_shape=image_shape,
        splits={split: every.take(wanted) for split, wanted in rows.items()},
        label=table.label,
        notes=(*table.notes, *notes),
    )


def draw(names: Sequence[str], count: int, seed: int) -> Int32[np.ndarray, " drawn"]:
    """Draws rows of `count` names (0: all) by seed and name alone.

    Raises:
      UserError: if `data.subset` asks for more than there are, or less than none.
    """
    if not 0 <= count <= len(names):
        raise UserError(f"data.subset must be 0 (all) to {len(names)}, not {count}")
    if count == 0:
        return np.arange(len(names), dtype=np.int32)
    order = np.argsort(noise.uniforms(seed, names, "subset"), kind="stable")
    return np.sort(order[:count]).astype(np.int32)


def check_size(size: int) -> None:
    """Checks that faces are not shrunk to nothing."""
    if size < MIN_SIZE:
        raise UserError(f"data.image_size must be at least {MIN_SIZE}, not {size}")


def check_parts(table: Table, parts: Mapping[str, Sequence[str]]) -> None:
    """Checks that a table has the parts of every split, and that no two splits share one.

    Raises:
      UserError: naming the part that is wrong.
    """
    there = list(dict.fromkeys(table.part.tolist()))
    every = [part for wanted in parts.values() for part in wanted]
    for part in every:
        if part not in there:
            raise UserError(f"unknown part {part!r}, expected {', '.join(there)}")
        if every.count(part) > 1:
            raise UserError(f"data: part {part!r} is used twice")


def _kept(table: Table) -> Bool[np.ndarray, " rows"]:
    return np.ones(len(table.part), bool) if table.keep is None else table.keep


def _rows(
    part: np.ndarray, keep: Bool[np.ndarray, " rows"], wanted: Sequence[str]
) -> Int32[np.ndarray, " wanted"]:
    """The rows of some parts that count, part after part."""
    pieces = [np.flatnonzero(keep & (part == name)) for name in wanted]
    return np.concatenate([np.zeros(0, np.int64), *pieces]).astype(np.int32)
