"""Configs: every one resolves, names stages that exist, and takes the flags that README shows."""

import importlib
import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs.datasets import DATASETS
from ferjax.errors import UserError
from ferjax.methods import METHODS
from ferjax.runs.train import KINDS

FOLDER = Path(__file__).parents[1] / "configs"
ALONE = ("annotate", "evaluate", "truth", "ipa2lt")
SHARED = ("recipes", "coders", "__init__")
ON_DATASETS = [x.stem for x in sorted(FOLDER.glob("*.py")) if x.stem not in (*ALONE, *SHARED)]
PAPERS = [f"papers.{path.stem}" for path in (FOLDER / "papers").glob("[!_]*.py")]
CONFIGS = [
    *((name, dataset) for name in ON_DATASETS for dataset in DATASETS),
    *((name, "") for name in (*ALONE, *PAPERS)),
    ("ipa2lt", "faces"),
    ("papers.cct_affectnet", "8"),
]


def config_of(name: str, dataset: str = "", **changes) -> ConfigDict:
    made = importlib.import_module(f"configs.{name}").get_config(*filter(None, [dataset]))
    made.lock()
    made.update_from_flattened_dict(changes)
    return made.copy_and_resolve_references()


@pytest.mark.parametrize(("name", "dataset"), CONFIGS)
def test_a_config_resolves_to_json_and_its_stages_and_their_needs_exist(name, dataset):
    config = config_of(name, dataset)
    json.dumps(json.loads(config.to_json_best_effort()), allow_nan=False)
    recipes = {x: y for x, y in config.items() if isinstance(y, ConfigDict) and "kind" in y}
    recipes.pop("noise", None)
    assert set(config.get("stages", ())) <= set(recipes)
    for recipe in recipes.values():
        assert recipe.kind in KINDS
        assert recipe.kind != "train" or recipe.method in METHODS
        needed = (*recipe.get("needs", {}).values(), *recipe.get("annotations", ()))
        assert set(needed) <= set(recipes)


def test_an_unknown_dataset_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"unknown dataset 'magic'; there are synthetic, .*faces"):
        config_of("cct", "magic")


def test_the_baseline_follows_every_change_of_the_recipe_that_it_is_compared_with():
    changes = {"teachers.epochs": 3.0, "teachers.optimizer.learning_rate": 0.5}
    config = config_of("cct", **changes)
    assert config.baseline.epochs == 3.0
    assert config.baseline.optimizer.learning_rate == 0.5
    assert config_of("cct", **{"baseline.epochs": 2.0}).teachers.epochs != 2.0


def test_the_stages_of_ipa2lt_follow_its_comparators():
    default = config_of("ipa2lt").stages
    assert default == ("machine_east", "machine_west", "union", "ltnet")
    config = config_of("ipa2lt", comparators=("em", "nal", "e2e_fc"))
    assert config.stages == (*default[:-1], "em", "nal", "e2e_fc", "ltnet")
    assert config_of("ipa2lt", stages=("union",)).stages == ("union",)


def test_one_seed_varies_faces_noise_and_training():
    config = config_of("ltnet", seed=7)
    assert (config.noise.seed, config.data.seed, config.data.sets.east.seed) == (7, 7, 7)


@pytest.mark.parametrize(
    ("name", "dataset", "changes"),
    [
        ("cct", "ferplus", {"teachers.variant": "released", "student.variant": "released"}),
        ("cct", "ferplus", {"model.name": "resnet50", "model.stem": "imagenet"}),
        ("cct", "", {"noise.kind": "symmetric", "noise.rate": 0.4, "parallel": "pmap"}),
        ("cct", "", {"stages": ("baseline",), "headline": "baseline", "seeds": (0, 1, 2)}),
        ("cct", "", {"data.validation": 0.1, "teachers.balanced": True}),
        ("cct", "faces", {"data.sets.raf_db.path": "x", "data.image_size": 112}),
        ("ltnet", "", {"ltnet.loss": "released", "ltnet.transition.start": "dawid_skene"}),
        ("ltnet", "", {"ltnet.transition.constraint": "softmax", "ltnet.transition.rate": 10.0}),
        ("ltnet", "", {"ltnet.transition.optimizer": "adam", "ltnet.transition.trace": 0.01}),
        ("ltnet", "cifar10_small", {"stages": ("em_posterior",), "headline": "em_posterior"}),
        ("ipa2lt", "", {"ltnet.coder_weights": (3.0, 3.0, 0.5, 0.1)}),
        ("ipa2lt", "faces", {"ltnet.set_weights": (1.0, 2.0, 1.0), "model.width": 64}),
        ("cct_sweep", "ferplus", {"sweep": "temperature"}),
        ("annotate", "", {"trained": "x", "path": "y", "weights": "best"}),
        ("truth", "", {"algorithm": "pm", "classes": ("neutral", "happy"), "off_diagonal": 0.1}),
        ("evaluate", "", {"groups.wild": (("RAF-DB", "list.txt"),)}),
    ],
)
def test_flags_that_users_are_shown_can_be_set(name, dataset, changes):
    config_of(name, dataset, **changes)
