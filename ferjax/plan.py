"""What runs are made of: stages, each in its own folder, and the training that most of them do."""

import json
import logging
import operator
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax import augment, parallel, preemption, train, writers
from ferjax.data import datasets, noise, pipeline, validation
from ferjax.data.record import UNKNOWN, Dataset, ImageSource, Split, read
from ferjax.errors import UserError
from ferjax.methods.method import State

SHARED = ("seed", "model", "augment", "loop")
"""Parts of a run's config that every stage's recipe is joined with."""

PREDICTED_FACES = 16_384
"""At most so many training faces are predicted when a stage ends, for the report."""

STAGE = "stage.json"
"""In a stage's folder: what it needs to predict again, see `trained.load`."""

SAMPLED_FACES = 256
"""So many faces of a split, evenly spaced, tell its images from others."""


class Stage(NamedTuple):
    """One piece of work in a run.

    Attributes:
      name: also its folder's, `DIR/stages/<name>/`.
      needs: the stages whose outputs it takes, by the name that it knows them by.
      run: (inputs) -> output; does the work.
      load: (inputs) -> output of finished work.
      whole: whether what finished work left is all there; if not it is done again.
    """

    name: str
    needs: dict[str, str]
    run: Callable[[dict[str, Any]], Any]
    load: Callable[[dict[str, Any]], Any]
    whole: Callable[[], bool] = lambda: True


class Plan(NamedTuple):
    """A run that was checked and may begin.

    Attributes:
      stages: what is to be done.
      data: what the run works on, as JSON, to tell it from other data when the run goes on.
      finish: writes results and report; for the first process alone.
    """

    stages: tuple[Stage, ...]
    data: dict[str, Any]
    finish: Callable[[], None]


def run_stages(stages: tuple[Stage, ...], folder: Path) -> None:
    """Runs, in order, the stages that are not finished; each ends by writing `done.json`."""
    by_name = {stage.name: stage for stage in stages}
    outputs: dict[str, Any] = {}

    def inputs(stage: Stage) -> dict[str, Any]:
        return {known_as: output(by_name[name]) for known_as, name in stage.needs.items()}

    def output(stage: Stage) -> Any:
        if stage.name not in outputs:
            outputs[stage.name] = stage.load(inputs(stage))
        return outputs[stage.name]

    for stage in stages:
        done = folder / "stages" / stage.name / "done.json"
        if parallel.of_first_process(int(done.exists() and stage.whole())):
            continue
        if preemption.requested():
            raise preemption.Preempted(f"{stage.name} has not begun")
        outputs[stage.name] = stage.run(inputs(stage))
        parallel.barrier(f"{stage.name} is finished")
        writers.write_json(done, {"peak_memory_bytes": parallel.peak_memory()})


def load_dataset(config: ConfigDict) -> Dataset:
    """The run's dataset with its label noise, its faces decoded once into memory if so configured.

    Its `label` is what the run trains on.

    Raises:
      UserError: for a mistake in the data, an empty split, or an unknown dataset.
    """
    dataset = datasets.load(config.data)
    label = config.label or dataset.label
    if label in ("votes", "multi_target") and label != dataset.label:
        raise UserError(f"label={label!r} needs a dataset labelled so: set data.mode")
    dataset = noise.apply(dataset, config.noise, label)
    dataset = validation.hold_out(
        dataset,
        config.data.validation,
        label=label,
        seed=config.data.seed,
        coders=_trusted(config, dataset.coders),
    )
    dataset = dataset._replace(label=label)
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        if len(split.images) == 0:
            raise UserError(f"the {name} split of {config.data.name} has no faces")
    if config.data.in_memory:
        dataset = dataset._replace(
            train=pipeline.cache(dataset.train),
            test=pipeline.cache(dataset.test),
            validation=dataset.validation and pipeline.cache(dataset.validation),
        )
    for note in dataset.notes:
        logging.info("%s", note)
    return dataset


def _trusted(config: ConfigDict, there: Sequence[str]) -> tuple[str, ...]:
    """Those there whom the headline learns from; others may know the truth, as CIFAR-10's."""
    recipe = config.get(config.get("headline", ""))
    chosen = recipe.get("coders", ()) if isinstance(recipe, ConfigDict) else ()
    return tuple(name for name in chosen if name in there)  # machines come later


def join(recipe: ConfigDict, config: ConfigDict) -> ConfigDict:
    """A stage's recipe with the shared parts of its run's config."""
    shared = {part: config[part] for part in SHARED}
    return ConfigDict(shared | recipe.copy_and_resolve_references().to_dict())


