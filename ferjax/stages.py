"""The runs that there are, by the name that `config.run` gives."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ferjax import (
    annotate,
    cross_dataset,
    infer,
    ipa2lt,
    parallel,
    results,
    sweep,
    train,
    trained,
    workdir,
    writers,
)
from ferjax.data import sources
from ferjax.data.record import Dataset
from ferjax.errors import UserError
from ferjax.methods.method import State
from ferjax.plan import (
    Plan,
    Stage,
    check_numbers,
    checksum_of,
    checksum_of_names,
    checksum_of_pictures,
    fingerprint,
    join,
    load_dataset,
    run_stages,
    training_stage,
)
from ferjax.report import annotation as annotation_report
from ferjax.report import cross_dataset as cross_dataset_report
from ferjax.report import training as training_report
from ferjax.report import truth as truth_report
from ferjax.sweep import Recipes


def run(config: ConfigDict, folder: Path) -> None:
    """Does in a workdir what `config.run` says.

    Raises:
      UserError: for a mistake in the config, the data or the workdir; before anything is written
        if it can be known before.
      Preempted: when asked to stop, after saving.
    """
    if config.get("run") not in RUNS:
        raise UserError(f"run={config.get('run')!r} is none of {', '.join(RUNS)}")
    workdir.check(folder, config)
    plan = RUNS[config.run](config, folder)
    workdir.claim(folder, config, plan.data)
    run_stages(plan.stages, folder)
    if jax.process_index() == 0:
        plan.finish()


def _plan_training(
    recipes: Recipes, config: ConfigDict, folder: Path, finish: Callable[[Dataset], None]
) -> Plan:
    """Training by every recipe, each a stage, once all of them were found to be possible."""
    check_numbers(config)
    dataset = load_dataset(config)
    metrics = writers.MetricsFile(folder / "metrics.jsonl")
    devices = parallel.find_devices(config.parallel)
    trainings = {
        name: train.prepare(
            name, join(recipe, config), dataset, folder / "stages" / name, metrics, devices
        )
        for name, recipe in recipes.items()
    }
    states: dict[str, State] = {}
    for name, training in trainings.items():  # a mistake in the last must not show after hours
        known = {known_as: states[needed] for known_as, needed in recipes[name].needs.items()}
        states[name] = jax.eval_shape(training.method.init, jax.random.key(0), known)
    stages = (training_stage(x, dict(recipes[name].needs)) for name, x in trainings.items())
    return Plan(tuple(stages), fingerprint(dataset), lambda: finish(dataset))


def _train(config: ConfigDict, folder: Path) -> Plan:
    """Every stage that `config.stages` names, by the recipe of that name; then table and report."""

    def finish(dataset: Dataset) -> None:
        _write_training(config, folder, dataset)

    return _plan_training(_named_recipes(config), config, folder, finish)


def _write_training(config: ConfigDict, folder: Path, dataset: Dataset) -> None:
    """Result, report and table of the stages that `config.stages` names."""
    result = results.summarise(config, folder)
    result["latent_truth"] = results.latent_truth(config.stages, folder, dataset.train.truth)
    writers.write_json(folder / "result.json", result)
    training_report.write(config, folder, dataset, result)
    print(results.format_table(result))
    print(f"report: {folder / 'report' / 'index.html'}")


def _named_recipes(config: ConfigDict) -> Recipes:
    """The recipes of `config.stages`, each after those that it needs.

    Raises:
      UserError: for a stage without a recipe, one that comes before what it needs, one named
        twice, or a headline that is not among them.
    """
    names = tuple(config.stages)
    for place, name in enumerate(names):
        if not isinstance(config.get(name), ConfigDict) or "method" not in config[name]:
            raise UserError(f"stages names {name!r}, but the config has no recipe of that name")
        if name in names[:place]:
            raise UserError(f"stages names {name!r} twice")
        for needed in config[name].needs.values():
            if needed not in names[:place]:
                raise UserError(f"stages: {name!r} needs {needed!r} before it")
    if config.headline not in names:
        raise UserError(f"headline {config.headline!r} is not among stages {', '.join(names)}")
    return {name: config[name] for name in names}


def _sweep(config: ConfigDict, folder: Path) -> Plan:
    """Every cell of one of the CCT paper's sweeps; then table and report."""

    def finish(dataset: Dataset) -> None:
        result = sweep.summarise(config, folder)
        writers.write_json(folder / "result.json", result)
        table = sweep.table(config, result)
        training_report.write_sweep(config, folder, dataset, table)
        print(sweep.format_table(table))
        print(f"report: {folder / 'report' / 'index.html'}")

    return _plan_training(sweep.recipes(config), config, folder, finish)


