"""Crowd annotations as compact arrays, and known truths of their tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Int32
from scipy import sparse

from ferjax.truth.tables import TableError, ascending, name_of, one_line, positions, read_columns

TASK_NAMES = ("task", "item")
"""Allowed names of the column of tasks."""

UNKNOWN, NO_CLASS = -1, -2
"""Class of a task whose truth is unknown, or is none of the classes."""


class OptionError(ValueError):
    """An option out of its range; the message names the range in one line."""


class Annotations(NamedTuple):
    """Labels, each given by a worker to a task.

    Attributes:
      tasks: [T] ids, in the order in which they first appear.
      workers: [W] ids, likewise.
      classes: [K] labels, in ascending order (of numbers, if all are whole numbers).
      task, worker, label: [N] int32 each, indices into the above. Sorted by task, then worker;
        equal pairs keep the order of the table.
      repeated: number of annotations with the task and worker of an earlier one.
    """

    tasks: np.ndarray
    workers: np.ndarray
    classes: np.ndarray
    task: Int32[np.ndarray, " annotations"]
    worker: Int32[np.ndarray, " annotations"]
    label: Int32[np.ndarray, " annotations"]
    repeated: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of tasks, workers and classes."""
        return len(self.tasks), len(self.workers), len(self.classes)

    @classmethod
    def from_table(
        cls, table: Any, *, classes: Sequence[Any] | None = None, repeated: str = "keep"
    ) -> "Annotations":
        """Reads columns `task` (or `item`), `worker` and `label`, of any type of id.

        Args:
          table: a pandas or Arrow table, or the path of a CSV or Parquet file, which is read in
            batches. The cells of a CSV are strings. Ids that are not numbers, booleans or strings,
            such as dates, become strings.
          classes: the allowed labels, in the wanted order; None: all labels in the table.
          repeated: what to do if a worker labelled a task several times: 'keep' counts every label,
            'last' only the last.

        Raises:
          TableError: for a missing column, an empty cell or NaN (naming the row, counted from 1),
            a label that is not allowed, a table without rows, or fewer than two classes.
          OptionError: for an invalid `repeated`.
        """
        if repeated not in ("keep", "last"):
            raise OptionError(f"repeated must be 'keep' or 'last', not {repeated!r}")
        columns = read_columns(table, (TASK_NAMES, ("worker",), ("label",)))
        (tasks, task), (workers, worker), (labels, label) = columns
        known = labels[ascending(labels)] if classes is None else np.asarray(classes)
        if len(known) < 2:
            only = f"the only class is {known[0]}" if len(known) else "there is no class"
            raise TableError(f"{name_of(table)}: {only}; at least two are needed")
        if len(set(known.tolist())) < len(known):
            raise TableError(f"classes must differ, but are {', '.join(map(str, known))}")
        label = _class_indices(labels, known, label, name_of(table))
        task, worker, label = _sorted(task, worker, label, len(tasks), len(workers))
        last = last_of_each(task, worker)
        repeats = int(len(last) - last.sum())
        if repeated == "last" and repeats:
            task, worker, label = task[last], worker[last], label[last]
        return cls(tasks, workers, known, task, worker, label, repeats)


def read_known(
    table: Any, annotations: Annotations, *, others: bool = False
) -> Int32[np.ndarray, " tasks"]:
    """Reads known truths as indices of `annotations.classes`, `UNKNOWN` elsewhere.

    Args:
      table: a mapping from task to label; or a table as for `Annotations.from_table` with columns
        `task` (or `item`) and `label` (or `truth`); or an array such as this function returns; or
        None if nothing is known. Tasks without annotations are ignored.
      annotations: gives tasks and classes. Ids of different types are compared as numbers if all
        strings are numbers, else as strings.
      others: allow labels that are none of the classes; they become `NO_CLASS`.

    Raises:
      TableError: as `from_table`; for a label that is none of the classes; for a task listed with
        two labels; if no task was annotated; for an array of the wrong length or with invalid
        indices.
    """
    if table is None:
        return np.full(len(annotations.tasks), UNKNOWN, np.int32)
    if isinstance(table, np.ndarray):
        return _checked(table, annotations)
    if isinstance(table, Mapping):
        pairs = {"task": list(table.keys()), "label": list(table.values())}
        with one_line("the known truths"):
            table = pa.table(pairs)
    (tasks, task), (labels, label) = read_columns(table, (TASK_NAMES, ("label", "truth")))
    index = positions(tasks, annotations.tasks)[task]
    rows = np.flatnonzero(index >= 0)
    if len(rows) == 0:
        raise TableError(
            f"{name_of(table)}: none of its tasks was annotated; its first task is {tasks[0]}, the "
            f"first annotated one is {annotations.tasks[0]}"
        )
    known = _class_indices(labels, annotations.classes, label, name_of(table), rows, others)
    result = np.full(len(annotations.tasks), UNKNOWN, np.int32)
    result[index[rows]] = known[rows]
    clash = rows[result[index[rows]] != known[rows]]
    if len(clash):
        row = int(clash[0])
        raise TableError(
            f"{name_of(table)}, row {row + 1}: task {tasks[task[row]]} is listed with two labels"
        )
    return result


