"""The truth command: crowd annotations in; labels, coders and how sure both are out."""

import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from jaxtyping import Bool, Float, Float64, Int32
from ml_collections import ConfigDict

from ferjax import truth, writers
from ferjax.errors import UserError
from ferjax.truth import Annotations, OptionError, TableError, majority
from ferjax.truth.annotations import UNKNOWN, read_known
from ferjax.truth.dawid_skene import check_start
from ferjax.truth.em import check_options

ALGORITHMS = ("majority_vote", "dawid_skene", "one_coin", "pm")
TABLES = ("csv", "parquet")
OPTIONS = ("pseudo_count", "prior", "max_iterations", "tolerance")
"""Of the algorithms that are EM."""


class Crowd(NamedTuple):
    """What a run works on.

    Attributes:
      annotations: who said what.
      gold: [T] known classes that stay fixed, `UNKNOWN` for the others.
      truth: [T] known classes to measure by, `UNKNOWN` or `NO_CLASS` for the others.
      seconds: that reading took.
    """

    annotations: Annotations
    gold: Int32[np.ndarray, " tasks"]
    truth: Int32[np.ndarray, " tasks"]
    seconds: float

    @property
    def measured(self) -> Int32[np.ndarray, " tasks"]:
        """[T] `truth` without the tasks whose class was given as gold."""
        return np.where(self.gold == UNKNOWN, self.truth, UNKNOWN).astype(np.int32)


