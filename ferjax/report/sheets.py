"""Sheets of faces: test faces that a run got right or wrong, and labels that it doubts."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure

from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.targets import INFERRED
from ferjax.evaluate import right_classes
from ferjax.report import figures
from ferjax.report.figures import Face
from ferjax.report.parts import Picture, percent
from ferjax.report.trained import Trained

SHEET_FACES = 18
"""Faces on each sheet."""


def test_faces(
    predictions: Mapping[str, np.ndarray], dataset: Dataset, result: dict[str, Any]
) -> Iterator[Picture]:
    """Yields sheets of test faces that the headline got right, and of its surest mistakes."""
    test, classes, probs = dataset.test, dataset.classes, predictions["test"]
    right = right_classes(test, len(classes), dataset.label == "multi_target")

    def sheet(rows: np.ndarray, colour: str, mark: str) -> Figure:
        faces = []
        for row in rows:
            k = int(probs[row].argmax())
            truth = "/".join(classes[c] for c in np.flatnonzero(right[row]))
            lines = (f"{classes[k]} {percent(float(probs[row, k]))}", f"truth: {truth} {mark}")
            faces.append(Face(test.images[int(row)], lines, colour))
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
        )
    if len(mistakes):
        yield Picture(
            "test_mistakes.png",
            sheet(mistakes, figures.WRONG, "✗"),
            "Test faces predicted wrongly, with prediction, probability and truth.",
            f"The mistakes of {name} with the highest probability, the highest first.",
        )


def doubts(
    predictions: Mapping[str, np.ndarray],
    trained: Trained,
    dataset: Dataset,
    result: dict[str, Any],
) -> Iterator[Picture]:
    """Yields a sheet of the training faces whose given label the headline thinks least likely."""
    train, classes = dataset.train, dataset.classes
    probs, rows = predictions["train"], predictions["train_rows"]
    given = trained.given[np.searchsorted(trained.rows, rows)]
    truth = train.truth[rows]
    faces = []
    for index in most_doubted(probs, given, SHEET_FACES):
        y, k, t = int(given[index]), int(probs[index].argmax()), int(truth[index])
        if t == UNKNOWN:
            verdict, colour = "truth unknown", figures.UNKNOWN
        elif t == y:
            verdict, colour = "the label is right", figures.WRONG
        else:
            verdict, colour = f"truth: {classes[t]}{' ✓' if t == k else ''}", figures.RIGHT
        lines = (
            f"given: {classes[y]} {percent(float(probs[index, y]))}",
            f"net: {classes[k]} {percent(float(probs[index, k]))}",
            verdict,
        )
        faces.append(Face(train.images[int(rows[index])], lines, colour))
    if faces:
        yield Picture(
            "doubts.png",
            figures.face_sheet(faces),
            "Training faces with the given label, the network's prediction, and the truth.",
            _doubt_caption(probs, given, truth, result["headline"]) + _of_several(trained, dataset),
        )


def most_doubted(
    probs: Float[np.ndarray, "faces classes"], given: Int[np.ndarray, " faces"], count: int
) -> Int[np.ndarray, " doubted"]:
    """Returns the indices of the faces whose given label is least probable, the least first.

    Faces without a label (-1) are left out.
    """
    doubt = np.where(given >= 0, probs[np.arange(len(given)), given], np.inf)
    order = np.argsort(doubt, kind="stable")
    return order[: min(count, int(np.sum(given >= 0)))]


def surest_mistakes(
    probs: Float[np.ndarray, "faces classes"], right: Bool[np.ndarray, "faces classes"], count: int
) -> Int[np.ndarray, " mistaken"]:
    """Returns the indices of the wrong predictions with the highest probability, highest first.

    Faces with no right class (unknown truth) are left out.
    """
    wrong = right.any(axis=1) & ~right[np.arange(len(probs)), probs.argmax(axis=1)]
    order = np.argsort(-probs.max(axis=1), kind="stable")
    return order[wrong[order]][:count]


def _doubt_caption(probs: np.ndarray, given: np.ndarray, truth: np.ndarray, headline: str) -> str:
    text = (
        f"The training faces whose given label {headline} thinks least probable, the least "
        "probable first"
    )
    known = (truth != UNKNOWN) & (given != UNKNOWN)
    if not known.any():
        return f"{text}."
    differs = known & (probs.argmax(axis=1) != given)
    wrong = known & (truth != given)
    text += (
        ". Blue: the label is wrong (✓: and the network is right); orange: the label is right and "
        "the network doubts it wrongly."
    )
    if differs.any() and wrong.any():
        both = int(np.sum(differs & wrong))
        text += (
            f" {wrong.sum():,} of the {known.sum():,} labels checked are wrong. The network "
            f"disagrees with {differs.sum():,} labels: {both / differs.sum():.0%} of these are "
            f"wrong, which is {both / wrong.sum():.0%} of all wrong labels."
        )
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
