"""What a model of coders learnt: matrices, agreement of annotations and latent truth, its worth.

The analysis of J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently
Annotated Datasets*, ECCV 2018, Figures 4 to 7.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
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
"""How a latent truth and two coders may agree, by the numbers of the paper from 1 on."""

MOST_CODERS, MOST_CLASSES, MOST_PAIRS = 8, 12, 8
"""More than so many are not drawn."""

SHEET_FACES = 6
"""Faces of each case on the sheet."""


class Faces(NamedTuple):
    """Training faces that the model was asked about.

    Attributes:
      rows: places among the training faces.
      latent: [N] the model's likeliest class.
      annotations: [N, coders] places among the classes, -1 for none.
      truth: [N] known class or -1.
      sets: [N] place of the dataset in `Dataset.sets`, all 0 if it is no union.
    """

    rows: Int32[np.ndarray, " rows"]
    latent: Int[np.ndarray, " rows"]
    annotations: Int32[np.ndarray, "rows coders"]
    truth: Int32[np.ndarray, " rows"]
    sets: Int32[np.ndarray, " rows"]


def pictures(
    learnt: Mapping[str, np.ndarray], predictions: Mapping[str, np.ndarray], dataset: Dataset
) -> Iterator[Picture]:
    """All figures, of a stage whose `learnt` has transitions; none for others.

    Args:
      learnt: `coders` and `transitions` of the stage.
      predictions: `train` and `train_rows` of the stage.
      dataset: the run's, with all annotations.
    """
    if "transitions" not in learnt:
        return
    faces = asked(predictions, dataset)
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


def asked(predictions: Mapping[str, np.ndarray], dataset: Dataset) -> Faces:
    """The faces that the stage predicted when it ended."""
    rows = predictions["train_rows"]
    labels = dataset.train.labels
    return Faces(
        rows=rows,
        latent=predictions["train"].argmax(axis=1),
        annotations=labels["annotations"][rows],
        truth=dataset.train.truth[rows],
        sets=labels.get(SET, np.zeros(len(labels["annotations"]), np.int32))[rows],
    )


def counted(
    truth: Int[np.ndarray, " faces"], said: Int[np.ndarray, " faces"], classes: int
) -> Float[np.ndarray, "classes classes"]:
    """Shares of what was said (column) of each truth (row); nan in rows without a face."""
    both = (truth != UNKNOWN) & (said != UNKNOWN)
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (truth[both], said[both]), 1)
    return figures.row_shares(counts)


def case_of(
    latent: Int[np.ndarray, " faces"],
    first: Int[np.ndarray, " faces"],
    second: Int[np.ndarray, " faces"],
) -> Int[np.ndarray, " faces"]:
    """The case of each face, a place in `CASES`."""
    same = first == second
    return np.select(
        [same & (latent == first), same, latent == first, latent == second], [0, 2, 3, 4], 1
    )


def agreement(faces: Faces, dataset: Dataset) -> dict[tuple[str, int, int], np.ndarray]:
    """Shares of the cases, by the set and two coders who both annotated some of it.

    Those with most faces in common first, `MOST_PAIRS` of them, among the busiest `MOST_CODERS`.
    """
    shares, sizes = {}, {}
    busiest = np.argsort(-(faces.annotations != UNKNOWN).sum(axis=0), kind="stable")[:MOST_CODERS]
    for place, name in enumerate(dataset.sets or ("",)):
        for pair in combinations(sorted(busiest.tolist()), 2):
            both = _both(faces, pair) & (faces.sets == place)
            if not both.any():
                continue
            first, second = faces.annotations[both][:, pair].T
            cases = case_of(faces.latent[both], first, second)
            key = (name, *pair)
            sizes[key] = both.sum()
            shares[key] = np.bincount(cases, minlength=len(CASES)) / both.sum()
    chosen = sorted(shares, key=lambda key: -sizes[key])[:MOST_PAIRS]
    return {key: shares[key] for key in chosen}


def _both(faces: Faces, pair: tuple[int, ...]) -> Bool[np.ndarray, " faces"]:
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
        said = faces.annotations[:, dataset.coders.index(name)]
        columns = {
            f"{name}: learnt": transitions[name],
            "counted by latent truth": counted(faces.latent, said, len(classes)),
        }
        if known:
            columns["counted by known truth"] = counted(faces.truth, said, len(classes))
            right = columns["counted by known truth"]
            gaps.append(f"{name} {np.nanmean(abs(transitions[name] - right)):.3f}")
        grid += columns.values()
        titles += columns
    caption = (
        "Each row is a truth and sums to 100%: what the coder calls it. Beside what was learnt is "
        "what the coder said of the faces whose latent truth is the row's"
    )
    if gaps:
        caption += (
            f", and of those whose known truth is. Mean absolute difference between the first and "
            f"the last: {'; '.join(gaps)}"
        )
    return Picture(
        "transitions.png",
        figures.confusion_grid(np.stack(grid), classes, titles, columns=3 if known else 2),
        "Transition matrices of the coders beside confusions counted from their annotations.",
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
        f"Among {len(known):,} training faces, {known.sum():,} have a known truth, and {share:.1%} "
        f"of these have it as their latent truth.{_who_knows(faces, dataset)}",
    )


def _who_knows(faces: Faces, dataset: Dataset) -> str:
    """A warning if a coder's annotations are all right: then they are what truth is taken from."""
    both = (faces.annotations != UNKNOWN) & (faces.truth != UNKNOWN)[:, None]
    right = ((faces.annotations == faces.truth[:, None]) | ~both).all(axis=0) & both.any(axis=0)
    oracles = [name for name, is_one in zip(dataset.coders, right, strict=True) if is_one]
    if not oracles:
        return " No coder knew it."
    shares = dict(zip(dataset.coders, both.mean(axis=0), strict=True))
    said = " and ".join(f"{name} said of {shares[name]:.0%} of them" for name in oracles)
    return f" It is what {said}, which the model learnt from."