class Found(NamedTuple):
    """What any of the algorithms finds.

    Attributes:
      labels: [T] places in the classes.
      posteriors: [T, K] probability of each class, or its share of the votes.
      confusions: [W, K, K] probability of a label (column) given the truth (row). Where a worker
        met no task of a class, votes give nan, and EM the labels that the worker gave as alike.
      log_likelihood: [iterations], empty where the algorithm has none.
      iterations: how many were done.
      converged: whether it stopped by itself.
      seconds: that it took, compilation included.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float[np.ndarray, "tasks classes"]
    confusions: Float64[np.ndarray, "workers classes classes"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool
    seconds: float

    @property
    def tied(self) -> Bool[np.ndarray, " tasks"]:
        """[T] whether several classes are the likeliest."""
        return majority.tied(self.posteriors)

    @property
    def entropy(self) -> Float[np.ndarray, " tasks"]:
        """[T] of the posteriors, in bits: 0 is certainty."""
        p = self.posteriors
        return np.abs(np.sum(p * np.log2(p, out=np.zeros_like(p), where=p > 0), axis=1))

    def save(self, path: Path) -> None:
        """Writes all of it, whole or not at all."""
        with writers.replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **self._asdict())

    @classmethod
    def load(cls, path: Path) -> "Found":
        """Reads what was saved."""
        with np.load(path) as saved:
            return cls(*(saved[f] if saved[f].ndim else saved[f].item() for f in cls._fields))


def read(config: ConfigDict) -> Crowd:
    """Reads and checks everything.

    Raises:
      UserError: for a mistake in the config or a file.
    """
    start = time.perf_counter()
    for field, allowed in (("algorithm", ALGORITHMS), ("table", TABLES)):
        if config[field] not in allowed:
            raise UserError(f"{field}={config[field]!r} is none of {', '.join(allowed)}")
    if config.gold and config.algorithm not in ("dawid_skene", "one_coin"):
        raise UserError(f"gold: {config.algorithm} takes no known truths")
    if config.init != "majority" and config.algorithm != "dawid_skene":
        raise UserError(f"init: {config.algorithm} always begins with the majority")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must lie in [0, 2³²), not {config.seed}")
    if not config.annotations:
        raise UserError("annotations is not set: a CSV or Parquet file of task, worker, label")
    try:
        classes = tuple(config.classes) or None
        annotations = Annotations.from_table(
            config.annotations, classes=classes, repeated=config.repeated
        )
        gold = read_known(config.gold or None, annotations)
        known = read_known(config.truth or None, annotations, others=True)
        check_options(**{name: config[name] for name in OPTIONS})
        check_start(config.init, annotations)
    except (TableError, OptionError) as error:
        raise UserError(str(error)) from error
    return Crowd(annotations, gold, known, time.perf_counter() - start)


def fingerprint(crowd: Crowd) -> dict[str, Any]:
    """What tells a crowd from others, as JSON; what is merely measured by may change."""
    checksums = {}
    for name in ("tasks", "workers", "classes"):
        ids = getattr(crowd.annotations, name)
        checksums[name] = zlib.crc32("\n".join(map(str, ids)).encode())
    for name in ("task", "worker", "label"):
        checksums[name] = zlib.crc32(getattr(crowd.annotations, name).tobytes())
    checksums["gold"] = zlib.crc32(crowd.gold.tobytes())
    tasks, workers, classes = crowd.annotations.sizes
    annotations = len(crowd.annotations.task)
    sizes = {"tasks": tasks, "workers": workers, "classes": classes, "annotations": annotations}
    return sizes | {"checksums": checksums}


def infer(config: ConfigDict, crowd: Crowd) -> Found:
    """Runs `config.algorithm`."""
    start = time.perf_counter()
    found = _infer(config, crowd)
    return Found(**found, seconds=time.perf_counter() - start)


def _infer(config: ConfigDict, crowd: Crowd) -> dict[str, Any]:
    """All fields of `Found` but the seconds."""
    annotations = crowd.annotations
    if config.algorithm == "majority_vote":
        voted = truth.majority_vote(annotations, seed=config.seed)
        return _from_votes(annotations, voted.labels, voted.posteriors, 1, True)
    if config.algorithm == "pm":
        found = truth.pm(annotations, max_iterations=config.max_iterations, seed=config.seed)
        done = found.iterations, found.converged
        return _from_votes(annotations, found.labels, found.posteriors, *done)
    options = {name: config[name] for name in OPTIONS} | {"gold": crowd.gold}
    if config.algorithm == "one_coin":
        em = truth.one_coin(annotations, **options)
    else:
        em = truth.dawid_skene(annotations, init=config.init, seed=config.seed, **options)
    return {name: getattr(em, name) for name in Found._fields if name != "seconds"}


def log(crowd: Crowd, found: Found, stage: str, metrics: writers.MetricsFile) -> None:
    """The lines of `metrics.jsonl`: the log-likelihood at each iteration, and what came out."""
    metrics.forget(stage, after_step=-1)  # of a run that was killed
    for step, value in enumerate(found.log_likelihood.tolist(), start=1):
        metrics.write(
            stage=stage, split="train", step=step, epoch=float(step), log_likelihood=value
        )
    metrics.write(
        stage=stage,
        split="eval",
        step=found.iterations,
        epoch=float(found.iterations),
        accuracy=accuracy(found.labels, crowd.measured),
        seconds=found.seconds,
    )


def write(config: ConfigDict, crowd: Crowd, found: Found, folder: Path) -> dict[str, Any]:
    """Writes the tables and, last, `result.json`; returns what is in it."""
    annotations, trace = crowd.annotations, found.log_likelihood
    _write_table(_labels(annotations, found), folder / f"labels.{config.table}")
    _write_table(_workers(annotations, found), folder / "workers.csv")
    with writers.replacing(folder / "confusions.npz") as temporary, temporary.open("wb") as file:
        names = {x: getattr(annotations, x).astype(str) for x in ("workers", "classes")}
        np.savez(file, confusions=found.confusions, **names)
    result = {
        "algorithm": config.algorithm,
        "tasks": len(annotations.tasks),
        "workers": len(annotations.workers),
        "classes": annotations.classes.tolist(),
        "annotations": len(annotations.task),
        "repeated": annotations.repeated,
        "accuracy": accuracy(found.labels, crowd.measured),
        "known_tasks": int((crowd.measured != UNKNOWN).sum()),
        "gold_tasks": int((crowd.gold != UNKNOWN).sum()),
        "tied_tasks": int(found.tied.sum()),
        "log_likelihood": float(trace[-1]) if len(trace) else None,
        "iterations": found.iterations,
        "converged": found.converged,
        "seconds": crowd.seconds + found.seconds,
        "seconds_reading": crowd.seconds,
    }
    writers.write_json(folder / "result.json", result)
    return result


def format_result(result: dict[str, Any]) -> str:
    """What a run prints."""
    lines = [
        f"{result['algorithm']}: annotations {result['annotations']:,}, tasks {result['tasks']:,}, "
        f"workers {result['workers']:,}, classes {len(result['classes'])}",
        f"iterations {result['iterations']}, "
        f"{'converged' if result['converged'] else 'not converged'}, {result['seconds']:.2f} s",
    ]
    if result["gold_tasks"]:
        lines.append(f"gold tasks: {result['gold_tasks']:,}, left out of any accuracy")
    if result["tied_tasks"]:
        lines.append(f"tied tasks: {result['tied_tasks']:,}")
    if result["accuracy"] is not None:
        share = f"{100 * result['accuracy']:.2f} %"
        lines.append(f"accuracy {share} of {result['known_tasks']:,} tasks of known truth")
    return "\n".join(lines)


def accuracy(
    labels: Int32[np.ndarray, " tasks"], known: Int32[np.ndarray, " tasks"]
) -> float | None:
    """Share of the tasks of known truth whose label is right, in [0, 1]; None where none is known.

    A truth that is none of the classes counts as missed, as in crowd-kit.
    """
    told = known != UNKNOWN
    return float((labels == known)[told].mean()) if told.any() else None


def expected_counts(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> Float64[np.ndarray, "workers classes classes"]:
    """How often each worker, given each truth (row), said each label (column), as expected."""
    _, workers, classes = annotations.sizes
    cell = annotations.worker.astype(np.int64) * classes + annotations.label
    by_truth = [
        np.bincount(cell, posteriors[annotations.task, k], workers * classes)
        for k in range(classes)
    ]
    return np.stack(by_truth, axis=1).reshape(workers, classes, classes).swapaxes(1, 2)


def estimated_accuracy(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> Float64[np.ndarray, " workers"]:
    """Share of each worker's labels that are right, as expected under the posteriors, in [0, 1]."""
    right = posteriors[annotations.task, annotations.label]
    return np.bincount(annotations.worker, right) / np.bincount(annotations.worker)


