"""Measures LTNet and IPA2LT on built-in faces over three seeds: lead over the mixture, error of T.

    PYTHONPATH=. python tests/benchmarks/two_teams.py --workdir=runs/teams

Runs `configs/ltnet.py` and `configs/ipa2lt.py` for seeds 0, 1 and 2, each resumable. Prints for
each config the table over seeds and one line of JSON: the points by which LTNet leads the
network trained on the mixture (IPA2LT: on the union), the mean absolute difference between the
teams' learnt matrices and those that their labels were drawn from, and the seconds of all stages.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from configs import ltnet

SEEDS = (0, 1, 2)
MIXTURES = {"ltnet": "mixture", "ipa2lt": "union"}


def main() -> None:
    """Runs everything and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/teams"))
    folder = parser.parse_args().workdir
    for name, mixture in MIXTURES.items():
        command = [sys.executable, "-m", "ferjax.main", f"--config=configs/{name}.py"]
        changes = [f"--workdir={folder / name}", f"--config.seeds={SEEDS}"]
        subprocess.run([*command, *changes], check=True)
        runs = [folder / name / f"seed-{seed}" for seed in SEEDS]
        results = [json.loads((run / "result.json").read_text()) for run in runs]
        report = {
            "config": name,
            "lead_points": [
                round(100 * (x["test_accuracy"] - x["comparators"][mixture]), 2) for x in results
            ],
            "transition_error": [round(transition_error(run), 4) for run in runs],
            "seconds_of_stages": [round(x["wall_seconds"]) for x in results],
        }
        print(json.dumps(report))


def transition_error(workdir: Path) -> float:
    """Returns the mean of |T̂ − T| over the teams' matrices."""
    learnt = np.load(workdir / "stages" / "ltnet" / "learnt.npz")
    matrices = dict(zip(learnt["coders"].tolist(), learnt["transitions"], strict=True))
    true = {name: np.array(part.confusions[0]) for name, part in ltnet.two_teams().items()}
    return float(np.mean([abs(matrices[name] - true[name]).mean() for name in true]))


if __name__ == "__main__":
    main()