def _agreement(
    shares: dict[tuple[str, int, int], np.ndarray], count: int, dataset: Dataset
) -> Picture:
    names = [
        f"{name + ': ' if name else ''}{dataset.coders[first]}, {dataset.coders[second]}"
        for name, first, second in shares
    ]
    return Picture(
        "agreement.png",
        figures.stacked_shares(np.stack(list(shares.values())), names, CASES),
        "How often the latent truth agrees with two coders, in five cases.",
        "Of the faces that both coders annotated, how many are of each case, for each dataset and "
        f"two of its coders; among {count:,} training faces.",
    )


def _samples(pair: tuple[str, int, int], faces: Faces, dataset: Dataset) -> Picture:
    """Some faces of each case."""
    name, *coders = pair
    mine = _both(faces, tuple(coders)) & (faces.sets == dataset.sets.index(name) if name else True)
    first, second = faces.annotations[:, coders].T
    cases = np.where(mine, case_of(faces.latent, first, second), -1)
    drawn = []
    for case in range(len(CASES)):
        places = np.random.default_rng(0).permutation(np.flatnonzero(cases == case))[:SHEET_FACES]
        for place in np.sort(places):
            drawn.append(_face(case, int(place), coders, faces, dataset))
    where = f" of {name}" if name else ""
    return Picture(
        f"agreement_cases_{name}.png" if name else "agreement_cases.png",
        figures.face_sheet(drawn, columns=SHEET_FACES),
        "Faces of each case with what two coders say and the latent truth.",
        f"Some faces{where} of each case, drawn at random.",
    )


def _face(case: int, place: int, coders: list[int], faces: Faces, dataset: Dataset) -> Face:
    said = [f"{dataset.coders[c]}: {dataset.classes[faces.annotations[place, c]]}" for c in coders]
    lines = (f"case {case + 1}", *said, f"latent: {dataset.classes[faces.latent[place]]}")
    colour = figures.RIGHT if faces.truth[place] == faces.latent[place] else figures.UNKNOWN
    if faces.truth[place] not in (UNKNOWN, faces.latent[place]):
        lines, colour = (*lines[:-1], f"{lines[-1]} ✗"), figures.WRONG
    return Face(dataset.train.images[int(faces.rows[place])], lines, colour)
