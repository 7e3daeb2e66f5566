"""Measures how well the order of doubt finds wrong labels, on built-in faces with 40 % wrong.

    python tests/benchmarks/doubts.py --workdir=runs/doubts [--seeds 0 1 2]

Runs the README's first command for each seed (resumable), and prints one line of JSON: for each
order the area under the ROC curve of finding wrong labels, one number a seed. `final` orders by the
probability of the given label when training ended; `margin` by its margin averaged over training,
as the report of a single network does; the student's report goes by its `teachers_average`.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict
from scipy.stats import rankdata

from ferjax.data.load import load_dataset

COMMAND = (sys.executable, "-m", "ferjax.main", "--config=configs/cct.py")


def scores(workdir: Path) -> dict[str, float]:
    """Returns the area under the curve of each order in a finished run."""
    config = ConfigDict(json.loads((workdir / "config.json").read_text())["config"])
    truth = load_dataset(config).train.truth
    orders = {
        "baseline_final": ("baseline", "train"),
        "baseline_margin": ("baseline", "margins"),
        "student_final": ("student", "train"),
        "student_margin": ("student", "margins"),
        "teachers_average": ("teachers", "train"),
    }
    areas = {}
    for order, (stage, field) in orders.items():
        saved = np.load(workdir / "stages" / stage / "predictions.npz")
        given = saved["given"]
        belief = saved[field][np.arange(len(given)), given]  # all faces were predicted
        areas[order] = area(belief, given != truth[saved["rows"]])
    return areas


def area(score: Float[np.ndarray, " faces"], wrong: Bool[np.ndarray, " faces"]) -> float:
    """Returns how often a wrong label has a lower score than a right one; ties count half."""
    ranks = rankdata(-score)[wrong]
    count = len(ranks)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * (len(score) - count)))


def main() -> None:
    """Runs everything and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/doubts"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    each = []
    for seed in options.seeds:
        folder = options.workdir / f"seed-{seed}"
        subprocess.run([*COMMAND, f"--config.seed={seed}", f"--workdir={folder}"], check=True)
        each.append(scores(folder))
    print(json.dumps({order: [round(x[order], 3) for x in each] for order in each[0]}))


if __name__ == "__main__":
    main()
