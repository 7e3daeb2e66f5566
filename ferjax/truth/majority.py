"""Majority vote: the most frequent label of each task."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int32, Num

from ferjax.truth.annotations import Annotations


class Majority(NamedTuple):
    """The result of a majority vote; rows in the order of `Annotations.tasks`.

    Attributes:
      labels: [T] indices into `Annotations.classes`.
      posteriors: [T, K] share of each class in the task's labels.
      tied: [T] True if several classes have the most votes.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float64[np.ndarray, "tasks classes"]
    tied: Bool[np.ndarray, " tasks"]


def majority_vote(annotations: Annotations, *, seed: int = 0) -> Majority:
    """Returns the most frequent label of each task, and the shares of all labels.

    Ties are broken uniformly at random: `numpy.random.default_rng(seed)` draws one number u in
    [0, 1) for each task in turn, and of m tied labels in ascending order, number ⌊m·u⌋ wins,
    counted from 0.
    """
    counts = vote_counts(annotations)
    draw = np.random.default_rng(seed).random(len(counts))
    with jax.enable_x64(True):
        labels = np.asarray(break_ties(jnp.asarray(counts), jnp.asarray(draw)))
    return Majority(labels, counts / counts.sum(axis=1, keepdims=True), tied(counts))


def tied(votes: Num[np.ndarray, "tasks classes"]) -> Bool[np.ndarray, " tasks"]:
    """Returns True for each task in which several classes have the most votes."""
    return (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1


def break_ties(
    votes: Num[Array, "tasks classes"], draw: Float[Array, " tasks"]
) -> Int32[Array, " tasks"]:
    """Returns the class with most votes; of m tied ones, in ascending order, number ⌊m·draw⌋."""
    leads = votes == jnp.max(votes, axis=1, keepdims=True)
    leads = leads.astype(jnp.int32)
    several = jnp.sum(leads, axis=1, dtype=jnp.int32)
    turn = jnp.floor(several.astype(draw.dtype) * draw).astype(jnp.int32) + 1
    turn = jnp.minimum(turn, several)  # the product may be rounded up
    return jnp.argmax(jnp.cumsum(leads, axis=1, dtype=jnp.int32) == turn[:, None], axis=1).astype(
        jnp.int32
    )


def vote_counts(annotations: Annotations) -> Int32[np.ndarray, "tasks classes"]:
    """Counts how often each label was given to each task."""
    shape = len(annotations.tasks), len(annotations.classes)
    cells = annotations.task.astype(np.int64) * shape[1] + annotations.label
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int32)
