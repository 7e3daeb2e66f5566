"""`result.json`: the results of a run, computed from `metrics.jsonl`, and their table."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from ferjax.data.record import UNKNOWN
from ferjax.errors import UserError
from ferjax.stages import DONE, STAGE
from ferjax.writers import MetricsFile

LAST_EPOCHS = 5
"""How many of the last evaluations are averaged for the mean reported beside the last one."""

SCORES = {"accuracy": "test accuracy, %", "ccc": "test CCC, %"}
"""The measures that heads are judged by, and the titles of their tables."""

FIGURES = {
    "last": "last",
    "last_5_mean": f"mean of last {LAST_EPOCHS}",
    "best_validation": "best on validation",
    "oracle_best": "oracle best",
}
"""Figures of a head's score, and their titles in tables."""

Figures = dict[str, Any]


def summarise(headline: str, names: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Computes the contents of `result.json`.

    `test_accuracy` (`test_ccc` for a head of valence and arousal) and the final measures are those
    of the last weights of the headline's main head; `comparators` has the last score of all other
    heads and stages, by their names in the table. `oracle_best` looks at the test set, so it is
    only reported, never used to select. Where faces were held out for validation, `best_validation`
    is the score of the weights that did best on them. `tests` has the final measures on further
    test splits.

    Args:
      headline: the stage that stands for the run.
      names: of the stages that trained.
      workdir: of the run.

    Raises:
      UserError: if `metrics.jsonl` lacks an evaluation of a stage.
    """
    stages = summarise_stages(names, workdir)
    main = stages[headline]
    rows = table_rows(stages)
    title = _title(headline, next(iter(main["heads"])), main["heads"])
    score = main_score(main)
    return {
        "headline": title,
        f"test_{score}": rows[title]["last"],
        **{
            name: value for name, value in rows[title].items() if name in FIGURES and name != "last"
        },
        "comparators": {name: row["last"] for name, row in rows.items() if name != title},
        **{name: value for name, value in main["final"].items() if name not in ("step", score)},
        "tests": main["tests"],
        "stages": stages,
        "images_per_second": main["images_per_second"],
        **cost(stages, workdir),
    }


def latent_truth(
    names: Sequence[str], workdir: Path, truth: Int32[np.ndarray, " faces"]
) -> dict[str, float]:
    """Returns the share of training faces whose known truth each stage predicts, in [0, 1].

    Counts the faces that the stage predicted when it ended. Stages are left out if the truth of
    none of these is known, or if their main head does not predict classes.
    """
    shares = {}
    for name in names:
        predictions = np.load(workdir / "stages" / name / "predictions.npz")
        known = truth[predictions["train_rows"]]
        if (known != UNKNOWN).any() and str(predictions["kind"]) == "class":
            right = predictions["train"].argmax(axis=1) == known
            shares[name] = float(right[known != UNKNOWN].mean())
    return shares


def cost(stages: dict[str, Any], workdir: Path) -> dict[str, float]:
    """Returns seconds and peak memory of all stages, including those run before a resumption."""
    done = [json.loads((workdir / "stages" / name / DONE).read_text()) for name in stages]
    lines = MetricsFile(workdir / "metrics.jsonl").read()
    labelling = sum(line["seconds"] for line in lines if line["split"] == "annotate")
    return {
        "wall_seconds": sum(stage["seconds"] for stage in stages.values()) + labelling,
        "peak_memory_bytes": max(stage["peak_memory_bytes"] for stage in done),
    }


def summarise_stages(names: Sequence[str], workdir: Path) -> dict[str, Any]:
    """Computes, for each stage, the figures of every head, the final measures and the speed.

    Raises:
      UserError: if `metrics.jsonl` lacks an evaluation of a stage.
    """
    path = workdir / "metrics.jsonl"
    metrics = MetricsFile(path).read()
    stages = {name: [line for line in metrics if line["stage"] == name] for name in names}
    for name, lines in stages.items():
        about = json.loads((workdir / "stages" / name / STAGE).read_text())
        steps = evaluated_steps(about["eval_every"], about["total_steps"])
        check_evaluations(path, name, lines, steps)
    return {name: _stage(lines) for name, lines in stages.items()}


def evaluated_steps(every: int, total: int, upto: int | None = None) -> set[int]:
    """Returns the steps, of `total` in all, after which a stage is evaluated; some up to one."""
    steps = {*range(every, total + 1, every), total}
    return {step for step in steps if upto is None or step <= upto}


def check_evaluations(
    path: Path, stage: str, lines: Sequence[dict[str, Any]], steps: set[int]
) -> None:
    """Checks that there is an evaluation of a stage after each of some steps.

    Args:
      path: of `metrics.jsonl`.
      stage: name of the stage.
      lines: of the stage in `path`.
      steps: after which it was evaluated.

    Raises:
      UserError: if one is missing, on any of the splits that the stage was evaluated on.
    """
    splits = {x["split"] for x in lines if x["split"].startswith("eval/")} | {"eval"}
    splits |= {x["split"] for x in lines if x["split"] == "validation"}
    for split in sorted(splits):
        missing = steps - {line["step"] for line in lines if line["split"] == split}
        if missing:
            own = path.parent / "stages" / stage
            raise UserError(
                f"{path} lacks the evaluation of {stage} at step {min(missing)} "
                f"({len(missing)} in all): delete {own}, and the same command trains it again"
            )


def main_figures(stage: dict[str, Any]) -> Figures:
    """Returns the figures of a stage's main head."""
    return next(iter(stage["heads"].values()))


def main_score(stage: dict[str, Any]) -> str:
    """Returns what a stage's main head is judged by, one of `SCORES`."""
    return main_figures(stage)["score"]


def table_rows(stages: dict[str, Any]) -> dict[str, Figures]:
    """Returns the figures of every head of every stage, by the name that the table gives it."""
    return {
        _title(stage, head, summary["heads"]): figures
        for stage, summary in stages.items()
        for head, figures in _main_last(summary["heads"]).items()
    }


def tables(stages: dict[str, Any]) -> dict[str, dict[str, Figures]]:
    """Returns the rows of `table_rows` by the title of the table that they belong to."""
    rows = table_rows(stages)
    by_title = {
        title: {name: row for name, row in rows.items() if row["score"] == score}
        for score, title in SCORES.items()
    }
    return {title: group for title, group in by_title.items() if group}


def format_table(result: dict[str, Any]) -> str:
    """Formats the tables that a run prints; scores in per cent."""
    return "\n".join(_format(title, rows) for title, rows in tables(result["stages"]).items())


def figures_of(rows: Mapping[str, Figures]) -> dict[str, str]:
    """Returns the title of each figure that all rows have, in the order of the table."""
    return {x: FIGURES[x] for x in FIGURES if all(x in row for row in rows.values())}


def _format(title: str, rows: Mapping[str, Figures]) -> str:
    columns = figures_of(rows)
    width = max(16, *(len(name) + 2 for name in rows))
    lines = ["  ".join([f"{title:<{width}}", *(f"{column:>5}" for column in columns.values())])]
    for name, row in rows.items():
        cells = [f"{100 * row[x]:{max(5, len(column))}.2f}" for x, column in columns.items()]
        lines.append("  ".join([f"{name:<{width}}", *cells]))
    return "\n".join(lines)


def _stage(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    evaluations = [line for line in lines if line["split"] == "eval"]
    validations = [line for line in lines if line["split"] == "validation"]
    final = evaluations[-1]
    heads = dict(
        field.split("/") for field in final if field.split("/")[-1] in SCORES and "/" in field
    )
    best = None
    if validations:  # the first of those that did best on validation faces
        main = next(iter(heads.values()))
        best = max(validations, key=lambda line: line[main])["step"]
    training = [line for line in lines if line["split"] == "train"]
    further = {line["split"]: line for line in lines if line["split"].startswith("eval/")}
    return {
        "heads": {head: _figures(evaluations, head, score, best) for head, score in heads.items()},
        "final": {"step": final["step"]} | _measures(final),
        "tests": {split.removeprefix("eval/"): _measures(x) for split, x in further.items()},
        "seconds": final["seconds"],
        "images_per_second": statistics.median(line["images_per_second"] for line in training),
        "data_wait": statistics.median(line["data_wait"] for line in training),
    }


def _measures(line: dict[str, Any]) -> dict[str, Any]:
    """Returns the main head's measures in a line of `metrics.jsonl`."""
    others = ("step", "epoch", "split", "stage", "seconds")
    return {name: x for name, x in line.items() if name not in others and "/" not in name}


def _figures(
    evaluations: Sequence[dict[str, Any]], head: str, score: str, best: int | None
) -> dict[str, Any]:
    """Returns the figures of one head; `best` is the step that did best in validation, if any."""
    values = {line["step"]: line[f"{head}/{score}"] for line in evaluations}
    ordered = list(values.values())
    figures = {
        "score": score,
        "last": ordered[-1],
        "last_5_mean": statistics.fmean(ordered[-LAST_EPOCHS:]),
        "oracle_best": max(ordered),
    }
    return figures if best is None else figures | {"best_validation": values[best]}


def _main_last(heads: dict[str, Any]) -> dict[str, Any]:
    main, *others = heads
    return {head: heads[head] for head in (*others, main)}


def _title(stage: str, head: str, heads: dict[str, Any]) -> str:
    return stage if len(heads) == 1 else f"{stage}/{head}"
