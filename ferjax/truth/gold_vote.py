"""Majority vote by gold tasks: a worker's vote counts as much as the share right on them.

The baseline `GoldMajorityVote` of D. Ustalov, N. Pavlichenko and B. Tseitlin, *Learning from Crowds
with Crowd-Kit*, Journal of Open Source Software 9 (2024).
"""

from typing import Any

import numpy as np

from ferjax.truth.annotations import Annotations, OptionError, read_known
from ferjax.truth.votes import Votes
from ferjax.truth.weighted_vote import Voted, by_skill


def gold_majority_vote(annotations: Annotations, *, gold: Any, seed: int = 0) -> Voted:
    """Returns weighted votes; each worker's skill is the share of right labels on gold tasks.

    A worker without a gold task gets the share right of all labels of gold tasks: nothing tells
    such workers from the crowd. Ties and skills of 0 are treated as in `weighted_majority_vote`.

    Args:
      annotations: labels with their tasks and workers.
      gold: known truths of some tasks, see `annotations.read_known`; these tasks keep them.
      seed: of the random tie-breaking.

    Raises:
      OptionError: if no gold is given.
      TableError: for a mistake in `gold`.
    """
    known = read_known(gold, annotations)
    truth = known[annotations.task]
    if not (truth >= 0).any():
        raise OptionError("gold_majority_vote needs gold: tasks whose truth is known")
    workers = len(annotations.workers)
    met = np.bincount(annotations.worker, truth >= 0, workers)
    right = np.bincount(annotations.worker, truth == annotations.label, workers)
    everyone = right.sum() / met.sum()
    skills = np.divide(right, met, out=np.full(workers, everyone), where=met > 0)
    return by_skill(annotations, Votes.of(annotations, known), skills, seed)
