"""The files of the FERPlus project: checked, joined by file name, classes in our order.

E. Barsoum, C. Zhang, C. Canton Ferrer, Z. Zhang, "Training deep networks for facial expression
recognition with crowd-sourced label distribution", ICMI 2016.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ferjax.data import prepared
from ferjax.data.record import CLASSES, UNKNOWN
from ferjax.errors import UserError

PARTS = {
    "Training": "FER2013Train",
    "PublicTest": "FER2013Valid",
    "PrivateTest": "FER2013Test",
}
"""FER2013's three parts, and the folder or `.tar` that holds each one's images."""

VOTES, LABELS = "fer2013new.csv", "fer2013_labels.csv"

EMOTIONS = {
    "neutral": "neutral",
    "happiness": "happy",
    "surprise": "surprise",
    "sadness": "sad",
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "contempt": "contempt",
}
"""The votes file's emotions in the order of its columns, with our names for them."""

VOTES_HEADER = ["Usage", "Image name", *EMOTIONS, "unknown", "NF"]
LABELS_HEADER = ["Image name", "emotion"]
TAGGERS = 10

FER2013_CLASSES = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Our names for FER2013's own labels 0 to 6."""

INSTRUCTIONS = (
    "expected FER2013Train, FER2013Valid and FER2013Test (each a folder of PNG files or a .tar; "
    "the last is optional), fer2013new.csv and optionally fer2013_labels.csv; the images come from "
    "Kaggle's challenges-in-representation-learning-facial-expression-recognition-challenge, "
    "written out by generate_training_data.py of github.com/microsoft/FERPlus, which also has "
    "fer2013new.csv"
)

_COLUMNS = [list(EMOTIONS.values()).index(name) for name in CLASSES] + [8, 9]


class Face(NamedTuple):
    """One listed image.

    Attributes:
      name: file name.
      png: the file's bytes.
      votes: how many taggers chose each of `CLASSES`, then unknown, then not a face.
      rows: how many rows of the votes file list it.
      fer2013: FER2013's own label as an index into `CLASSES`, or -1.
    """

    name: str
    png: bytes
    votes: tuple[int, ...]
    rows: int
    fer2013: int


class Release(NamedTuple):
    """All that the folder holds, by part; only parts whose images are there.

    Attributes:
      faces: readable listed faces in the order of their names.
      skipped: (file, reason) of each listed image that cannot be read.
      nameless: number of rows without a file name.
      unlisted: number of images without a row.
    """

    faces: dict[str, list[Face]]
    skipped: list[tuple[str, str]]
    nameless: dict[str, int]
    unlisted: dict[str, int]


def read(folder: Path) -> Release:
    """Reads and checks everything.

    Raises:
      UserError: if a file is missing or malformed; an unreadable image is only set aside.
    """
    sources = find(folder)
    rows, nameless = read_votes(folder / VOTES)
    labels = read_labels(folder / LABELS) if (folder / LABELS).exists() else {}
    release = Release({}, [], {part: nameless[part] for part in sources}, {})
    for part, source in sources.items():
        images = dict(prepared.read_pictures(source, (".png",)))
        times = Counter(row for row in rows if row[0] == part)
        listed = {name: (votes, count) for (_, name, votes), count in times.items()}
        release.unlisted[part] = len(images.keys() - listed.keys())
        release.faces[part] = []
        for name, (votes, count) in sorted(listed.items()):
            reason = unreadable(images.get(name))
            if reason:
                release.skipped.append((f"{source.name}/{name}", reason))
            else:
                fer2013 = labels.get(name, UNKNOWN)
                release.faces[part].append(Face(name, images[name], votes, count, fer2013))
    return release


def find(folder: Path) -> dict[str, Path]:
    """The folder of PNG files, else the `.tar`, of each part that is there."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; {INSTRUCTIONS}")
    sources = {}
    for part, name in PARTS.items():
        for source in (folder / name, folder / f"{name}.tar"):
            there = any(source.glob("*.png")) if source.is_dir() else source.exists()
            if there and part not in sources:
                sources[part] = source
    if not sources:
        raise UserError(f"{folder}: no images; {INSTRUCTIONS}")
    if not (folder / VOTES).exists():
        raise UserError(f"{folder}: no {VOTES}; {INSTRUCTIONS}")
    return sources


def checksum(folder: Path) -> str:
    """A checksum over the names and contents of every file that `read` looks at."""
    paths: list[Path] = []
    for source in (*find(folder).values(), folder / VOTES, folder / LABELS):
        paths += sorted(source.glob("*.png")) if source.is_dir() else [source]
    return prepared.checksum(folder, paths)


def unreadable(png: bytes | None) -> str:
    """Why an image cannot be used, or nothing."""
    if png is None:
        return "missing"
    if not png:
        return "empty"
    return "corrupt" if prepared.decode(png, channels=1) is None else ""


def read_votes(path: Path) -> tuple[list[tuple[str, str, tuple[int, ...]]], Counter[str]]:
    """Reads the taggers' votes.

    Returns:
      Rows (part, file name, votes over `CLASSES`, unknown, not a face), and how many rows of
      each part had no file name and were dropped.

    Raises:
      UserError: naming the line that is malformed, or lists a face again with other votes.
    """
    rows, nameless = [], Counter[str]()
    first: dict[str, tuple] = {}
    for line, (part, name, *cells) in prepared.read_rows(path, VOTES_HEADER):
        if part not in PARTS:
            raise UserError(f"{path}:{line}: unknown part {part!r}, expected {', '.join(PARTS)}")
        votes = [prepared.number(cell, TAGGERS, path, line) for cell in cells]
        if not name:
            nameless[part] += 1
            continue
        row = (part, name, tuple(votes[column] for column in _COLUMNS))
        if first.setdefault(name, row) != row:
            raise UserError(f"{path}:{line}: {name} is listed again with other votes")
        rows.append(row)
    return rows, nameless


def read_labels(path: Path) -> dict[str, int]:
    """Reads FER2013's own labels: class index in `CLASSES` by file name."""
    classes = [CLASSES.index(name) for name in FER2013_CLASSES]
    labels: dict[str, int] = {}
    for line, (name, cell) in prepared.read_rows(path, LABELS_HEADER):
        label = classes[prepared.number(cell, len(classes) - 1, path, line)]
        if labels.setdefault(name, label) != label:
            raise UserError(f"{path}:{line}: {name} is listed again with another label")
    return labels
