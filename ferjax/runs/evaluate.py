"""Evaluation: a finished run's model on test sets of other origin, with means over groups of them.

Such as Table 2 of J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently
Annotated Datasets*, ECCV 2018: accuracy on each set, and unweighted means over the sets taken in
the wild (RAF-DB's test, AffectNet's validation, SFEW's training and validation faces), over the
posed ones (CK+, CFEE, MMI, Oulu-CASIA) and over all.
"""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

from ml_collections import ConfigDict

from ferjax import evaluate, parallel, predictor, writers
from ferjax.data.datasets import folder as folder_dataset
from ferjax.data.fingerprint import checksum_of
from ferjax.data.pipeline import check_batch
from ferjax.data.record import Split
from ferjax.errors import UserError
from ferjax.predictor import Predictor
from ferjax.report import evaluation as evaluation_report
from ferjax.report.evaluation import OVERALL
from ferjax.stages import Plan, Stage

MAY_CHANGE = {"trained", "batch_size", "workers"}
"""How it is computed; the model is checked by itself."""

Groups = dict[str, dict[str, Split]]
"""Test sets by name, by group."""


def plan(config: ConfigDict, folder: Path) -> Plan:
    """Plans one stage, which measures the model on every test set."""
    if not config.trained:
        raise UserError("trained is not set: the workdir of a finished run")
    model = predictor.load(config.trained, config.stage, config.weights)
    groups = _read(config, model)
    path = folder / "stages" / "evaluate" / "result.json"

    def work(_: dict[str, Any]) -> None:
        result = measure(model, groups, config.batch_size, config.workers)
        writers.write_json(path, result)

    def finish(_: Any) -> None:
        result = json.loads(path.read_text())
        writers.write_json(folder / "result.json", result)
        evaluation_report.write(config, folder, model.classes, result)
        print(format_table(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    checksums = {"model": model.checksum()}
    for group, splits in groups.items():
        checksums |= {f"{group}/{name}": checksum_of(split) for name, split in splits.items()}
    data = {"classes": list(model.classes), "model": model.name, "checksums": checksums}
    return Plan((Stage("evaluate", (), work, lambda _: None, path.exists),), data, finish)


def measure(model: Predictor, groups: Groups, batch_size: int, workers: int = 0) -> dict[str, Any]:
    """Measures a model on test sets.

    Returns:
      The contents of `result.json`: for each set `faces` and the main head's measures, see
      `evaluate.measure`; and the mean accuracy of each group and of all sets, in [0, 1].
    """
    devices = parallel.find_devices("jit")
    sweeper = evaluate.Sweeper(model.prediction.predict, devices, batch_size, workers)
    weights = parallel.replicate(devices, model.weights)
    sets: dict[str, dict[str, Any]] = {}
    for group, splits in groups.items():
        sets[group] = {}
        for name, split in splits.items():
            right = evaluate.right_classes(split, len(model.classes), multi_target=False)
            measures = evaluate.measure(model.heads, sweeper(weights, split), split, right)
            sets[group][name] = {"faces": len(split.truth)} | measures
    means = {
        group: fmean(x["accuracy"] for x in results.values()) for group, results in sets.items()
    }
    every = [x["accuracy"] for results in sets.values() for x in results.values()]
    return {"sets": sets, "means": means | {OVERALL: fmean(every)}}


def format_table(result: dict[str, Any]) -> str:
    """Formats what a run prints; accuracies in per cent."""
    lines = [f"{'accuracy, %':<24}  {'faces':>9}  {'':>6}"]
    for group, results in result["sets"].items():
        lines += [
            f"{name:<24}  {x['faces']:>9,}  {100 * x['accuracy']:6.2f}"
            for name, x in results.items()
        ]
        lines.append(f"{'mean, ' + group:<24}  {'':>9}  {100 * result['means'][group]:6.2f}")
    lines.append(f"{'mean, ' + OVERALL:<24}  {'':>9}  {100 * result['means'][OVERALL]:6.2f}")
    return "\n".join(lines)


def _read(config: ConfigDict, model: Predictor) -> Groups:
    """The test sets that the config names.

    Raises:
      UserError: if there is none, for a mistake in one (see `folder.to_test`), or in how.
    """
    if model.heads[0].kind != "class":
        raise UserError(
            f"trained: {model.name} predicts no classes, which these sets are tested by"
        )
    size, _, channels = model.image_shape
    _check(config)
    groups: Groups = {}
    for group in config.groups:
        for name, path in config.groups[group]:
            split = folder_dataset.to_test(
                Path(path), size, channels, model.classes, config.max_megapixels
            )
            groups.setdefault(group, {})[name] = split
    if not groups:
        raise UserError(
            f"groups: no test set; name some as --config.groups.{next(iter(config.groups))}="
            "\"(('NAME', 'PATH'),)\""
        )
    return groups


def _check(config: ConfigDict) -> None:
    check_batch("batch_size", config.batch_size, parallel.find_devices("jit").total)
    if config.workers < 0:
        raise UserError(f"workers must be at least 0, not {config.workers}")
    names: set[str] = set()
    for group in config.groups:
        for pair in config.groups[group]:
            if isinstance(pair, str) or [type(x) for x in pair] != [str, str]:
                raise UserError(f"groups.{group}: expected pairs ('NAME', 'PATH'), not {pair!r}")
            if pair[0] in names:
                raise UserError(f"groups.{group}: {pair[0]!r} is named twice")
            names.add(pair[0])
