"""Training: stages that train, annotate and infer, each by a recipe of the config; then a report.

A recipe says its `kind`, and names the stages whose outputs it takes:

- 'train' trains a model by `method`. Its output is the final state. `needs` gives other stages'
  outputs to the method, `annotations` names stages whose labels join the human ones as further
  coders, and with label 'inferred' or 'posterior' it learns from the stage `needs.truth`.
- 'annotate' has the model `needs.model` label all training faces that it did not learn from. Its
  output is that coder's annotation of every face; the coder goes by the name of the model's stage.
- 'infer' infers the truth from all coders' annotations, by Dawid and Skene's EM. Its output is a
  `crowd.Consensus`.
"""

import json
import logging
import operator
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax import annotate, augment, parallel, results, train, writers
from ferjax.data import crowd
from ferjax.data.fingerprint import fingerprint
from ferjax.data.load import load_dataset
from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.targets import INFERRED, targets
from ferjax.errors import UserError
from ferjax.methods import METHODS, stack
from ferjax.methods.method import State
from ferjax.report import training as training_report
from ferjax.stages import STAGE, Outputs, Plan, Stage, inputs_of, with_needed
from ferjax.writers import MetricsFile

SHARED = ("seed", "model", "augment", "loop")
"""Parts of a run's config that every recipe of training is joined with."""

MAY_CHANGE = {
    "annotate.batch_size",
    "annotate.workers",
    "data.in_memory",
    "loop.keep",
    "loop.log_steps",
    "loop.save_epochs",
    "loop.save_steps",
    "loop.workers",
    "parallel",
}
"""Fields that may change when a run is resumed: they say how it is computed, not what."""

MOST_PREDICTED = 1 << 26
"""Of more training faces × classes some faces are drawn to be predicted when a stage ends."""

Recipes = Mapping[str, ConfigDict]


class Run(NamedTuple):
    """The parts that all stages of a run share.

    Attributes:
      config: of the run.
      recipes: of its stages by name, in order.
      folder: the workdir.
      dataset: with human annotations alone.
      metrics: the run's `metrics.jsonl`.
      devices: where to compute.
    """

    config: ConfigDict
    recipes: Recipes
    folder: Path
    dataset: Dataset
    metrics: MetricsFile
    devices: parallel.Devices

    def stage_folder(self, name: str) -> Path:
        """Returns the folder of a stage."""
        return self.folder / "stages" / name

    def training(self, name: str, outputs: Mapping[str, Any]) -> train.Training:
        """Prepares a stage of training, given the outputs that it needs."""
        recipe = self.recipes[name]
        shared = {part: self.config[part] for part in SHARED}
        joined = ConfigDict(shared | recipe.copy_and_resolve_references().to_dict())
        inferred = uses_truth(recipe, self.dataset.label)
        return train.prepare(
            name,
            joined,
            with_coders(self.dataset, annotations_of(recipe, self.recipes, outputs)),
            self.stage_folder(name),
            self.metrics,
            self.devices,
            posteriors=outputs[recipe.needs.truth].posteriors if inferred else None,
        )


