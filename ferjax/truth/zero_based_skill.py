"""ZeroBasedSkill: skills start from chance and follow the agreement with the weighted vote.

The baseline of Toloka's Crowd-Kit: D. Ustalov, N. Pavlichenko and B. Tseitlin, *Learning from
Crowds with Crowd-Kit*, Journal of Open Source Software 9 (2024). With a_w the share of labels of
worker w that equal the weighted vote, and the rate r halved at every `HALVED` steps:

    s_w = 1/K + ε,     s_w ← s_w + r·(a_w − s_w)
"""

from typing import Any

import numpy as np

from ferjax.truth.annotations import Annotations, read_known
from ferjax.truth.em import check_iterations
from ferjax.truth.votes import Votes, share_right
from ferjax.truth.weighted_vote import Voted, by_skill, weigh

EPSILON = 1e-5
HALVED = 20


def zero_based_skill(
    annotations: Annotations, *, gold: Any = None, max_iterations: int = 100, seed: int = 0
) -> Voted:
    """Infers labels by votes weighted by skills, which are updated until they stop changing.

    Args:
      annotations: labels with their tasks and workers.
      gold: known truths, see `annotations.read_known`; these tasks keep them and teach the skills.
      max_iterations: most updates.
      seed: of the random tie-breaking, as in `majority_vote`.

    Raises:
      OptionError: for fewer than one iteration, or more than a million.
      TableError: for a mistake in `gold`.
    """
    check_iterations(max_iterations)
    _, workers, classes = annotations.sizes
    votes = Votes.of(annotations, read_known(gold, annotations))
    draw = votes.draw(seed)
    skills, rate, converged, iteration = np.full(workers, 1 / classes + EPSILON), 1.0, False, 0
    while iteration < max_iterations and not converged:
        iteration += 1
        if iteration % HALVED == 0:
            rate /= 2
        before = skills
        labels = votes.winners(weigh(annotations, votes, skills), draw)
        skills = (1 - rate) * skills + rate * share_right(annotations, labels)
        converged = np.array_equal(skills, before)
    voted = by_skill(annotations, votes, skills, seed)
    return voted._replace(iterations=iteration, converged=bool(converged))
