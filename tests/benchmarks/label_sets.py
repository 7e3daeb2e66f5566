"""Measures every algorithm of truth inference on label sets with known truth, beside crowd-kit.

    python tests/benchmarks/label_sets.py --dir=FOLDER [--sets bluebird rte dog web d_possent]

Each set is a folder with `label.csv` (item, worker, label) and `truth.csv` (item, truth). Prints
one line of JSON: accuracy in per cent over the items whose truth is known; seed 0 breaks ties.
EM runs until the log-likelihood per annotation changes by less than 1e-5, and crowd-kit's
Dawid–Skene for as many iterations as ours. Needs the extra `bench`.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

SETS = ("bluebird", "rte", "dog", "web", "d_possent")


def measure(folder: Path) -> dict[str, Any]:
    """Returns sizes and accuracies of one set."""
    from ferjax.infer import accuracy
    from ferjax.truth import Annotations, dawid_skene, majority_vote, one_coin, pm
    from ferjax.truth.annotations import read_known

    annotations = Annotations.from_table(folder / "label.csv")
    known = read_known(folder / "truth.csv", annotations, others=True)
    plain = dawid_skene(annotations)
    labels = {
        "majority_vote": majority_vote(annotations).labels,
        "dawid_skene": plain.labels,
        "dawid_skene_spectral": dawid_skene(annotations, init="spectral").labels,
        "one_coin": one_coin(annotations).labels,
        "pm": pm(annotations).labels,
    }
    rates = {name: accuracy(found, known) for name, found in labels.items()}
    tasks, workers, classes = annotations.sizes
    return {
        **{"tasks": tasks, "workers": workers, "classes": classes},
        **{"annotations": len(annotations.task), "known": int((known != -1).sum())},
        **{name: round(100 * rate, 2) for name, rate in rates.items() if rate is not None},
        "crowd_kit_dawid_skene": round(100 * peer(folder, plain.iterations), 2),
        "iterations": plain.iterations,
    }


def peer(folder: Path, iterations: int) -> float:
    """Returns the accuracy of crowd-kit's Dawid–Skene."""
    import pandas
    from crowdkit.aggregation import DawidSkene

    frame = pandas.read_csv(folder / "label.csv").rename(columns={"item": "task"})
    truth = pandas.read_csv(folder / "truth.csv").set_index("item")["truth"]
    labels = DawidSkene(n_iter=iterations, tol=float("-inf")).fit_predict(frame)
    return float((labels[truth.index] == truth).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    warnings.simplefilter("ignore")
    print(json.dumps({name: measure(options.dir / name) for name in options.sets}))


if __name__ == "__main__":
    main()
