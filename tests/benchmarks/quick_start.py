"""Runs the README's first command for three seeds, and its baseline on clean labels.

    python tests/benchmarks/quick_start.py --workdir=runs/quick

Two commands, `python -m ferjax.main` with several seeds, each resumable, which print their tables
of mean ± deviation. Then prints one line of JSON: the students' lead over the baseline, the
baseline's drop from its own best epoch (mean, deviation), its accuracy on clean labels, all in
points, and the seconds of all stages of each run.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)


def run(workdir: Path, *changes: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs the first command for all seeds; returns the results over seeds and of each."""
    command = [sys.executable, "-m", "ferjax.main", "--config=configs/cct.py"]
    options = [f"--workdir={workdir}", f"--config.seeds={SEEDS}", *changes]
    subprocess.run([*command, *options], check=True)
    each = [workdir / f"seed-{seed}" / "result.json" for seed in SEEDS]
    return read(workdir / "result.json"), list(map(read, each))


def read(path: Path) -> dict[str, Any]:
    """Reads a JSON file."""
    return json.loads(path.read_text())


def main() -> None:
    """Runs everything and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/quick"))
    folder = parser.parse_args().workdir
    over_seeds, noisy = run(folder / "noisy")
    only_baseline = ("--config.stages=('baseline',)", "--config.headline=baseline")
    _, clean = run(folder / "clean", "--config.noise.kind=none", *only_baseline)
    leads = [x["test_accuracy"] - x["comparators"]["baseline"] for x in noisy]
    report = {
        "student_lead_points": [round(100 * lead, 2) for lead in leads],
        "baseline_drop_points": [round(100 * x, 2) for x in over_seeds["rows"]["baseline"]["drop"]],
        "clean_baseline": [round(100 * x["test_accuracy"], 2) for x in clean],
        "seconds_of_stages": [round(x["wall_seconds"]) for x in noisy],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
