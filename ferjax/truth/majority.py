"""Majority vote: the label that most of a task's annotations give."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int32, Num

from ferjax.truth.annotations import Annotations


class Majority(NamedTuple):
    """What the majority says; rows in the order of `Annotations.tasks`.

    Attributes:
      labels: [T] places in `Annotations.classes`.
      posteriors: [T, K] fractions of each task's annotations.
      tied: [T] whether several labels have as many.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float64[np.ndarray, "tasks classes"]
    tied: Bool[np.ndarray, " tasks"]


def majority_vote(annotations: Annotations, *, seed: int = 0) -> Majority:
    """The most frequent label of each task, and the fractions of all.

    Ties are broken at random among the labels that tie, each as likely: one number in [0, 1) is
    drawn for each task in turn by `numpy.random.default_rng(seed)`, and of m labels that tie, in
    ascending order, the one at place ⌊m·number⌋ wins.
    """
    counts = vote_counts(annotations)
    draw = np.random.default_rng(seed).random(len(counts))
    with jax.enable_x64(True):
        labels = np.asarray(break_ties(jnp.asarray(counts), jnp.asarray(draw)))
    return Majority(labels, counts / counts.sum(axis=1, keepdims=True), tied(counts))


def tied(votes: Num[np.ndarray, "tasks classes"]) -> Bool[np.ndarray, " tasks"]:
    """[T] whether several classes have the most."""
    return (votes == votes.max(axis=1, keepdims=True)).sum(axis=1) > 1


def break_ties(
    votes: Num[Array, "tasks classes"], draw: Float[Array, " tasks"]
) -> Int32[Array, " tasks"]:
    """The class with most votes; of m that tie, in ascending order, the one at place ⌊m·draw⌋."""
    leads = votes == jnp.max(votes, axis=1, keepdims=True)
    leads = leads.astype(jnp.int32)
    several = jnp.sum(leads, axis=1, dtype=jnp.int32)
    turn = jnp.floor(several.astype(draw.dtype) * draw).astype(jnp.int32) + 1
    turn = jnp.minimum(turn, several)  # the product may be rounded up
    return jnp.argmax(jnp.cumsum(leads, axis=1, dtype=jnp.int32) == turn[:, None], axis=1).astype(
        jnp.int32
    )


def vote_counts(annotations: Annotations) -> Int32[np.ndarray, "tasks classes"]:
    """How often each label was given to each task."""
    shape = len(annotations.tasks), len(annotations.classes)
    cells = annotations.task.astype(np.int64) * shape[1] + annotations.label
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int32)
