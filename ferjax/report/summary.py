"""The head of a training run's report: in words, what came out and what was run."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ferjax import results
from ferjax.data.record import Dataset
from ferjax.methods import METHODS
from ferjax.report import curves, page
from ferjax.report.parts import count, duration, origin
from ferjax.report.trained import Trained

BASELINE = "supervised"
"""The method of stages that others are compared with."""


def head(
    config: ConfigDict,
    folder: Path,
    dataset: Dataset,
    result: dict[str, Any],
    trained: Mapping[str, Trained],
) -> str:
    """Returns the HTML of two paragraphs, and of the command that was run."""
    main = trained[config.headline]
    return "\n".join(
        [
            page.paragraph(outcome(result, trained), "lead"),
            page.paragraph(f"{_method(config.headline, main)} {_data(config, dataset, main)}"),
            origin(folder, f"Training took {duration(result['wall_seconds'])}."),
        ]
    )


def outcome(result: dict[str, Any], trained: Mapping[str, Trained]) -> str:
    """Returns a sentence on the headline's score, and on how far it is from baselines."""
    name = result["headline"]
    stages = result["stages"]
    stage = next(x for x in stages if x == name.split("/")[0])
    score = results.main_score(stages[stage])
    value = results.main_figures(stages[stage])["last"]
    title = results.SCORES[score].split(",")[0]
    text = f"{name} reaches {_score(value, score)} {title}"
    others = {
        other: value - results.main_figures(stages[other])["last"]
        for other, one in trained.items()
        if one.method == BASELINE and other != stage and results.main_score(stages[other]) == score
    }
    apart = [f"{_distance(lead, score)} {other}" for other, lead in others.items()]
    return f"{text}, {_joined(apart)}, trained alike." if apart else f"{text}."


def _score(value: float, score: str) -> str:
    return f"{value:.1%}" if score == "accuracy" else f"{value:.3f}"


def _distance(lead: float, score: str) -> str:
    size = f"{abs(100 * lead):.1f} points" if score == "accuracy" else f"{abs(lead):.3f}"
    return f"{size} {'below' if lead < 0 else 'above'}"


def _joined(parts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def data_name(config: ConfigDict, dataset: Dataset) -> str:
    """Returns what a dataset is called: its own name, or those of the sets that it is made of."""
    return " and ".join(dataset.sets) or config.data.get("dataset") or config.data.name


def _method(stage: str, main: Trained) -> str:
    """Returns the first sentence of the method's own description."""
    about = inspect.getdoc(inspect.getmodule(METHODS[main.method].make)) or ""
    return f"Method of {stage}: {about.splitlines()[0]}"


def _data(config: ConfigDict, dataset: Dataset, main: Trained) -> str:
    train, test = len(main.rows), len(dataset.test.images)
    text = (
        f"It learnt from {count(train, 'image')} of {data_name(config, dataset)} in "
        f"{count(len(dataset.classes), 'class')} and was tested on {count(test, 'image')}."
    )
    kind = config.noise.kind if "noise" in config else "none"
    noise = "" if kind == "none" else f" Labels were made wrong on purpose ({kind} noise)."
    right = curves.right_share(main, dataset)
    known = "" if right is None else f" {1 - right:.1%} of its labels are wrong."
    return text + noise + known


def by_class(
    counts: np.ndarray, given: np.ndarray, classes: tuple[str, ...]
) -> dict[str, list[str]]:
    """Returns the rows of a table: faces of each class, and how well it is predicted.

    Args:
      counts: [classes, classes] test faces, row = truth, column = prediction.
      given: [faces] the class that each training face is labelled as, or -1.
      classes: names.
    """
    labelled = np.bincount(given[given >= 0], minlength=len(classes))
    right, true, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    rows = {}
    for k, name in enumerate(classes):
        of, among = labelled[k], labelled.sum()
        parts = (
            (right[k], predicted[k]),
            (right[k], true[k]),
            (2 * right[k], true[k] + predicted[k]),
        )
        shares = [_percent(float(part), float(whole)) for part, whole in parts]
        rows[name] = [f"{of:,}", _percent(float(of), float(among)), f"{true[k]:,}", *shares]
    return rows


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"
