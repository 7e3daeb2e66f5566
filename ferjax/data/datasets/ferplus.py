"""FERPlus: faces of FER2013, each labelled by ten taggers.

E. Barsoum, C. Zhang, C. Canton Ferrer, Z. Zhang, "Training deep networks for facial expression
recognition with crowd-sourced label distribution", ICMI 2016.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int32

from ferjax.data import labels, prepared, table
from ferjax.data.record import CLASSES, UNKNOWN, Dataset, Names, Split
from ferjax.data.table import Table
from ferjax.errors import UserError

PARTS = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}
"""FER2013's three parts, and the folder or `.tar` that holds each one's images."""

VOTES, LABELS = "fer2013new.csv", "fer2013_labels.csv"
USAGE, NAME, EMOTION = "Usage", "Image name", "emotion"
UNSURE = ("unknown", "NF")
"""The votes file's last columns: unknown, and not a face."""

EMOTIONS = {
    "neutral": "neutral",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "fear": "fear",
    "disgust": "disgust",
    "anger": "anger",
    "contempt": "contempt",
}
"""The votes file's column of each of `CLASSES`."""

TAGGERS = 10
SHOWN = 3
"""So many files an error shows of what is there instead."""

FER2013_CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Our names for FER2013's own labels 0 to 6."""

INSTRUCTIONS = (
    "expected FER2013Train and FER2013Valid (folders or .tar, from Kaggle's FER2013) and "
    "fer2013new.csv (github.com/microsoft/FERPlus), see third_party/README.md"
)

MODES = {"majority": 5, "multi_target": 3, "probability": 0}
"""More than this many tenths of a face's votes must go to a class for the class to count."""

TRAINS_ON = {"majority": "ferplus", "multi_target": "multi_target", "probability": "votes"}
"""What each mode trains on (`Dataset.label`)."""

CONTEMPT = CLASSES.index("contempt")


