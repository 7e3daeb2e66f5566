"""IPA2LT: from datasets that were annotated inconsistently to one recogniser of the latent truth.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018, in three steps. A machine coder learns from each annotated dataset; each
annotates all faces that it did not learn from, those that nobody annotated too; and LTNet learns
from the union, where every face now has annotations of several coders: the human one of its set
and the machine coders of the others. It starts from a network trained on the union. What LTNet is
compared with learns from the same annotations.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax import annotate, parallel, train
from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.union import SET
from ferjax.errors import UserError
from ferjax.methods.method import State
from ferjax.plan import Plan, Stage, check_numbers, fingerprint, join, load_dataset, training_stage
from ferjax.writers import MetricsFile

LTNET = "ltnet"
UNION = "union"
"""The stage that trains a network on all human annotations."""


def plan(
    config: ConfigDict, folder: Path, finish: Callable[[Dataset, tuple[str, ...]], None]
) -> Plan:
    """The stages, once all were found to be possible.

    Args:
      config: with `data` a union, recipes `machine`, `union` and `ltnet`, and those that
        `comparators` names.
      folder: the workdir.
      finish: writes results and report, from the dataset with all annotations and the names of
        the stages that trained.

    Raises:
      UserError: for a mistake in the config or the data.
    """
    check_numbers(config)
    human = load_dataset(config)
    annotated = annotated_sets(human)
    learners = (*config.comparators, LTNET)
    for name in config.comparators:
        if config.comparators.count(name) > 1:
            raise UserError(f"comparators names {name!r} twice")
        if name in ("machine", UNION, LTNET):
            raise UserError(f"comparators names {name!r}, which every run trains")
    trained = (*map(machine, annotated), UNION, *learners)
    if config.headline not in trained:
        raise UserError(f"headline {config.headline!r} is none of {', '.join(trained)}")
    settings = annotate.Settings(**config.annotate)
    settings.check()
    metrics = MetricsFile(folder / "metrics.jsonl")
    devices = parallel.find_devices(config.parallel)

    def prepared(stage: str, recipe: ConfigDict, dataset: Dataset) -> train.Training:
        place = folder / "stages" / stage
        return train.prepare(stage, join(recipe, config), dataset, place, metrics, devices)

    machines = {}
    for name in annotated:
        recipe = ConfigDict(config.machine.copy_and_resolve_references().to_dict())
        recipe.update(sets=(name,), coders=_coders_of(human, name), set_weights=())
        machines[name] = prepared(machine(name), recipe, human)
    union = prepared(UNION, config.union, human)
    for name in learners:
        _check_learner(prepared(name, _recipe(config, name), _made_up(human)), union)

    def with_machines() -> Dataset:
        count = len(human.train.images)
        said = {
            machine(name): annotate.labels(_folder(folder, name), human.classes, count)
            for name in annotated
        }
        return with_coders(human, said)

    stages = [training_stage(training, {}) for training in machines.values()]
    for name, training in machines.items():
        stages.append(_annotation_stage(name, training, human, folder, settings))
    stages.append(training_stage(union, {}))

    for name in learners:
        stages.append(_learning_stage(name, _recipe(config, name), prepared, with_machines))
    return Plan(tuple(stages), fingerprint(human), lambda: finish(with_machines(), trained))


def annotated_sets(dataset: Dataset) -> tuple[str, ...]:
    """Names of the datasets of a union some of whose faces were annotated.

    Raises:
      UserError: if the dataset is no union, or of fewer than two such sets.
    """
    if not dataset.sets:
        raise UserError("ipa2lt: data.name must be 'union', with two annotated data.sets")
    said = (dataset.train.labels["annotations"] != UNKNOWN).any(axis=1)
    found = np.unique(dataset.train.labels[SET][said])
    if len(found) < 2:
        raise UserError(f"ipa2lt: {len(found)} of data.sets are annotated; at least two must be")
    return tuple(dataset.sets[place] for place in found)


def machine(name: str) -> str:
    """The machine coder that learns from a set; also the name of its stage."""
    return f"machine_{name}"


def with_coders(dataset: Dataset, said: dict[str, Int32[np.ndarray, " rows"]]) -> Dataset:
    """The dataset with further coders' annotations of its training faces, -1 for none.

    Raises:
      UserError: if a human coder has the name of one.
    """
    taken = set(said) & set(dataset.coders)
    if taken:
        raise UserError(f"a coder must not be named {min(taken)!r}: that is a machine's name")
    labels = dict(dataset.train.labels)
    columns = np.stack(list(said.values()), axis=1)
    labels["annotations"] = np.concatenate([labels["annotations"], columns], axis=1)
    nothing = np.full((*columns.shape, 2), np.nan, np.float32)
    labels["va"] = np.concatenate([labels["va"], nothing], axis=1)
    train_split = dataset.train._replace(labels=labels)
    return dataset._replace(coders=(*dataset.coders, *said), train=train_split)


def _recipe(config: ConfigDict, name: str) -> ConfigDict:
    """The recipe of LTNet or of a comparator.

    Raises:
      UserError: if there is none, or it starts from another stage than the union's.
    """
    if not isinstance(config.get(name), ConfigDict) or "method" not in config[name]:
        raise UserError(f"comparators names {name!r}, but the config has no recipe of that name")
    needs = config[name].needs.to_dict()
    if needs not in ({}, {"network": UNION}):
        raise UserError(f"{name}.needs may be 'network', the stage {UNION!r}, not {needs}")
    return config[name]


def _made_up(human: Dataset) -> Dataset:
    """The dataset with machines' annotations made up, to check recipes by before there are any."""
    of_set = human.train.labels[SET]
    said = {
        machine(name): np.where(of_set == human.sets.index(name), UNKNOWN, 0).astype(np.int32)
        for name in annotated_sets(human)
    }
    return with_coders(human, said)


