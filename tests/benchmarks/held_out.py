"""Chooses priors of confusion matrices by the likelihood of annotations that were held out.

    python tests/benchmarks/held_out.py --dir=FOLDER [--sets bluebird rte dog web d_possent]

Each set is a folder with `label.csv` (item, worker, label); known truths are not read. A fifth of
the annotations is held out, five times in turn. The others give posteriors p and confusions C, and
a held-out label l of worker w to task t has the probability Σ_k p(t = k)·C^w[k, l], mixed with a
hundredth of the uniform distribution, as maximum likelihood calls some labels impossible. Prints
one line of JSON: the mean logarithm for each set and model, and each model's mean over the sets.
"""

import argparse
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

SETS = ("bluebird", "rte", "dog", "web", "d_possent")
FOLDS = 5
STRENGTHS = ((1.0, 0.01), (1.0, 0.1), (2.0, 0.1), (2.0, 0.5), (1.0, 1.0), (2.0, 1.0), (4.0, 1.0))


def models() -> dict[str, Callable]:
    """Returns the models by name."""
    from ferjax.truth import dawid_skene, ibcc, one_coin

    named: dict[str, Callable] = {
        "dawid_skene": partial(dawid_skene, prior="none"),
        "one_coin": one_coin,
    }
    for diagonal, off in STRENGTHS:
        named[f"dawid_skene {diagonal:g}/{off:g}"] = partial(
            dawid_skene, prior="diagonal", diagonal=diagonal, off_diagonal=off
        )
        named[f"ibcc {diagonal:g}/{off:g}"] = partial(ibcc, diagonal=diagonal, off_diagonal=off)
    return named


def score(path: Path, infer: Callable) -> float:
    """Returns the mean log-probability of an annotation of one file."""
    from ferjax.truth import Annotations

    whole = Annotations.from_table(path)
    fold = np.random.default_rng(0).integers(0, FOLDS, len(whole.task))
    total = 0.0
    for number in range(FOLDS):
        task, worker, label = (x[fold == number] for x in (whole.task, whole.worker, whole.label))
        rest = {name: getattr(whole, name)[fold != number] for name in ("task", "worker", "label")}
        fitted = infer(whole._replace(**rest))
        given_truth = fitted.confusions[worker, :, label]
        given_truth[np.isnan(given_truth)] = 1 / len(whole.classes)  # the worker's only labels
        probs = np.sum(fitted.posteriors[task] * given_truth, axis=1)
        total += np.log(0.99 * probs + 0.01 / len(whole.classes)).sum()
    return total / len(whole.task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=SETS)
    options = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    table = {
        model: {name: score(options.dir / name / "label.csv", infer) for name in options.sets}
        for model, infer in models().items()
    }
    for row in table.values():
        row["mean"] = float(np.mean(list(row.values())))
    rounded = {m: {k: round(v, 4) for k, v in row.items()} for m, row in table.items()}
    print(json.dumps(rounded))


if __name__ == "__main__":
    main()
