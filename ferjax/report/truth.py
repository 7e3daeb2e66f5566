"""The report of truth inference: reliability of the coders, tasks in doubt, and agreement."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from scipy import sparse

from ferjax import writers
from ferjax.infer import (
    Crowd,
    Inference,
    estimated_accuracy,
    expected_confusion,
    expected_counts,
)
from ferjax.report import figures, page
from ferjax.report.parts import (
    Picture,
    Pictures,
    configuration,
    count,
    duration,
    origin,
    percent,
)
from ferjax.truth import Annotations, spammers
from ferjax.truth.annotations import last_of_each

Show = Callable[[Iterable[Picture]], str]
"""Saves pictures and returns their HTML."""

CODERS = 4
"""Number of most, and of least, reliable coders whose confusion matrices are drawn."""
LEAST_LABELS = 10
"""Coders with fewer labels are not ranked by reliability, unless none has that many."""
AGREEING = 20
"""Agreement is drawn between this many coders with most labels."""
DOUBTS = 20
"""Number of most doubtful tasks listed."""
MOST_CLASSES = 12
"""Matrices with more classes are not drawn: they would be illegible."""
MISTAKES = 10
"""Number of most frequent mistakes listed."""
SPAMMERS = 20
"""Number of coders listed whose labels hardly depend on the truth."""
LEAST_SHARED = 5
"""Agreement is not computed between coders who share fewer tasks."""


def write(
    config: ConfigDict, folder: Path, crowd: Crowd, inference: Inference, result: dict[str, Any]
) -> None:
    """Writes `report/index.html` of a finished run. Only process 0 should call it.

    Args:
      config: of the run, resolved.
      folder: the run's workdir.
      crowd: the run's inputs.
      inference: its outcome.
      result: the contents of `result.json`.
    """
    show = Pictures(folder / "report").show
    annotations = crowd.annotations
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Coders": _coders(annotations, inference, show),
            "Doubt": show([_entropy(inference)]) + _doubts(annotations, inference),
            "Agreement": show(_agreement(annotations)),
            "Data and configuration": _results(result) + configuration(config, folder),
        }
        if result["accuracy"] is not None:
            sections = {"Known truth": _known(crowd, inference, show)} | sections
    sections = {heading: content for heading, content in sections.items() if content}
    title = f"{result['algorithm'].replace('_', ' ')} on {Path(config.annotations).name}"
    text = page.document(title, _lead(config, folder, result), sections)
    writers.write_text(folder / "report" / "index.html", text)


def agreement(
    annotations: Annotations, coders: Int[np.ndarray, " coders"]
) -> Float[np.ndarray, "coders coders"]:
    """Returns the share of their common tasks on which two coders agree; nan if these are too few.

    If a coder labelled a task several times, the last label counts.
    """
    tasks, workers, classes = annotations.sizes
    number = np.full(workers, -1)
    number[coders] = np.arange(len(coders))
    last = last_of_each(annotations.task, annotations.worker)
    rows = np.flatnonzero(last & (number[annotations.worker] >= 0))
    coder, task = number[annotations.worker[rows]], annotations.task[rows].astype(np.int64)
    task_label = task * classes + annotations.label[rows]

    def shared(columns: np.ndarray, count: int) -> np.ndarray:
        """Counts the columns that two coders have in common."""
        ones = np.ones(len(rows), np.int64)
        incidence = sparse.csr_matrix((ones, (coder, columns)), (len(coders), count))
        return (incidence @ incidence.T).toarray()

    both = shared(task, tasks)
    enough = both >= LEAST_SHARED
    return np.where(enough, shared(task_label, tasks * classes) / np.maximum(both, 1), np.nan)


def _lead(config: ConfigDict, folder: Path, result: dict[str, Any]) -> str:
    crowd = (
        f"{count(result['annotations'], 'annotation')} of {count(result['tasks'], 'task')} by "
        f"{count(result['workers'], 'coder')} in {count(len(result['classes']), 'class')}, from "
        f"{config.annotations}."
    )
    if result["accuracy"] is not None:
        known = f"{result['known_tasks']:,}"
        crowd += (
            f" {result['accuracy']:.1%} of the {known} whose truth is known are inferred right."
        )
    ran = f"Reading them and inferring the truth took {duration(result['seconds'])}."
    key = {"time": duration(result["seconds"])}
    if result["algorithm"] != "majority_vote":
        key = {"iterations": f"{result['iterations']:,}"} | key
    if result["accuracy"] is not None:
        key = {"accuracy": f"{result['accuracy']:.2%}"} | key
    return page.paragraph(crowd, "lead") + origin(folder, ran) + page.key_figures(key)


def _results(result: dict[str, Any]) -> str:
    rows = {
        "classes": ", ".join(map(str, result["classes"])),
        "annotations of a task by a coder who had labelled it before": f"{result['repeated']:,}",
        "tasks whose likeliest classes are tied": f"{result['tied_tasks']:,}",
        "converged": "yes" if result["converged"] else "no",
        "tasks given as gold": f"{result['gold_tasks']:,}",
    }
    if result["krippendorff_alpha"] is not None:
        rows["Krippendorff's α (1: all agree, 0: chance)"] = f"{result['krippendorff_alpha']:.3f}"
    if result["log_likelihood"] is not None:
        rows["log-likelihood"] = f"{result['log_likelihood']:.2f}"
    if result["accuracy"] is not None:
        rows["tasks of known truth"] = f"{result['known_tasks']:,}"
    return page.fields(rows)


def _known(crowd: Crowd, inference: Inference, show: Show) -> str:
    names = _classes(crowd.annotations)
    known = crowd.measured >= 0
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (crowd.measured[known], inference.labels[known]), 1)
    mistakes = _mistakes(counts.astype(np.float64), crowd.annotations, "mistake")
    if len(names) > MOST_CLASSES:
        return mistakes
    picture = Picture(
        "known_truth.png",
        figures.confusion_matrix(
            counts, names, "% of each known class", columns="inferred label", rows="truth (tasks)"
        ),
        "Confusion matrix of the inferred labels and the known truth.",
        "Tasks whose truth is known. Each row is a true class and sums to 100%; the columns are "
        "the inferred labels.",
    )
    return show([picture]) + mistakes


def _mistakes(
    counts: Float[np.ndarray, "classes classes"], annotations: Annotations, title: str
) -> str:
    """Builds a table of the most frequent mistakes; in `counts` row = truth."""
    names = annotations.classes.astype(str)
    wrong = counts * (1 - np.eye(len(names)))
    rows = {}
    for cell in np.argsort(-wrong.reshape(-1), kind="stable")[:MISTAKES]:
        k, j = divmod(int(cell), len(names))
        if wrong[k, j] >= 0.5:
            share = percent(float(wrong[k, j] / counts[k].sum()))
            rows[f"{names[k]} as {names[j]}"] = [f"{wrong[k, j]:,.0f}", share]
    return page.table((title, "times", "share of the class"), rows) if rows else ""


def _coders(annotations: Annotations, inference: Inference, show: Show) -> str:
    parts = [_spread(annotations, inference, show)]
    if len(annotations.classes) <= MOST_CLASSES and inference.confusions is not None:
        parts.append(show(_reliable(annotations, inference)))
    counts = expected_confusion(annotations, inference.posteriors)
    parts.append(_mistakes(counts, annotations, "expected mistakes of all coders"))
    parts.append(_spammers(annotations, inference))
    return "\n".join(parts)


def _spammers(annotations: Annotations, inference: Inference) -> str:
    """Builds a table of the busiest coders whose labels hardly depend on the inferred truth."""
    given = np.bincount(annotations.worker)
    flagged = np.flatnonzero(spammers(annotations, inference.labels))
    right = estimated_accuracy(annotations, inference.posteriors)
    rows = {
        str(annotations.workers[coder]): [f"{given[coder]:,}", percent(float(right[coder]))]
        for coder in flagged[np.argsort(-given[flagged], kind="stable")][:SPAMMERS]
    }
    title = f"labels hardly depend on the truth (in all {len(flagged):,} coders)"
    return page.table((title, "labels", "estimated accuracy"), rows) if rows else ""


def _spread(annotations: Annotations, inference: Inference, show: Show) -> str:
    right = estimated_accuracy(annotations, inference.posteriors)
    given = np.bincount(annotations.worker)
    picture = Picture(
        "coders.png",
        figures.scatter(given, 100 * right, "labels given", "estimated accuracy, %"),
        "Estimated accuracy of every coder by the number of labels given.",
        "Each dot is a coder; accuracy is the expected share of right labels under the posteriors. "
        f"Half of all labels come from the {_half(given):,} busiest of "
        f"{count(len(given), 'coder')}.",
    )
    return show([picture])


def _half(given: Int[np.ndarray, " workers"]) -> int:
    """Returns the smallest number of coders who gave half of all labels."""
    return int(np.searchsorted(np.cumsum(np.sort(given)[::-1]), given.sum() / 2)) + 1


def _reliable(annotations: Annotations, inference: Inference) -> Iterator[Picture]:
    counts = expected_counts(annotations, inference.posteriors)
    given = np.bincount(annotations.worker)
    right = estimated_accuracy(annotations, inference.posteriors)
    met = counts.sum(axis=2, keepdims=True) >= 0.5  # otherwise nothing is known of the row
    assert inference.confusions is not None
    confusions = np.where(met, inference.confusions, np.nan)
    least = min(LEAST_LABELS, int(given.max()))
    ranked = np.flatnonzero(given >= least)
    order = ranked[np.argsort(-right[ranked], kind="stable")]
    for degree, coders in (("most", order[:CODERS]), ("least", order[CODERS:][::-1][:CODERS])):
        if len(coders) == 0:
            continue
        accuracies = [f"{percent(float(right[c]))} of {given[c]:,} right" for c in coders]
        names = [str(annotations.workers[c]) for c in coders]
        titles = [f"{name}\n{text}" for name, text in zip(names, accuracies, strict=True)]
        pairs = zip(names, accuracies, strict=True)
        yield Picture(
            f"{degree}_reliable.png",
            figures.confusion_grid(confusions[coders], _classes(annotations), titles),
            f"Confusion matrices of the {degree} reliable coders: "
            + "; ".join(f"{name}, {text}" for name, text in pairs),
            f"The {degree} reliable of {count(len(ranked), 'coder')} with at least "
            f"{count(least, 'label')}. "
            "Cells show how often, in per cent, a coder gives the column's label to the row's true "
            "class; – where the coder labelled no task of that class. Above each matrix, the "
            f"expected share of right labels. From the left: {', '.join(names)}.",
        )


def _classes(annotations: Annotations) -> list[str]:
    return annotations.classes.astype(str).tolist()


def _entropy(inference: Inference) -> Picture:
    bits = inference.entropy
    sure = float(np.mean(bits < 0.1))
    return Picture(
        "entropy.png",
        figures.histogram(
            bits,
            np.log2(inference.posteriors.shape[1]),
            "entropy of a task's posterior, bits",
            "tasks",
        ),
        f"Histogram of the tasks' entropies: {percent(sure)} lie below 0.1 bits.",
        f"How uncertain each label is, with counts on a logarithmic scale. 0 bits is certain, "
        f"the right end is a guess among all classes. {percent(sure)} of the tasks lie below 0.1 "
        "bits.",
    )


def _doubts(annotations: Annotations, inference: Inference) -> str:
    bits, names = inference.entropy, annotations.classes.astype(str)
    order = np.argsort(-bits, kind="stable")[:DOUBTS]
    starts, ends = (np.searchsorted(annotations.task, order, side) for side in ("left", "right"))
    rows = {}
    for task, start, end in zip(order, starts, ends, strict=True):
        votes = np.bincount(annotations.label[start:end], minlength=len(names))
        likeliest = np.argsort(-inference.posteriors[task], kind="stable")[:3]
        rows[str(annotations.tasks[task])] = [
            f"{bits[task]:.2f}",
            str(names[inference.labels[task]]),
            ", ".join(
                f"{names[k]} {percent(float(inference.posteriors[task, k]))}" for k in likeliest
            ),
            ", ".join(
                f"{names[k]} ×{votes[k]}" for k in np.argsort(-votes, kind="stable") if votes[k]
            ),
        ]
    columns = ("most doubtful task", "bits", "label", "likeliest", "annotations")
    return page.table(columns, rows)


def _agreement(annotations: Annotations) -> Iterator[Picture]:
    given = np.bincount(annotations.worker)
    if len(given) == 1:
        return
    coders = np.argsort(-given, kind="stable")[:AGREEING]
    shares = agreement(annotations, coders)
    yield Picture(
        "agreement.png",
        figures.share_matrix(
            shares,
            annotations.workers[coders].astype(str).tolist(),
            "% of shared tasks labelled alike",
        ),
        "Agreement between the coders with most labels.",
        f"How often two coders agree on a task that both labelled, in per cent, for the "
        f"{len(coders)} coders with most labels, the busiest first; – where they share fewer than "
        f"{LEAST_SHARED} tasks.",
    )
