"""What the stages of a training run learnt, and from what, as their folders hold it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32
from ml_collections import ConfigDict

from ferjax import plan
from ferjax.data.record import Dataset
from ferjax.train import learnt_from


class Learner(NamedTuple):
    """A finished stage and what it learnt from.

    Attributes:
      dataset: of its coders, with its label, and without the images.
      rows: places of the dataset's training faces among those of the run.
      learnt: what its method says it learnt, see `methods.method`.
    """

    dataset: Dataset
    rows: Int32[np.ndarray, " rows"]
    learnt: Mapping[str, np.ndarray]


def read_learner(folder: Path, stage: str, dataset: Dataset) -> Learner:
    """A finished stage of the run in `folder`, which learnt from `dataset`."""
    mine = folder / "stages" / stage
    about = json.loads((mine / plan.STAGE).read_text())
    # By name: since then machines may have annotated, too.
    recipe = ConfigDict(about["recipe"] | {"coders": about["coders"]})
    nothing = np.empty((len(dataset.train.images), 0, 0, 0), np.uint8)
    without_images = dataset._replace(train=dataset.train._replace(images=nothing))
    seen, rows = learnt_from(without_images, recipe)
    return Learner(seen, rows, np.load(mine / "learnt.npz"))
