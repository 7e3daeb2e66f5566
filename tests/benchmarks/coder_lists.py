"""Measures the accuracy of truth inference on lists of annotations of CIFAR-10.

    python tests/benchmarks/coder_lists.py --dir=FOLDER

Prints one line of JSON for each list: the percentage of the 50,000 training pictures that are
labelled right by each coder, by the majority (ties at random, mean ± deviation over seeds 0 to 9),
and by Dawid and Skene's EM from either start.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ferjax import truth
from ferjax.data import crowd
from ferjax.data.datasets import cifar10

LISTS = {
    "ltnet_noise_60_70_80.csv": ("coder_60", "coder_70", "coder_80"),
    "cifar10n.csv": ("random1", "random2", "random3"),
}
CLASSES = len(cifar10.CLASSES)


def main() -> None:
    """Reads the lists, infers the truth and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    folder = parser.parse_args().dir
    known = cifar10.read_truth(folder / "train_labels.csv")
    for name, coders in LISTS.items():
        said = cifar10.read_list(folder / name, len(known))
        annotations = np.stack([said[coder] for coder in coders], axis=1)
        report: dict[str, Any] = {"list": name} | {c: right(said[c], known) for c in coders}
        votes = [right(majority(annotations, seed), known) for seed in range(10)]
        report["majority"] = [round(statistics.fmean(votes), 2), round(statistics.stdev(votes), 2)]
        for start in ("majority", "spectral"):
            found = crowd.dawid_skene(annotations, CLASSES, start=start, seed=0)
            report[f"em_{start}"] = right(found.posteriors.argmax(axis=1), known)
        print(json.dumps(report))


def majority(annotations: np.ndarray, seed: int) -> np.ndarray:
    """Returns the most frequent label of each row, ties broken at random."""
    task, worker = np.indices(annotations.shape).reshape(2, -1)
    table = pa.table({"task": task, "worker": worker, "label": annotations.ravel()})
    votes = truth.Annotations.from_table(table, classes=range(CLASSES))
    return truth.majority_vote(votes, seed=seed).labels


def right(labels: np.ndarray, known: np.ndarray) -> float:
    """Returns the percentage of labels that are right."""
    return round(100 * float((labels == known).mean()), 2)


if __name__ == "__main__":
    main()
