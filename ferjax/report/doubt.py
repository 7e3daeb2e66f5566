"""Labels in doubt: training labels, the most doubtful first, and `doubtful.csv`.

A network that learns wrong labels by heart gives them a high probability in the end. What tells
them apart is how it saw them on the way: the margin of the given label averaged over training (area
under the margin, G. Pleiss et al., *Identifying Mislabeled Data using the Area Under the Margin
Ranking*, NeurIPS 2020). Where several coders annotated a face, the margins of all their labels
count, each by how far Dawid and Skene's EM trusts its coder (WAUM, T. Lefort et al., *Identify
ambiguous tasks combining crowdsourced labels by weighting Areas Under the Margin*, 2022). Networks
in consensus agree on few wrong labels: of them, the average probability of the given label decides.
"""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Int32

from ferjax import writers
from ferjax.data.crowd import dawid_skene
from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.targets import VOTED
from ferjax.report.trained import Trained

FILE = "doubtful.csv"
COLUMNS = ("file", "given_label", "probability", "likelier_label", "score")


class Doubts(NamedTuple):
    """The labelled training faces of a stage, those whose label is doubted most first.

    Attributes:
      judge: the stage whose networks doubt.
      by_margin: whether they do by the margin averaged over training; else by their probability.
      rows: of the faces in the run's training split.
      given: the class that each is labelled as.
      probability: of that class, when the judge's training ended.
      likelier: the class that the judge thinks likelier, -1 for none.
      score: what the order is by: the lower, the more doubtful.
    """

    judge: str
    by_margin: bool
    rows: Int[np.ndarray, " faces"]
    given: Int32[np.ndarray, " faces"]
    probability: Float[np.ndarray, " faces"]
    likelier: Int[np.ndarray, " faces"]
    score: Float[np.ndarray, " faces"]


def doubts(folder: Path, stage: str, trained: Trained, dataset: Dataset) -> Doubts:
    """Orders the labels that a stage learnt from by how far they are doubted.

    Args:
      folder: of the run.
      stage: the stage.
      trained: what it learnt.
      dataset: of the run, with the annotations of all coders.
    """
    judge = trained.teachers or stage
    saved = np.load(folder / "stages" / judge / "predictions.npz")
    rows = np.intersect1d(saved["train_rows"], trained.rows[trained.given != UNKNOWN])
    given = trained.given[np.searchsorted(trained.rows, rows)]
    probs = saved["train"][np.searchsorted(saved["train_rows"], rows)]
    by_margin = "margins" in saved
    belief = saved["margins"][np.searchsorted(saved["rows"], rows)] if by_margin else probs
    faces = np.arange(len(rows))
    score, best = belief[faces, given], belief.argmax(axis=1)
    if by_margin and trained.label not in (*trained.coders, *VOTED):
        annotations = dataset.of_coders(trained.coders).train.labels["annotations"][rows]
        if ((annotations != UNKNOWN).sum(axis=1) > 1).any():
            score = weighted(belief, probs, annotations)
    order = np.argsort(score, kind="stable")
    return Doubts(
        judge=judge,
        by_margin=by_margin,
        rows=rows[order],
        given=given[order],
        probability=probs[faces, given][order],
        likelier=np.where(best == given, UNKNOWN, best)[order],
        score=score[order],
    )


def weighted(
    margins: Float[np.ndarray, "faces classes"],
    probs: Float[np.ndarray, "faces classes"],
    annotations: Int32[np.ndarray, "faces coders"],
) -> Float[np.ndarray, " faces"]:
    """Averages the margins of a face's annotations by the trust in its coders.

    The trust in a coder is the diagonal of the coder's confusion matrix, by Dawid and Skene's EM,
    averaged over the classes by the face's probabilities.
    """
    classes = margins.shape[1]
    confusions = dawid_skene(annotations, classes, start="majority", seed=0).confusions
    given = annotations != UNKNOWN
    trust = probs @ np.diagonal(confusions, axis1=1, axis2=2).T
    weights = np.where(given, np.maximum(trust, 1e-9), 0)  # some coder counts, whoever it is
    each = np.take_along_axis(margins, np.maximum(annotations, 0), axis=1)
    return (weights * each).sum(axis=1) / weights.sum(axis=1)


def write(path: Path, doubted: Doubts, names: Sequence[str], classes: Sequence[str]) -> None:
    """Writes all labelled training faces as CSV, in the order of doubt.

    Args:
      path: of the file.
      doubted: the faces.
      names: of the files of the run's training split.
      classes: names.
    """
    with writers.replacing(path) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row, given, probability, likelier, score in zip(*doubted[2:], strict=True):
            other = "" if likelier == UNKNOWN else classes[likelier]
            name = names[int(row)]
            table.writerow([name, classes[given], f"{probability:.4f}", other, f"{score:.4f}"])
