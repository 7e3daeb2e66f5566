"""The analysis of a model of coders: its matrices, and its latent truth against the annotations.

It follows J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently
Annotated Datasets*, ECCV 2018, Figures 4 to 7.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.union import SET
from ferjax.report import figures
from ferjax.report.figures import Face
from ferjax.report.parts import Picture

CASES = (
    "all three agree",
    "all three differ",
    "the coders agree, the truth differs",
    "truth is the first coder's",
    "truth is the second coder's",
)
"""How a latent truth and two coders may agree; the paper numbers these cases from 1."""

MOST_CODERS, MOST_CLASSES, MOST_PAIRS = 8, 12, 8
"""At most this many are drawn."""

SHEET_FACES = 6
"""Faces of each case on a sheet."""


class Faces(NamedTuple):
    """Training faces with the model's predictions.

    Attributes:
      rows: [N] row numbers of the training faces.
      latent: [N] the model's likeliest class.
      annotations: [N, coders] class, -1 for none.
      truth: [N] known class or -1.
      sets: [N] index of the dataset in `Dataset.sets`; all 0 without a union.
    """

    rows: Int32[np.ndarray, " rows"]
    latent: Int[np.ndarray, " rows"]
    annotations: Int32[np.ndarray, "rows coders"]
    truth: Int32[np.ndarray, " rows"]
    sets: Int32[np.ndarray, " rows"]


def pictures(
    learnt: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], dataset: Dataset
) -> Iterator[Picture]:
    """Yields the figures of a stage whose `learnt` has transitions; none for other stages.

    Args:
      learnt: `coders` and `transitions` of the stage.
      predictions: `train` and `train_rows` of the stage.
      dataset: the run's, with all annotations.
    """
    if "transitions" not in learnt:
        return
    faces = predicted_faces(predictions, dataset)
    names = learnt["coders"].tolist()
    known = [name for name in names if name in dataset.coders][:MOST_CODERS]
    if known and len(dataset.classes) <= MOST_CLASSES:
        yield _matrices(dict(zip(names, learnt["transitions"], strict=True)), known, faces, dataset)
    if (faces.truth != UNKNOWN).any():
        yield _latent_truth(faces, dataset)
    shares = agreement(faces, dataset)
    if shares:
        yield _agreement(shares, len(faces.rows), dataset)
        first_of_each = {pair[0]: pair for pair in reversed(shares)}  # most faces in common
        for pair in reversed(first_of_each.values()):
            yield _samples(pair, faces, dataset)


def predicted_faces(predictions: Mapping[str, np.ndarray], dataset: Dataset) -> Faces:
    """Returns the training faces that the stage predicted at its end."""
    rows = predictions["train_rows"]
    labels = dataset.train.labels
    return Faces(
        rows=rows,
        latent=predictions["train"].argmax(axis=1),
        annotations=labels["annotations"][rows],
        truth=dataset.train.truth[rows],
        sets=labels.get(SET, np.zeros(len(labels["annotations"]), np.int32))[rows],
    )


def counted_confusion(
    truth: Int[np.ndarray, " faces"], labels: Int[np.ndarray, " faces"], classes: int
) -> Float[np.ndarray, "classes classes"]:
    """Returns the share of each label (column) given each truth (row); nan in empty rows."""
    both = (truth != UNKNOWN) & (labels != UNKNOWN)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth[both], labels[both]), 1)
    return figures.row_shares(counts)


def case_of(
    latent: Int[np.ndarray, " faces"],
    first: Int[np.ndarray, " faces"],
    second: Int[np.ndarray, " faces"],
) -> Int[np.ndarray, " faces"]:
    """Returns the case of each face, an index into `CASES`."""
    same = first == second
    return np.select(
        [same & (latent == first), same, latent == first, latent == second], [0, 2, 3, 4], 1
    )


def agreement(faces: Faces, dataset: Dataset) -> dict[tuple[str, int, int], np.ndarray]:
    """Returns the shares of the cases for each dataset and two coders who share some of its faces.

    Among the `MOST_CODERS` busiest coders it keeps the `MOST_PAIRS` pairs that share most faces,
    those with most faces first.

    Returns:
      {(name of the dataset, first coder, second coder): share of each case}.
    """
    shares, sizes = {}, {}
    busiest = np.argsort(-(faces.annotations != UNKNOWN).sum(axis=0), kind="stable")[:MOST_CODERS]
    for number, name in enumerate(dataset.sets or ("",)):
        for pair in combinations(sorted(busiest.tolist()), 2):
            both = _both(faces, pair) & (faces.sets == number)
            if not both.any():
                continue
            first, second = faces.annotations[both][:, pair].T
            cases = case_of(faces.latent[both], first, second)
            key = (name, *pair)
            sizes[key] = both.sum()
            shares[key] = np.bincount(cases, minlength=len(CASES)) / both.sum()
    largest = sorted(shares, key=lambda key: -sizes[key])[:MOST_PAIRS]
    return {key: shares[key] for key in largest}


def _both(faces: Faces, pair: tuple[int, ...]) -> Bool[np.ndarray, " faces"]:
    """Returns which faces all coders of `pair` annotated."""
    return (faces.annotations[:, pair] != UNKNOWN).all(axis=1)


def _matrices(
    transitions: Mapping[str, np.ndarray], coders: list[str], faces: Faces, dataset: Dataset
) -> Picture:
    classes = dataset.classes
    known = (faces.truth != UNKNOWN).any()
    grid: list[np.ndarray] = []
    titles: list[str] = []
    gaps: list[str] = []
    for name in coders:
        labels = faces.annotations[:, dataset.coders.index(name)]
        columns = {
            f"{name}: learnt": transitions[name],
            "counted by latent truth": counted_confusion(faces.latent, labels, len(classes)),
        }
        if known:
            actual = counted_confusion(faces.truth, labels, len(classes))
            columns["counted by known truth"] = actual
            gaps.append(f"{name} {np.nanmean(abs(transitions[name] - actual)):.3f}")
        grid += columns.values()
        titles += columns
    caption = (
        "Each row shows which labels a coder gives to one true class, and sums to 100%. The left "
        "matrix was learnt; the next is counted from the coder's annotations by latent truth"
    )
    if gaps:
        caption += (
            f", the right one by known truth. Mean absolute difference between the learnt matrix "
            f"and the one by known truth: {'; '.join(gaps)}"
        )
    return Picture(
        "transitions.png",
        figures.confusion_grid(np.stack(grid), classes, titles, columns=3 if known else 2),
        "The coders' transition matrices beside confusions counted from their annotations.",
        f"{caption}.",
    )


def _latent_truth(faces: Faces, dataset: Dataset) -> Picture:
    known = faces.truth != UNKNOWN
    truth, latent = faces.truth[known], faces.latent[known]
    counts = np.zeros((len(dataset.classes),) * 2, np.int64)
    np.add.at(counts, (truth, latent), 1)
    share = np.mean(truth == latent)
    return Picture(
        "latent_truth.png",
        figures.confusion_matrix(
            counts, dataset.classes, "Latent truth: % of each known truth", columns="latent truth"
        ),
        f"Latent truth against known truth: {share:.1%} agree.",
        f"{known.sum():,} of {len(known):,} training faces have a known truth; the latent truth "
        f"agrees with it on {share:.1%} of these.{_who_knows(faces, dataset)}",
    )


def _who_knows(faces: Faces, dataset: Dataset) -> str:
    """Returns a sentence on which coders are always right: from them the model saw the truth."""
    both = (faces.annotations != UNKNOWN) & (faces.truth != UNKNOWN)[:, None]
    right = ((faces.annotations == faces.truth[:, None]) | ~both).all(axis=0) & both.any(axis=0)
    oracles = [name for name, is_one in zip(dataset.coders, right, strict=True) if is_one]
    if not oracles:
        return " No coder knew the truth."
    shares = dict(zip(dataset.coders, both.mean(axis=0), strict=True))
    known = " and ".join(f"{name} ({shares[name]:.0%} of the faces)" for name in oracles)
    return f" The model learnt from coders who are always right: {known}."


def _agreement(
    shares: dict[tuple[str, int, int], np.ndarray], count: int, dataset: Dataset
) -> Picture:
    names = [
        f"{name + ': ' if name else ''}{dataset.coders[first]},\n{dataset.coders[second]}"
        for name, first, second in shares
    ]
    return Picture(
        "agreement.png",
        figures.stacked_shares(np.stack(list(shares.values())), names, CASES),
        "How often the latent truth agrees with two coders, in five cases.",
        "The share of each case among the faces that two coders both annotated, for each dataset "
        f"and pair of coders; from {count:,} training faces.",
    )


def _samples(pair: tuple[str, int, int], faces: Faces, dataset: Dataset) -> Picture:
    """Draws some faces of each case."""
    name, *coders = pair
    both = _both(faces, tuple(coders)) & (faces.sets == dataset.sets.index(name) if name else True)
    first, second = faces.annotations[:, coders].T
    cases = np.where(both, case_of(faces.latent, first, second), -1)
    drawn = []
    for case in range(len(CASES)):
        indices = np.random.default_rng(0).permutation(np.flatnonzero(cases == case))[:SHEET_FACES]
        for index in np.sort(indices):
            drawn.append(_face(case, int(index), coders, faces, dataset))
    where = f" of {name}" if name else ""
    return Picture(
        f"agreement_cases_{name}.png" if name else "agreement_cases.png",
        figures.face_sheet(drawn, columns=SHEET_FACES),
        "Faces of each case with the labels of two coders and the latent truth.",
        f"Faces{where} of each case, drawn at random.",
    )


def _face(case: int, index: int, coders: list[int], faces: Faces, dataset: Dataset) -> Face:
    labels = [
        f"{dataset.coders[c]}: {dataset.classes[faces.annotations[index, c]]}" for c in coders
    ]
    name = PurePath(dataset.train.names[int(faces.rows[index])]).name
    lines = (name, f"case {case + 1}", *labels, f"latent: {dataset.classes[faces.latent[index]]}")
    colour = figures.RIGHT if faces.truth[index] == faces.latent[index] else figures.UNKNOWN
    if faces.truth[index] not in (UNKNOWN, faces.latent[index]):
        lines, colour = (*lines[:-1], f"{lines[-1]} ✗"), figures.WRONG
    return Face(dataset.train.images[int(faces.rows[index])], lines, colour)
