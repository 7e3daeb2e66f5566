"""Crowd annotations as compact arrays, and what is known of the truth of their tasks."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Int32
from scipy import sparse

from ferjax.truth.tables import TableError, ascending, name_of, one_line, positions, read_columns

TASK_NAMES = ("task", "item")
"""Names of the column of tasks."""

UNKNOWN, NO_CLASS = -1, -2
"""Stand for the class of a task whose truth is not known, or is none of the classes."""


class OptionError(ValueError):
    """An option out of its range; says in one line which are in it."""


class Annotations(NamedTuple):
    """Who said what about which task.

    Attributes:
      tasks: [T] ids, in the order in which they first appear.
      workers: [W] ids, likewise.
      classes: [K] labels, in ascending order (of numbers, if all are whole numbers).
      task, worker, label: [N] int32 each, places in the above; sorted by task, then worker, and
        for equal ones in the order of the table.
      repeated: how many annotations repeat an earlier one's task and worker.
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
            batches. The cells of a CSV are strings. Ids that are no numbers, booleans or strings,
            such as dates, become strings.
          classes: the labels that may be chosen, in the order wanted; None: those that were.
          repeated: what becomes of several annotations of one task by one worker: 'keep' counts
            each, 'last' only the last of them.

        Raises:
          TableError: for a missing column, an empty cell or NaN (naming the row, the first being
            1), a label that may not be chosen, a table without rows, or a single class.
          OptionError: for another `repeated`.
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
            raise TableError(f"classes names one twice: {', '.join(map(str, known))}")
        label = _places(labels, known, label, name_of(table))
        task, worker, label = _sorted(task, worker, label, len(tasks), len(workers))
        last = last_of_each(task, worker)
        again = int(len(last) - last.sum())
        if repeated == "last" and again:
            task, worker, label = task[last], worker[last], label[last]
        return cls(tasks, workers, known, task, worker, label, again)


def read_known(
    table: Any, annotations: Annotations, *, others: bool = False
) -> Int32[np.ndarray, " tasks"]:
    """Known truths as places in `annotations.classes`, `UNKNOWN` for tasks without; [T] int32.

    Args:
      table: a mapping of task to label; or a table as for `Annotations.from_table` with columns
        `task` (or `item`) and `label` (or `truth`); or an array such as this function returns; or
        None if nothing is known. Tasks that nobody annotated are passed over.
      annotations: gives tasks and classes. Ids of unlike types are compared as numbers, if strings
        are all numbers, else as strings.
      others: whether labels that are none of the classes may occur; they become `NO_CLASS`.

    Raises:
      TableError: as `from_table`; for a label that is none of the classes; for a task that is
        listed with two labels; if no task is one that was annotated; for an array of another
        length or with places that are none.
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
    place = positions(tasks, annotations.tasks)[task]
    rows = np.flatnonzero(place >= 0)
    if len(rows) == 0:
        raise TableError(
            f"{name_of(table)}: none of its tasks was annotated; the first is {tasks[0]}, the "
            f"first that was is {annotations.tasks[0]}"
        )
    known = _places(labels, annotations.classes, label, name_of(table), rows, others)
    result = np.full(len(annotations.tasks), UNKNOWN, np.int32)
    result[place[rows]] = known[rows]
    clash = rows[result[place[rows]] != known[rows]]
    if len(clash):
        row = int(clash[0])
        raise TableError(
            f"{name_of(table)}, row {row + 1}: task {tasks[task[row]]} is listed with two labels"
        )
    return result


def last_of_each(
    task: Int32[np.ndarray, " annotations"], worker: Int32[np.ndarray, " annotations"]
) -> Bool[np.ndarray, " annotations"]:
    """Whether none of the same task and worker follows; in the order of `Annotations`."""
    again = (task[1:] == task[:-1]) & (worker[1:] == worker[:-1])
    return np.append(~again, True)


def stable_order(keys: Int32[np.ndarray, " rows"], count: int) -> Int32[np.ndarray, " rows"]:
    """The order that sorts keys in [0, count), equal ones as they are: a counting sort."""
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
    """Rows sorted by task, then worker: two counting sorts, each a matrix transposed."""
    others = np.stack([task, label], axis=1).view(np.int64)[:, 0]  # both travel as one number
    starts = np.arange(len(task) + 1, dtype=np.int32)
    by_worker = sparse.csr_matrix((others, worker, starts), (len(task), workers)).tocsc()
    task, label = by_worker.data.view(np.int32).reshape(-1, 2).T
    by_task = sparse.csr_matrix((label, task, by_worker.indptr), (workers, tasks)).tocsc()
    task = np.repeat(np.arange(tasks, dtype=np.int32), np.diff(by_task.indptr))
    return task, by_task.indices, by_task.data


def _places(
    labels: np.ndarray,
    classes: np.ndarray,
    label: Int32[np.ndarray, " rows"],
    where: str,
    rows: Int[np.ndarray, " chosen"] | None = None,
    others: bool = False,
) -> Int32[np.ndarray, " rows"]:
    """Rows' places in the classes, from their places in the labels.

    Args:
      labels: the distinct ones.
      classes: among which they are looked for.
      label: each row's place in the labels.
      where: the name of the table.
      rows: those that must be classes; None: all.
      others: whether those may also be none, which become `NO_CLASS`.

    Raises:
      TableError: naming the first row whose label is no class.
    """
    place = positions(labels, classes)
    place[place < 0] = NO_CLASS
    places = place[label]
    if not others and (place < 0).any():
        rows = np.arange(len(label)) if rows is None else rows
        wrong = rows[places[rows] < 0]
        if len(wrong):
            row = int(wrong[0])
            raise TableError(
                f"{where}, row {row + 1}: label {labels[label[row]]} is none of the classes "
                f"{', '.join(map(str, classes))}"
            )
    return places


def _checked(
    known: Int32[np.ndarray, " tasks"], annotations: Annotations
) -> Int32[np.ndarray, " tasks"]:
    tasks, _, classes = annotations.sizes
    if known.shape != (tasks,) or not ((known >= UNKNOWN) & (known < classes)).all():
        raise TableError(
            f"known truths must be {tasks} places in {classes} classes, or {UNKNOWN} where unknown"
        )
    return known.astype(np.int32)
