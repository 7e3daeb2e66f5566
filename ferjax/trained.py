"""The model of a finished run, ready to predict; of the run's data only what it knows is needed."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ferjax import plan
from ferjax.checkpoints import Checkpoints
from ferjax.errors import UserError
from ferjax.methods import METHODS
from ferjax.methods.method import Info, Method, State


class Trained(NamedTuple):
    """A stage's method with what it learnt.

    Attributes:
      name: of the stage.
      classes: class names.
      image_shape: (height, width, channels) of the faces it takes.
      method: of the stage.
      state: the final one, on the host.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    method: Method
    state: State


def load(workdir: Path, stage: str = "") -> Trained:
    """The final state of a stage; the run's headline's unless one is named.

    Raises:
      UserError: if the folder holds no run that trained such a stage to its end.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"trained: {workdir} holds no run (it has no config.json)")
    config = ConfigDict(json.loads(path.read_text())["config"])
    stage = stage or config.get("headline", "")
    if not isinstance(config.get(stage), ConfigDict) or "method" not in config[stage]:
        raise UserError(f"trained: the run in {workdir} has no stage {stage!r}")
    data = json.loads((workdir / "data.json").read_text())
    return Trained(
        name=stage,
        classes=tuple(data["classes"]),
        image_shape=tuple(data["image_shape"]),
        method=_method(config, stage, data),
        state=_state(config, stage, data, workdir),
    )


def _method(config: ConfigDict, stage: str, data: dict[str, Any]) -> Method:
    """The stage's method; annotations, which it will not see again, are made up."""
    recipe = plan.join(config[stage], config)
    coders = tuple(recipe.coders) or tuple(data["coders"])
    recipe.update(balanced=False, set_weights=())
    return METHODS[recipe.method](
        recipe,
        Info(
            classes=tuple(data["classes"]),
            coders=coders,
            image_shape=tuple(data["image_shape"]),
            label="majority",
            labels={"annotations": np.zeros((1, len(coders)), np.int32)},
            steps_per_epoch=1,
            total_steps=1,
        ),
    )


def _state(config: ConfigDict, stage: str, data: dict[str, Any], workdir: Path) -> State:
    """The final state; with those of the stages that it needs, for what it keeps of them."""
    folder = workdir / "stages" / stage
    if not (folder / "done.json").exists():
        raise UserError(f"trained: stage {stage} of {workdir} is not finished")
    needed = config[stage].needs.to_dict()
    inputs = {name: _state(config, other, data, workdir) for name, other in needed.items()}
    method = _method(config, stage, data)
    fresh = jax.device_get(jax.jit(method.init)(jax.random.key(config.seed), inputs))
    with closing(Checkpoints(folder / "checkpoints", config.loop.keep)) as checkpoints:
        state = checkpoints.restore(fresh)
    if state is None:
        raise UserError(f"trained: stage {stage} of {workdir} lacks its last checkpoint")
    return state
