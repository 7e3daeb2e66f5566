"""What the stages of a training run learnt, and from what, as their folders hold it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32

from ferjax.stages import STAGE


class Trained(NamedTuple):
    """A finished stage of training.

    Attributes:
      method: one of `methods.METHODS`.
      teachers: the stage whose networks taught it; '': none did.
      coders: whose annotations it learnt from.
      label: what each face was trained on, see `data.targets`.
      metrics: kind of each of its metrics, see `methods.method`.
      rows: rows of its training faces in the run's training split, ascending.
      given: [N] the one class that stands for what each of them was trained on, or -1.
      learnt: arrays that its method shows, see `methods.method`.
    """

    method: str
    teachers: str
    coders: tuple[str, ...]
    label: str
    metrics: Mapping[str, str]
    rows: Int32[np.ndarray, " rows"]
    given: Int32[np.ndarray, " rows"]
    learnt: Mapping[str, np.ndarray]


def read_trained(folder: Path, stage: str) -> Trained:
    """Reads a finished stage of the run in `folder`."""
    own = folder / "stages" / stage
    about = json.loads((own / STAGE).read_text())
    predictions = np.load(own / "predictions.npz")
    recipe = about["recipe"]
    return Trained(
        method=recipe["method"],
        teachers=recipe["needs"].get("teachers", ""),
        coders=tuple(about["coders"]),
        label=about["label"],
        metrics=about["metrics"],
        rows=predictions["rows"],
        given=predictions["given"],
        learnt=np.load(own / "learnt.npz"),
    )
