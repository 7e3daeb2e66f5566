"""The report of training runs and of sweeps over them.

Everything is drawn from what the run left behind (`metrics.jsonl`, each stage's `predictions.npz`,
`config.json`), so that a report can be written again at any time. It is analysis after training and
shows the truth wherever it is known.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Bool, Float, Int, Int32
from matplotlib.figure import Figure
from ml_collections import ConfigDict

from ferjax import plan, results, sweep, writers
from ferjax.data.record import UNKNOWN, Dataset, given_labels
from ferjax.evaluate import right_classes
from ferjax.report import coders, figures, page
from ferjax.report.figures import Curve, Face
from ferjax.report.parts import Picture, Pictures, configuration, duration, percent
from ferjax.train import learnt_from

SHEET_FACES = 18
"""Faces on each sheet."""

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


class Learner(NamedTuple):
    """A finished stage and what it learnt from.

    Attributes:
      dataset: of its coders, with its label, and without the images.
      rows: places of the dataset's training faces among those of the run.
      learnt: what its method says it learnt, see `methods.method`.
    """

    dataset: Dataset
    rows: Int32[np.ndarray, " rows"]
    learnt: Mapping[str, np.ndarray]


def write(config: ConfigDict, folder: Path, dataset: Dataset, result: dict[str, Any]) -> None:
    """Writes the report of a finished run; for process 0 alone.

    Args:
      config: of the run, resolved; `stages` and `headline` name what is shown.
      folder: the run's workdir.
      dataset: what was learnt from and evaluated on; few faces are read from it.
      result: of `results.summarise`.
    """
    show = Pictures(folder / "report").show
    stages = _lines_by_stage(folder)
    predictions = np.load(folder / "stages" / config.headline / "predictions.npz")
    learners = {name: _learner(folder, name, dataset) for name in stages}
    headline = learners[config.headline]
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Results": _results(result),
            "Accuracy over steps": show(_test_curves(stages)),
            "Training": show(_training_curves(stages, learners)),
            "What is taken for what": show([_confusion(result, dataset)]),
            "Coders and latent truth": show(
                coders.pictures(
                    headline.learnt, predictions, dataset.of_coders(headline.dataset.coders)
                )
            ),
            "Test faces": show(_test_faces(predictions, dataset, result)),
            "Labels in doubt": show(_doubts(predictions, headline, dataset, result)),
            "Data and configuration": _provenance(config, folder, dataset),
        }
    title = f"{result['headline']} on {config.data.name}"
    filled = {name: text for name, text in sections.items() if text}
    text = page.document(title, _lead(result, dataset), filled)
    writers.write_text(folder / "report" / "index.html", text)


def write_sweep(config: ConfigDict, folder: Path, dataset: Dataset, table: sweep.Table) -> None:
    """Writes the report of a finished sweep; for process 0 alone.

    Args:
      config: of the run, resolved.
      folder: the run's workdir.
      dataset: what was learnt from and evaluated on.
      table: what came out.
    """
    show = Pictures(folder / "report").show
    rows = {f"{value:g}": [f"{x:.2f}" for x in cells] for value, cells in table.rows.items()}
    columns = (table.varied, *(f"{column}, %" for column in table.columns))
    with matplotlib.rc_context(figures.STYLE):
        picture = Picture(
            "sweep.png",
            figures.swept_accuracy(table.varied, table.columns, table.rows),
            f"Test accuracy by {table.varied}.",
            "Accuracy of the last weights on the test faces. To choose the best of these values "
            "is to look at the test set; and one run of each says little where they lie close.",
        )
        sections = {
            "Results": page.table(columns, rows) + show([picture]),
            "Accuracy over steps": show(_test_curves(_lines_by_stage(folder))),
            "Data and configuration": _provenance(config, folder, dataset),
        }
    title = f"Sweep over {table.varied} on {config.data.name}"
    text = page.document(title, page.paragraph(_faces(dataset), "lead"), sections)
    writers.write_text(folder / "report" / "index.html", text)


def most_doubted(
    probs: Float[np.ndarray, "faces classes"], given: Int[np.ndarray, " faces"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Places of the faces whose given label gets the least probability, the least first.

    Faces without a label (-1) are left out.
    """
    doubt = np.where(given >= 0, probs[np.arange(len(given)), given], np.inf)
    order = np.argsort(doubt, kind="stable")
    return order[: min(count, int(np.sum(given >= 0)))]


