"""Krippendorff's α: the agreement between workers beyond what chance explains.

K. Krippendorff, *Content Analysis: An Introduction to Its Methodology*, 2nd edition, 2004, chapter
11, for nominal labels. Not every worker need label every task: a task with m labels counts m times,
each of its labels compared with the m − 1 others.
"""

import numpy as np

from ferjax.truth.annotations import UNKNOWN, Annotations, last_of_each
from ferjax.truth.votes import Votes


def krippendorff_alpha(annotations: Annotations) -> float:
    """Returns α, at most 1: 1 if all agree, 0 as if labels were dealt out by chance.

    α = 1 − D_o/D_e, with D_o the share of different labels in the pairs of labels of one task, and
    D_e that in all pairs of labels. Tasks with a single label are left out. If a worker labelled a
    task several times, the last label counts. nan if no task has two labels, or all are the same.
    """
    last = last_of_each(annotations.task, annotations.worker)
    rows = {name: getattr(annotations, name)[last] for name in ("task", "worker", "label")}
    unknown = np.full(len(annotations.tasks), UNKNOWN, np.int32)
    votes = Votes.of(annotations._replace(**rows), unknown)
    sizes = votes.task_totals(votes.counts)
    counts = np.where(sizes[votes.task] > 1, votes.counts, 0.0)
    labels = np.bincount(votes.label, counts)
    total = labels.sum()
    observed = np.sum(counts * (sizes[votes.task] - counts) / np.maximum(sizes[votes.task] - 1, 1))
    expected = np.sum(labels * (total - labels)) / max(total - 1, 1)
    return float(1 - observed / expected) if expected > 0 else float("nan")
