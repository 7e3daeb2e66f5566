"""PM: weighted votes, in which workers who often disagree with the outcome weigh less.

B. I. Aydin et al., *Crowdsourcing for multiple-choice question answering* (2014); Q. Li et al.,
*Resolving conflicts in heterogeneous data by truth discovery* (2014); as CCT's authors label FEC:

    v_i = argmax_v Σ_a e_a·1[v = v_i^a],     e_a = −log(d_a / max_a d_a)

with v_i^a the label of worker a for task i, and d_a the number of its labels that differ from v.
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
"""Counted for a worker who never disagrees: −log 0 would outvote all others."""


class Weighed(NamedTuple):
    """The result of PM; rows in the order of `Annotations.tasks` and `.workers`.

    Attributes:
      labels: [T] indices into `Annotations.classes`.
      posteriors: [T, K] share of each class in the weighted votes; in the unweighted votes if all
        workers of the task weigh nothing.
      weights: [W] e_a.
      disagreements: [W] d_a.
      iterations: number done.
      converged: True if the labels stopped changing.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float64[np.ndarray, "tasks classes"]
    weights: Float64[np.ndarray, " workers"]
    disagreements: Int32[np.ndarray, " workers"]
    iterations: int
    converged: bool


def pm(annotations: Annotations, *, max_iterations: int = 100, seed: int = 0) -> Weighed:
    """Infers labels by weighted votes, repeated until the labels stop changing.

    It begins with e_a = 1, the majority vote. Extreme cases: a worker who never disagrees (d_a = 0)
    counts as one with `NEVER_WRONG` disagreements. The worker who disagrees most (d_a = max) weighs
    nothing, as in the formula; the votes of a task with only such workers count equally. If nobody
    ever disagrees, all weigh 1. Ties are broken as in `majority_vote`.

    Disagreements are counted, not divided by the number of labels, so a busy worker weighs less
    than an equally good one with few labels. If these numbers differ widely, PM may be much worse
    than the majority vote.

    Args:
      annotations: labels with their tasks and workers.
      max_iterations: most iterations.
      seed: of the random tie-breaking.

    Raises:
      OptionError: for fewer than one iteration, or more than a million.
    """
    check_iterations(max_iterations)
    with jax.enable_x64(True):
        draw = np.random.default_rng(seed).random(len(annotations.tasks))
        outcome = _pm(
            annotations.task,
            annotations.worker,
            annotations.label,
            draw,
            annotations.sizes,
            max_iterations,
        )
        labels, shares, weights, wrong, iterations, converged = jax.device_get(outcome)
    return Weighed(labels, shares, weights, wrong, int(iterations), bool(converged))


@partial(jax.jit, static_argnums=(4, 5))
def _pm(task, worker, label, draw, sizes, max_iterations):
    """Runs all iterations; sums over annotations are scatters, as few iterations are needed."""
    tasks, workers, classes = sizes
    unweighted = jnp.zeros((tasks, classes)).at[task, label].add(1.0)

    def decide(weights):
        votes = jnp.zeros((tasks, classes)).at[task, label].add(weights[worker])
        votes = jnp.where(jnp.sum(votes, axis=1, keepdims=True) > 0, votes, unweighted)
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
