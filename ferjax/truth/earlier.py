"""Earlier confusion matrices of known workers, for Dawid–Skene on new labels by them.

They say how often each worker gave a label to tasks of a true class. As the prior, they are added
to the expected counts of every M-step: the new labels continue the earlier ones, with a Dirichlet
prior for each row, α = 1 + counts. Or they only start EM, assigned in place of the counts of the
first M-step or added to them, as crowd-kit's `initial_error` does.
"""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32
from scipy.special import softmax

from ferjax.truth.annotations import Annotations, OptionError
from ferjax.truth.majority import vote_counts
from ferjax.truth.tables import TableError, positions

FLOOR = 1e-10
"""Least count of a label, and least probability of a class."""
USES = ("prior", "add", "assign")


def check_use(earlier_as: str) -> None:
    """Raises an `OptionError` for an invalid use of earlier matrices."""
    if earlier_as not in USES:
        raise OptionError(f"earlier_as must be 'prior', 'add' or 'assign', not {earlier_as!r}")


def start_from(
    annotations: Annotations,
    counts: Float64[np.ndarray, "workers truth label"],
    *,
    add: bool,
    uniform: bool,
    gold: Int32[np.ndarray, " tasks"],
) -> Float64[np.ndarray, "tasks classes"]:
    """Returns the posteriors of the tasks' classes under earlier confusion matrices.

    Args:
      annotations: labels with their tasks and workers.
      counts: earlier counts, see `read_earlier`.
      add: add them to those that the shares of each task's labels give.
      uniform: classes are equally likely; else each as its mean share.
      gold: known class of each task, or -1.
    """
    task, worker, label = annotations.task, annotations.worker, annotations.label
    tasks, workers, classes = annotations.sizes
    votes = vote_counts(annotations)
    shares = votes / votes.sum(axis=1, keepdims=True)
    shares[gold >= 0] = np.eye(classes)[gold[gold >= 0]]
    if add:
        cell = worker.astype(np.int64) * classes + label
        new = [np.bincount(cell, shares[task, k], workers * classes) for k in range(classes)]
        counts = counts + np.stack(new, axis=1).reshape(workers, classes, classes).swapaxes(1, 2)
    prior = np.full(classes, 1 / classes) if uniform else shares.mean(axis=0)
    counts = np.maximum(counts, FLOOR)
    logs = np.log(counts / counts.sum(axis=2, keepdims=True))
    joint = [np.bincount(task, logs[worker, k, label], tasks) for k in range(classes)]
    return softmax(np.stack(joint, axis=1) + np.log(np.maximum(prior, FLOOR)), axis=1)


def read_earlier(
    source: Any, annotations: Annotations, *, everyone: bool
) -> Float64[np.ndarray, "workers truth label"]:
    """Reads how often each worker gave a label (column) to tasks of a true class (row).

    Args:
      source: an array [workers, classes, classes] in the order of the annotations; or the path of
        an earlier run's `confusions.npz`, of which `counts` is read (`confusions`, if it has none)
        with `workers` and `classes`. nan counts as 0, and workers without annotations are ignored.
      annotations: gives workers and classes.
      everyone: require a matrix of every worker; else those without one have only zeros.

    Raises:
      TableError: for a file that cannot be read, a class that is none of the annotations', a wrong
        shape, a count that is negative or infinite, or a missing worker.
    """
    if isinstance(source, str | Path):
        where = str(source)
        counts = _aligned(*_load(source), annotations, where)
    else:
        where, counts = "the earlier confusions", np.asarray(source, np.float64)
    _, workers, classes = annotations.sizes
    if counts.shape != (workers, classes, classes):
        raise TableError(f"{where} must have shape {(workers, classes, classes)}")
    counts = np.nan_to_num(counts, nan=0, posinf=np.inf)
    wrong = ~((counts >= 0) & (counts < np.inf)).all(axis=(1, 2))
    if wrong.any():
        worker = annotations.workers[np.argmax(wrong)]
        raise TableError(f"{where}: counts of worker {worker} must be at least 0 and finite")
    missing = counts.sum(axis=(1, 2)) == 0
    if everyone and missing.any():
        raise TableError(
            f"{where} has no matrix of {missing.sum():,} of {workers:,} workers, such as "
            f"{annotations.workers[np.argmax(missing)]}"
        )
    return counts


def _load(path: str | Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns matrices, workers and classes of a file."""
    try:
        with np.load(path) as saved:
            matrices = saved["counts"] if "counts" in saved else saved["confusions"]
            return matrices.astype(np.float64), saved["workers"], saved["classes"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise TableError(f"{path} is no confusions.npz of a truth run: {error}") from error


def _aligned(
    matrices: np.ndarray,
    workers: np.ndarray,
    classes: np.ndarray,
    annotations: Annotations,
    where: str,
) -> np.ndarray:
    """Puts matrices into the order of the annotations' workers and classes."""
    if matrices.shape != (len(workers), len(classes), len(classes)):
        raise TableError(f"{where}: the matrices do not fit its workers and classes")
    column = positions(classes, annotations.classes)
    if (column < 0).any():
        raise TableError(
            f"{where}: class {classes[np.argmin(column)]} is none of the classes "
            f"{', '.join(map(str, annotations.classes))}; set classes"
        )
    row = positions(workers, annotations.workers)
    known = np.flatnonzero(row >= 0)
    _, count, size = annotations.sizes
    counts = np.zeros((count, size, size))
    counts[np.ix_(row[known], column, column)] = matrices[known]
    return counts
