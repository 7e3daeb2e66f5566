"""A run is a tuple of stages; each works in its own folder, and a finished one is not run again."""

import functools
import json
import logging
import operator
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ferjax import parallel, preemption, report, results, sweep, train, writers
from ferjax.data import datasets, noise, pipeline
from ferjax.data.record import Dataset, Split
from ferjax.errors import UserError
from ferjax.methods.method import State
from ferjax.sweep import Recipes

SHARED = ("seed", "label", "model", "augment", "loop")
"""Parts of a run's config that every stage's recipe is joined with."""

DOUBT_FACES = 4096
"""At most so many training faces are predicted when a stage ends, for the sheet of doubts."""


class Stage(NamedTuple):
    """One piece of work in a run.

    Attributes:
      name: also its folder's, `DIR/stages/<name>/`.
      needs: the stages whose outputs it takes, by the name that it knows them by.
      run: (folder, inputs) -> output; does the work.
      load: (folder, inputs) -> output of finished work.
    """

    name: str
    needs: dict[str, str]
    run: Callable[[Path, dict[str, Any]], Any]
    load: Callable[[Path, dict[str, Any]], Any]


def run(config: ConfigDict, workdir: Path) -> None:
    """Does what `config.run` says.

    Raises:
      UserError: for a mistake in the config, the data or the workdir.
      Preempted: when asked to stop, after saving.
    """
    if config.run not in RUNS:
        raise UserError(f"run={config.run!r} is none of {', '.join(RUNS)}")
    if config.parallel not in parallel.MODES:
        raise UserError(f"parallel={config.parallel!r} is none of {', '.join(parallel.MODES)}")
    for field in ("seed", "data.seed", "noise.seed"):
        seed = operator.attrgetter(field)(config)
        if not 0 <= seed < 2**32:
            raise UserError(f"{field} must lie in [0, 2³²), not {seed}")
    for field, least in {"log_steps": 1, "keep": 1, "workers": 0}.items():
        if config.loop[field] < least:
            raise UserError(f"loop.{field} must be at least {least}, not {config.loop[field]}")
    RUNS[config.run](config, workdir)


def run_stages(stages: tuple[Stage, ...], workdir: Path) -> None:
    """Runs, in order, the stages that are not finished; each ends by writing `done.json`."""
    by_name = {stage.name: stage for stage in stages}
    outputs: dict[str, Any] = {}

    def folder(stage: Stage) -> Path:
        return workdir / "stages" / stage.name

    def inputs(stage: Stage) -> dict[str, Any]:
        return {known_as: output(by_name[name]) for known_as, name in stage.needs.items()}

    def output(stage: Stage) -> Any:
        if stage.name not in outputs:
            outputs[stage.name] = stage.load(folder(stage), inputs(stage))
        return outputs[stage.name]

    for stage in stages:
        done = folder(stage) / "done.json"
        if done.exists():
            continue
        if preemption.requested():
            raise preemption.Preempted(f"{stage.name} has not begun")
        start = time.perf_counter()
        outputs[stage.name] = stage.run(folder(stage), inputs(stage))
        parallel.barrier(f"{stage.name} is finished")
        seconds = time.perf_counter() - start
        writers.write_json(done, {"seconds": seconds, "peak_memory_bytes": results.peak_memory()})


def load_dataset(config: ConfigDict) -> Dataset:
    """The run's dataset with its label noise, its faces decoded once into memory if so configured.

    Raises:
      UserError: for a mistake in the data, an empty split, or an unknown dataset.
    """
    dataset = noise.apply(datasets.load(config.data), config.noise)
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        if len(split.images) == 0:
            raise UserError(f"the {name} split of {config.data.name} has no faces")
    if config.label in ("votes", "multi_target") and config.label != dataset.label:
        raise UserError(f"label={config.label!r} needs a dataset labelled so: set data.mode")
    if config.data.in_memory:
        train_split, test_split = (pipeline.cache(x) for x in (dataset.train, dataset.test))
        dataset = dataset._replace(train=train_split, test=test_split)
    for note in dataset.notes:
        logging.info("%s", note)
    return dataset


