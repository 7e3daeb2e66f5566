"""Majority vote with given skills of the workers: every vote counts as much as its worker's skill.

Wawa, ZeroBasedSkill and the vote by gold tasks estimate the skills, and then vote like this.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Float32, Float64, Int32

from ferjax.truth.annotations import Annotations, read_known
from ferjax.truth.tables import (
    TableError,
    name_of,
    one_line,
    positions,
    read_columns,
)
from ferjax.truth.votes import Votes


class Voted(NamedTuple):
    """The result of a weighted vote; rows in the order of `Annotations.tasks` and `.workers`.

    Attributes:
      labels: [T] indices into `Annotations.classes`.
      posteriors: [T, K] share of each class in the weighted votes; in the unweighted votes if all
        workers of the task weigh nothing. (Of IWMV: see there.)
      skills: [W] of each worker.
      iterations: number done.
      converged: True if it stopped before the limit on iterations.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    skills: Float64[np.ndarray, " workers"]
    iterations: int
    converged: bool


def weighted_majority_vote(
    annotations: Annotations, skills: Any, *, gold: Any = None, seed: int = 0
) -> Voted:
    """Returns the label of each task that has the largest sum of skills.

    The votes of a task count equally if all its workers have skill 0. Ties are broken as in
    `majority_vote`.

    Args:
      annotations: labels with their tasks and workers.
      skills: of every worker, see `read_skills`.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      seed: of the random tie-breaking.

    Raises:
      TableError: for a mistake in `skills` or `gold`.
    """
    votes = Votes.of(annotations, read_known(gold, annotations))
    return by_skill(annotations, votes, read_skills(skills, annotations), seed)


def by_skill(
    annotations: Annotations, votes: Votes, skills: Float64[np.ndarray, " workers"], seed: int
) -> Voted:
    """Votes with known skills."""
    scores = weigh(annotations, votes, skills)
    draw = votes.draw(seed)
    return Voted(
        labels=votes.winners(scores, draw),
        posteriors=votes.dense(votes.shares(scores)),
        skills=skills,
        iterations=1,
        converged=True,
    )


def weigh(
    annotations: Annotations, votes: Votes, skills: Float64[np.ndarray, " workers"]
) -> Float64[np.ndarray, " pairs"]:
    """Sums the skills of the workers of each pair; their number, where all of a task's are 0."""
    scores = votes.totals(skills[annotations.worker])
    none = votes.task_totals(scores) == 0
    return np.where(none[votes.task], votes.counts, scores)


def read_skills(table: Any, annotations: Annotations) -> Float64[np.ndarray, " workers"]:
    """Reads the skill of every worker.

    Args:
      table: a mapping from worker to skill; or a table as for `Annotations.from_table` with columns
        `worker` and `skill` (or `accuracy`, as `workers.csv` has it); or an array [workers].
        Workers without annotations are ignored.
      annotations: gives the workers.

    Raises:
      TableError: for a skill that is no number, negative or infinite; for a worker who has none, or
        two; for an array of the wrong length.
    """
    workers = annotations.workers
    if isinstance(table, np.ndarray):
        if table.shape != workers.shape:
            raise TableError(f"skills must be {len(workers)}, one for each worker")
        return _checked(table.astype(np.float64), workers, "skills")
    if isinstance(table, Mapping):
        with one_line("the skills"):
            table = pa.table({"worker": list(table.keys()), "skill": list(table.values())})
    (names, worker), (values, value) = read_columns(table, (("worker",), ("skill", "accuracy")))
    index = positions(names, workers)[worker]
    rows = np.flatnonzero(index >= 0)
    several = np.flatnonzero(np.bincount(index[rows], minlength=len(workers)) > 1)
    if len(several):
        raise TableError(f"{name_of(table)}: worker {workers[several[0]]} has several skills")
    try:
        numbers = values.astype(np.float64)
    except ValueError as error:
        raise TableError(f"{name_of(table)}, column skill: {error}") from error
    skills = np.full(len(workers), np.nan)
    skills[index[rows]] = numbers[value[rows]]
    missing = np.ones(len(workers), bool)
    missing[index[rows]] = False
    if missing.any():
        raise TableError(
            f"{name_of(table)} has no skill of {missing.sum():,} of {len(workers):,} workers, such "
            f"as {workers[np.argmax(missing)]}"
        )
    return _checked(skills, workers, name_of(table))


def _checked(
    skills: Float64[np.ndarray, " workers"], workers: np.ndarray, where: str
) -> Float64[np.ndarray, " workers"]:
    wrong = np.flatnonzero(~((skills >= 0) & (skills < np.inf)))
    if len(wrong):
        raise TableError(
            f"{where}: the skill of worker {workers[wrong[0]]} must be a finite number of at least "
            f"0, not {skills[wrong[0]]:g}"
        )
    return skills
