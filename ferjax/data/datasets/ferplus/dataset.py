"""FERPlus as a training and a test split: prepares the data once, then picks faces and labels."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np
from jaxtyping import Int32

from ferjax.data import prepared
from ferjax.data.datasets.ferplus import files
from ferjax.data.datasets.ferplus.ferplus_dataset_builder import SKIPPED, Builder
from ferjax.data.record import CLASSES, UNKNOWN, Dataset, Split
from ferjax.errors import UserError

MODES = {"majority": 5, "multi_target": 3, "probability": 0}
"""More than this many tenths of a face's votes must go to a class for the class to count."""

MIN_SIZE = 8
"""Pixels to which a face may be shrunk."""

CONTEMPT = CLASSES.index("contempt")

LABELS = {"majority": "ferplus", "multi_target": "multi_target", "probability": "votes"}
"""What each mode trains on (`Dataset.label`)."""


def load(config: ml_collections.ConfigDict) -> Dataset:
    """FERPlus, with FER2013's own labels as a second coder where their file is there.

    Images are grey, [size, size, 1]. The label of coder `ferplus`, and the truth, is the class
    with most votes (the first in `CLASSES` of several); `votes` are the counts that the mode keeps,
    so that their fractions are its target.

    Args:
      config: `dir`, the folder of the FERPlus project's files; `cache`, where prepared data go
        (empty: the user's cache folder); `image_size` in pixels (the files have 48); `mode`, see
        `kept_votes`; `train_parts` and `test_part` of Training, PublicTest and PrivateTest (an
        empty test part: PrivateTest if its images are there, else PublicTest);
        `drop_test_copies`, whether to leave out of training what is also in the test part;
        `skip_corrupt`, whether to go on without unreadable images; `subset`, how many training
        faces to draw by `seed` (0: all); `classes`, 8, or 7 to leave faces of contempt out, which
        FER2013 does not know; `ferplus_share` of the training faces, drawn by `seed`, that keep
        coder `ferplus`'s label and the votes.

    Raises:
      UserError: if a file is missing, malformed or unreadable, or a split comes out empty.
    """
    if config.mode not in MODES:
        raise UserError(f"data.mode: unknown mode {config.mode!r}, expected {', '.join(MODES)}")
    if config.image_size < MIN_SIZE:
        raise UserError(f"data.image_size must be at least {MIN_SIZE}, not {config.image_size}")
    if len(set(config.train_parts)) < len(config.train_parts):
        raise UserError("data.train_parts names a part twice")
    if config.classes not in (CONTEMPT, len(CLASSES)):
        raise UserError(f"data.classes must be {CONTEMPT} or {len(CLASSES)}, not {config.classes}")
    if not 0 <= config.ferplus_share <= 1:
        raise UserError(f"data.ferplus_share must be in [0, 1], not {config.ferplus_share}")
    if not config.dir:
        raise UserError(f"data.dir is not set; {files.INSTRUCTIONS}")
    builder = prepare(Path(config.dir), config.cache, config.skip_corrupt)
    test_part, reason = _test_part(config, builder)
    parts = [*config.train_parts, test_part]
    columns, images = _read(builder, parts, config.image_size)
    votes = kept_votes(columns.votes, config.mode)

    kept = (votes.sum(axis=1) > 0) & (votes.argmax(axis=1) < config.classes)
    training = columns.part < len(config.train_parts)
    copies = np.logical_and(training, np.isin(columns.digests, columns.digests[~training]))
    train_rows = _rows(training & kept & ~(copies & config.drop_test_copies))
    test_rows = _rows(~training & kept)
    for part, rows in (("training", train_rows), ("test", test_rows)):
        if not len(rows):
            raise UserError(f"the {part} split is empty: {config.dir} has no face for it")
    chosen = prepared.subset([columns.names[row] for row in train_rows], config.subset, config.seed)

    notes = [f"trains on {' + '.join(config.train_parts)}, tests on {test_part}{reason}"]
    notes += _row_notes(builder, parts, columns, votes, config.mode)
    notes += _copy_notes(test_part, columns, training, copies, kept, config.drop_test_copies)
    if len(chosen) < len(train_rows):
        notes.append(f"a subset of {len(chosen):,} of {len(train_rows):,} training faces")
    coders, everything = _split(columns, images, votes[:, : config.classes])
    train = everything.take(train_rows[chosen])
    if config.ferplus_share < 1:
        train, note = _hidden(train, config.ferplus_share, config.seed)
        notes.append(note)
    return Dataset(
        classes=CLASSES[: config.classes],
        coders=coders,
        image_shape=(config.image_size, config.image_size, 1),
        splits={"train": train, "test": everything.take(test_rows)},
        label=LABELS[config.mode],
        notes=tuple(notes),
    )


