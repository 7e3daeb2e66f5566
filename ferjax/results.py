"""`result.json`: what a run found, computed from `metrics.jsonl`, and the table of it."""

import json
import resource
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ferjax.errors import UserError
from ferjax.writers import MetricsFile

LAST_EPOCHS = 5
"""Evaluations whose mean is reported beside the last one's accuracy."""


def summarise(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """The contents of `result.json`.

    `test_accuracy`, `uar`, `macro_f1` and `confusion` are those of the final weights of the main
    head of the stage `config.headline`; `comparators` are all other heads and stages, trained in
    the same run, by the names of the table. `oracle_best` looks at the test set; nothing is chosen
    by it.
    """
    stages = summarise_stages(config.stages, workdir)
    headline = stages[config.headline]
    rows = table_rows(stages)
    title = _title(config.headline, next(iter(headline["heads"])), headline["heads"])
    return {
        "headline": title,
        "test_accuracy": rows[title]["accuracy"],
        "last_5_mean": rows[title]["last_5_mean"],
        "oracle_best": rows[title]["oracle_best"],
        "comparators": {name: row["accuracy"] for name, row in rows.items() if name != title},
        **{name: headline["final"][name] for name in ("uar", "macro_f1", "confusion")},
        "stages": stages,
        "images_per_second": headline["images_per_second"],
        "wall_seconds": sum(_done(workdir, name)["seconds"] for name in config.stages),
        "peak_memory_bytes": max(_done(workdir, x)["peak_memory_bytes"] for x in config.stages),
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
    width = max(len(name) for name in rows)
    lines = [f"{'test accuracy, %':<{width + 2}}  last  mean of last {LAST_EPOCHS}  oracle best"]
    lines += [
        f"{name:<{max(width + 2, 16)}} {100 * row['accuracy']:5.2f}"
        f"           {100 * row['last_5_mean']:5.2f}        {100 * row['oracle_best']:5.2f}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def peak_memory() -> int:
    """Peak memory in bytes: of the busiest accelerator if it tells, else of this process."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    peaks = [s["peak_bytes_in_use"] for s in stats if s and "peak_bytes_in_use" in s]
    unit = 1 if sys.platform == "darwin" else 1024
    return max(peaks) if peaks else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _stage(metrics: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    mine = [line for line in metrics if line["stage"] == name]
    evaluations = [line for line in mine if line["split"] == "eval"]
    if not evaluations:
        raise UserError(f"metrics.jsonl has no evaluation of the finished stage {name}")
    final = evaluations[-1]
    heads = [field.removesuffix("/accuracy") for field in final if field.endswith("/accuracy")]
    training = [line for line in mine if line["split"] == "train"]
    speeds = [line["images_per_second"] for line in training]
    return {
        "heads": {head: _figures(evaluations, f"{head}/accuracy") for head in heads},
        "final": {name: final[name] for name in ("step", "uar", "macro_f1", "confusion")},
        "images_per_second": statistics.median(speeds),
        "data_wait": statistics.median(line["data_wait"] for line in training),
    }


def _figures(evaluations: Sequence[dict[str, Any]], field: str) -> dict[str, float]:
    values = [line[field] for line in evaluations]
    return {
        "accuracy": values[-1],
        "last_5_mean": statistics.fmean(values[-LAST_EPOCHS:]),
        "oracle_best": max(values),
    }


def _main_last(heads: dict[str, Any]) -> dict[str, Any]:
    main, *others = heads
    return {head: heads[head] for head in (*others, main)}


def _title(stage: str, head: str, heads: dict[str, Any]) -> str:
    return stage if len(heads) == 1 else f"{stage}/{head}"


def _done(workdir: Path, stage: str) -> dict[str, Any]:
    return json.loads((workdir / "stages" / stage / "done.json").read_text())
