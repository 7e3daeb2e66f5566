"""Sums over the labels of each task, in memory proportional to the number of annotations.

The classes that nobody gave to a task are alike in every model without confusion matrices. So
posteriors are kept for each pair of a task and a class that somebody gave to it, and once for each
task for all its other classes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Num

from ferjax.truth.annotations import Annotations


class Posteriors(NamedTuple):
    """Probabilities of the classes of each task.

    Attributes:
      seen: [P] of each pair of `Votes`.
      unseen: [T] of each single class that nobody gave to the task.
      log_evidence: [T] logarithm of the sum of exponentials that they were divided by.
    """

    seen: Float64[np.ndarray, " pairs"]
    unseen: Float64[np.ndarray, " tasks"]
    log_evidence: Float64[np.ndarray, " tasks"]


class Votes(NamedTuple):
    """The distinct pairs of a task and a label given to it, sorted.

    Attributes:
      task, label: [P] of each pair.
      pair: [N] index of each annotation's pair.
      starts: [T] each task's first pair.
      unseen: [T] number of classes that nobody gave to the task.
      gold: [T] the task's known class, or -1.
      classes: number of classes.
    """

    task: Int[np.ndarray, " pairs"]
    label: Int[np.ndarray, " pairs"]
    pair: Int[np.ndarray, " annotations"]
    starts: Int[np.ndarray, " tasks"]
    unseen: Int[np.ndarray, " tasks"]
    gold: Int32[np.ndarray, " tasks"]
    classes: int

    @classmethod
    def of(cls, annotations: Annotations, gold: Int32[np.ndarray, " tasks"]) -> "Votes":
        """Returns the pairs of annotations.

        Args:
          annotations: labels with their tasks and workers.
          gold: known class of each task, or -1, see `annotations.read_known`.
        """
        tasks, _, classes = annotations.sizes
        cells = annotations.task.astype(np.int64) * classes + annotations.label
        cells, pair = np.unique(cells, return_inverse=True)
        task, label = np.divmod(cells, classes)
        seen = np.bincount(task, minlength=tasks)
        return cls(task, label, pair, np.cumsum(seen) - seen, classes - seen, gold, classes)

    @property
    def counts(self) -> Float64[np.ndarray, " pairs"]:
        """[P] number of annotations of each pair."""
        return np.bincount(self.pair).astype(np.float64)

    def draw(self, seed: int) -> Float64[np.ndarray, " tasks"]:
        """Draws what decides each task's ties, in [0, 1), as `majority_vote` does."""
        return np.random.default_rng(seed).random(len(self.starts))

    def totals(self, values: Float64[np.ndarray, " annotations"]) -> Float64[np.ndarray, " pairs"]:
        """Sums over each pair's annotations."""
        return np.bincount(self.pair, values, len(self.task))

    def task_totals(self, values: Num[np.ndarray, " pairs"]) -> Num[np.ndarray, " tasks"]:
        """Sums over each task's pairs."""
        return np.add.reduceat(values, self.starts)

    def posteriors(self, scores: Float64[np.ndarray, " pairs"]) -> Posteriors:
        """Returns the softmax over all classes of a task, of which unseen ones have score 0.

        A task of known class keeps it.
        """
        known = self.gold[self.task]
        wrong = (known >= 0) & (known != self.label)
        scores = np.where(wrong, -np.inf, scores)
        # Of a known class, at most itself is left over among the classes that nobody gave.
        given = self.task_totals((known == self.label).astype(np.int64)) > 0
        unseen = np.where(self.gold < 0, self.unseen, ~given)
        top = np.maximum.reduceat(scores, self.starts)
        top = np.maximum(top, np.where(unseen > 0, 0.0, -np.inf))
        exponentials = np.exp(scores - top[self.task])
        other = np.exp(-top, where=unseen > 0, out=np.zeros(len(top)))
        sums = self.task_totals(exponentials) + unseen * other
        return Posteriors(exponentials / sums[self.task], other / sums, top + np.log(sums))

    def shares(self, scores: Float64[np.ndarray, " pairs"]) -> Posteriors:
        """Returns each label's share of a task's scores, which are not negative."""
        sums = self.task_totals(scores)
        known = self.gold[self.task]
        seen = np.where(known < 0, scores / sums[self.task], known == self.label)
        return Posteriors(seen, np.zeros(len(sums)), np.log(sums))

    def dense(self, posteriors: Posteriors) -> Float32[np.ndarray, "tasks classes"]:
        """Returns the posteriors of all classes."""
        rows = np.empty((len(self.starts), self.classes), np.float32)
        rows[:] = posteriors.unseen[:, None]
        rows[self.task, self.label] = posteriors.seen
        known = np.flatnonzero(self.gold >= 0)
        rows[known] = 0
        rows[known, self.gold[known]] = 1
        return rows

    def winners(
        self, scores: Float64[np.ndarray, " pairs"], draw: Float64[np.ndarray, " tasks"]
    ) -> Int32[np.ndarray, " tasks"]:
        """Returns the class of highest score of each task, or the known one.

        Of m tied labels, in ascending order, number ⌊m·draw⌋ wins, counted from 0. Classes that
        nobody gave have score 0, and win only where the scores of all others are negative.
        """
        top = np.maximum.reduceat(scores, self.starts)
        leads = scores == top[self.task]
        turn = _turn(self.task_totals(leads.astype(np.int64)), draw)
        before = np.cumsum(leads) - leads
        winner = leads & (before - before[self.starts][self.task] == turn[self.task])
        # Below its i-th label, counted from 0, a task has label − i unseen classes. So its j-th
        # unseen class has the number j plus the number of labels for which this is at most j.
        turn = _turn(self.unseen, draw)
        below = self.label - (np.arange(len(self.task)) - self.starts[self.task])
        unseen = turn + self.task_totals((below <= turn[self.task]).astype(np.int64))
        labels = np.where((top < 0) & (self.unseen > 0), unseen, self.label[winner])
        return np.where(self.gold < 0, labels, self.gold).astype(np.int32)


def share_right(
    annotations: Annotations, labels: Int32[np.ndarray, " tasks"]
) -> Float64[np.ndarray, " workers"]:
    """Returns the share of each worker's labels that equal those of the tasks, in [0, 1]."""
    right: Bool[np.ndarray, " annotations"] = labels[annotations.task] == annotations.label
    return np.bincount(annotations.worker, right) / np.bincount(annotations.worker)


def _turn(
    several: Int[np.ndarray, " tasks"], draw: Float64[np.ndarray, " tasks"]
) -> Int[np.ndarray, " tasks"]:
    """Returns ⌊several·draw⌋, below `several` even if the product is rounded up."""
    return np.minimum((several * draw).astype(np.int64), np.maximum(several - 1, 0))