def _truth(config: ConfigDict, folder: Path) -> Plan:
    """Truth inference on a crowd's annotations; then tables and report."""
    crowd = infer.read(config)
    path = folder / "stages" / "truth" / "found.npz"

    def run(_: dict[str, Any]) -> infer.Inference:
        found = infer.infer(config, crowd)
        if jax.process_index() == 0:
            infer.log(crowd, found, "truth", writers.MetricsFile(folder / "metrics.jsonl"))
            found.save(path)
        return found

    def finish() -> None:
        found = infer.Inference.load(path)
        result = infer.write(config, crowd, found, folder)
        truth_report.write(config, folder, crowd, found, result)
        print(infer.format_result(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    stage = Stage("truth", {}, run, lambda _: infer.Inference.load(path))
    return Plan((stage,), infer.fingerprint(crowd), finish)


def _ipa2lt(config: ConfigDict, folder: Path) -> Plan:
    """IPA2LT's three steps; then table and report."""

    def finish(dataset: Dataset, trained: tuple[str, ...]) -> None:
        shown = ConfigDict(config.to_dict() | {"stages": trained})
        _write_training(shown, folder, dataset)

    return ipa2lt.plan(config, folder, finish)


def _annotate(config: ConfigDict, folder: Path) -> Plan:
    """The faces of `config.path` labelled by a finished run's model; then counts and report."""
    settings = annotate.Settings(**config.annotate)
    settings.check()
    if not config.trained or not config.path:
        raise UserError(f"{'path' if config.trained else 'trained'} is not set")
    model = trained.load(Path(config.trained), config.stage, config.weights)
    height, _, channels = model.image_shape
    source = sources.find(Path(config.path), height, channels)
    rows = np.arange(len(source.names), dtype=np.int32)
    faces = annotate.Faces(source.pictures, source.names, rows)
    labels = folder / "labels"

    def run(_: dict[str, Any]) -> Path:
        metrics = writers.MetricsFile(folder / "metrics.jsonl")
        annotate.annotate(
            *(model.method, model.state, model.classes, faces, labels, settings, metrics),
            stage="annotate",
        )
        return labels

    def finish() -> None:
        result = annotate.summarise(labels, model.classes, faces, folder)
        writers.write_json(folder / "result.json", result)
        annotation_report.write(config, folder, faces, model.classes, result)
        print(annotate.format_result(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    data = {
        "classes": list(model.classes),
        "model": model.name,
        "checksums": {
            "names": checksum_of_names(source.names),
            "pictures": checksum_of_pictures(source.pictures),
            "model": model.checksum(),
        },
    }
    stage = Stage("annotate", {}, run, lambda _: labels, lambda: annotate.whole(labels))
    return Plan((stage,), data, finish)


def _evaluate(config: ConfigDict, folder: Path) -> Plan:
    """A finished run's model on test sets of other origin."""
    if not config.trained:
        raise UserError("trained is not set: the workdir of a finished run")
    model = trained.load(Path(config.trained), config.stage, config.weights)
    sets = cross_dataset.read(config, model)
    path = folder / "result.json"

    def run(_: dict[str, Any]) -> None:
        writers.write_json(path, cross_dataset.measure(config, model, sets))

    def finish() -> None:
        result = json.loads(path.read_text())
        cross_dataset_report.write(config, folder, model.classes, result)
        print(cross_dataset.format_table(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    checksums = {"model": model.checksum()}
    for group, splits in sets.items():
        checksums |= {f"{group}/{name}": checksum_of(split) for name, split in splits.items()}
    data = {"classes": list(model.classes), "model": model.name, "checksums": checksums}
    return Plan((Stage("evaluate", {}, run, lambda _: None),), data, finish)


RUNS: dict[str, Callable[[ConfigDict, Path], Plan]] = {
    "train": _train,
    "sweep": _sweep,
    "truth": _truth,
    "annotate": _annotate,
    "ipa2lt": _ipa2lt,
    "evaluate": _evaluate,
}
