"""PM: votes weighted by how seldom a worker disagrees with what the votes decide.

B. I. Aydin et al., *Crowdsourcing for multiple-choice question answering* (2014); Q. Li et al.,
*Resolving conflicts in heterogeneous data by truth discovery* (2014); as CCT's authors label FEC:

    v_i = argmax_v Σ_a e_a·1[v = v_i^a],     e_a = −log(d_a / max_a d_a)

with v_i^a what worker a says of task i, and d_a how often it disagrees with v.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64, Int32

from ferjax.truth.annotations import Annotations
from ferjax.truth.em import check_iterations
from ferjax.truth.majority import break_ties

NEVER_WRONG = 0.5
"""Disagreements of a worker who never disagrees: half a one, as −log 0 would outvote all others."""


class Weighed(NamedTuple):
    """What PM ended with; rows in the order of `Annotations.tasks` and `.workers`.

    Attributes:
      labels: [T] places in `Annotations.classes`.
      posteriors: [T, K] each label's share of the weights of its task's workers; of their numbers
        where all of them weigh nothing.
      weights: [W] e_a.
      disagreements: [W] d_a.
      iterations: how often labels and weights were computed.
      converged: whether the labels stopped changing.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float64[np.ndarray, "tasks classes"]
    weights: Float64[np.ndarray, " workers"]
    disagreements: Int32[np.ndarray, " workers"]
    iterations: int
    converged: bool


def pm(annotations: Annotations, *, max_iterations: int = 100, seed: int = 0) -> Weighed:
    """Labels by weighted votes, until they stop changing.

    It begins with e_a = 1, which is the majority vote. Two cases the formula leaves open or makes
    extreme: a worker who never disagrees (d_a = 0) counts as one with `NEVER_WRONG` disagreements;
    one who disagrees most often (d_a = max) weighs nothing, as the formula says, so where only such
    workers labelled a task its votes count alike. If nobody ever disagrees all weigh 1. Ties are
    broken as in `majority_vote`.

    Disagreements are counted, not divided by the labels given: a busy worker weighs less than one
    as good who gave few. Where some gave very many labels, and others few, PM may end far below
    the majority vote.

    Args:
      annotations: who said what.
      max_iterations: at most so many.
      seed: of the ties.

    Raises:
      OptionError: for fewer than one iteration, or more than a million.
    """
    check_iterations(max_iterations)
    with jax.enable_x64(True):
        draw = np.random.default_rng(seed).random(len(annotations.tasks))
        found = _pm(
            annotations.task,
            annotations.worker,
            annotations.label,
            draw,
            annotations.sizes,
            max_iterations,
        )
        labels, shares, weights, wrong, iterations, converged = jax.device_get(found)
    return Weighed(labels, shares, weights, wrong, int(iterations), bool(converged))


@partial(jax.jit, static_argnums=(4, 5))
def _pm(task, worker, label, draw, sizes, max_iterations):
    """The whole iteration; sums over annotations are scatters, as few iterations are needed."""
    tasks, workers, classes = sizes
    alike = jnp.zeros((tasks, classes)).at[task, label].add(1.0)

    def decide(weights):
        votes = jnp.zeros((tasks, classes)).at[task, label].add(weights[worker])
        votes = jnp.where(jnp.sum(votes, axis=1, keepdims=True) > 0, votes, alike)
        return break_ties(votes, draw), votes / jnp.sum(votes, axis=1, keepdims=True)

    def weigh(labels):
        wrong = (
            jnp.zeros(workers, jnp.int32).at[worker].add((labels[task] != label).astype(jnp.int32))
        )
        most = jnp.maximum(jnp.max(wrong), 1).astype(jnp.float64)
        counted = jnp.maximum(wrong.astype(jnp.float64), NEVER_WRONG)
        weights = -jnp.log(counted / most)
        return jnp.where(jnp.max(wrong) > 0, weights, 1.0), wrong

    def iterate(carry):
        done, labels, _, weights, _, _ = carry
        decided, shares = decide(weights)
        weights, wrong = weigh(decided)
        return done + 1, decided, shares, weights, wrong, jnp.all(decided == labels)

    def goes_on(carry):
        return (carry[0] < max_iterations) & ~carry[-1]

    labels = jnp.full(tasks, -1, jnp.int32)
    shares = jnp.zeros((tasks, classes))
    weights, wrong = jnp.ones(workers), jnp.zeros(workers, jnp.int32)
    start = (jnp.int32(0), labels, shares, weights, wrong, jnp.bool(False))
    done, labels, shares, weights, wrong, same = jax.lax.while_loop(goes_on, iterate, start)
    return labels, shares, weights, wrong, done, same
