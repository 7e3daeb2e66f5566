"""The model of a finished run, ready to predict; of the run's data only what it knows is needed."""

import json
import zlib
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
      state: on the host, as far as predicting needs it.
    """

    name: str
    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    method: Method
    state: State

    def checksum(self) -> int:
        """Tells models apart."""
        checksum = zlib.crc32(self.name.encode())
        for leaf in jax.tree.leaves((self.state.params, self.state.batch_stats)):
            checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
        return checksum


WEIGHTS = {"last": "checkpoints", "best": "best"}
"""Folders of a stage's checkpoints: when it ended, and when it did best on validation faces."""


def load(workdir: Path, stage: str = "", weights: str = "last") -> Trained:
    """A finished stage; the run's headline unless one is named.

    Args:
      workdir: of the run.
      stage: its name.
      weights: 'last', those at the end; or 'best', those that did best on validation faces.

    Raises:
      UserError: if the folder holds no run that trained such a stage to its end, or no such
        weights.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights!r} is none of {', '.join(WEIGHTS)}")
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"trained: {workdir} holds no run (it has no config.json)")
    try:
        stage = stage or json.loads(path.read_text())["config"].get("headline", "")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"trained: {path} was not written by a run") from error
    about = _about(workdir, stage)
    return Trained(
        name=stage,
        classes=tuple(about["classes"]),
        image_shape=tuple(about["image_shape"]),
        method=_method(about),
        state=_state(workdir, stage, weights, about),
    )


def _about(workdir: Path, stage: str) -> dict[str, Any]:
    """What the stage wrote of itself when it ended."""
    path = workdir / "stages" / stage / plan.STAGE
    if not stage or not path.exists():
        there = ", ".join(sorted(x.parent.name for x in workdir.glob(f"stages/*/{plan.STAGE}")))
        raise UserError(
            f"trained: {workdir} has no finished stage {stage!r}; there are {there or 'none'}"
        )
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"trained: {path} is damaged") from error


def _method(about: dict[str, Any]) -> Method:
    """The stage's method; annotations, which it will not see again, are made up."""
    recipe = ConfigDict(about["recipe"])
    recipe.update(balanced=False, set_weights=())
    return METHODS[recipe.method](
        recipe,
        Info(
            classes=tuple(about["classes"]),
            coders=tuple(about["coders"]),
            image_shape=tuple(about["image_shape"]),
            label="majority",
            labels={"annotations": np.zeros((1, len(about["coders"])), np.int32)},
            steps_per_epoch=about["steps_per_epoch"],
            total_steps=about["total_steps"],
        ),
    )


def _state(workdir: Path, stage: str, weights: str, about: dict[str, Any]) -> State:
    """The state, on the host, for prediction: without what is frozen, which only trains."""
    template = _shapes(workdir, about).replace(frozen=())
    folder = workdir / "stages" / stage / WEIGHTS[weights]
    if not folder.exists():
        raise UserError(f"trained: there is no {folder}; did the run hold faces out?")
    keep = about["recipe"]["loop"]["keep"]
    with closing(Checkpoints(folder, keep, read_only=True)) as checkpoints:
        state = checkpoints.restore(template)
    if state is None or (weights == "last" and int(state.step) != about["total_steps"]):
        raise UserError(f"trained: {folder} lacks the last checkpoint, or it is damaged")
    return state


def _shapes(workdir: Path, about: dict[str, Any]) -> State:
    """The stage's state as shapes; a start from other stages takes nothing but their shapes."""
    needs = about["needs"].items()
    inputs = {name: _shapes(workdir, _about(workdir, other)) for name, other in needs}
    return jax.eval_shape(_method(about).init, jax.random.key(about["recipe"]["seed"]), inputs)
