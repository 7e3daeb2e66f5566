"""One trained model on many test sets, as Table 2 of the IPA2LT paper has it.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018: accuracy on each set, and unweighted means over the sets taken in the wild
(RAF-DB's test, AffectNet's validation, SFEW's training and validation faces), over the posed ones
(CK+, CFEE, MMI, Oulu-CASIA) and over all.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

from ml_collections import ConfigDict

from ferjax import evaluate, metrics, parallel
from ferjax.data.datasets import folder
from ferjax.data.pipeline import check_batch
from ferjax.data.record import Split
from ferjax.errors import UserError
from ferjax.trained import Trained

OVERALL = "overall"


def read(config: ConfigDict, model: Trained) -> dict[str, dict[str, Split]]:
    """The test sets of each group.

    Raises:
      UserError: if there is none, for a mistake in one (see `folder.to_test`), or in how.
    """
    size, _, channels = model.image_shape
    sets: dict[str, dict[str, Split]] = {}
    _check(config)
    for group in config.groups:
        for name, path in config.groups[group]:
            split = folder.to_test(Path(path), size, channels, model.classes)
            sets.setdefault(group, {})[name] = split
    if not sets:
        raise UserError(
            f"groups: no test set; name some as --config.groups.{next(iter(config.groups))}="
            "\"(('NAME', 'PATH'),)\""
        )
    return sets


def _check(config: ConfigDict) -> None:
    check_batch("batch_size", config.batch_size, parallel.find_devices("jit").total)
    if config.workers < 0:
        raise UserError(f"workers must be at least 0, not {config.workers}")
    seen: set[str] = set()
    for group in config.groups:
        for pair in config.groups[group]:
            if isinstance(pair, str) or [type(x) for x in pair] != [str, str]:
                raise UserError(f"groups.{group}: expected pairs ('NAME', 'PATH'), found {pair!r}")
            if pair[0] in seen:
                raise UserError(f"groups.{group}: {pair[0]!r} is named twice")
            seen.add(pair[0])


def measure(
    config: ConfigDict, model: Trained, sets: dict[str, dict[str, Split]]
) -> dict[str, Any]:
    """The contents of `result.json`: accuracies in [0, 1], mean recalls, and means by group."""
    devices = parallel.find_devices("jit")
    sweep = evaluate.Sweeper(model.method, devices, config.batch_size, config.workers)
    state = parallel.replicate(devices, model.state)
    head = model.method.heads[0][0]
    found: dict[str, dict[str, Any]] = {}
    for group, splits in sets.items():
        found[group] = {}
        for name, split in splits.items():
            predicted = sweep(state, split)[head].argmax(axis=1)
            counts = metrics.confusion_matrix(split.truth, predicted, len(model.classes))
            found[group][name] = {
                "faces": len(split.truth),
                "accuracy": float((predicted == split.truth).mean()),
                "uar": metrics.uar(counts),
                "confusion": counts.tolist(),
            }
    means = {
        group: fmean(x["accuracy"] for x in results.values()) for group, results in found.items()
    }
    every = [x["accuracy"] for results in found.values() for x in results.values()]
    return {"sets": found, "means": means | {OVERALL: fmean(every)}}


def format_table(result: dict[str, Any]) -> str:
    """What a run prints; accuracies in per cent."""
    lines = [f"{'accuracy, %':<24}  {'faces':>9}  {'':>6}"]
    for group, results in result["sets"].items():
        lines += [
            f"{name:<24}  {x['faces']:>9,}  {100 * x['accuracy']:6.2f}"
            for name, x in results.items()
        ]
        lines.append(f"{'mean, ' + group:<24}  {'':>9}  {100 * result['means'][group]:6.2f}")
    lines.append(f"{'mean, ' + OVERALL:<24}  {'':>9}  {100 * result['means'][OVERALL]:6.2f}")
    return "\n".join(lines)
