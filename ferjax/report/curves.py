"""Pictures of how training went: accuracies and losses over steps and epochs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ferjax.data.record import UNKNOWN, given_labels
from ferjax.report import figures
from ferjax.report.figures import Curve
from ferjax.report.learner import Learner
from ferjax.report.parts import Picture

MOST_CURVES = 12
"""In the picture of test accuracies; with more, it shows main heads alone."""

DIAGONAL = "diagonal_of_"
"""Beginning of the metrics that tell the mean diagonal of a coder's matrix."""

EVERY_ANNOTATION = ("random", "soft")
"""Labels by which a stage learns from each annotation of a face."""

_NO_LOSS = {
    "step",
    "epoch",
    "split",
    "stage",
    "lambda",
    "images_per_second",
    "data_wait",
    "seconds",
}


def test_accuracy(stages: dict[str, list[dict[str, Any]]]) -> Iterator[Picture]:
    """Every head of every stage; the main heads alone if that would be too many to tell apart."""
    curves = {}
    for name, lines in stages.items():
        evaluations = [line for line in lines if line["split"] == "eval"]
        fields = [field for field in evaluations[-1] if field.endswith("/accuracy")]
        curves[name] = [_curve(evaluations, field, over="step") for field in fields]
    if sum(map(len, curves.values())) > MOST_CURVES:
        curves = {name: mine[:1] for name, mine in curves.items()}
    caption = (
        "Accuracy on the test faces at each evaluation; the thick line is a stage's main head. A "
        "curve that rises and then falls has begun to learn wrong labels by heart: an open circle "
        "marks its best evaluation."
    )
    if len(stages) > 1:
        caption += (
            " Every stage counts its own steps from 0, also one that starts after another; a "
            "dotted line carries the last value of a shorter stage on for comparison."
        )
    yield Picture(
        "test_accuracy.png",
        figures.evaluation_curves(curves),
        "Test accuracy over the steps of every stage.",
        caption,
    )


def training(
    stages: dict[str, list[dict[str, Any]]], learners: Mapping[str, Learner]
) -> Iterator[Picture]:
    """Losses and accuracies on the given labels; λ and coders' diagonals where stages log them."""
    logged = {
        name: [line for line in lines if line["split"] == "train"] for name, lines in stages.items()
    }
    caption = (
        "Means over each epoch, on augmented faces, with every term as the method logs it. A "
        "stage's thick line is its loss, or the mean of its networks."
    )
    found = {name: _right_share(learner) for name, learner in learners.items()}
    shares = {name: share for name, share in found.items() if share is not None}
    if shares:
        caption += (
            " The dashed line is the share of the given labels that are right: a network that "
            "agrees with more of them than that has learnt wrong ones by heart."
        )
    yield Picture(
        "learning_curves.png",
        figures.learning_curves(
            {name: (_losses(lines), _accuracies(lines)) for name, lines in logged.items()}, shares
        ),
        "Training loss and accuracy on the given labels over epochs, a row for each stage.",
        caption,
    )
    weights = {
        name: [_epoch_means(lines, "lambda")] if "lambda" in lines[-1] else []
        for name, lines in logged.items()
    }
    if any(weights.values()):
        yield Picture(
            "lambda.png",
            figures.weight_curves(weights, "λ, the weight of the consensus"),
            "The weight λ of the consensus over epochs.",
            "λ in the epoch that ends at each point: how much agreement between the networks "
            "counts against fitting the given labels.",
        )
    diagonals = {name: _diagonals(lines) for name, lines in logged.items()}
    if any(diagonals.values()):
        yield Picture(
            "diagonals.png",
            figures.weight_curves(diagonals, "Mean diagonal of each coder's matrix"),
            "How often each coder is right, as learnt, over epochs.",
            "The mean probability with which a coder names the truth.",
        )


def _right_share(learner: Learner) -> float | None:
    """Share of the labels given to a stage that are right; None if all are, or if nobody knows."""
    dataset = learner.dataset
    truth = dataset.train.truth[:, None]
    if dataset.label in EVERY_ANNOTATION or "coders" in learner.learnt:
        given = dataset.train.labels["annotations"]
    else:
        given = given_labels(dataset.train.labels, dataset.coders, dataset.label)[:, None]
    known = (truth != UNKNOWN) & (given != UNKNOWN)
    truth = np.broadcast_to(truth, given.shape)
    wrong = given[known] != truth[known]
    return float(1 - wrong.mean()) if wrong.any() else None


def _losses(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    terms = [
        x
        for x in lines[-1]
        if x not in _NO_LOSS and not x.endswith("accuracy") and not x.startswith(DIAGONAL)
    ]
    return [_epoch_means(lines, field) for field in _first("loss", terms)]


def _diagonals(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    fields = [x for x in lines[-1] if x.startswith(DIAGONAL)]
    curves = [_epoch_means(lines, field) for field in fields]
    names = [field.removeprefix(DIAGONAL) for field in fields]
    return [curve._replace(name=name) for curve, name in zip(curves, names, strict=True)]


def _accuracies(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    rates = [field for field in lines[-1] if field.endswith("accuracy")]
    curves = [_epoch_means(lines, field) for field in _first("accuracy", rates)]
    return [c._replace(name="mean") if c.name == "accuracy" and curves[1:] else c for c in curves]


def _first(main: str, fields: Sequence[str]) -> list[str]:
    """The fields with the main one first: a compiled step returns its metrics sorted by name."""
    return sorted(fields, key=lambda field: field != main)


def _curve(lines: Sequence[dict[str, Any]], field: str, over: str = "epoch") -> Curve:
    name = field.removesuffix("/accuracy").replace("_", " ")
    places = np.array([line[over] for line in lines], np.float64)
    return Curve(name, places, np.array([line[field] for line in lines], np.float64))


def _epoch_means(lines: Sequence[dict[str, Any]], field: str) -> Curve:
    """A field averaged over the lines of each epoch, at the last of them."""
    curve = _curve(lines, field)
    _, epoch = np.unique(np.ceil(curve.at - 1e-6), return_inverse=True)
    sizes = np.bincount(epoch)
    return curve._replace(
        at=curve.at[np.cumsum(sizes) - 1],
        values=np.bincount(epoch, weights=curve.values) / sizes,
    )