def train_recipes(recipes: Recipes, config: ConfigDict, workdir: Path) -> Dataset:
    """Trains by every recipe, each a stage, and returns the dataset that they were trained on."""

    @functools.cache
    def dataset() -> Dataset:
        found = load_dataset(config)
        _check_same_data(found, workdir)
        return found

    stages = (_stage(name, recipe, config, dataset, workdir) for name, recipe in recipes.items())
    run_stages(tuple(stages), workdir)
    return dataset()


def _check_same_data(dataset: Dataset, workdir: Path) -> None:
    """Remembers what the first stage was trained on, and refuses other faces or labels later."""
    path = workdir / "data.json"
    found = {
        "classes": list(dataset.classes),
        "coders": list(dataset.coders),
        "notes": list(dataset.notes),
        "train": _fingerprint(dataset.train),
        "test": _fingerprint(dataset.test),
    }
    if path.exists() and writers.MetricsFile(workdir / "metrics.jsonl").begun():
        saved = json.loads(path.read_text())
        if saved["train"] != found["train"] or saved["test"] != found["test"]:
            raise UserError(f"{workdir} holds a run on other data, see {path}")
    else:
        writers.write_json(path, found)


def _fingerprint(split: Split) -> dict[str, int]:
    checksum = zlib.crc32("\n".join(split.names).encode())
    for array in (*(split.labels[name] for name in sorted(split.labels)), split.truth):
        checksum = zlib.crc32(array.tobytes(), checksum)
    return {"faces": len(split.images), "checksum": checksum}


def _stage(
    name: str,
    recipe: ConfigDict,
    config: ConfigDict,
    dataset: Callable[[], Dataset],
    workdir: Path,
) -> Stage:
    """A stage that trains by one recipe; its output is the final state on the host."""
    shared = {part: config[part] for part in SHARED}
    recipe = ConfigDict(shared | recipe.copy_and_resolve_references().to_dict())

    def prepare(folder: Path) -> train.Training:
        metrics = writers.MetricsFile(workdir / "metrics.jsonl")
        devices = parallel.find_devices(config.parallel)
        return train.prepare(name, recipe, dataset(), folder, metrics, devices)

    def run(folder: Path, inputs: dict[str, State]) -> State:
        training = prepare(folder)
        state = train.train(training, inputs)
        _write_predictions(training, state)
        return parallel.to_host(state)

    def load(folder: Path, inputs: dict[str, State]) -> State:
        return train.restore_finished(prepare(folder), inputs)

    return Stage(name, dict(recipe.needs), run, load)


def _train(config: ConfigDict, workdir: Path) -> None:
    """Every stage that `config.stages` names, by the recipe of that name; then table and report."""
    recipes = _named_recipes(config)
    dataset = train_recipes(recipes, config, workdir)
    if jax.process_index() == 0:
        result = results.summarise(config, workdir)
        writers.write_json(workdir / "result.json", result)
        report.write(config, workdir, dataset, result)
        print(results.format_table(result))
        print(f"report: {workdir / 'report' / 'index.html'}")


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


def _sweep(config: ConfigDict, workdir: Path) -> None:
    """Every cell of one of the CCT paper's sweeps; then its table."""
    train_recipes(sweep.recipes(config), config, workdir)
    if jax.process_index() == 0:
        result = sweep.summarise(config, workdir)
        writers.write_json(workdir / "result.json", result)
        print(sweep.format_table(config, result))


def _write_predictions(training: train.Training, state: State) -> None:
    """The main head's predictions of the test split, and of some training faces, for the report."""
    train_split, test = training.dataset.train, training.dataset.test
    rows = np.random.default_rng(training.config.seed).permutation(len(train_split.images))
    rows = np.sort(rows[:DOUBT_FACES]).astype(np.int32)
    head = training.method.heads[0][0]
    test_probs = training.sweep(state, test)[head]
    train_probs = training.sweep(state, train_split.take(rows))[head]
    if jax.process_index() == 0:
        path = training.folder / "predictions.npz"
        np.savez(path, test=test_probs, train=train_probs, train_rows=rows)


RUNS: dict[str, Callable[[ConfigDict, Path], None]] = {"train": _train, "sweep": _sweep}
