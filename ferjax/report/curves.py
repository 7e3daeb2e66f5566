"""Pictures of how training went: scores, losses and weights over steps and epochs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ferjax.data.record import UNKNOWN, Dataset
from ferjax.report import figures
from ferjax.report.figures import Curve
from ferjax.report.parts import Picture
from ferjax.report.trained import Trained
from ferjax.results import SCORES

MOST_CURVES = 12
"""In the picture of test scores; with more, it shows main heads alone."""

EVERY_ANNOTATION = ("random", "soft")
"""Labels by which a stage learns from each annotation of a face."""

WEIGHTS = {
    "lambda": (
        "λ, the weight of the consensus",
        "λ in the epoch that ends at each point: how much agreement between the networks counts "
        "against fitting the given labels.",
    ),
    "diagonal": (
        "Mean diagonal of each coder's matrix",
        "The mean probability with which a coder names the truth, as learnt.",
    ),
    "kept": (
        "Share of the faces that is learnt from",
        "The share of each batch whose loss is smallest, which alone is learnt from.",
    ),
}
"""Title and caption of metrics of kind 'weight', by the first part of their names."""

Lines = Sequence[dict[str, Any]]


def test_scores(stages: Mapping[str, Lines]) -> Iterator[Picture]:
    """Draws the score of every head of every stage; of main heads alone if there are too many."""
    for score, title in SCORES.items():
        curves = {}
        for name, lines in stages.items():
            evaluations = [line for line in lines if line["split"] == "eval"]
            fields = [field for field in evaluations[-1] if field.endswith(f"/{score}")]
            if fields:
                curves[name] = [_curve(evaluations, field, over="step") for field in fields]
        if sum(map(len, curves.values())) > MOST_CURVES:
            curves = {name: group[:1] for name, group in curves.items()}
        if _more_than_dots(curves):
            yield Picture(
                f"test_{score}.png",
                figures.evaluation_curves(curves, title[0].upper() + title[1:]),
                f"{title.split(',')[0].capitalize()} over the steps of every stage.",
                _score_caption(len(curves) > 1),
            )


def training(
    stages: Mapping[str, Lines], trained: Mapping[str, Trained], dataset: Dataset
) -> Iterator[Picture]:
    """Draws losses, accuracies on the given labels, and the weights that methods log."""
    logged = {
        name: [line for line in lines if line["split"] == "train"] for name, lines in stages.items()
    }
    caption = (
        "Means over each epoch, on augmented faces, with every term as the method logs it. A "
        "stage's thick line is its loss, or the mean of its networks."
    )
    shares = {name: right_share(one, dataset) for name, one in trained.items()}
    known = {name: share for name, share in shares.items() if share is not None}
    if known:
        caption += (
            " The dashed line is the share of the given labels that are right: a network that "
            "agrees with more of them than that has learnt wrong ones by heart."
        )
    losses, accuracies = (
        {name: _of_kind(kind, lines, trained[name].metrics) for name, lines in logged.items()}
        for kind in ("loss", "accuracy")
    )
    if _more_than_dots(losses):
        yield Picture(
            "learning_curves.png",
            figures.learning_curves({x: (losses[x], accuracies[x]) for x in logged}, known),
            "Training loss and accuracy on the given labels over epochs, a row for each stage.",
            caption,
        )
    yield from _weights(logged, trained)


def _weights(logged: Mapping[str, Lines], trained: Mapping[str, Trained]) -> Iterator[Picture]:
    """Draws the metrics of kind 'weight', those of one family in one picture."""
    by_stage = {
        name: [field for field, kind in trained[name].metrics.items() if kind == "weight"]
        for name in logged
    }
    families = dict.fromkeys(x.split("/")[0] for fields in by_stage.values() for x in fields)
    for family in families:
        curves = {
            name: [_epoch_means(logged[name], x) for x in fields if x.split("/")[0] == family]
            for name, fields in by_stage.items()
        }
        if not _more_than_dots(curves):
            continue
        renamed = {
            name: [c._replace(name=c.name.removeprefix(f"{family}/")) for c in group]
            for name, group in curves.items()
        }
        title, caption = WEIGHTS.get(family, (family, f"{family} over the epochs of each stage."))
        yield Picture(
            f"{family}.png",
            figures.weight_curves(renamed, title),
            f"{title}, over epochs.",
            caption,
        )


def _more_than_dots(curves: Mapping[str, Sequence[Curve]]) -> bool:
    """Returns whether a curve has two points: a figure of dots says nothing."""
    return any(len(curve.at) > 1 for group in curves.values() for curve in group)


def _score_caption(several: bool) -> str:
    caption = (
        "The score on the test faces at each evaluation; the thick line is a stage's main head. A "
        "curve that rises and then falls has begun to learn wrong labels by heart: an open circle "
        "marks its best evaluation, whose score follows the last one."
    )
    if several:
        caption += (
            " Every stage counts its own steps from 0, also one that starts after another; a "
            "dotted line carries the last value of a shorter stage on for comparison."
        )
    return caption


def right_share(trained: Trained, dataset: Dataset) -> float | None:
    """Share of the labels given to a stage that are right; None if all are, or if nobody knows."""
    truth = dataset.train.truth[trained.rows][:, None]
    if trained.label in EVERY_ANNOTATION or "coders" in trained.learnt:
        columns = [dataset.coders.index(name) for name in trained.coders]
        given = dataset.train.labels["annotations"][trained.rows][:, columns]
    else:
        given = trained.given[:, None]
    known = (truth != UNKNOWN) & (given != UNKNOWN)
    wrong = given[known] != np.broadcast_to(truth, given.shape)[known]
    return float(1 - wrong.mean()) if wrong.any() else None


def _of_kind(kind: str, lines: Lines, kinds: Mapping[str, str]) -> list[Curve]:
    """Curves of all metrics of a kind, the main one, which has the kind's name, first."""
    fields = sorted((x for x in kinds if kinds[x] == kind), key=lambda field: field != kind)
    curves = [_epoch_means(lines, field) for field in fields]
    return [c._replace(name="mean") if c.name == "accuracy" and curves[1:] else c for c in curves]


def _curve(lines: Lines, field: str, over: str = "epoch") -> Curve:
    name = field.rsplit("/", 1)[0] if field.rsplit("/", 1)[-1] in SCORES else field
    at = np.array([line[over] for line in lines], np.float64)
    values = np.array([line[field] for line in lines], np.float64)
    return Curve(name.replace("_", " "), at, values)


def _epoch_means(lines: Lines, field: str) -> Curve:
    """A field averaged over the lines of each epoch, at the last of them; of one epoch, all lines.

    A mean of one epoch would be a dot.
    """
    curve = _curve(lines, field)
    if curve.at[-1] <= 1 + 1e-6:
        return curve
    _, epoch = np.unique(np.ceil(curve.at - 1e-6), return_inverse=True)
    sizes = np.bincount(epoch)
    return curve._replace(
        at=curve.at[np.cumsum(sizes) - 1],
        values=np.bincount(epoch, weights=curve.values) / sizes,
    )