def _from_votes(
    annotations: Annotations,
    labels: Int32[np.ndarray, " tasks"],
    shares: Float[np.ndarray, "tasks classes"],
    iterations: int,
    converged: bool,
) -> dict[str, Any]:
    """For algorithms without a model of confusions: these are counted against the votes' shares."""
    counts = expected_counts(annotations, shares)
    sizes = counts.sum(axis=2, keepdims=True)
    confusions = np.divide(counts, sizes, out=np.full_like(counts, np.nan), where=sizes > 0)
    return {
        "labels": labels,
        "posteriors": shares,
        "confusions": confusions,
        "log_likelihood": np.empty(0),
        "iterations": iterations,
        "converged": converged,
    }


def _labels(annotations: Annotations, found: Found) -> pa.Table:
    names = (f"p_{name}" for name in annotations.classes)
    return pa.table(
        {
            "task": annotations.tasks,
            "label": annotations.classes[found.labels],
            **dict(zip(names, found.posteriors.T, strict=True)),
            "entropy": found.entropy,
        }
    )


def _workers(annotations: Annotations, found: Found) -> pa.Table:
    counts = expected_counts(annotations, found.posteriors)
    workers, classes, _ = counts.shape
    wrong = (counts * (1 - np.eye(classes))).reshape(workers, -1)
    worst = wrong.argmax(axis=1)
    names = annotations.classes.astype(str)
    mistakes = [
        f"{names[cell // classes]} as {names[cell % classes]}" if mine[cell] >= 0.5 else ""
        for mine, cell in zip(wrong, worst, strict=True)
    ]
    return pa.table(
        {
            "worker": annotations.workers,
            "labels": np.bincount(annotations.worker, minlength=workers),
            "accuracy": estimated_accuracy(annotations, found.posteriors),
            "most_frequent_mistake": mistakes,
        }
    )


def _write_table(table: pa.Table, path: Path) -> None:
    with writers.replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            pa.csv.write_csv(table, temporary)
