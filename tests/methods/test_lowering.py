"""Every training step can be compiled for TPUs and GPUs, although this machine may have none."""

import importlib

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coders, recipes
from ferjax.methods import METHODS
from tests import tiny
from tests.methods import problem


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    tiny.use_tiny_network(monkeypatch)


def recipe_of(name):
    """A recipe of each method, on the tiny network."""
    match name:
        case "cct":
            return tiny.stage_config("teachers")
        case "cct_student":
            return tiny.stage_config("student")
        case "ltnet":
            return tiny.joined(coders.ltnet())
        case "e2e_fc":
            return tiny.joined(coders.e2e_fc(coders.ltnet()))
        case "supervised":
            recipe = tiny.joined(recipes.supervised())
            recipe.model.heads, recipe.model.dropout = ("class", "va"), 0.5
            return recipe
    return tiny.joined(importlib.import_module(f"configs.{name}").get_config()[name])


@pytest.mark.parametrize("name", METHODS)
def test_a_step_lowers_for_tpu_and_cuda(name):
    info = problem.info()
    info = info._replace(labels=info.labels | {"va_target": np.zeros((80, 2))})
    inputs = {}
    if name == "cct_student":
        teachers = METHODS["cct"].make(recipe_of("cct"), info)
        inputs = {"teachers": jax.eval_shape(teachers.init, jax.random.key(0), {})}
    made = METHODS[name].make(recipe_of(name), info)
    state = jax.eval_shape(made.init, jax.random.key(0), inputs)
    batch = problem.batch() | {"va_target": jnp.zeros((problem.SIZE, 2))}
    exported = jax.export.export(jax.jit(made.train_step), platforms=("tpu", "cuda"))(state, batch)
    assert exported.platforms == ("tpu", "cuda")
    assert "stablehlo.convolution" in exported.mlir_module()
