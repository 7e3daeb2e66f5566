"""Runs the README's first command for three seeds, and its baseline on clean labels.

    python tests/benchmarks/quick_start.py --workdir=runs/quick

Six runs of `python -m ferjax.main`, each resumable. Prints the table of `over_seeds.py` and one
line of JSON: the students' lead over the baseline, the baseline's drop from its own best epoch, its
accuracy on clean labels, and the wall times of the first command, compilation included.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import over_seeds

SEEDS = (0, 1, 2)


def run(workdir: Path, *changes: str) -> float | None:
    """Runs the first command with some changes; returns its seconds, or None for a resumed run."""
    begun = workdir.exists()
    command = [sys.executable, "-m", "ferjax.main", "--config=configs/cct.py"]
    start = time.perf_counter()
    subprocess.run([*command, f"--workdir={workdir}", *changes], check=True)
    return None if begun else time.perf_counter() - start


def main() -> None:
    """Runs everything and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/quick"))
    folder = parser.parse_args().workdir
    seconds = [run(folder / f"seed-{seed}", f"--config.seed={seed}") for seed in SEEDS]
    only_baseline = ("--config.stages=('baseline',)", "--config.headline=baseline")
    for seed in SEEDS:
        clean = ("--config.noise.kind=none", *only_baseline)
        run(folder / f"clean-{seed}", f"--config.seed={seed}", *clean)
    over_seeds.main([str(folder / f"seed-{seed}") for seed in SEEDS])
    results = [json.loads((folder / f"seed-{x}" / "result.json").read_text()) for x in SEEDS]
    rows = over_seeds.summarise(results)
    leads = [x["test_accuracy"] - x["comparators"]["baseline"] for x in results]
    cleans = [json.loads((folder / f"clean-{x}" / "result.json").read_text()) for x in SEEDS]
    report = {
        "student_lead_points": [round(100 * lead, 2) for lead in leads],
        "baseline_drop_points": rows["baseline"]["drop"],
        "clean_baseline": [round(100 * x["test_accuracy"], 2) for x in cleans],
        "main_job_seconds": [None if x is None else round(x, 1) for x in seconds],
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
