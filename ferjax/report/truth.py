"""The report of truth inference: how reliable coders are, what is in doubt, and who agrees."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict
from scipy import sparse

from ferjax import writers
from ferjax.infer import Crowd, Found, estimated_accuracy, expected_counts
from ferjax.report import figures, page
from ferjax.report.parts import Picture, Pictures, configuration, duration, percent
from ferjax.truth import Annotations
from ferjax.truth.annotations import last_of_each

Show = Callable[[Iterable[Picture]], str]
"""Saves pictures and gives their HTML."""

CODERS = 4
"""Most and least reliable coders whose confusion matrices are drawn."""
LEAST_LABELS = 10
"""Coders with fewer labels are not called reliable or unreliable, if others have more."""
AGREEING = 20
"""Coders, those with most labels, whose agreement is drawn."""
DOUBTS = 20
"""Tasks listed as most in doubt."""
MOST_CLASSES = 12
"""Matrices of more classes are not drawn, as nobody could read them."""
MISTAKES = 10
"""Most frequent mistakes listed."""
LEAST_SHARED = 5
"""Coders who share fewer tasks are not said to agree or not."""
NAME = 18
"""Characters of a name in a figure."""


def write(
    config: ConfigDict, folder: Path, crowd: Crowd, found: Found, result: dict[str, Any]
) -> None:
    """Writes `report/index.html` of a finished run; for process 0 alone.

    Args:
      config: of the run, resolved.
      folder: the run's workdir.
      crowd: what was inferred from.
      found: what came out.
      result: the contents of `result.json`.
    """
    show = Pictures(folder / "report").show
    annotations = crowd.annotations
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Coders": _coders(annotations, found, show),
            "Doubt": show([_entropy(found)]) + _doubts(annotations, found),
            "Agreement": show(_agreement(annotations)),
            "Data and configuration": _results(result) + configuration(config, folder),
        }
        if result["accuracy"] is not None:
            sections = {"Known truth": _known(crowd, found, show)} | sections
    sections = {heading: content for heading, content in sections.items() if content}
    title = f"{result['algorithm'].replace('_', ' ')} on {Path(config.annotations).name}"
    text = page.document(title, _lead(result), sections)
    writers.write_text(folder / "report" / "index.html", text)


def agreement(
    annotations: Annotations, coders: Int[np.ndarray, " coders"]
) -> Float[np.ndarray, "coders coders"]:
    """Share of the tasks labelled by both on which two coders agree, nan where these are too few.

    Of several labels of one coder for one task the last counts.
    """
    tasks, workers, classes = annotations.sizes
    place = np.full(workers, -1)
    place[coders] = np.arange(len(coders))
    last = last_of_each(annotations.task, annotations.worker)
    rows = np.flatnonzero(last & (place[annotations.worker] >= 0))
    coder, task = place[annotations.worker[rows]], annotations.task[rows].astype(np.int64)
    said = task * classes + annotations.label[rows]

    def shared(columns: np.ndarray, count: int) -> np.ndarray:
        """How many columns two coders have in common."""
        ones = np.ones(len(rows), np.int64)
        mine = sparse.csr_matrix((ones, (coder, columns)), (len(coders), count))
        return (mine @ mine.T).toarray()

    both = shared(task, tasks)
    enough = both >= LEAST_SHARED
    return np.where(enough, shared(said, tasks * classes) / np.maximum(both, 1), np.nan)


def _lead(result: dict[str, Any]) -> str:
    crowd = (
        f"{result['annotations']:,} annotations of {result['tasks']:,} tasks by "
        f"{result['workers']:,} coders, {len(result['classes'])} classes."
    )
    key = {"time": duration(result["seconds"])}
    if result["algorithm"] != "majority_vote":
        key = {"iterations": f"{result['iterations']:,}"} | key
    if result["accuracy"] is not None:
        key = {"accuracy": f"{result['accuracy']:.2%}"} | key
    return page.paragraph(crowd, "lead") + page.key_figures(key)


def _results(result: dict[str, Any]) -> str:
    rows = {
        "classes": ", ".join(map(str, result["classes"])),
        "annotations that repeat an earlier task and coder": f"{result['repeated']:,}",
        "tasks whose likeliest classes are tied": f"{result['tied_tasks']:,}",
        "converged": "yes" if result["converged"] else "no",
        "tasks given as gold": f"{result['gold_tasks']:,}",
    }
    if result["log_likelihood"] is not None:
        rows["log-likelihood"] = f"{result['log_likelihood']:.2f}"
    if result["accuracy"] is not None:
        rows["tasks of known truth"] = f"{result['known_tasks']:,}"
    return page.fields(rows)


def _known(crowd: Crowd, found: Found, show: Show) -> str:
    names = _classes(crowd.annotations)
    told = crowd.measured >= 0
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (crowd.measured[told], found.labels[told]), 1)
    mistakes = _mistakes(counts.astype(np.float64), crowd.annotations, "truth taken for")
    if len(names) > MOST_CLASSES:
        return mistakes
    picture = Picture(
        "known_truth.png",
        figures.confusion_matrix(
            counts, names, "% of each known class", columns="inferred label", rows="truth (tasks)"
        ),
        "Confusion matrix of the inferred labels and the known truth.",
        "The tasks whose truth is known: each row is a true class and sums to 100%, the columns "
        "are what was inferred.",
    )
    return show([picture]) + mistakes


def _mistakes(
    counts: Float[np.ndarray, "classes classes"], annotations: Annotations, title: str
) -> str:
    """A table of the most frequent mistakes; row = truth."""
    names = annotations.classes.astype(str)
    wrong = counts * (1 - np.eye(len(names)))
    rows = {}
    for cell in np.argsort(-wrong.reshape(-1), kind="stable")[:MISTAKES]:
        k, j = divmod(int(cell), len(names))
        if wrong[k, j] >= 0.5:
            share = percent(float(wrong[k, j] / counts[k].sum()))
            rows[f"{names[k]} as {names[j]}"] = [f"{wrong[k, j]:,.0f}", share]
    return page.table((title, "times", "of this class"), rows) if rows else ""


def _coders(annotations: Annotations, found: Found, show: Show) -> str:
    counts = expected_counts(annotations, found.posteriors)
    parts = [_spread(annotations, found, show)]
    if len(annotations.classes) <= MOST_CLASSES:
        parts.append(show(_reliable(annotations, found, counts)))
    parts.append(_mistakes(counts.sum(axis=0), annotations, "mistakes of all coders, as expected"))
    return "\n".join(parts)


def _spread(annotations: Annotations, found: Found, show: Show) -> str:
    right = estimated_accuracy(annotations, found.posteriors)
    given = np.bincount(annotations.worker)
    picture = Picture(
        "coders.png",
        figures.scatter(given, 100 * right, "labels given", "estimated accuracy, %"),
        "Estimated accuracy of every coder by the number of labels given.",
        "Every coder: the share of the labels that is right, as expected under the posteriors. "
        f"Half of all labels come from the {_half(given):,} busiest of {len(given):,} coders.",
    )
    return show([picture])


def _half(given: Int[np.ndarray, " workers"]) -> int:
    """How few coders gave half of all labels."""
    return int(np.searchsorted(np.cumsum(np.sort(given)[::-1]), given.sum() / 2)) + 1


def _reliable(
    annotations: Annotations, found: Found, counts: Float[np.ndarray, "workers classes classes"]
) -> Iterator[Picture]:
    given = np.bincount(annotations.worker)
    right = estimated_accuracy(annotations, found.posteriors)
    met = counts.sum(axis=2, keepdims=True) >= 0.5  # else a row says nothing of the coder
    confusions = np.where(met, found.confusions, np.nan)
    least = min(LEAST_LABELS, int(given.max()))
    judged = np.flatnonzero(given >= least)
    order = judged[np.argsort(-right[judged], kind="stable")]
    for which, coders in (("most", order[:CODERS]), ("least", order[CODERS:][::-1][:CODERS])):
        if len(coders) == 0:
            continue
        said = [f"{percent(float(right[c]))} of {given[c]:,} right" for c in coders]
        names = [str(annotations.workers[c]) for c in coders]
        titles = [f"{_short(name)}\n{text}" for name, text in zip(names, said, strict=True)]
        pairs = zip(names, said, strict=True)
        yield Picture(
            f"{which}_reliable.png",
            figures.confusion_grid(confusions[coders], _classes(annotations), titles),
            f"Confusion matrices of the {which} reliable coders: "
            + "; ".join(f"{name}, {text}" for name, text in pairs),
            f"The {which} reliable of the {len(judged):,} coders with at least {least} labels: "
            "how often, in per cent, each says the label of the column where the row is true; – "
            "where the coder met no task of that class. Above each, the share of its labels that "
            "is right, as expected.",
        )


def _classes(annotations: Annotations) -> list[str]:
    return [_short(str(name)) for name in annotations.classes]


def _short(name: str) -> str:
    """What fits a figure: both ends of a long name."""
    half = NAME // 2
    return name if len(name) <= NAME else f"{name[: half - 1]}…{name[-half:]}"


def _entropy(found: Found) -> Picture:
    bits = found.entropy
    sure = float(np.mean(bits < 0.1))
    return Picture(
        "entropy.png",
        figures.histogram(
            bits, np.log2(found.posteriors.shape[1]), "entropy of a task's posterior, bits", "tasks"
        ),
        f"Histogram of the tasks' entropies: {percent(sure)} lie below 0.1 bits.",
        f"How unsure the result is of each task, on a logarithmic scale of tasks: 0 bits is "
        f"certainty, the right end a guess among all classes. {percent(sure)} of the tasks lie "
        "below 0.1 bits.",
    )


def _doubts(annotations: Annotations, found: Found) -> str:
    bits, names = found.entropy, annotations.classes.astype(str)
    order = np.argsort(-bits, kind="stable")[:DOUBTS]
    starts, ends = (np.searchsorted(annotations.task, order, side) for side in ("left", "right"))
    rows = {}
    for task, start, end in zip(order, starts, ends, strict=True):
        said = np.bincount(annotations.label[start:end], minlength=len(names))
        likeliest = np.argsort(-found.posteriors[task], kind="stable")[:3]
        rows[str(annotations.tasks[task])] = [
            f"{bits[task]:.2f}",
            str(names[found.labels[task]]),
            ", ".join(f"{names[k]} {percent(float(found.posteriors[task, k]))}" for k in likeliest),
            ", ".join(
                f"{names[k]} ×{said[k]}" for k in np.argsort(-said, kind="stable") if said[k]
            ),
        ]
    columns = ("task most in doubt", "bits", "label", "likeliest", "what coders said")
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
            [_short(str(name)) for name in annotations.workers[coders]],
            "% of shared tasks labelled alike",
        ),
        "Agreement between the coders with most labels.",
        f"On how many of the tasks that both labelled two coders agree, in per cent, for the "
        f"{len(coders)} coders with most labels, the busiest first; – where they share fewer than "
        f"{LEAST_SHARED} tasks.",
    )
