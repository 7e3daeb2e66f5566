"""Crowd annotations as compact arrays, and known truths of their tasks."""

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int32, Int64
from scipy import sparse

from ferjax.truth.tables import (
    Column,
    TableError,
    ascending,
    look_alikes,
    name_of,
    one_line,
    positions,
    read_columns,
    warn,
)

TASK_NAMES = ("task", "item")
"""Allowed names of the column of tasks."""

UNKNOWN, NO_CLASS = -1, -2
"""Class of a task whose truth is unknown, or is none of the classes."""

NO_LABELS = {"none", "null", "nan", "na", "n/a", "-1", "-1.0"}
"""Words that often stand for a missing label, in lower case."""

EXAMPLES = 3
"""Most examples in a warning."""

SHOWN = 80
"""Most letters of a label in a message."""

MOST_LISTED = 20
"""Most classes that a message lists."""


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
        cls,
        table: Any,
        *,
        classes: Sequence[Any] | None = None,
        repeated: str = "keep",
        missing: Sequence[Any] = (),
    ) -> "Annotations":
        """Reads columns `task` (or `item`), `worker` and `label`, of any type of id.

        White space around ids is no part of them. Ids that look alike but differ, such as 1 and 1.0
        or labels in other capitals, are logged as a warning, and so is a class that may mean that
        there is no label, such as None or -1.

        Args:
          table: a pandas or Arrow table, or the path of a CSV or Parquet file, which is read in
            batches. The cells of a CSV are strings. Ids that are not numbers, booleans or strings,
            such as dates, become strings.
          classes: the allowed labels, in the wanted order; None: all labels in the table.
          repeated: what to do if a worker labelled a task several times: 'keep' counts every label,
            'last' only the last.
          missing: labels that mean that there is none, such as ('None', '-1', ''); rows with them
            are dropped. '', None and NaN all stand for empty cells and NaN.

        Raises:
          TableError: for a missing column, an empty cell or NaN (naming the row, counted from 1),
            a header in the middle, a quote that is never closed, a label that is not allowed, a
            table without rows, or fewer than two classes.
          OptionError: for an invalid `repeated` or `missing`.
        """
        if repeated not in ("keep", "last"):
            raise OptionError(f"repeated must be 'keep' or 'last', not {repeated!r}")
        if isinstance(missing, str):
            raise OptionError(f"missing must be several labels, such as ({missing!r},)")
        where = name_of(table)
        (tasks, task), (workers, worker), (labels, label) = _read(table, where, missing)
        known = labels[ascending(labels)] if classes is None else _stripped(classes)
        if len(known) < 2:
            only = f"the only class is {known[0]}" if len(known) else "there is no class"
            raise TableError(f"{where}: {only}; at least two are needed")
        if len(set(known.tolist())) < len(known):
            raise TableError(f"classes must differ, but are {_listed(known)}")
        if classes is None:
            _warn_of_odd_classes(where, known)
        label = _class_indices(labels, known, label, where)
        task, worker, label = _sorted(task, worker, label, len(tasks), len(workers))
        last = last_of_each(task, worker)
        repeats = int(len(last) - last.sum())
        if repeated == "last" and repeats:
            task, worker, label = task[last], worker[last], label[last]
        return cls(tasks, workers, known, task, worker, label, repeats)