def last_of_each(
    task: Int32[np.ndarray, " annotations"], worker: Int32[np.ndarray, " annotations"]
) -> Bool[np.ndarray, " annotations"]:
    """Returns True where no later annotation has the same task and worker; rows must be sorted."""
    followed = (task[1:] == task[:-1]) & (worker[1:] == worker[:-1])
    return np.append(~followed, True)


def stable_order(keys: Int32[np.ndarray, " rows"], count: int) -> Int32[np.ndarray, " rows"]:
    """Returns the order that sorts keys in [0, count) stably, by a counting sort."""
    ones = np.empty(len(keys), np.int8)
    starts = np.arange(len(keys) + 1, dtype=np.int32)
    return sparse.csr_matrix((ones, keys, starts), (len(keys), count)).tocsc().indices


def _sorted(
    task: Int32[np.ndarray, " rows"],
    worker: Int32[np.ndarray, " rows"],
    label: Int32[np.ndarray, " rows"],
    tasks: int,
    workers: int,
) -> tuple[Int32[np.ndarray, " rows"], ...]:
    """Sorts rows by task, then worker: two counting sorts, each a transposed sparse matrix."""
    pairs = np.stack([task, label], axis=1).view(np.int64)[:, 0]  # both as one number
    starts = np.arange(len(task) + 1, dtype=np.int32)
    by_worker = sparse.csr_matrix((pairs, worker, starts), (len(task), workers)).tocsc()
    task, label = by_worker.data.view(np.int32).reshape(-1, 2).T
    by_task = sparse.csr_matrix((label, task, by_worker.indptr), (workers, tasks)).tocsc()
    task = np.repeat(np.arange(tasks, dtype=np.int32), np.diff(by_task.indptr))
    return task, by_task.indices, by_task.data


def _class_indices(
    labels: np.ndarray,
    classes: np.ndarray,
    label: Int32[np.ndarray, " rows"],
    where: str,
    rows: Int[np.ndarray, " checked"] | None = None,
    others: bool = False,
) -> Int32[np.ndarray, " rows"]:
    """Returns each row's index in `classes`, given its index in `labels`.

    Args:
      labels: the distinct labels.
      classes: the allowed labels.
      label: each row's index in `labels`.
      where: the table's name, for errors.
      rows: rows whose label must be a class; None: all.
      others: allow labels that are no class; they become `NO_CLASS`.

    Raises:
      TableError: naming the first row whose label is no class.
    """
    class_of_label = positions(labels, classes)
    class_of_label[class_of_label < 0] = NO_CLASS
    indices = class_of_label[label]
    if not others and (class_of_label < 0).any():
        rows = np.arange(len(label)) if rows is None else rows
        wrong = rows[indices[rows] < 0]
        if len(wrong):
            row = int(wrong[0])
            raise TableError(
                f"{where}, row {row + 1}: label {labels[label[row]]} is none of the classes "
                f"{', '.join(map(str, classes))}"
            )
    return indices


def _checked(
    known: Int32[np.ndarray, " tasks"], annotations: Annotations
) -> Int32[np.ndarray, " tasks"]:
    """Checks an array of known truths."""
    tasks, _, classes = annotations.sizes
    if known.shape != (tasks,) or not ((known >= UNKNOWN) & (known < classes)).all():
        raise TableError(
            f"known truths must be {tasks} indices of {classes} classes, or {UNKNOWN} where unknown"
        )
    return known.astype(np.int32)