def check_numbers(config: ConfigDict) -> None:
    """Whether the fields that all training runs have in common make sense.

    Raises:
      UserError: naming one that does not.
    """
    if config.parallel not in parallel.MODES:
        raise UserError(f"parallel={config.parallel!r} is none of {', '.join(parallel.MODES)}")
    for field in ("seed", "data.seed", "noise.seed"):
        seed = operator.attrgetter(field)(config)
        if not 0 <= seed < 2**32:
            raise UserError(f"{field} must lie in [0, 2³²), not {seed}")
    augment.check(config.augment, config.model.input)
    for field, least in {"log_steps": 1, "keep": 1, "workers": 0}.items():
        if config.loop[field] < least:
            raise UserError(f"loop.{field} must be at least {least}, not {config.loop[field]}")


def checksum_of_names(names: Sequence[str]) -> int:
    """Tells lists of file names apart."""
    checksum = 0
    for name in names:
        checksum = zlib.crc32(name.encode() + b"\n", checksum)
    return checksum


def fingerprint(dataset: Dataset) -> dict[str, Any]:
    """What tells a dataset from others: the labels of all faces and the pixels of some."""
    splits = {"train": dataset.train, "test": dataset.test}
    return {
        "classes": list(dataset.classes),
        "coders": list(dataset.coders),
        "notes": list(dataset.notes),
        "faces": {name: len(split.images) for name, split in splits.items()},
        "checksums": {name: checksum_of(split) for name, split in splits.items()},
    }


def checksum_of(split: Split) -> int:
    """Tells splits apart by names, labels, truth and the pixels of some faces.

    Raises:
      UserError: if one of these is damaged though somebody labelled it.
    """
    checksum = checksum_of_names(split.names)
    for array in (*(split.labels[name] for name in sorted(split.labels)), split.truth):
        checksum = zlib.crc32(array.tobytes(), checksum)
    rows = _sample(split.images)
    faces, readable = read(split.images, rows)
    labelled = (split.labels["annotations"][rows] != UNKNOWN).any(axis=1)
    labelled |= split.truth[rows] != UNKNOWN
    for row in rows[labelled & ~readable]:
        split.images[int(row)]  # says that it is damaged
    return zlib.crc32(faces.tobytes(), checksum)


def checksum_of_pictures(images: ImageSource) -> int:
    """Tells pictures of the same names apart by the pixels of some; damaged ones count as black."""
    return zlib.crc32(read(images, _sample(images))[0].tobytes())


def _sample(images: ImageSource) -> Int32[np.ndarray, " rows"]:
    return np.linspace(0, len(images) - 1, SAMPLED_FACES).astype(np.int32)


def training_stage(training: train.Training, needs: dict[str, str]) -> Stage:
    """A stage that trains; its output is the final state on the host."""

    def run(inputs: dict[str, State]) -> State:
        state = train.train(training, inputs)
        _write_predictions(training, state)
        state = parallel.to_host(state)
        if jax.process_index() == 0:
            learnt: dict[str, Any] = training.method.learnt(state)
            np.savez(training.folder / "learnt.npz", **learnt)
            writers.write_json(training.folder / STAGE, _description(training, needs))
        return state

    def load(inputs: dict[str, State]) -> State:
        return train.restore_finished(training, inputs)

    return Stage(training.name, needs, run, load)


def _description(training: train.Training, needs: dict[str, str]) -> dict[str, Any]:
    """What the stage's method can be made again from, as JSON."""
    return {
        "recipe": json.loads(training.config.to_json_best_effort()),
        "needs": needs,
        "classes": list(training.dataset.classes),
        "coders": list(training.dataset.coders),
        "image_shape": list(training.dataset.image_shape),
        "steps_per_epoch": training.steps_per_epoch,
        "total_steps": training.total_steps,
    }


def _write_predictions(training: train.Training, state: State) -> None:
    """The main head's predictions of the test split, and of some training faces, for the report.

    `train_rows` are places among the training faces of the run.
    """
    train_split, test = training.dataset.train, training.dataset.test
    rows = np.random.default_rng(training.config.seed).permutation(len(train_split.images))
    rows = np.sort(rows[:PREDICTED_FACES]).astype(np.int32)
    head = training.method.heads[0][0]
    test_probs = training.sweep(state, test)[head]
    train_probs = training.sweep(state, train_split.take(rows))[head]
    if jax.process_index() == 0:
        path = training.folder / "predictions.npz"
        np.savez(path, test=test_probs, train=train_probs, train_rows=training.rows[rows])