def kept_votes(votes: Int32[np.ndarray, "faces 10"], mode: str) -> Int32[np.ndarray, "faces 8"]:
    """The votes that count, over `CLASSES`; all zero for a face that is dropped.

    Votes of 1 are outliers and dropped. Of what is left, a class counts in mode

    - `majority` if it holds more than a half,
    - `multi_target` if it holds more than 30 % (a prediction is right if its class counts),
    - `probability` if it has any (the target is the fractions).

    The test faces are picked by the same rule, so figures of different modes are of different
    faces.

    A face is dropped unless the classes that count, `unknown` and `not a face` apart, together hold
    more than half of the votes left. So the faces of the first mode are among those of the
    second, and these among those of the third.

    Args:
      votes: over `CLASSES`, then unknown, then not a face.
      mode: as above (Barsoum et al. 2016, section 3).
    """
    left = _without_outliers(votes)
    total = left.sum(axis=1, keepdims=True)
    counted = np.where(10 * left > MODES[mode] * total, left, 0)[:, : len(CLASSES)]
    holds = 2 * counted.sum(axis=1, keepdims=True) > total
    return np.where(holds, counted, 0).astype(np.int32)


def _without_outliers(votes: Int32[np.ndarray, "faces 10"]) -> Int32[np.ndarray, "faces 10"]:
    return np.where(votes > 1, votes, 0).astype(np.int32)


class Columns(NamedTuple):
    """What is known about every face of some parts, one row each, apart from its image.

    Attributes:
      names: file names.
      part: place of the face's part in the list of parts.
      votes: [N, 10], over `CLASSES`, then unknown, then not a face.
      rows: [N], how many rows of the votes file list the face.
      fer2013: [N], FER2013's own label or -1.
      digests: [N], equal for files with equal bytes.
    """

    names: list[str]
    part: np.ndarray
    votes: np.ndarray
    rows: np.ndarray
    fer2013: np.ndarray
    digests: np.ndarray


def prepare(folder: Path, cache: str, skip_corrupt: bool) -> prepared.Builder:
    """The prepared data of a folder, see `prepared.prepare`."""

    def check(builder: prepared.Builder) -> None:
        if not (Path(builder.data_dir) / SKIPPED).exists():
            raise UserError(
                f"{builder.data_dir} is damaged: delete it, and the data will be prepared again"
            )
        _refuse_skipped(builder, skip_corrupt)

    return prepared.prepare(Builder, "ferplus", folder, cache, files.checksum(folder), check)


def _refuse_skipped(builder: prepared.Builder, skip_corrupt: bool) -> None:
    skipped = _skipped(builder)
    if skipped and not skip_corrupt:
        name, reason = skipped[0]
        raise UserError(
            f"{name}: {reason} image ({len(skipped)} in all); mend the file, or go on without by "
            "data.skip_corrupt=True"
        )


def _skipped(builder: prepared.Builder) -> list[list[str]]:
    with (Path(builder.data_dir) / SKIPPED).open(newline="") as file:
        return list(csv.reader(file))[1:]


def _test_part(config: ml_collections.ConfigDict, builder: prepared.Builder) -> tuple[str, str]:
    """The part to test on and, in words, why it is not the usual one."""
    there = builder.info.metadata["parts"]
    test_part = config.test_part or ("PrivateTest" if "PrivateTest" in there else "PublicTest")
    for part in (*config.train_parts, test_part):
        if part not in files.PARTS:
            raise UserError(f"unknown part {part!r}, expected {', '.join(files.PARTS)}")
        if part not in there:
            raise UserError(f"{config.dir}: no {files.PARTS[part]} folder or .tar for {part}")
        if part not in builder.info.splits:
            raise UserError(f"{config.dir}: {files.VOTES} lists no readable face of {part}")
    if test_part in config.train_parts:
        raise UserError(f"data.test_part: {test_part} is also in data.train_parts")
    fallback = not config.test_part and test_part == "PublicTest"
    return test_part, " (no PrivateTest images)" if fallback else ""


