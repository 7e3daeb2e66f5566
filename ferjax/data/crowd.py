"""Truth inference on faces: posteriors of their truth, and a matrix for each coder."""

from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import Float32, Float64, Int32

from ferjax import truth
from ferjax.errors import UserError
from ferjax.truth.dawid_skene import check_start


class Consensus(NamedTuple):
    """The truth and the coders' matrices, as Dawid and Skene's EM infers them.

    Attributes:
      posteriors: [N, K] probability of each class; zeros for faces that nobody annotated.
      confusions: [coders, K, K] row = truth, column = annotation, rows summing to one.
    """

    posteriors: Float32[np.ndarray, "rows classes"]
    confusions: Float64[np.ndarray, "coders classes classes"]


def check(annotations: Int32[np.ndarray, "rows coders"], classes: int, *, start: str) -> None:
    """Checks that truth can be inferred from annotations.

    Raises:
      UserError: as `dawid_skene`.
    """
    _crowd(annotations, classes, start)


def dawid_skene(
    annotations: Int32[np.ndarray, "rows coders"], classes: int, *, start: str, seed: int
) -> Consensus:
    """Runs EM over the annotations of faces, see `truth.dawid_skene`; each process does all of it.

    Args:
      annotations: indices of classes, -1 where a coder gave none.
      classes: how many there are.
      start: 'majority' or 'spectral'.
      seed: of the spectral start.

    Raises:
      UserError: for another start, one that the coders don't suffice for, no annotation, or one of
        a class that there is not.
    """
    crowd = _crowd(annotations, classes, start)
    mesh = Mesh(np.array(jax.local_devices()), ("tasks",))
    result = truth.dawid_skene(crowd, init=start, prior="none", seed=seed, mesh=mesh)
    posteriors = np.zeros((len(annotations), classes), np.float32)
    posteriors[crowd.tasks] = result.posteriors
    confusions = np.full((annotations.shape[1], classes, classes), 1 / classes)
    confusions[crowd.workers] = result.confusions
    return Consensus(posteriors, confusions)


def _crowd(
    annotations: Int32[np.ndarray, "rows coders"], classes: int, start: str
) -> truth.Annotations:
    rows, coders = np.nonzero(annotations >= 0)
    if len(rows) == 0:
        raise UserError("truth inference: nobody annotated a training face")
    table = pa.table({"task": rows, "worker": coders, "label": annotations[rows, coders]})
    try:
        crowd = truth.Annotations.from_table(table, classes=range(classes))
        check_start(start, crowd)
    except (truth.TableError, truth.OptionError) as error:
        raise UserError(f"truth inference: {error}") from error
    return crowd
