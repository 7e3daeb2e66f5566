"""Sheets of faces: test faces that a run got right or wrong, and labels that it doubts."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from ferjax.data.images import decode, resize
from ferjax.data.record import UNKNOWN, Dataset, Split
from ferjax.data.targets import INFERRED
from ferjax.evaluate import right_classes
from ferjax.report import figures
from ferjax.report.doubt import Doubts
from ferjax.report.figures import Face
from ferjax.report.parts import Picture, percent
from ferjax.report.trained import Trained

SHEET_FACES = 18
"""Faces on each sheet."""

ORIGINAL_SIZE = 256
"""Pixels to which a face that is a file is brought for a sheet."""


def test_faces(
    predictions: Mapping[str, np.ndarray], dataset: Dataset, result: dict[str, Any]
) -> Iterator[Picture]:
    """Yields sheets of test faces that the headline got right, and of its surest mistakes."""
    test, classes, probs = dataset.test, dataset.classes, predictions["test"]
    right = right_classes(test, len(classes), dataset.label == "multi_target")

    def sheet(rows: np.ndarray, colour: str, mark: str) -> Figure:
        faces = []
        for row, image in zip(rows, originals(test, rows), strict=True):
            k = int(probs[row].argmax())
            truth = "/".join(classes[c] for c in np.flatnonzero(right[row]))
            predicted = f"{classes[k]} {percent(float(probs[row, k]))}"
            lines = (PurePath(test.names[int(row)]).name, predicted, f"truth: {truth} {mark}")
            faces.append(Face(image, lines, colour))
        return figures.face_sheet(faces)

    hits = np.flatnonzero(right[np.arange(len(probs)), probs.argmax(axis=1)])
    hits = np.sort(np.random.default_rng(0).permutation(hits)[:SHEET_FACES])
    mistakes = surest_mistakes(probs, right, SHEET_FACES)
    name = result["headline"]
    if len(hits):
        yield Picture(
            "test_right.png",
            sheet(hits, figures.RIGHT, "✓"),
            "Test faces predicted correctly, with prediction, probability and truth.",
            f"Test faces that {name} got right, drawn at random.",
            _links(test, hits),
        )
    if len(mistakes):
        yield Picture(
            "test_mistakes.png",
            sheet(mistakes, figures.WRONG, "✗"),
            "Test faces predicted wrongly, with prediction, probability and truth.",
            f"The mistakes of {name} with the highest probability, the highest first.",
            _links(test, mistakes),
        )


def doubts(doubted: Doubts, trained: Trained, dataset: Dataset) -> Iterator[Picture]:
    """Yields a sheet of the training faces whose given label is doubted most."""
    train, classes = dataset.train, dataset.classes
    shown = doubted.rows[:SHEET_FACES]
    faces = []
    for number, (row, image) in enumerate(zip(shown, originals(train, shown), strict=True)):
        y, k, t = int(doubted.given[number]), int(doubted.likelier[number]), int(train.truth[row])
        if t == UNKNOWN:
            verdict, colour = "truth unknown", figures.UNKNOWN
        elif t == y:
            verdict, colour = "the label is right", figures.WRONG
        else:
            verdict, colour = f"truth: {classes[t]}{' ✓' if t == k else ''}", figures.RIGHT
        lines = (
            PurePath(train.names[int(row)]).name,
            f"given: {classes[y]} {percent(float(doubted.probability[number]))}",
            f"likelier: {'none' if k == UNKNOWN else classes[k]}",
            verdict,
        )
        faces.append(Face(image, lines, colour))
    if faces:
        caption = _doubt_caption(doubted, train.truth[doubted.rows]) + _of_several(trained, dataset)
        yield Picture(
            "doubts.png",
            figures.face_sheet(faces),
            "Training faces with their file, given label, likelier label, and the truth.",
            caption,
            _links(train, shown),
        )


def originals(split: Split, rows: Int[np.ndarray, " rows"]) -> list[np.ndarray]:
    """Reads some faces for a sheet: from their own files, where they are files.

    Pictures in files may be larger than what the network saw of them. Others are as it saw them.
    """
    images = []
    for row, path in zip(rows.tolist(), _paths(split, rows), strict=True):
        encoded = Path(path).read_bytes() if path and Path(path).is_file() else b""
        whole = decode(encoded, 3)
        images.append(split.images[row] if whole is None else resize(whole, ORIGINAL_SIZE))
    return images


def _paths(split: Split, rows: Int[np.ndarray, " rows"]) -> list[str | None]:
    return split.images.paths().take(pa.array(rows)).to_pylist()


def _links(split: Split, rows: Int[np.ndarray, " rows"]) -> dict[str, str]:
    """Returns the address of each face's file, by the name of the face, where it is a file."""
    named = zip(rows.tolist(), _paths(split, rows), strict=True)
    return {str(split.names[row]): Path(path).absolute().as_uri() for row, path in named if path}


def surest_mistakes(
    probs: Float[np.ndarray, "faces classes"], right: Bool[np.ndarray, "faces classes"], count: int
) -> Int[np.ndarray, " mistaken"]:
    """Returns the indices of the wrong predictions with the highest probability, highest first.

    Faces with no right class (unknown truth) are left out.
    """
    wrong = right.any(axis=1) & ~right[np.arange(len(probs)), probs.argmax(axis=1)]
    order = np.argsort(-probs.max(axis=1), kind="stable")
    return order[wrong[order]][:count]


def _doubt_caption(doubted: Doubts, truth: np.ndarray) -> str:
    how = "probability"
    if doubted.by_margin:
        how = "margin over the likeliest other label, averaged over training,"
    text = (
        f"The training faces whose given label has the least {how} by {doubted.judge}, the most "
        "doubtful first. Below each face are its file, the given label and its probability at the "
        "end of training, and the label that is likelier in this order"
    )
    known = truth != UNKNOWN
    if not known.any():
        return f"{text}."
    wrong = known & (truth != doubted.given)
    text += (
        ". Blue: the label is wrong (✓: and the likelier one is the truth); orange: the label is "
        f"right and doubted wrongly. {wrong.sum():,} of the {known.sum():,} labels checked are "
        "wrong."
    )
    first = wrong[known][: wrong.sum()]
    if len(first) > 1:
        text += f" Of the {len(first):,} labels doubted most {first.mean():.0%} are wrong."
    return text


def _of_several(trained: Trained, dataset: Dataset) -> str:
    """Returns a sentence on which label counts as given where faces have several, else ''."""
    columns = [dataset.coders.index(name) for name in trained.coders]
    annotations = dataset.train.labels["annotations"][:, columns]
    several = (annotations != UNKNOWN).sum(axis=1).max(initial=0) > 1
    if not several or trained.label in (*trained.coders, "votes", "multi_target"):
        return ""
    kind = "the one that truth inference finds likeliest"
    kind = kind if trained.label in INFERRED else "the most frequent"
    return f" Where several coders annotated a face, the given label is {kind}."