def read_known(
    table: Any,
    annotations: Annotations,
    *,
    others: bool = False,
    missing: Sequence[Any] = (),
) -> Int32[np.ndarray, " tasks"]:
    """Reads known truths as indices of `annotations.classes`, `UNKNOWN` elsewhere.

    Labels that are none of the classes are logged as a warning.

    Args:
      table: a mapping from task to label; or a table as for `Annotations.from_table` with columns
        `task` (or `item`) and `label` (or `truth`); or an array such as this function returns; or
        None if nothing is known. Tasks without annotations are ignored; empty labels are unknown.
      annotations: gives tasks and classes. Ids of different types are compared as numbers if all
        strings are numbers, else as strings; 1 and 1.0 are equal.
      others: whether labels that are none of the classes become `NO_CLASS`, not `UNKNOWN`.
      missing: labels that mean that the truth is unknown.

    Raises:
      TableError: as `from_table`; if none of the labels is a class, or no task was annotated; for a
        task listed with two labels; for an array of the wrong length or with invalid indices.
    """
    if table is None:
        return np.full(len(annotations.tasks), UNKNOWN, np.int32)
    if isinstance(table, np.ndarray):
        return _checked(table, annotations)
    if isinstance(table, Mapping):
        pairs = {"task": list(table.keys()), "label": list(table.values())}
        with one_line("the known truths"):
            table = pa.table(pairs)
    where, names = name_of(table), (TASK_NAMES, ("label", "truth"))
    (tasks, task), (labels, label) = read_columns(table, names, may_be_empty=("label",))
    position = positions(tasks, annotations.tasks)
    index = position[task]
    if (index < 0).all():
        raise TableError(
            f"{where}: none of its tasks was annotated; its first task is {tasks[0]}, the "
            f"first annotated one is {annotations.tasks[0]}"
        )
    _warn_of_other_tasks(where, tasks[position < 0], annotations.tasks)
    rows = np.flatnonzero((index >= 0) & ~_missing(labels, label, missing))
    if len(rows) == 0:
        raise TableError(f"{where}: no annotated task has a label")
    class_of_label = positions(labels, annotations.classes)
    class_of_label[class_of_label < 0] = NO_CLASS
    known = np.append(class_of_label, np.int32(UNKNOWN))[label]
    wrong = rows[known[rows] == NO_CLASS]
    if len(wrong):
        _judge_others(where, labels, label[wrong], wrong, annotations.classes, len(rows), others)
    if not others:
        rows = rows[known[rows] != NO_CLASS]
    result = np.full(len(annotations.tasks), UNKNOWN, np.int32)
    result[index[rows]] = known[rows]
    clash = rows[result[index[rows]] != known[rows]]
    if len(clash):
        row = int(clash[0])
        raise TableError(
            f"{where}, row {row + 1}: task {tasks[task[row]]} is listed with two labels"
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


def _read(table: Any, where: str, missing: Sequence[Any]) -> list[Column]:
    """Reads tasks, workers and labels, without rows whose label is missing."""
    names = TASK_NAMES, ("worker",), ("label",)
    words = {"" if value is None else str(value).strip().lower() for value in missing}
    may_be_empty = ("label",) if words & {"", "nan"} else ()
    columns = read_columns(table, names, may_be_empty=may_be_empty)
    if missing:
        columns = _without(columns, _missing(*columns[-1], missing), where)
    for (name, *_), (values, _) in zip(names, columns, strict=True):
        _warn_of_look_alikes(f"{where}, column {name}", values, capitals=name == "label")
    return columns


def _class_indices(
    labels: np.ndarray, classes: np.ndarray, label: Int32[np.ndarray, " rows"], where: str
) -> Int32[np.ndarray, " rows"]:
    """Returns each row's index in `classes`, given its index in `labels`.

    Raises:
      TableError: naming the first row whose label is no class.
    """
    class_of_label = positions(labels, classes)
    indices = class_of_label[label]
    if (class_of_label < 0).any():
        row = int((indices < 0).argmax())
        name = _with_look_alike(labels[label[row]], classes)
        raise TableError(
            f"{where}, row {row + 1}: label {name} is none of the classes {_listed(classes)}"
        )
    return indices


def _judge_others(
    where: str,
    labels: np.ndarray,
    wrong: Int32[np.ndarray, " wrong"],
    rows: Int64[np.ndarray, " wrong"],
    classes: np.ndarray,
    known: int,
    counted: bool,
) -> None:
    """Warns of known truths that are none of the classes, or refuses them if all are.

    Args:
      where: the table's name.
      labels: the distinct labels.
      wrong: the indices of those that are no class, of each such row.
      rows: these rows.
      classes: the classes.
      known: how many truths are known.
      counted: whether they count as missed; else they are left out.
    """
    distinct = labels[list(dict.fromkeys(wrong.tolist()))]
    examples = [_with_look_alike(value, classes) for value in distinct[:EXAMPLES]]
    among = f"none of the classes {_listed(classes)}"
    if len(wrong) == known:
        more = f"; nor is any other label, such as {examples[1]}" if len(examples) > 1 else ""
        raise TableError(f"{where}, row {rows[0] + 1}: label {examples[0]} is {among}{more}")
    fate = "counted as missed" if counted else "left out"
    warn(
        f"{where}: {len(wrong):,} of {known:,} labels {fate}, being {among}: {', '.join(examples)}"
    )


def _missing(
    labels: np.ndarray, label: Int32[np.ndarray, " rows"], missing: Sequence[Any]
) -> Bool[np.ndarray, " rows"]:
    """Returns which rows have no label: an empty one, or one of `missing`."""
    nothing = np.zeros(len(labels), bool)
    if missing and len(labels):
        nothing = positions(labels, _stripped([str(value) for value in missing])) >= 0
    return np.append(nothing, True)[label]


def _without(
    columns: list[Column], dropped: Bool[np.ndarray, " rows"], where: str
) -> list[tuple[np.ndarray, Int32[np.ndarray, " kept"]]]:
    """Drops rows, and values that are in no other row."""
    if dropped.all():
        raise TableError(f"{where}: every label is one of those that are missing")
    if dropped.any():
        count = f"{dropped.sum():,} of {len(dropped):,}"
        logging.info("%s: %s rows dropped, whose label is missing", where, count)
    kept = []
    for values, codes in columns:
        codes = codes[~dropped]
        used, first, codes = np.unique(codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        kept.append((values[used[order]], np.argsort(order).astype(np.int32)[codes]))
    return kept


def _listed(classes: np.ndarray) -> str:
    more = f", ... ({len(classes):,} in all)" if len(classes) > MOST_LISTED else ""
    return ", ".join(map(str, classes[:MOST_LISTED])) + more


def _stripped(values: Sequence[Any]) -> np.ndarray:
    return np.asarray([value.strip() if isinstance(value, str) else value for value in values])


def _warn_of_look_alikes(where: str, values: np.ndarray, *, capitals: bool) -> None:
    pairs = look_alikes(values, capitals=capitals)
    if pairs:
        left, right = _forms(*pairs[0])
        warn(f"{where}: {left} and {right} are counted as different{_more(pairs)}")


def _warn_of_other_tasks(where: str, others: np.ndarray, tasks: np.ndarray) -> None:
    """Warns of tasks that were not annotated but look like some that were."""
    if len(others) == 0 or "O" not in (others.dtype.kind, tasks.dtype.kind):
        return
    strings = others.astype(str).tolist()
    both = np.array([*tasks.astype(str).tolist(), *strings], object)
    unknown = set(strings)
    pairs = [pair for pair in look_alikes(both, capitals=True) if pair[1] in unknown]
    if pairs:
        task, other = _forms(*pairs[0])
        warn(f"{where}: task {other} was not annotated, but {task} was{_more(pairs)}")


def _more(pairs: list[tuple[str, str]]) -> str:
    return f", and {len(pairs) - 1:,} more such pairs" if len(pairs) > 1 else ""


def _warn_of_odd_classes(where: str, classes: np.ndarray) -> None:
    words = tuple(str(name) for name in classes if str(name).lower() in NO_LABELS)
    if words:
        named = " and ".join(map(repr, words))
        warn(f"{where}: {named} counted as a class; missing={words} drops such rows")
    for name in classes:
        if "\n" in str(name):
            warn(f"{where}: class {name!r} has several lines; is a quote closed too late?")


def _with_look_alike(label: Any, classes: np.ndarray) -> str:
    """The label, and the class that looks like it, if there is one."""
    if isinstance(label, str) and classes.dtype.kind in "OU":
        pairs = look_alikes(np.array([*classes, label], object), capitals=True)
        for name in (left for left, right in pairs if right == label):
            form, other = _forms(label, name)
            return f"{form} (which is not {other})"
    return str(label)[:SHOWN]


def _forms(left: str, right: str) -> tuple[str, str]:
    """Two strings so that one sees the difference."""
    same = unicodedata.normalize("NFC", left) == unicodedata.normalize("NFC", right)
    show = ascii if same else repr
    return show(left), show(right)


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