class Faces(NamedTuple):
    """All listed faces, part after part in the order of their names.

    Attributes:
      table: a row for each face; its votes count in the mode that was asked for.
      votes: [N, 10], over `CLASSES`, then unknown, then not a face.
      rows: [N], how many rows of the votes file list the face.
      nameless: how many rows of each part have no file name.
      replaced: how many rows of each part a later row with other votes replaces.
    """

    table: Table
    votes: Int32[np.ndarray, "faces 10"]
    rows: Int32[np.ndarray, " faces"]
    nameless: dict[str, int]
    replaced: dict[str, int]


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads FERPlus, with FER2013's own labels as a second coder where their file is there.

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
      UserError: if a file is missing, malformed or unreadable, or a field makes no sense.
    """
    _check(config)
    root = Path(config.dir)
    faces = read(root, config.mode, config.classes)
    train, test = tuple(config.train_parts), config.test_part or _usual_test_part(root)
    _check_parts(root, faces.table, train, test)
    files = prepared.Files(root, faces.table.files)
    pictures = prepared.prepare("ferplus", files, config.cache, skip_corrupt=config.skip_corrupt)

    used = np.isin(faces.table.part, (*train, test))
    notes = [f"trains on {' + '.join(train)}, tests on {test}"]
    if not config.test_part and test == "PublicTest":
        notes[0] += " (no PrivateTest images)"
    for part in (*train, test):
        notes += _count(faces, pictures, part, config.mode)
    faces_of = table.readable(_with_known_coders(faces.table, used).with_notes(notes), pictures)
    faces_of = table.group_copies(
        faces_of, pictures.digests, train, (test,), drop=config.drop_test_copies
    )
    dataset = table.to_dataset(
        faces_of,
        pictures.images(config.image_size, channels=1),
        {"train": train, "test": (test,)},
        (config.image_size, config.image_size, 1),
        subset=config.subset,
        seed=config.seed,
    )
    if config.ferplus_share == 1:
        return dataset
    hidden, note = _hidden(dataset.train, config.ferplus_share, config.seed)
    return dataset.with_split("train", hidden)._replace(notes=(*dataset.notes, note))


def read(root: Path, mode: str, classes: int = len(CLASSES)) -> Faces:
    """Reads the lists of the parts whose images are there.

    Of several rows of a face the last counts, as in the FERPlus project's program.

    Args:
      root: folder of the FERPlus project's files.
      mode: see `kept_votes`.
      classes: 8, or 7 to leave faces of contempt out.

    Raises:
      UserError: for a file that is missing or malformed.
    """
    parts = find_parts(root)
    listing = labels.read_table(root / VOTES, [USAGE, NAME, *EMOTIONS.values(), *UNSURE])
    part = listing.choices(USAGE, list(PARTS), "part")
    columns = [listing.numbers(x, TAGGERS) for x in (*EMOTIONS.values(), *UNSURE)]
    named = pc.not_equal(listing.columns[NAME], "").to_numpy(zero_copy_only=False)
    nameless = {name: int(np.sum((part == k) & ~named)) for k, name in enumerate(PARTS)}
    listing, part = listing.where(named), part[named]
    first, counts = listing.first_of(NAME, [USAGE], "another part")
    faces = listing.columns[NAME].dictionary_encode().indices.to_numpy()
    last = np.zeros(len(first), np.int64)
    last[faces] = np.arange(len(faces))
    every = np.stack([column[named] for column in columns], axis=1)
    differs = (every != every[last[faces]]).any(axis=1)
    replaced = {name: int(np.sum((part == k) & differs)) for k, name in enumerate(PARTS)}
    names = listing.columns[NAME].take(pa.array(last))
    order = np.lexsort((pc.rank(names, tiebreaker="dense").to_numpy(), part[last]))
    order = order[np.isin(part[last][order], [list(PARTS).index(name) for name in parts])]
    last, names = last[order], names.take(pa.array(order))
    votes = every[last]

    counted = kept_votes(votes, mode)
    truth = np.where(counted.any(axis=1), counted.argmax(axis=1), UNKNOWN).astype(np.int32)
    folders = pa.array(list(PARTS.values())).take(pa.array(part[last]))
    return Faces(
        table=Table(
            classes=CLASSES[:classes],
            coders=("ferplus", "fer2013"),
            files=Names(pc.binary_join_element_wise(folders, names, "/")),
            part=np.array(list(PARTS))[part[last]],
            labels=np.stack([truth, read_fer2013(root / LABELS, names)], axis=1),
            truth=truth,
            names=Names(names),
            votes=counted[:, :classes],
            keep=(truth != UNKNOWN) & (truth < classes),
            label=TRAINS_ON[mode],
        ),
        votes=votes,
        rows=counts[order].astype(np.int32),
        nameless=nameless,
        replaced=replaced,
    )


def find_parts(root: Path) -> list[str]:
    """Returns the parts whose images are there.

    Raises:
      UserError: if none are, or the votes are not.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; {INSTRUCTIONS}")
    parts = [part for part, folder in PARTS.items() if prepared.find_source(root, folder)]
    if not parts:
        there = ", ".join(sorted(entry.name for entry in root.iterdir())[:SHOWN])
        raise UserError(f"{root}: no images, only {there or 'nothing'}; {INSTRUCTIONS}")
    if not (root / VOTES).exists():
        raise UserError(f"{root}: no {VOTES}; {INSTRUCTIONS}")
    return parts


def read_fer2013(path: Path, names: pa.StringArray) -> Int32[np.ndarray, " faces"]:
    """Reads FER2013's own labels of some faces, as classes; -1 where there is none.

    Raises:
      UserError: naming the line that is malformed, or lists a face again with another label.
    """
    if not path.exists():
        return np.full(len(names), UNKNOWN, np.int32)
    listing = labels.read_table(path, [NAME, EMOTION])
    numbers = listing.numbers(EMOTION, len(FER2013_CLASSES) - 1)
    listing.first_of(NAME, [EMOTION], "another label")
    given = np.array([CLASSES.index(name) for name in FER2013_CLASSES], np.int32)[numbers]
    return np.append(given, np.int32(UNKNOWN))[listing.rows_of(NAME, Names(names))]


