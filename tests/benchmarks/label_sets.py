"""Measures every algorithm of truth inference on label sets with known truth, beside crowd-kit.

    python tests/benchmarks/label_sets.py --dir=FOLDER [--sets bluebird rte dog web d_possent]

Each set is a folder with `label.csv` (item, worker, label) and `truth.csv` (item, truth). Prints
one line of JSON: accuracy in per cent over the items whose truth is known; seed 0 breaks ties.
EM runs until the log-likelihood per annotation changes by less than 1e-5, and crowd-kit's
Dawid–Skene for as many iterations as ours; its others as they are by default. The vote by gold is
given a seeded tenth of the known truths and measured on the others. Needs the extra `bench`.
"""

import argparse
import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

OTHERS = ("majority_vote", "wawa", "zero_based_skill", "iwmv", "pm", "one_coin", "glad", "mace")
SETS = ("bluebird", "rte", "dog", "web", "d_possent")


def measure(folder: Path) -> dict[str, Any]:
    """Returns sizes and accuracies of one set."""
    from ferjax import truth
    from ferjax.infer import accuracy
    from ferjax.truth import Annotations, dawid_skene
    from ferjax.truth.annotations import UNKNOWN, read_known

    annotations = Annotations.from_table(folder / "label.csv")
    known = read_known(folder / "truth.csv", annotations, others=True)
    plain = dawid_skene(annotations)
    labels = {
        "dawid_skene": plain.labels,
        "dawid_skene_spectral": dawid_skene(annotations, init="spectral").labels,
        **{name: getattr(truth, name)(annotations).labels for name in OTHERS},
    }
    rates = {name: accuracy(found, known) for name, found in labels.items()}
    gold = np.where((known >= 0) & (np.random.default_rng(0).random(len(known)) < 0.1), known, -1)
    by_gold = truth.gold_majority_vote(annotations, gold=gold.astype(np.int32)).labels
    rates["gold_majority_vote"] = accuracy(by_gold, np.where(gold < 0, known, UNKNOWN))
    tasks, workers, classes = annotations.sizes
    return {
        **{"tasks": tasks, "workers": workers, "classes": classes},
        **{"annotations": len(annotations.task), "known": int((known != -1).sum())},
        **{name: round(100 * rate, 2) for name, rate in rates.items() if rate is not None},
        **{name: round(100 * rate, 2) for name, rate in peers(folder, plain.iterations).items()},
        "krippendorff_alpha": round(truth.krippendorff_alpha(annotations), 3),
        "spammers": int(truth.spammers(annotations, plain.labels).sum()),
        "iterations": plain.iterations,
    }


def peers(folder: Path, iterations: int) -> dict[str, float]:
    """Returns the accuracies of crowd-kit's algorithms."""
    import pandas
    from crowdkit import aggregation
    from crowdkit.aggregation.classification import wawa, zero_based_skill

    for module in (wawa, zero_based_skill):  # it refuses newer versions of scikit-learn
        module.check_is_fitted = lambda *_, **__: None  # type: ignore[attr-defined]
    frame = pandas.read_csv(folder / "label.csv").rename(columns={"item": "task"})
    known = pandas.read_csv(folder / "truth.csv").set_index("item")["truth"]
    # Its MACE mixes up workers and labels unless their ids ascend as they appear.
    names = {column: frame[column].unique() for column in frame}
    frame = frame.apply(lambda column: pandas.factorize(column)[0])
    algorithms = {
        "dawid_skene": aggregation.DawidSkene(n_iter=iterations, tol=float("-inf")),
        "wawa": aggregation.Wawa(),
        "zero_based_skill": aggregation.ZeroBasedSkill(),
        "glad": aggregation.GLAD(),
        "mace": aggregation.MACE(),
    }
    rates = {}
    for name, algorithm in algorithms.items():
        labels = algorithm.fit_predict(frame)
        labels = pandas.Series(names["label"][labels], names["task"][labels.index])
        rates[f"crowd_kit_{name}"] = float((labels[known.index] == known).mean())
    return rates


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
