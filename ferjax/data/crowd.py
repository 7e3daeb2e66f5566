"""What a crowd's annotations of faces say together: posteriors of their truth, and matrices."""

from typing import NamedTuple

import jax
import numpy as np
import pyarrow as pa
from jax.sharding import Mesh
from jaxtyping import Float32, Float64, Int32

from ferjax import truth
from ferjax.data.record import Dataset
from ferjax.errors import UserError

STARTS = ("majority", "spectral")


class Consensus(NamedTuple):
    """What Dawid and Skene's EM finds.

    Attributes:
      posteriors: [N, K] probability of each class; zeros for faces that nobody annotated.
      confusions: [coders, K, K] row = truth, column = annotation, rows summing to one.
    """

    posteriors: Float32[np.ndarray, "rows classes"]
    confusions: Float64[np.ndarray, "coders classes classes"]


def dawid_skene(
    annotations: Int32[np.ndarray, "rows coders"], classes: int, *, start: str, seed: int
) -> Consensus:
    """EM over the annotations of faces, see `truth.dawid_skene`; each process does all of it.

    The first one comes again alone when it writes the report, and must not wait for others.

    Args:
      annotations: places among the classes, -1 where a coder said nothing.
      classes: how many there are.
      start: 'majority' or 'spectral'.
      seed: of the spectral start.

    Raises:
      UserError: for another start, one that the coders don't suffice for, no annotation, or one of
        a class that there is not.
    """
    rows, coders = np.nonzero(annotations >= 0)
    if len(rows) == 0:
        raise UserError("truth inference: nobody annotated a training face")
    table = pa.table({"task": rows, "worker": coders, "label": annotations[rows, coders]})
    mesh = Mesh(np.array(jax.local_devices()), ("tasks",))
    try:
        crowd = truth.Annotations.from_table(table, classes=range(classes))
        found = truth.dawid_skene(crowd, init=start, seed=seed, mesh=mesh)
    except (truth.TableError, truth.OptionError) as error:
        raise UserError(f"truth inference: {error}") from error
    posteriors = np.zeros((len(annotations), classes), np.float32)
    posteriors[crowd.tasks] = found.posteriors
    confusions = np.full((annotations.shape[1], classes, classes), 1 / classes)
    confusions[crowd.workers] = found.confusions
    return Consensus(posteriors, confusions)


def infer(dataset: Dataset, *, start: str, soft: bool, seed: int) -> Dataset:
    """The dataset with labels `inferred`: [N, K] posteriors, or with `soft` unset the likeliest.

    Raises:
      UserError: see `dawid_skene`.
    """
    labels = dataset.train.labels
    classes = len(dataset.classes)
    found = dawid_skene(labels["annotations"], classes, start=start, seed=seed).posteriors
    if not soft:
        best = np.eye(classes, dtype=np.float32)[found.argmax(axis=1)]
        found = best * (found.sum(axis=1, keepdims=True) > 0)
    train = dataset.train._replace(labels=labels | {"inferred": found})
    return dataset._replace(train=train)
