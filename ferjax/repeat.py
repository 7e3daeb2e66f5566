"""Repetitions of a run over seeds, each in its own workdir, and a table of mean ± deviation."""

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ferjax import lock, results, runs, writers
from ferjax.errors import UserError
from ferjax.report import repeat

COLUMNS = ("last", "oracle_best", "best_validation")
"""Figures of a head's score that are tabulated, see `results.FIGURES`."""

Spread = tuple[float, float]
"""Mean and deviation, of the sample (n − 1); 0 of a single value."""


def over_seeds(config: ConfigDict, folder: Path) -> None:
    """Runs a config for each of `config.seeds` in `folder/seed-<n>/`, and tabulates the results.

    Each of these is a complete workdir; stages finished there are not trained again. All runs are
    checked before the first one trains.

    Args:
      config: with its references, so that fields that follow `seed` still do.
      folder: parent of all workdirs.

    Raises:
      UserError: for a seed that is named twice, a kind of run other than training, or a mistake in
        one of the runs.
      Preempted: when asked to stop, after saving.
    """
    seeds = tuple(config.seeds)
    if len(set(seeds)) < len(seeds):
        raise UserError(f"seeds: one of {seeds} is named twice")
    if config.run != "train":
        raise UserError(f"seeds: run={config.run!r} cannot be repeated, only 'train'")
    workdirs = [folder / f"seed-{seed}" for seed in seeds]
    configs = [_with_seed(config, seed) for seed in seeds]
    with lock.hold(folder):
        for workdir, seeded in zip(workdirs, configs, strict=True):
            runs.check(seeded, workdir)
        for workdir, seeded in zip(workdirs, configs, strict=True):
            runs.run(seeded, workdir)
        if jax.process_index() == 0:
            _tabulate(config, folder, workdirs)


def _tabulate(config: ConfigDict, folder: Path, workdirs: Sequence[Path]) -> None:
    """Writes and prints what all seeds together show."""
    result = summarise([json.loads((path / "result.json").read_text()) for path in workdirs])
    result = {"seeds": list(config.seeds)} | result
    writers.write_json(folder / "result.json", result)
    repeat.write(config, folder, result)
    print(format_table(result))
    print(f"report: {folder / 'report' / 'index.html'}")


def _with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    """Returns the resolved config of one seed."""
    changed = copy.deepcopy(config)
    changed.seed, changed.seeds = seed, ()
    return changed.copy_and_resolve_references()


def summarise(repeated: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Computes mean and deviation over the `result.json` of several runs.

    Returns:
      `rows`, for each head and stage by its name in the table: `score` and, as (mean, deviation)
      in [0, 1], the figures of `COLUMNS` and `drop`, by how much the last evaluation lies below the
      best one; and `each`, the last score of each run. `latent_truth`, (mean, deviation) by stage.
      `headline`, the name of the headline's row.
    """
    tables = [results.table_rows(result["stages"]) for result in repeated]
    rows: dict[str, dict[str, Any]] = {}
    for name, first in tables[0].items():
        group = [table[name] for table in tables]
        rows[name] = {"score": first["score"]} | {
            figure: _spread([row[figure] for row in group]) for figure in COLUMNS if figure in first
        }
        rows[name]["drop"] = _spread([row["oracle_best"] - row["last"] for row in group])
        rows[name]["each"] = [row["last"] for row in group]
    latent = {
        name: _spread([result["latent_truth"][name] for result in repeated])
        for name in repeated[0]["latent_truth"]
    }
    return {"headline": repeated[0]["headline"], "rows": rows, "latent_truth": latent}


def format_table(result: Mapping[str, Any]) -> str:
    """Formats mean ± deviation of every head and stage, in per cent."""
    width = max(16, *(len(name) + 2 for name in result["rows"]))
    lines = []
    for title, table in repeat.tables(result).items():
        lines.append("  ".join([f"{title:<{width}}", *(f"{x:>18}" for x in table.columns)]))
        for name, cells in table.rows.items():
            lines.append("  ".join([f"{name:<{width}}", *(f"{cell:>18}" for cell in cells)]))
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> Spread:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