def kept_votes(votes: Int32[np.ndarray, "faces 10"], mode: str) -> Int32[np.ndarray, "faces 8"]:
    """Returns the votes that count, over `CLASSES`; all zero for a face that is dropped.

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


def _check(config: ml_collections.ConfigDict) -> None:
    if config.mode not in MODES:
        raise UserError(f"data.mode: unknown mode {config.mode!r}, expected {', '.join(MODES)}")
    table.check_size(config.image_size)
    if len(set(config.train_parts)) < len(config.train_parts):
        raise UserError("data.train_parts names a part twice")
    if config.classes not in (CONTEMPT, len(CLASSES)):
        raise UserError(f"data.classes must be {CONTEMPT} or {len(CLASSES)}, not {config.classes}")
    if not 0 <= config.ferplus_share <= 1:
        raise UserError(f"data.ferplus_share must be in [0, 1], not {config.ferplus_share}")
    if not config.dir:
        raise UserError(f"data.dir is not set; {INSTRUCTIONS}")


def _usual_test_part(root: Path) -> str:
    there = prepared.find_source(root, PARTS["PrivateTest"])
    return "PrivateTest" if there else "PublicTest"


def _check_parts(root: Path, listed: Table, train: Sequence[str], test: str) -> None:
    there = find_parts(root)
    for part in (*train, test):
        if part not in PARTS:
            raise UserError(f"unknown part {part!r}, expected {', '.join(PARTS)}")
        if part not in there:
            raise UserError(f"{root}: no {PARTS[part]} folder or .tar for {part}")
        if part not in listed.part:
            raise UserError(f"{root}: {VOTES} lists no face of {part}")
    if test in train:
        raise UserError(f"data.test_part: {test} is also in data.train_parts")


def _count(faces: Faces, pictures: prepared.Prepared, part: str, mode: str) -> list[str]:
    """How the rows of a part in the votes file became faces."""
    own = (faces.table.part == part) & pictures.readable
    kept = kept_votes(faces.votes, mode).any(axis=1)
    left = _without_outliers(faces.votes)
    unknown, no_face = (2 * left[:, -2:] > left.sum(axis=1, keepdims=True)).T
    reasons = (unknown, no_face, ~unknown & ~no_face)
    dropped = [np.sum(own & ~kept & reason) for reason in reasons]
    notes = [
        f"{part}: {faces.rows[own & kept].sum():,} of {faces.rows[own].sum():,} rows "
        f"count in mode {mode}, {np.sum(own & kept):,} faces; dropped {dropped[0]:,} unknown, "
        f"{dropped[1]:,} not a face, {dropped[2]:,} without enough agreement"
    ]
    if faces.nameless[part]:
        notes.append(f"{part}: {faces.nameless[part]:,} rows without a file name dropped")
    if faces.replaced[part]:
        count = faces.replaced[part]
        notes.append(f"{part}: {count:,} rows give way to later ones of their face, of other votes")
    if PARTS[part] in pictures.unlisted:
        unlisted = pictures.unlisted[PARTS[part]]
        notes.append(f"{part}: {unlisted:,} images without a row left out")
    return notes


def _with_known_coders(listed: Table, used: np.ndarray) -> Table:
    """The table without FER2013's labels if none of the faces used has one."""
    if (listed.labels[used, 1] != UNKNOWN).any():
        return listed
    return listed._replace(coders=listed.coders[:1], labels=listed.labels[:, :1])


def _hidden(train: Split, share: float, seed: int) -> tuple[Split, str]:
    """The split with FERPlus's label and votes on a share of its faces only, and a note on it."""
    count = round(share * len(train.names))
    hidden = np.ones(len(train.names), bool)
    if count:
        hidden[table.draw(train.names, count, seed)] = False
    arrays = {name: array.copy() for name, array in train.labels.items()}
    arrays["annotations"][hidden, 0] = UNKNOWN
    arrays["votes"][hidden] = 0
    note = f"{(~hidden).sum():,} training faces keep FERPlus's label"
    return train._replace(labels=arrays), note
