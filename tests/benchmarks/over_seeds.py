"""Mean ± deviation over runs that differ in their seed alone, from their `result.json`.

python tests/benchmarks/over_seeds.py runs/ferplus-0 runs/ferplus-1 runs/ferplus-2

Prints a table in per cent, and one line of JSON: {"runs", "rows": {name: {"last": [mean,
deviation], "oracle_best": [mean, deviation], "drop": [mean, deviation]}}}, where drop is the
oracle's best epoch less the last one: what memorising cost. Deviations are of the sample (n − 1).
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from ferjax import results


def main(folders: Sequence[str]) -> None:
    """Reads the runs, checks that they differ in the seed alone, and prints."""
    if not folders:
        sys.exit("usage: over_seeds.py WORKDIR [WORKDIR ...]")
    configs = [json.loads((Path(x) / "config.json").read_text())["config"] for x in folders]
    seeds = [config.pop("seed") for config in configs]
    for config in configs:
        config["data"].pop("seed")
        config["noise"].pop("seed")
    if len(set(seeds)) < len(seeds) or any(config != configs[0] for config in configs):
        sys.exit("these runs differ in more than the seed, or not in the seed")
    rows = summarise([json.loads((Path(x) / "result.json").read_text()) for x in folders])
    print(f"{'test accuracy, %':<20} {'last':>13} {'oracle best':>13} {'drop':>13}")
    for name, row in rows.items():
        cells = (f"{mean:6.2f} ± {deviation:4.2f}" for mean, deviation in row.values())
        print(f"{name:<20} {'  '.join(cells)}")
    print(json.dumps({"runs": len(folders), "rows": rows}))


def summarise(found: Sequence[dict]) -> dict[str, dict[str, tuple[float, float]]]:
    """(mean, deviation) in per cent of every row of the runs' tables."""
    tables = [results.table_rows(result["stages"]) for result in found]
    return {
        name: {
            "last": _spread([table[name]["accuracy"] for table in tables]),
            "oracle_best": _spread([table[name]["oracle_best"] for table in tables]),
            "drop": _spread(
                [table[name]["oracle_best"] - table[name]["accuracy"] for table in tables]
            ),
        }
        for name in tables[0]
    }


def _spread(values: Sequence[float]) -> tuple[float, float]:
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return round(100 * statistics.fmean(values), 2), round(100 * deviation, 2)


if __name__ == "__main__":
    main(sys.argv[1:])