def _read(
    builder: prepared.Builder, parts: Sequence[str], size: int
) -> tuple[Columns, prepared.PreparedImages]:
    """Columns and images of some parts, part after part."""
    records = prepared.records(builder, parts)
    names, votes, rows, fer2013, digests = [], [], [], [], []
    for record in records.__getitems__(range(len(records))):  # one call reads far faster
        face = prepared.features(record)
        names.append(face["name"].bytes_list.value[0].decode())
        votes.append(face["votes"].int64_list.value)
        rows.append(face["rows"].int64_list.value[0])
        fer2013.append(face["fer2013"].int64_list.value[0])
        digests.append(face["digest"].bytes_list.value[0].decode())
    columns = Columns(
        names=names,
        part=np.repeat(
            np.arange(len(parts)), [builder.info.splits[part].num_examples for part in parts]
        ),
        votes=np.array(votes, np.int32),
        rows=np.array(rows, np.int32),
        fer2013=np.array(fer2013, np.int32),
        digests=np.array(digests),
    )
    return columns, prepared.PreparedImages(records, size, channels=1)


def _split(
    columns: Columns, images: prepared.PreparedImages, votes: Int32[np.ndarray, "faces 8"]
) -> tuple[tuple[str, ...], Split]:
    """The names of the coders, and all faces as one split."""
    label = np.where(votes.any(axis=1), votes.argmax(axis=1), UNKNOWN).astype(np.int32)
    coders = {"ferplus": label}
    if (columns.fer2013 != UNKNOWN).any():
        coders["fer2013"] = columns.fer2013
    split = Split(
        images=images,
        labels={
            "annotations": np.stack(list(coders.values()), axis=1),
            "va": np.full((len(label), len(coders), 2), np.nan, np.float32),
            "votes": votes,
        },
        truth=label,
        truth_va=np.full((len(label), 2), np.nan, np.float32),
        names=columns.names,
        groups=columns.digests.tolist(),  # copies of a file show the same person, at least
    )
    return tuple(coders), split


def _hidden(train: Split, share: float, seed: int) -> tuple[Split, str]:
    """The split with FERPlus's label and votes on a share of its faces only, and words for it."""
    count = round(share * len(train.names))
    hidden = np.ones(len(train.names), bool)
    if count:
        hidden[prepared.subset(train.names, count, seed)] = False
    labels = {name: array.copy() for name, array in train.labels.items()}
    labels["annotations"][hidden, 0] = UNKNOWN
    labels["votes"][hidden] = 0
    return train._replace(labels=labels), f"{(~hidden).sum():,} training faces keep FERPlus's label"


def _rows(mask: np.ndarray) -> Int32[np.ndarray, " chosen"]:
    return np.flatnonzero(mask).astype(np.int32)


def _row_notes(
    builder: prepared.Builder, parts: Sequence[str], columns: Columns, votes: np.ndarray, mode: str
) -> list[str]:
    """How the rows of the votes file became faces."""
    metadata = builder.info.metadata
    notes = []
    kept = votes.any(axis=1)
    left = _without_outliers(columns.votes)
    unknown, no_face = (2 * left[:, -2:] > left.sum(axis=1, keepdims=True)).T
    for index, part in enumerate(parts):
        mine = columns.part == index
        counts = [np.sum(mine & ~kept & why) for why in (unknown, no_face, ~unknown & ~no_face)]
        notes.append(
            f"{part}: {columns.rows[mine & kept].sum():,} of {columns.rows[mine].sum():,} rows "
            f"count in mode {mode}, {np.sum(mine & kept):,} faces; dropped {counts[0]:,} unknown, "
            f"{counts[1]:,} not a face, {counts[2]:,} without enough agreement"
        )
        if metadata["nameless"][part]:
            notes.append(f"{part}: {metadata['nameless'][part]:,} rows without a file name dropped")
        if metadata["unlisted"][part]:
            notes.append(f"{part}: {metadata['unlisted'][part]:,} images without a row left out")
    if skipped := _skipped(builder):
        path = Path(builder.data_dir) / SKIPPED
        notes.append(f"{len(skipped):,} unreadable images skipped, listed in {path}")
    return notes


def _copy_notes(
    test_part: str,
    columns: Columns,
    training: np.ndarray,
    copies: np.ndarray,
    kept: np.ndarray,
    drop: bool,
) -> list[str]:
    """What is byte-identical to what."""
    notes = []
    copied = np.isin(columns.digests[~training], columns.digests[copies]).sum()
    if copied:
        fate = "left out of" if drop else "kept in"
        notes.append(
            f"{copied:,} {test_part} files are byte-identical to {copies.sum():,} training files; "
            f"{np.sum(copies & kept):,} faces {fate} training"
        )
    redundant = training.sum() - len(np.unique(columns.digests[training]))
    if redundant:
        notes.append(f"{redundant:,} training files are redundant copies of others (kept)")
    return notes
