"""Wawa, worker agreement with aggregate: votes weighted by the agreement with the majority.

Appen, *Calculating Worker Agreement with Aggregate (Wawa)*, success.appen.com (2021); as in
D. Ustalov, N. Pavlichenko and B. Tseitlin, *Learning from Crowds with Crowd-Kit*, Journal of Open
Source Software 9 (2024):

    s_w = mean of 1[l = majority of its task] over the labels l of worker w
    z_t = argmax_k Σ_w s_w·1[label of w for t = k]
"""

from typing import Any

from ferjax.truth.annotations import Annotations, read_known
from ferjax.truth.votes import Votes, share_right
from ferjax.truth.weighted_vote import Voted, by_skill


def wawa(annotations: Annotations, *, gold: Any = None, seed: int = 0) -> Voted:
    """Infers labels by votes weighted by each worker's share of labels equal to the majority's.

    Args:
      annotations: labels with their tasks and workers.
      gold: known truths, see `annotations.read_known`; they replace the majority of these tasks.
      seed: of the random tie-breaking, as in `majority_vote`.

    Raises:
      TableError: for a mistake in `gold`.
    """
    votes = Votes.of(annotations, read_known(gold, annotations))
    draw = votes.draw(seed)
    majority = votes.winners(votes.counts, draw)
    return by_skill(annotations, votes, share_right(annotations, majority), seed)