def plan(config: ConfigDict, folder: Path) -> Plan:
    """Plans the stages that `config.stages` names and those that they need."""
    wanted = tuple(config.stages)
    recipes = _named_recipes(config, wanted)
    if config.headline not in wanted:
        raise UserError(f"headline {config.headline!r} is not among stages {', '.join(wanted)}")
    if recipes[config.headline].kind != "train":
        raise UserError(f"headline {config.headline!r} is a stage that trains nothing")

    def finish(run: Run, outputs: Outputs) -> None:
        trained = tuple(name for name in run.recipes if run.recipes[name].kind == "train")
        dataset = with_coders(run.dataset, all_annotations(run, outputs))
        result = results.summarise(config.headline, trained, folder)
        result["latent_truth"] = results.latent_truth(trained, folder, dataset.train.truth)
        writers.write_json(folder / "result.json", result)
        training_report.write(config, folder, dataset, result)
        print(results.format_table(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    return plan_recipes(recipes, config, folder, finish)


def plan_recipes(
    recipes: Recipes, config: ConfigDict, folder: Path, finish: Callable[[Run, Outputs], None]
) -> Plan:
    """Checks that the stages of all recipes can run, and plans them.

    Args:
      recipes: by the name of the stage, each after those that it needs.
      config: of the run.
      folder: the workdir.
      finish: writes results and report.

    Raises:
      UserError: for a mistake in the config or the data.
    """
    check_numbers(config)
    run = Run(
        config=config,
        recipes=recipes,
        folder=folder,
        dataset=load_dataset(config, _trusted(config)),
        metrics=MetricsFile(folder / "metrics.jsonl"),
        devices=parallel.find_devices(config.parallel),
    )
    warn_of_rare_classes(run.dataset, config.seed)
    shapes: dict[str, Any] = {}
    for name, recipe in recipes.items():  # a mistake in the last must not show after hours
        shapes[name] = KINDS[recipe.kind].check(run, name, shapes)
    stages = tuple(KINDS[recipe.kind].stage(run, name) for name, recipe in recipes.items())
    return Plan(stages, fingerprint(run.dataset), lambda outputs: finish(run, outputs))


def needs_of(recipe: ConfigDict, label: str) -> tuple[str, ...]:
    """Returns the stages whose outputs a recipe takes.

    Args:
      recipe: of a stage.
      label: what the run trains on, unless the recipe says otherwise.
    """
    if recipe.kind == "annotate":
        return (recipe.needs.model,)
    if recipe.kind == "infer":
        return tuple(recipe.annotations)
    if recipe.get("method") not in METHODS:
        return ()  # refused later, in words that name the methods
    truth = ("truth",) if uses_truth(recipe, label) else ()
    inputs = dict.fromkeys((*METHODS[recipe.method].inputs(recipe), *truth))
    missing = [name for name in inputs if not recipe.needs.get(name)]
    if missing:
        raise UserError(f"{recipe.method} needs a stage: set needs.{missing[0]}")
    return (*recipe.annotations, *(recipe.needs[name] for name in inputs))


def uses_truth(recipe: ConfigDict, label: str) -> bool:
    """Returns whether a recipe of training learns from the labels of truth inference."""
    return (recipe.label or label) in INFERRED


def with_coders(dataset: Dataset, annotations: Mapping[str, Int32[np.ndarray, " rows"]]) -> Dataset:
    """Returns the dataset with further coders' annotations of its training faces, -1 for none.

    Raises:
      UserError: if a coder of that name annotated it before.
    """
    if not annotations:
        return dataset
    taken = set(annotations) & set(dataset.coders)
    if taken:
        raise UserError(f"a coder must not be named {min(taken)!r}: that is a machine's name")
    labels = dict(dataset.train.labels)
    columns = np.stack(list(annotations.values()), axis=1)
    labels["annotations"] = np.concatenate([labels["annotations"], columns], axis=1)
    nothing = np.full((*columns.shape, 2), np.nan, np.float32)
    labels["va"] = np.concatenate([labels["va"], nothing], axis=1)
    train_split = dataset.train._replace(labels=labels)
    return dataset._replace(
        coders=(*dataset.coders, *annotations), splits=dataset.splits | {"train": train_split}
    )


def annotations_of(
    recipe: ConfigDict, recipes: Recipes, outputs: Mapping[str, Any]
) -> dict[str, Int32[np.ndarray, " rows"]]:
    """Returns the machine annotations that a recipe names, by coder."""
    return {recipes[name].needs.model: outputs[name] for name in recipe.annotations}


def all_annotations(run: Run, outputs: Outputs) -> dict[str, Int32[np.ndarray, " rows"]]:
    """Returns all machine annotations of a run, by coder."""
    stages = {name: recipe for name, recipe in run.recipes.items() if recipe.kind == "annotate"}
    return {recipe.needs.model: outputs(name) for name, recipe in stages.items()}


def check_numbers(config: ConfigDict) -> None:
    """Checks the fields that all training runs have in common.

    Raises:
      UserError: naming the first field that is out of range.
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


def warn_of_rare_classes(dataset: Dataset, seed: int) -> None:
    """Logs a warning that names the classes of which there is one training face, or none.

    Args:
      dataset: of a run.
      seed: of ties between classes.
    """
    given = targets(
        dataset.train,
        dataset.label,
        coders=dataset.coders,
        classes=len(dataset.classes),
        seed=seed,
    ).given
    counts = np.bincount(given[given != UNKNOWN], minlength=len(dataset.classes))
    for count, faces in ((0, "no training face"), (1, "one training face alone")):
        rare = [name for name, n in zip(dataset.classes, counts, strict=True) if n == count]
        if rare and counts.any():
            logging.warning("warning: %s of class %s", faces, ", ".join(rare))


def _named_recipes(config: ConfigDict, wanted: tuple[str, ...]) -> Recipes:
    """Returns the recipes of the wanted stages and of those they need, which come first.

    Raises:
      UserError: for a stage without a valid recipe.
    """
    label = config.label

    def needs(name: str) -> tuple[str, ...]:
        recipe = config.get(name)
        if not isinstance(recipe, ConfigDict) or "kind" not in recipe:
            raise UserError(f"stages names {name!r}, but the config has no recipe of that name")
        if recipe.kind not in KINDS:
            raise UserError(f"{name}.kind {recipe.kind!r} is none of {', '.join(KINDS)}")
        try:
            return needs_of(recipe, label)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None

    return {name: config[name] for name in with_needed(wanted, needs)}


def _trusted(config: ConfigDict) -> tuple[str, ...]:
    """Returns the coders the headline learns from; others may know the truth, as in CIFAR-10."""
    recipe = config.get(config.get("headline", ""))
    return tuple(recipe.get("coders", ())) if isinstance(recipe, ConfigDict) else ()


# --- Stages that train ---


def _check_training(run: Run, name: str, shapes: Mapping[str, Any]) -> Any:
    training = run.training(name, shapes)
    inputs = inputs_of(_method_needs(run, name), shapes)
    return jax.eval_shape(training.method.init, jax.random.key(0), inputs)


def _training_stage(run: Run, name: str) -> Stage:
    """Makes a stage that trains; its output is the final state on the host."""
    method_needs = _method_needs(run, name)

    def work(outputs: dict[str, Any]) -> State:
        training = run.training(name, outputs)
        state = train.train(training, inputs_of(method_needs, outputs))
        _write_predictions(training, state)
        state = parallel.to_host(state)
        writers.write_arrays(training.folder / "learnt.npz", **training.method.learnt(state))
        writers.write_json(training.folder / STAGE, describe(training))
        return state

    def restore(outputs: dict[str, Any]) -> State:
        training = run.training(name, outputs)
        return train.restore_finished(training, inputs_of(method_needs, outputs))

    needs = needs_of(run.recipes[name], run.dataset.label)
    return Stage(name, needs, work, restore)


def _method_needs(run: Run, name: str) -> dict[str, str]:
    """Returns the stages whose outputs the method takes, by the method's names for them."""
    recipe = run.recipes[name]
    return {x: recipe.needs[x] for x in METHODS[recipe.method].inputs(recipe)}


def describe(training: train.Training) -> dict[str, Any]:
    """Returns what a model can be rebuilt from, and what a report needs to know of it, as JSON."""
    return {
        "recipe": json.loads(training.config.to_json_best_effort()),
        "classes": list(training.dataset.classes),
        "coders": list(training.dataset.coders),
        "image_shape": list(training.dataset.image_shape),
        "label": training.dataset.label,
        "heads": [list(head) for head in training.prediction.heads],
        "metrics": dict(training.method.metrics),
        "steps_per_epoch": training.steps_per_epoch,
        "total_steps": training.total_steps,
        "eval_every": training.eval_every,
    }


def _write_predictions(training: train.Training, state: State) -> None:
    """Writes the main head's predictions of the test split and of the training faces.

    `train_rows` are rows of the run's training split; `rows` are those of all training faces of the
    stage and `given` their given labels; `kind` is that of the head; and `margins`, where the
    method keeps them, are `stack.mean_margins` of the faces in `rows`.
    """
    split, test = training.dataset.train, training.dataset.test
    rows = np.random.default_rng(training.config.seed).permutation(len(split.images))
    rows = np.sort(rows[: MOST_PREDICTED // len(training.dataset.classes)]).astype(np.int32)
    head = training.prediction.heads[0].name
    test_outputs = training.sweeper(state.weights, test)[head]
    train_outputs = training.sweeper(state.weights, split.take(rows))[head]
    margins = stack.mean_margins(parallel.to_host(state.faces))
    further: dict[str, Any] = {} if margins is None else {"margins": margins}
    writers.write_arrays(
        training.folder / "predictions.npz",
        test=test_outputs,
        train=train_outputs,
        train_rows=training.rows[rows],
        rows=training.rows[: len(split.images)],
        given=training.given,
        kind=training.prediction.heads[0].kind,
        **further,
    )


# --- Stages that annotate ---


def _annotated_rows(run: Run, name: str, outputs: Mapping[str, Any]) -> Int32[np.ndarray, " rows"]:
    """Returns the rows of the training faces that the model did not learn from."""
    training = run.training(run.recipes[name].needs.model, outputs)
    count = len(run.dataset.train.images)
    return np.setdiff1d(np.arange(count), training.rows).astype(np.int32)


def _check_annotation(run: Run, name: str, shapes: Mapping[str, Any]) -> Any:
    annotate.Settings(**run.config.annotate).check()
    rows = _annotated_rows(run, name, shapes)
    if not len(rows):
        model = run.recipes[name].needs.model
        raise UserError(f"{name}: there is no training face that {model} did not learn from")
    made_up = np.full(len(run.dataset.train.images), UNKNOWN, np.int32)
    made_up[rows] = 0
    return made_up


def _annotation_stage(run: Run, name: str) -> Stage:
    """Makes a stage in which a model annotates faces; its output is [N] classes, -1 for none."""
    model_stage = run.recipes[name].needs.model
    labels = run.stage_folder(name) / "labels"
    classes, faces = run.dataset.classes, run.dataset.train

    def work(outputs: dict[str, Any]) -> Int32[np.ndarray, " rows"]:
        training = run.training(model_stage, outputs)
        rows = _annotated_rows(run, name, outputs)
        annotate.annotate(
            training.prediction,
            outputs[model_stage].weights,
            classes,
            annotate.Faces(faces.images, faces.names, rows),
            labels,
            annotate.Settings(**run.config.annotate),
            run.metrics,
            name,
        )
        return restore(outputs)

    def restore(outputs: dict[str, Any]) -> Int32[np.ndarray, " rows"]:
        return annotate.labels(labels, classes, len(faces.names))

    needs = (model_stage, *needs_of(run.recipes[model_stage], run.dataset.label))
    return Stage(name, needs, work, restore, lambda: annotate.complete(labels, run.metrics, name))


# --- Stages that infer the truth ---


def _coders_annotations(
    run: Run, name: str, outputs: Mapping[str, Any]
) -> Int32[np.ndarray, "rows coders"]:
    """Returns the annotations that a stage infers from, -1 for faces of other sets."""
    recipe = run.recipes[name]
    dataset = with_coders(run.dataset, annotations_of(recipe, run.recipes, outputs))
    dataset = dataset.of_coders(recipe.coders or dataset.coders)
    annotations = dataset.train.labels["annotations"]
    if not recipe.sets:
        return annotations
    unknown = set(recipe.sets) - set(dataset.sets)
    if unknown:
        there = ", ".join(dataset.sets) or "none"
        raise UserError(f"{name}.sets: no dataset {min(unknown)!r}, there are {there}")
    sets = [dataset.sets.index(one) for one in recipe.sets]
    wanted = np.isin(dataset.train.labels["set"], sets)
    return np.where(wanted[:, None], annotations, UNKNOWN).astype(np.int32)


def _check_inference(run: Run, name: str, shapes: Mapping[str, Any]) -> crowd.Consensus:
    annotations = _coders_annotations(run, name, shapes)
    classes = len(run.dataset.classes)
    try:
        crowd.check(annotations, classes, start=run.recipes[name].start)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    count = annotations.shape[1]
    return crowd.Consensus(
        posteriors=np.full((len(annotations), classes), 1 / classes, np.float32),
        confusions=np.full((count, classes, classes), 1 / classes),
    )


def _inference_stage(run: Run, name: str) -> Stage:
    """Makes a stage that infers the truth; its output is a `crowd.Consensus`."""
    path = run.stage_folder(name) / "consensus.npz"

    def work(outputs: dict[str, Any]) -> crowd.Consensus:
        consensus = crowd.dawid_skene(
            _coders_annotations(run, name, outputs),
            len(run.dataset.classes),
            start=run.recipes[name].start,
            seed=run.config.seed,
        )
        writers.write_arrays(path, **consensus._asdict())
        return consensus

    def restore(outputs: dict[str, Any]) -> crowd.Consensus:
        with np.load(path) as saved:
            return crowd.Consensus(**{field: saved[field] for field in crowd.Consensus._fields})

    needs = needs_of(run.recipes[name], run.dataset.label)
    return Stage(name, needs, work, restore, path.exists)


class Kind(NamedTuple):
    """A kind of stage.

    Attributes:
      check: (run, name, outputs made up for the stages before) -> an output made up likewise;
        raises a `UserError` for what would fail later.
      stage: (run, name) -> the stage.
    """

    check: Callable[[Run, str, Mapping[str, Any]], Any]
    stage: Callable[[Run, str], Stage]


KINDS = {
    "train": Kind(_check_training, _training_stage),
    "annotate": Kind(_check_annotation, _annotation_stage),
    "infer": Kind(_check_inference, _inference_stage),
}
