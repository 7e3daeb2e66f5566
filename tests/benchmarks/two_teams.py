"""Measures LTNet and IPA2LT on built-in faces over three seeds: lead over the mixture, error of T.

    PYTHONPATH=. python tests/benchmarks/two_teams.py --workdir=runs/teams

Runs `configs/ltnet.py` and `configs/ipa2lt.py` for seeds 0, 1 and 2, each resumable. Prints for
each config the table of `over_seeds.py` and one line of JSON: the points by which LTNet leads the
network trained on the mixture (IPA2LT: on the union), the mean absolute difference between the
teams' learnt matrices and those that their labels were drawn from, and the seconds of all stages.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import over_seeds

from configs import ltnet

SEEDS = (0, 1, 2)
MIXTURES = {"ltnet": "mixture", "ipa2lt": "union"}


def main() -> None:
    """Runs everything and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/teams"))
    folder = parser.parse_args().workdir
    for name, mixture in MIXTURES.items():
        places = [folder / f"{name}-{seed}" for seed in SEEDS]
        for seed, place in zip(SEEDS, places, strict=True):
            command = [sys.executable, "-m", "ferjax.main", f"--config=configs/{name}.py"]
            changes = [f"--workdir={place}", f"--config.seed={seed}"]
            subprocess.run([*command, *changes], check=True)
        over_seeds.main([str(place) for place in places])
        found = [json.loads((place / "result.json").read_text()) for place in places]
        report = {
            "config": name,
            "lead_points": [
                round(100 * (x["test_accuracy"] - x["comparators"][mixture]), 2) for x in found
            ],
            "transition_error": [round(transition_error(place), 4) for place in places],
            "seconds_of_stages": [round(x["wall_seconds"]) for x in found],
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