def surest_mistakes(
    probs: Float[np.ndarray, "faces classes"], right: Bool[np.ndarray, "faces classes"], count: int
) -> Int[np.ndarray, " chosen"]:
    """Places of the faces taken for a wrong class with the most probability, the most first.

    Faces with no right class, whose truth nobody knows, are left out.
    """
    wrong = right.any(axis=1) & ~right[np.arange(len(probs)), probs.argmax(axis=1)]
    order = np.argsort(-probs.max(axis=1), kind="stable")
    return order[wrong[order]][:count]


def _lead(result: dict[str, Any], dataset: Dataset) -> str:
    return page.paragraph(_faces(dataset), "lead") + page.key_figures(
        {
            "test accuracy": f"{result['test_accuracy']:.1%}",
            "mean recall (UAR)": f"{result['uar']:.1%}",
            "macro F1": f"{result['macro_f1']:.1%}",
            "training speed": f"{result['images_per_second']:,.0f} img/s",
            "time of all stages": duration(result["wall_seconds"]),
            "peak memory": f"{result['peak_memory_bytes'] / 2**30:.1f} GiB",
        }
    )


def _faces(dataset: Dataset) -> str:
    train, test = len(dataset.train.images), len(dataset.test.images)
    return f"{train:,} training and {test:,} test images."


def _learner(folder: Path, stage: str, dataset: Dataset) -> Learner:
    mine = folder / "stages" / stage
    recipe = ConfigDict(json.loads((mine / plan.STAGE).read_text())["recipe"])
    nothing = np.empty((len(dataset.train.images), 0, 0, 0), np.uint8)
    without_images = dataset._replace(train=dataset.train._replace(images=nothing))
    seen, rows = learnt_from(without_images, recipe)
    return Learner(seen, rows, np.load(mine / "learnt.npz"))


def _lines_by_stage(folder: Path) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in writers.MetricsFile(folder / "metrics.jsonl").read():
        if line["split"] != "annotate":
            stages.setdefault(line["stage"], []).append(line)
    return stages


def _results(result: dict[str, Any]) -> str:
    figures_of = results.table_rows(result["stages"])
    columns = results.columns_of(figures_of)
    rows = {
        name: [f"{100 * row[field]:.2f}" for field in columns] for name, row in figures_of.items()
    }
    stages = {
        name: [
            f"{100 * stage['final']['uar']:.2f}",
            f"{100 * stage['final']['macro_f1']:.2f}",
            f"{stage['images_per_second']:,.0f}",
            f"{stage['data_wait']:.1%}",
        ]
        for name, stage in result["stages"].items()
    }
    return "\n".join(
        [
            page.table(("test accuracy, %", *columns.values()), rows, marked=result["headline"]),
            page.paragraph(
                "Oracle best is the best evaluation of the run. It looks at the test set to choose "
                "its epoch, so it is no result: it shows what was lost by training to the end."
            ),
            page.table(
                ("stage, main head", "UAR, %", "macro F1, %", "images/s", "waiting for data"),
                stages,
            ),
        ]
    )


def _test_curves(stages: dict[str, list[dict[str, Any]]]) -> Iterator[Picture]:
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


def _training_curves(
    stages: dict[str, list[dict[str, Any]]], learners: Mapping[str, Learner]
) -> Iterator[Picture]:
    training = {
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
            {name: (_losses(lines), _accuracies(lines)) for name, lines in training.items()}, shares
        ),
        "Training loss and accuracy on the given labels over epochs, a row for each stage.",
        caption,
    )
    weights = {
        name: [_epoch_means(lines, "lambda")] if "lambda" in lines[-1] else []
        for name, lines in training.items()
    }
    if any(weights.values()):
        yield Picture(
            "lambda.png",
            figures.weight_curves(weights, "λ, the weight of the consensus"),
            "The weight λ of the consensus over epochs.",
            "λ in the epoch that ends at each point: how much agreement between the networks "
            "counts against fitting the given labels.",
        )
    diagonals = {name: _diagonals(lines) for name, lines in training.items()}
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


