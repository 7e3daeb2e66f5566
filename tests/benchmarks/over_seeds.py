"""Prints mean ± deviation over runs that differ only in their seed, from their `result.json`.

    python tests/benchmarks/over_seeds.py runs/ferplus-0 runs/ferplus-1 runs/ferplus-2

Prints a table in per cent, and one line of JSON with

- "rows": {name: {"runs", "last", "oracle_best", "drop"}}, each a [mean, deviation], where "drop" is
  the accuracy of the best epoch less that of the last: what memorising cost;
- "latent_truth": {stage: [mean, deviation]}, the share of training faces whose known truth the
  stage predicts.

Deviations are of the sample (n − 1). If runs have different stages, a row covers those that have
it.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ferjax import results


def main(folders: Sequence[str]) -> None:
    """Reads the runs, checks that they differ only in the seed, and prints."""
    if not folders:
        sys.exit("usage: over_seeds.py WORKDIR [WORKDIR ...]")
    configs = [json.loads((Path(x) / "config.json").read_text())["config"] for x in folders]
    seeds = [config["seed"] for config in configs]
    for config in configs:
        config.pop("stages", None)
    configs = [_without_seeds(config) for config in configs]
    if len(set(seeds)) < len(seeds) or any(config != configs[0] for config in configs):
        sys.exit("these runs differ in more than the seed, or not in the seed")
    found = [json.loads((Path(x) / "result.json").read_text()) for x in folders]
    rows = summarise(found)
    print(f"{'test accuracy, %':<20} runs {'last':>13} {'oracle best':>13} {'drop':>13}")
    for name, row in rows.items():
        pairs = (row[field] for field in ("last", "oracle_best", "drop"))
        cells = (f"{mean:6.2f} ± {deviation:4.2f}" for mean, deviation in pairs)
        print(f"{name:<20} {row['runs']:>4} {'  '.join(cells)}")
    latent = [result["latent_truth"] for result in found]
    shares = {
        name: _spread([x[name] for x in latent if name in x])
        for name in dict.fromkeys(name for x in latent for name in x)
    }
    print(json.dumps({"runs": len(folders), "rows": rows, "latent_truth": shares}))


def summarise(found: Sequence[dict]) -> dict[str, dict[str, Any]]:
    """Returns (mean, deviation), in per cent, for every row of the runs' tables."""
    tables = [results.table_rows(result["stages"]) for result in found]
    rows = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        mine = [table[name] for table in tables if name in table]
        rows[name] = {
            "runs": len(mine),
            "last": _spread([row["accuracy"] for row in mine]),
            "oracle_best": _spread([row["oracle_best"] for row in mine]),
            "drop": _spread([row["oracle_best"] - row["accuracy"] for row in mine]),
        }
    return rows


def _without_seeds(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _without_seeds(value) for name, value in config.items() if name != "seed"}


def _spread(values: Sequence[float]) -> tuple[float, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return round(100 * statistics.fmean(values), 2), round(100 * deviation, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
