"""LTNet and what the paper compares it with, all trained the same way in one run.

    python -m ferjax.main --config=configs/ltnet.py --workdir=runs/ltnet
    python -m ferjax.main --config=configs/ltnet.py:cifar10 --config.data.dir=FOLDER --workdir=DIR

On built-in faces: two datasets, each annotated by its own team, who err in opposite ways; three
minutes on two CPU cores, mixture 84.6 %, LTNet 91.3 %. `:cifar10`, `:cifar10n` and their `_small`
variants are `configs/papers/ltnet_cifar10.py`, `:ferplus` and `:ferplus_small`
`configs/papers/ltnet_ferplus.py`, both with `--config.data.dir=FOLDER`.
"""

import numpy as np
from ml_collections import ConfigDict

from configs import coders, datasets, recipes
from configs.datasets import synthetic
from configs.papers import ltnet_cifar10, ltnet_ferplus
from ferjax.data.record import CLASSES

TEAMS = {
    "east": {"fear": "surprise", "disgust": "anger"},
    "west": {"surprise": "fear", "anger": "disgust"},
}
"""The mistakes of each team, as pairs of truth and label; the teams err in opposite ways."""
RATE = 0.4
"""How often each team makes these mistakes."""


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of LTNet and what it is compared with on a dataset."""
    return TABLES.get(dataset, one_run)(dataset)


def one_run(dataset: str) -> ConfigDict:
    """Returns a config of LTNet and of networks on the mixture and the majority of annotations."""
    config = datasets.base(dataset)
    config.stages = ("mixture", "majority", "ltnet")
    config.headline = "ltnet"
    config.ltnet = coders.ltnet()
    config.mixture = recipes.alike(config.ltnet, "random")  # one annotation, anew at each step
    config.majority = recipes.alike(config.ltnet, "majority")
    datasets.adapt(config, dataset, ADAPTED)
    return config


def two_teams() -> dict[str, ConfigDict]:
    """Returns two datasets of built-in faces, each annotated by its own team."""
    sets = {}
    for index, (name, mistakes) in enumerate(TEAMS.items()):
        sets[name] = synthetic.faces(start=10_000_000 * index, train_size=2000, test_size=1000)
        sets[name].coders = (name,)
        sets[name].confusions = (_confusion(mistakes),)
    return sets


def hasten(recipe: ConfigDict) -> None:
    """Shortens LTNet's recipe to minutes on built-in faces."""
    synthetic.hasten(recipe)
    coders.long_start(recipe)
    recipe.epochs = 30.0


def _built_in_faces(config: ConfigDict) -> None:
    hasten(config.ltnet)
    config.noise.kind = "none"
    datasets.set_data(config, datasets.union(two_teams()))
    config.stages = ("mixture", "ltnet")  # one annotation per face: the majority is the mixture


def _faces(config: ConfigDict) -> None:
    coders.authors_network(config)
    coders.authors_rates(config.ltnet)


def _confusion(mistakes: dict[str, str]) -> tuple[tuple[float, ...], ...]:
    """Returns the matrix [7, 7] of a coder who makes these mistakes at `RATE`, and no others."""
    matrix = np.eye(7)
    for truth, taken_for in mistakes.items():
        row = CLASSES.index(truth)
        matrix[row, [row, CLASSES.index(taken_for)]] = 1 - RATE, RATE
    return tuple(map(tuple, matrix.tolist()))


ADAPTED = {"synthetic": _built_in_faces, "faces": _faces}
"""Changes for some datasets."""

TABLES = {
    **dict.fromkeys(ltnet_cifar10.DATASETS, ltnet_cifar10.get_config),
    **dict.fromkeys(ltnet_ferplus.DATASETS, ltnet_ferplus.get_config),
}
"""Configs of whole tables, by the dataset that the table is about."""