def _check_learner(training: train.Training, union: train.Training) -> None:
    known = {"network": jax.eval_shape(union.method.init, jax.random.key(0), {})}
    jax.eval_shape(training.method.init, jax.random.key(0), known)


def _learning_stage(
    name: str,
    recipe: ConfigDict,
    prepared: Callable[[str, ConfigDict, Dataset], train.Training],
    with_machines: Callable[[], Dataset],
) -> Stage:
    """Training on all annotations, read when the stage begins."""
    needs = recipe.needs.to_dict()

    def stage() -> Stage:
        return training_stage(prepared(name, recipe, with_machines()), needs)

    return Stage(name, needs, lambda x: stage().run(x), lambda x: stage().load(x))


def _annotation_stage(
    name: str,
    training: train.Training,
    dataset: Dataset,
    folder: Path,
    settings: annotate.Settings,
) -> Stage:
    """A machine coder annotates the faces of all other sets."""
    others = dataset.train.labels[SET] != dataset.sets.index(name)
    rows = np.flatnonzero(others).astype(np.int32)
    place = _folder(folder, name)

    def run(inputs: dict[str, State]) -> Path:
        annotate.annotate(
            training.method,
            inputs["machine"],
            dataset.classes,
            annotate.Faces(dataset.train.images, dataset.train.names, rows),
            place,
            settings,
            training.metrics,
            _annotates(name),
        )
        return place

    needs = {"machine": machine(name)}
    return Stage(_annotates(name), needs, run, lambda _: place, lambda: annotate.whole(place))


def _coders_of(dataset: Dataset, name: str) -> tuple[str, ...]:
    """Those who annotated a set."""
    mine = dataset.train.labels[SET] == dataset.sets.index(name)
    said = (dataset.train.labels["annotations"][mine] != UNKNOWN).any(axis=0)
    return tuple(coder for coder, spoke in zip(dataset.coders, said, strict=True) if spoke)


def _annotates(name: str) -> str:
    return f"annotate_{name}"


def _folder(folder: Path, name: str) -> Path:
    return folder / "stages" / _annotates(name) / "labels"