def _confusion(result: dict[str, Any], dataset: Dataset) -> Picture:
    counts = np.array(result["confusion"])
    return Picture(
        "confusion.png",
        figures.confusion_matrix(
            counts, dataset.classes, f"{result['headline']}: % of each true class"
        ),
        "Confusion matrix: " + _recalls(counts, dataset.classes),
        "Each row is a true class and sums to 100%; the diagonal is the recall.",
    )


def _recalls(counts: np.ndarray, classes: Sequence[str]) -> str:
    shares = figures.row_shares(counts)
    return "; ".join(
        f"{name} {shares[k, k]:.0%} right" for k, name in enumerate(classes) if counts[k].any()
    )


def _test_faces(
    predictions: Mapping[str, np.ndarray], dataset: Dataset, result: dict[str, Any]
) -> Iterator[Picture]:
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
            "Test faces that were recognised, with prediction, probability and truth.",
            f"Some of the test faces that {name} got right, drawn at random.",
        )
    if len(mistakes):
        yield Picture(
            "test_mistakes.png",
            sheet(mistakes, figures.WRONG, "✗"),
            "Test faces that were mistaken, with prediction, probability and truth.",
            f"The mistakes that {name} was surest of, the surest first.",
        )


def _doubts(
    predictions: Mapping[str, np.ndarray],
    learner: Learner,
    dataset: Dataset,
    result: dict[str, Any],
) -> Iterator[Picture]:
    train, classes = dataset.train, dataset.classes
    probs, rows = predictions["train"], predictions["train_rows"]
    seen = learner.dataset
    given = given_labels(seen.train.labels, seen.coders, seen.label)
    given = given[np.searchsorted(learner.rows, rows)]
    truth = train.truth[rows]
    faces = []
    for place in most_doubted(probs, given, SHEET_FACES):
        y, k, t = int(given[place]), int(probs[place].argmax()), int(truth[place])
        if t == UNKNOWN:
            verdict, colour = "truth unknown", figures.UNKNOWN
        elif t == y:
            verdict, colour = "the label is right", figures.WRONG
        else:
            verdict, colour = f"truth: {classes[t]}{' ✓' if t == k else ''}", figures.RIGHT
        lines = (
            f"given: {classes[y]} {percent(float(probs[place, y]))}",
            f"net: {classes[k]} {percent(float(probs[place, k]))}",
            verdict,
        )
        faces.append(Face(train.images[int(rows[place])], lines, colour))
    if faces:
        yield Picture(
            "doubts.png",
            figures.face_sheet(faces),
            "Training faces with the given label, the network's, and the truth.",
            _doubt_caption(probs, given, truth, result["headline"]) + _of_several(seen),
        )


def _doubt_caption(probs: np.ndarray, given: np.ndarray, truth: np.ndarray, headline: str) -> str:
    text = (
        f"The training faces whose given label gets the least probability from {headline}, the "
        "least first"
    )
    known = (truth != UNKNOWN) & (given != UNKNOWN)
    if not known.any():
        return f"{text}."
    differs = known & (probs.argmax(axis=1) != given)
    wrong = known & (truth != given)
    text += (
        ". Blue: the label is indeed wrong (✓: and the network's is the truth); orange: the label "
        "is right and the doubt is not."
    )
    if differs.any() and wrong.any():
        both = int(np.sum(differs & wrong))
        text += (
            f" Of {known.sum():,} labelled faces looked at, {wrong.sum():,} carry a wrong label. "
            f"The network disagrees with {differs.sum():,} labels: {both / differs.sum():.0%} of "
            f"these are wrong, and they are {both / wrong.sum():.0%} of all wrong ones."
        )
    return text


def _of_several(dataset: Dataset) -> str:
    """What 'given' means if faces have several annotations."""
    several = (dataset.train.labels["annotations"] != UNKNOWN).sum(axis=1).max(initial=0) > 1
    if not several or dataset.label in (*dataset.coders, "votes", "multi_target"):
        return ""
    found = "what truth inference finds" if dataset.label == "inferred" else "the most frequent"
    return f" Where several coders annotated a face, the given label is {found}."


def _provenance(config: ConfigDict, folder: Path, dataset: Dataset) -> str:
    data = [
        f"classes: {', '.join(dataset.classes)}",
        f"coders: {', '.join(dataset.coders)}",
        f"trained on: {dataset.label}",
        *dataset.notes,
    ]
    return page.bullets(data) + "\n" + configuration(config, folder)
