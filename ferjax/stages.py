"""A run is a tuple of stages; each works in its own folder, and a finished one is not run again."""

import functools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ferjax import parallel, report, results, sweep, train, writers
from ferjax.data import datasets, noise, pipeline
from ferjax.data.record import Dataset
from ferjax.errors import UserError
from ferjax.methods.method import State
from ferjax.sweep import Cell

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
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must lie in [0, 2³²), not {config.seed}")
    if config.parallel not in parallel.MODES:
        raise UserError(f"parallel={config.parallel!r} is none of {', '.join(parallel.MODES)}")
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
        if not done.exists():
            start = time.perf_counter()
            outputs[stage.name] = stage.run(folder(stage), inputs(stage))
            parallel.barrier(f"{stage.name} is finished")
            writers.write_json(done, {"seconds": time.perf_counter() - start})


def load_dataset(config: ConfigDict) -> Dataset:
    """The run's dataset with its label noise, its faces decoded once into memory if so configured.

    Raises:
      UserError: for a mistake in the data, an empty split, or an unknown dataset.
    """
    dataset = noise.apply(datasets.load(config.data), config.noise)
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        if len(split.images) == 0:
            raise UserError(f"the {name} split of {config.data.name} has no faces")
    if config.data.in_memory:
        train_split, test_split = (pipeline.cache(x) for x in (dataset.train, dataset.test))
        dataset = dataset._replace(train=train_split, test=test_split)
    for note in dataset.notes:
        logging.info("%s", note)
    return dataset


def train_cells(cells: tuple[Cell, ...], config: ConfigDict, workdir: Path) -> Dataset:
    """Trains every cell as a stage, and returns the dataset that they were trained on."""
    dataset = functools.cache(lambda: load_dataset(config))
    run_stages(tuple(_stage(cell, config, dataset, workdir) for cell in cells), workdir)
    return dataset()


def _stage(cell: Cell, config: ConfigDict, dataset: Callable[[], Dataset], workdir: Path) -> Stage:
    """A stage that trains by one recipe; its output is the final state on the host."""
    shared = {part: config[part] for part in SHARED}
    recipe = ConfigDict(shared | cell.recipe.copy_and_resolve_references().to_dict())

    def prepare(folder: Path) -> train.Training:
        metrics = writers.MetricsFile(workdir / "metrics.jsonl")
        devices = parallel.find_devices(config.parallel)
        return train.prepare(cell.name, recipe, dataset(), folder, metrics, devices)

    def run(folder: Path, inputs: dict[str, State]) -> State:
        training = prepare(folder)
        state = train.train(training, inputs)
        _write_predictions(training, state)
        return parallel.to_host(state)

    def load(folder: Path, inputs: dict[str, State]) -> State:
        return train.restore_finished(prepare(folder), inputs)

    return Stage(cell.name, cell.needs, run, load)


def _train(config: ConfigDict, workdir: Path) -> None:
    """Every stage that `config.stages` names, by the recipe of that name; then table and report."""
    cells = tuple(Cell(name, config[name], dict(config[name].needs)) for name in config.stages)
    dataset = train_cells(cells, config, workdir)
    if jax.process_index() == 0:
        result = results.summarise(config, workdir)
        writers.write_json(workdir / "result.json", result)
        report.write(config, workdir, dataset, result)
        print(results.format_table(result))
        print(f"report: {workdir / 'report' / 'index.html'}")


def _sweep(config: ConfigDict, workdir: Path) -> None:
    """Every cell of one of the CCT paper's sweeps; then its table."""
    train_cells(sweep.cells(config), config, workdir)
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
