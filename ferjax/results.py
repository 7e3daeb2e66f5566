"""`result.json`: what a run found, computed from `metrics.jsonl`, and the table of it."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax.data.record import UNKNOWN
from ferjax.errors import UserError
from ferjax.writers import MetricsFile

LAST_EPOCHS = 5
"""Evaluations whose mean is reported beside the last one's accuracy."""

COLUMNS = {
    "accuracy": "last",
    "last_5_mean": f"mean of last {LAST_EPOCHS}",
    "best_validation": "best on validation",
    "oracle_best": "oracle best",
}
"""Figures of a head, as the table calls them."""


def summarise(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The contents of `result.json`.

    `test_accuracy`, `uar`, `macro_f1` and `confusion` are those of the final weights of the main
    head of the stage `config.headline`; `comparators` are all other heads and stages, trained in
    the same run, by the names of the table. `oracle_best` looks at the test set; nothing is chosen
    by it. Where faces were held out for validation, `best_validation` is the accuracy of the
    weights that did best on them.
    """
    stages = summarise_stages(config.stages, workdir)
    headline = stages[config.headline]
    rows = table_rows(stages)
    title = _title(config.headline, next(iter(headline["heads"])), headline["heads"])
    return {
        "headline": title,
        "test_accuracy": rows[title]["accuracy"],
        **{name: value for name, value in rows[title].items() if name != "accuracy"},
        "comparators": {name: row["accuracy"] for name, row in rows.items() if name != title},
        **{name: headline["final"][name] for name in ("uar", "macro_f1", "confusion")},
        "stages": stages,
        "images_per_second": headline["images_per_second"],
        **cost(stages, workdir),
    }


def latent_truth(
    names: Sequence[str], workdir: Path, truth: Int32[np.ndarray, " faces"]
) -> dict[str, float]:
    """Share of the training faces whose known truth each stage's main head names, in [0, 1].

    Of those that the stage predicted when it ended; stages without any of known truth are left out.
    """
    shares = {}
    for name in names:
        predictions = np.load(workdir / "stages" / name / "predictions.npz")
        known = truth[predictions["train_rows"]]
        right = predictions["train"].argmax(axis=1) == known
        if (known != UNKNOWN).any():
            shares[name] = float(right[known != UNKNOWN].mean())
    return shares


def cost(stages: dict[str, Any], workdir: Path) -> dict[str, float]:
    """Seconds and peak memory of all stages, of whatever sessions they were run in."""
    done = [json.loads((workdir / "stages" / name / "done.json").read_text()) for name in stages]
    lines = MetricsFile(workdir / "metrics.jsonl").read()
    labelling = sum(line["seconds"] for line in lines if line["split"] == "annotate")
    return {
        "wall_seconds": sum(stage["seconds"] for stage in stages.values()) + labelling,
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done),
    }


def summarise_stages(names: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Figures of every head, final measures and speed of each stage.

    Raises:
      UserError: if a stage has no line in `metrics.jsonl`.
    """
    metrics = MetricsFile(workdir / "metrics.jsonl").read()
    return {name: _stage(metrics, name) for name in names}


def main_figures(stage: dict[str, Any]) -> dict[str, float]:
    """The figures of a stage's main head."""
    return next(iter(stage["heads"].values()))


def table_rows(stages: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Figures of every head of every stage, by the name that the table gives it."""
    return {
        _title(stage, head, summary["heads"]): figures
        for stage, summary in stages.items()
        for head, figures in _main_last(summary["heads"]).items()
    }


def format_table(result: dict[str, Any]) -> str:
    """The table that a run prints; accuracies in per cent."""
    rows = table_rows(result["stages"])
    columns = columns_of(rows)
    width = max(16, *(len(name) + 2 for name in rows))
    titles = (f"{title:>5}" for title in columns.values())
    lines = ["  ".join([f"{'test accuracy, %':<{width}}", *titles])]
    for name, row in rows.items():
        cells = [f"{100 * row[field]:{max(5, len(title))}.2f}" for field, title in columns.items()]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)


def columns_of(rows: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """The title of each figure in `table_rows`, in the order of the table."""
    return {field: COLUMNS[field] for field in COLUMNS if all(field in x for x in rows.values())}


def _stage(metrics: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [line for line in metrics if line["stage"] == name]
    evaluations = [line for line in mine if line["split"] == "eval"]
    validations = [line for line in mine if line["split"] == "validation"]
    # The first of those that did best on validation faces.
    chosen = max(validations, key=lambda line: line["accuracy"])["step"] if validations else None
    if not evaluations:
        raise UserError(f"metrics.jsonl has no evaluation of the finished stage {name}")
    final = evaluations[-1]
    heads = [field.removesuffix("/accuracy") for field in final if field.endswith("/accuracy")]
    training = [line for line in mine if line["split"] == "train"]
    speeds = [line["images_per_second"] for line in training]
    return {
        "heads": {head: _figures(evaluations, f"{head}/accuracy", chosen) for head in heads},
        "final": {name: final[name] for name in ("step", "uar", "macro_f1", "confusion")},
        "seconds": final["seconds"],
        "images_per_second": statistics.median(speeds),
        "data_wait": statistics.median(line["data_wait"] for line in training),
    }


def _figures(
    evaluations: Sequence[dict[str, Any]], field: str, chosen: int | None
) -> dict[str, float]:
    """Figures of one head; `chosen` is the step that did best on the validation split, if any."""
    values = {line["step"]: line[field] for line in evaluations}
    ordered = list(values.values())
    figures = {
        "accuracy": ordered[-1],
        "last_5_mean": statistics.fmean(ordered[-LAST_EPOCHS:]),
        "oracle_best": max(ordered),
    }
    return figures if chosen is None else figures | {"best_validation": values[chosen]}


def _main_last(heads: dict[str, Any]) -> dict[str, Any]:
    main, *others = heads
    return {head: heads[head] for head in (*others, main)}


def _title(stage: str, head: str, heads: dict[str, Any]) -> str:
    return stage if len(heads) == 1 else f"{stage}/{head}"
