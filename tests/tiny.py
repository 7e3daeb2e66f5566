"""A run small enough for a test: eight-pixel faces of two kinds, a network of one block."""

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import cct, supervised
from ferjax import parallel, train
from ferjax.data.record import CLASSES, Dataset, InMemory, Split
from ferjax.methods.method import State
from ferjax.nn import networks
from ferjax.nn.resnet import Architecture, ResNet
from ferjax.runs.train import SHARED
from ferjax.writers import MetricsFile

NETWORK = "tiny"
one_block = partial(ResNet, Architecture((1,)))


def use_tiny_network(monkeypatch) -> None:
    """Makes `model.name='tiny'` known: one residual block, compiled in a second."""
    monkeypatch.setitem(networks.NETWORKS, NETWORK, one_block)


def config(**changes) -> ConfigDict:
    """CCT's config with two networks, batch 16, and a checkpoint and an evaluation an epoch."""
    made = cct.get_config("ferplus")  # the recipe as published; no data is read
    made.model.name, made.model.width = NETWORK, 4
    made.teachers.networks = 2
    made.teachers.batch_size = made.student.batch_size = 16
    made.teachers.epochs = made.student.epochs = 2.0
    made.loop.eval_batch_size = 16
    made.loop.log_steps = 1
    made.update_from_flattened_dict(changes)
    return made


def whole_run() -> ConfigDict:
    """Three epochs of two steps on built-in faces, each with an evaluation and a checkpoint."""
    networks.NETWORKS[NETWORK] = one_block
    made = supervised.get_config()
    made.data.train_size, made.data.test_size, made.data.image_size = 48, 16, 24
    made.data.validation = 0.25
    made.model.name, made.model.width = NETWORK, 4
    made.supervised.batch_size = made.loop.eval_batch_size = 16
    made.supervised.epochs = 3.0
    made.loop.log_steps = 1
    return made.copy_and_resolve_references()


def stage_config(stage: str, **changes) -> ConfigDict:
    """What `train.prepare` takes for one stage of `config`."""
    whole = config(**changes).copy_and_resolve_references()
    return joined(whole[stage], whole)


def joined(recipe: ConfigDict, whole: ConfigDict | None = None) -> ConfigDict:
    """A recipe with the parts that it shares with others of its run, by default of `config`."""
    whole = whole or config().copy_and_resolve_references()
    shared = {part: whole[part] for part in SHARED}
    return ConfigDict(shared | recipe.copy_and_resolve_references().to_dict())


def dataset(train_size: int = 40, test_size: int = 20, seed: int = 0) -> Dataset:
    """Faces that are bright above or bright below, by class."""
    return Dataset(
        classes=CLASSES[:2],
        coders=("coder",),
        image_shape=(8, 8, 1),
        splits={"train": split(train_size, seed), "test": split(test_size, seed + 1)},
    )


def split(size: int, seed: int) -> Split:
    """Faces of two classes with noise, labelled right by one coder."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, size).astype(np.int32)
    images = rng.integers(0, 100, (size, 8, 8, 1))
    images[truth == 0, :4] += 100
    images[truth == 1, 4:] += 100
    return Split(
        images=InMemory(images.astype(np.uint8)),
        labels={
            "annotations": truth[:, None].copy(),
            "va": np.stack([truth - 0.5, 0.5 - truth], axis=1)[:, None].astype(np.float32),
        },
        truth=truth,
        truth_va=np.stack([truth - 0.5, 0.5 - truth], axis=1).astype(np.float32),
        names=[f"{row}.png" for row in range(size)],
    )


def without_truth() -> Dataset:
    """As `dataset`, but nobody knows the truth of its training faces."""
    data = dataset()
    truth = np.full_like(data.train.truth, -1)
    return data.with_split("train", data.train._replace(truth=truth))


def partly_labelled() -> Dataset:
    """As `dataset`, but nobody labelled the first dozen of its forty training faces."""
    data = dataset()
    labels = {name: array.copy() for name, array in data.train.labels.items()}
    labels["annotations"][:12], labels["va"][:12] = -1, np.nan
    return data.with_split("train", data.train._replace(labels=labels))


def prepare(
    folder: Path,
    stage: str = "teachers",
    data: Dataset | None = None,
    devices: parallel.Devices | None = None,
    recipe: ConfigDict | None = None,
    **changes,
) -> train.Training:
    """A stage ready to train in `folder/stages/<stage>`, on two devices unless told otherwise."""
    recipe = recipe or stage_config(stage, **changes)
    devices = devices or parallel.find_devices("jit", jax.devices()[:2])
    place = folder / "stages" / stage
    metrics = MetricsFile(folder / "metrics.jsonl")
    return train.prepare(stage, recipe, data or dataset(), place, metrics, devices)


def lines(folder: Path, split: str) -> list[dict]:
    """The lines of a run's `metrics.jsonl` for one split, without what depends on time."""
    text = (folder / "metrics.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    timed = ("images_per_second", "data_wait", "seconds")
    return [
        {name: value for name, value in line.items() if name not in timed}
        for line in found
        if line["split"] == split
    ]


def assert_same(left: State, right: State) -> None:
    """Bit for bit."""
    jax.tree.map(np.testing.assert_array_equal, left, right)
