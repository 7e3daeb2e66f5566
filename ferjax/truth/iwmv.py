"""IWMV, iterative weighted majority voting: weights from bounds on the error rate.

H. Li and B. Yu, *Error rate bounds and iterative weighted majority voting for crowdsourcing*,
arXiv:1411.4086 (2014), Algorithm 1. With p_w the share of labels of worker w that equal the vote:

    v_w = K·p_w − 1,     z_t = argmax_k Σ_w v_w·1[label of w for t = k]
"""

from typing import Any

import numpy as np

from ferjax.truth.annotations import Annotations, read_known
from ferjax.truth.em import check_iterations
from ferjax.truth.votes import Votes, share_right
from ferjax.truth.weighted_vote import Voted


def iwmv(
    annotations: Annotations, *, gold: Any = None, max_iterations: int = 100, seed: int = 0
) -> Voted:
    """Infers labels by votes of weight K·p − 1, repeated until the labels stop changing.

    It begins with the majority vote. Workers worse than chance have negative weights; where all
    labels of a task come from such workers, a class that nobody gave wins. Ties are broken as in
    `majority_vote`.

    The weights are K − 1 over K times a worker's log-odds of one coin, log((K − 1)·p/(1 − p)),
    linearised at chance, p = 1/K. The posteriors are those of these odds: the softmax of K/(K − 1)
    times the sums of weights. The result's skills are p.

    Args:
      annotations: labels with their tasks and workers.
      gold: known truths, see `annotations.read_known`; these tasks keep them and teach the weights.
      max_iterations: most iterations.
      seed: of the random tie-breaking.

    Raises:
      OptionError: for fewer than one iteration, or more than a million.
      TableError: for a mistake in `gold`.
    """
    check_iterations(max_iterations)
    votes = Votes.of(annotations, read_known(gold, annotations))
    draw = votes.draw(seed)
    labels, iteration, converged = votes.winners(votes.counts, draw), 0, False
    while iteration < max_iterations and not converged:
        iteration, before = iteration + 1, labels
        skills = share_right(annotations, labels)
        scores = votes.totals(votes.classes * skills[annotations.worker] - 1)
        labels = votes.winners(scores, draw)
        converged = np.array_equal(labels, before)
    odds = votes.classes / (votes.classes - 1) * scores
    posteriors = votes.dense(votes.posteriors(odds))
    return Voted(labels, posteriors, skills, iteration, bool(converged))
