"""The truth command: reads crowd annotations, writes labels and the coders' reliability."""

import time
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from absl import logging
from jaxtyping import Bool, Float, Float64, Int32
from ml_collections import ConfigDict
from scipy import sparse

from ferjax import truth, writers
from ferjax.errors import UserError
from ferjax.truth import (
    Annotations,
    OptionError,
    TableError,
    krippendorff_alpha,
    majority,
    spam_scores,
    spammers,
)
from ferjax.truth.annotations import UNKNOWN, read_known
from ferjax.truth.dawid_skene import check_start
from ferjax.truth.earlier import check_use, read_earlier
from ferjax.truth.em import check_memory, check_options
from ferjax.truth.mace import check_restarts
from ferjax.truth.weighted_vote import read_skills

PRIORS = ("prior", "diagonal", "off_diagonal", "class_prior")
EM = ("max_iterations", "tolerance")
ALGORITHMS = {
    "majority_vote": ("seed",),
    "weighted_majority_vote": ("skills", "gold", "seed"),
    "gold_majority_vote": ("gold", "seed"),
    "wawa": ("gold", "seed"),
    "zero_based_skill": ("gold", "max_iterations", "seed"),
    "iwmv": ("gold", "max_iterations", "seed"),
    "pm": ("max_iterations", "seed"),
    "glad": ("gold", "max_iterations", "tolerance"),
    "mace": ("restarts", "gold", "max_iterations", "tolerance", "seed"),
    "one_coin": ("gold", *PRIORS, *EM),
    "dawid_skene": ("init", "earlier", "earlier_as", "gold", "seed", *PRIORS, *EM),
    "ibcc": ("gold", *PRIORS[1:], *EM),
}
"""The options of the config that each algorithm takes."""
TABLES = ("csv", "parquet")
MOST_CONFUSIONS = 1 << 25
"""Confusion matrices are left out if all workers' together have more numbers."""
AT_A_TIME = 1 << 22
"""Most expected counts made at a time."""


class Crowd(NamedTuple):
    """The inputs of a run.

    Attributes:
      annotations: all labels, with their tasks and workers.
      gold: [T] known classes that stay fixed, `UNKNOWN` elsewhere.
      truth: [T] known classes to measure accuracy by, `UNKNOWN` or `NO_CLASS` elsewhere.
      skills: [W] given skills of the workers; None if there are none.
      earlier: [W, K, K] counts of the workers' earlier labels (columns) by truth (rows); or None.
      seconds: time that reading took.
    """

    annotations: Annotations
    gold: Int32[np.ndarray, " tasks"]
    truth: Int32[np.ndarray, " tasks"]
    skills: Float64[np.ndarray, " workers"] | None
    earlier: Float64[np.ndarray, "workers classes classes"] | None
    seconds: float

    @property
    def measured(self) -> Int32[np.ndarray, " tasks"]:
        """[T] `truth`, but `UNKNOWN` for gold tasks."""
        return np.where(self.gold == UNKNOWN, self.truth, UNKNOWN).astype(np.int32)


class Inference(NamedTuple):
    """The outcome of any of the algorithms.

    Attributes:
      labels: [T] indices of classes.
      posteriors: [T, K] probability of each class, or its share of the votes.
      confusions: [W, K, K] probability of a label (column) given the truth (row). If a worker
        labelled no task of a class, voting gives nan, and EM gives equal probability to each label
        that the worker used. None if there are more than `MOST_CONFUSIONS` numbers.
      log_likelihood: [iterations]; empty if the algorithm has none.
      iterations: number done.
      converged: True if it stopped before the limit on iterations.
      seconds: time it took, compilation included.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float[np.ndarray, "tasks classes"]
    confusions: Float64[np.ndarray, "workers classes classes"] | None
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool
    seconds: float

    @property
    def tied(self) -> Bool[np.ndarray, " tasks"]:
        """[T] True if several classes are equally likely and none is likelier."""
        return majority.tied(self.posteriors)

    @property
    def entropy(self) -> Float[np.ndarray, " tasks"]:
        """[T] entropy of the posteriors in bits; 0 is certain."""
        p = self.posteriors
        return np.abs(np.sum(p * np.log2(p, out=np.zeros_like(p), where=p > 0), axis=1))

    def save(self, path: Path) -> None:
        """Writes all fields to `path`, see `writers.write_arrays`."""
        writers.write_arrays(path, **{k: v for k, v in self._asdict().items() if v is not None})

    @classmethod
    def load(cls, path: Path) -> "Inference":
        """Reads what `save` wrote."""
        with np.load(path) as saved:
            fields = {name: saved[name] for name in saved}
        fields = {k: v if v.ndim else v.item() for k, v in fields.items()}
        return cls(**{"confusions": None} | fields)


def read(config: ConfigDict) -> Crowd:
    """Checks the config, and reads and checks its files.

    Raises:
      UserError: for a mistake in the config or a file.
    """
    start = time.perf_counter()
    for field, allowed in (("algorithm", ALGORITHMS), ("table", TABLES)):
        if config[field] not in allowed:
            raise UserError(f"{field} must be one of {', '.join(allowed)}, not {config[field]!r}")
    needs = {"gold": "gold_majority_vote", "skills": "weighted_majority_vote", "earlier": ""}
    for field, needed in needs.items():
        if config[field] and field not in ALGORITHMS[config.algorithm]:
            users = ", ".join(name for name, options in ALGORITHMS.items() if field in options)
            raise UserError(f"{field} cannot be used with {config.algorithm}, only with {users}")
        if not config[field] and config.algorithm == needed:
            raise UserError(f"{field} is not set; {needed} needs the file")
    if config.init != "majority" and config.algorithm != "dawid_skene":
        raise UserError(f"init must be 'majority' for {config.algorithm}, not {config.init!r}")
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed must be in [0, 2³²), not {config.seed}")
    if not config.annotations:
        raise UserError(
            "annotations is not set; it must name a CSV or Parquet file of task, worker, label"
        )
    try:
        classes, missing = tuple(config.classes) or None, tuple(config.missing)
        annotations = Annotations.from_table(
            config.annotations, classes=classes, repeated=config.repeated, missing=missing
        )
        gold = read_known(config.gold or None, annotations, missing=missing)
        known = read_known(config.truth or None, annotations, others=True, missing=missing)
        skills = read_skills(config.skills, annotations) if config.skills else None
        check_options(**{name: config[name] for name in (*PRIORS, *EM)})
        if config.algorithm in ("dawid_skene", "ibcc"):
            check_memory(annotations)
        check_use(config.earlier_as)
        everyone, earlier = config.earlier_as == "assign", None
        if config.earlier:
            earlier = read_earlier(config.earlier, annotations, everyone=everyone)
        check_start(config.init, annotations)
        check_restarts(config.restarts)
    except (TableError, OptionError) as error:
        raise UserError(str(error)) from error
    return Crowd(annotations, gold, known, skills, earlier, time.perf_counter() - start)


def fingerprint(crowd: Crowd) -> dict[str, Any]:
    """Returns sizes and checksums that identify a crowd, as JSON.

    Known truths that only measure accuracy are left out, so they may change on resuming.
    """
    checksums = {}
    for name in ("tasks", "workers", "classes"):
        ids = getattr(crowd.annotations, name)
        checksums[name] = zlib.crc32("\n".join(map(str, ids)).encode())
    for name in ("task", "worker", "label"):
        checksums[name] = zlib.crc32(getattr(crowd.annotations, name).tobytes())
    checksums["gold"] = zlib.crc32(crowd.gold.tobytes())
    for name in ("skills", "earlier"):
        if getattr(crowd, name) is not None:
            checksums[name] = zlib.crc32(getattr(crowd, name).tobytes())
    tasks, workers, classes = crowd.annotations.sizes
    annotations = len(crowd.annotations.task)
    sizes = {"tasks": tasks, "workers": workers, "classes": classes, "annotations": annotations}
    return sizes | {"checksums": checksums}


def infer(config: ConfigDict, crowd: Crowd) -> Inference:
    """Runs `config.algorithm`."""
    start = time.perf_counter()
    fields = _infer(config, crowd)
    return Inference(**fields, seconds=time.perf_counter() - start)


def _infer(config: ConfigDict, crowd: Crowd) -> dict[str, Any]:
    """Runs `config.algorithm` and returns all fields of `Inference` except the seconds."""
    options = {name: config[name] for name in ALGORITHMS[config.algorithm]}
    options |= {
        name: getattr(crowd, name) for name in ("gold", "skills", "earlier") if name in options
    }
    inferred = getattr(truth, config.algorithm)(crowd.annotations, **options)
    names = set(Inference._fields) - {"confusions", "seconds"}
    fields = {name: getattr(inferred, name, None) for name in names}
    if fields["log_likelihood"] is None:
        fields["log_likelihood"] = np.empty(0)
    if fields["iterations"] is None:  # a majority vote
        fields |= {"iterations": 1, "converged": True}
    _, workers, classes = crowd.annotations.sizes
    if workers * classes**2 > MOST_CONFUSIONS:
        return fields | {"confusions": None}
    if hasattr(inferred, "confusions"):
        return fields | {"confusions": inferred.confusions}
    counts = expected_counts(crowd.annotations, inferred.posteriors)
    return fields | {"confusions": _shares(counts)}


def log(crowd: Crowd, inference: Inference, stage: str, metrics: writers.MetricsFile) -> None:
    """Writes to `metrics.jsonl` the log-likelihood of each iteration, then accuracy and time."""
    metrics.forget(stage, after_step=-1)  # lines of a run that was killed
    for step, value in enumerate(inference.log_likelihood.tolist(), start=1):
        metrics.write(
            stage=stage, split="train", step=step, epoch=float(step), log_likelihood=value
        )
    metrics.write(
        stage=stage,
        split="eval",
        step=inference.iterations,
        epoch=float(inference.iterations),
        accuracy=accuracy(inference.labels, crowd.measured),
        seconds=inference.seconds,
    )


def write(config: ConfigDict, crowd: Crowd, inference: Inference, folder: Path) -> dict[str, Any]:
    """Writes the tables and, last, `result.json`; returns its contents."""
    annotations, trace = crowd.annotations, inference.log_likelihood
    alpha = krippendorff_alpha(annotations)
    _write_table(_labels(annotations, inference), folder / f"labels.{config.table}")
    _write_table(_workers(annotations, inference), folder / "workers.csv")
    _write_confusions(annotations, inference, folder / "confusions.npz")
    result = {
        "algorithm": config.algorithm,
        "tasks": len(annotations.tasks),
        "workers": len(annotations.workers),
        "classes": annotations.classes.tolist(),
        "annotations": len(annotations.task),
        "repeated": annotations.repeated,
        "accuracy": accuracy(inference.labels, crowd.measured),
        "known_tasks": int((crowd.measured != UNKNOWN).sum()),
        "gold_tasks": int((crowd.gold != UNKNOWN).sum()),
        "tied_tasks": int(inference.tied.sum()),
        "krippendorff_alpha": None if np.isnan(alpha) else alpha,
        "spammers": int(spammers(annotations, inference.labels).sum()),
        "log_likelihood": float(trace[-1]) if len(trace) else None,
        "iterations": inference.iterations,
        "converged": inference.converged,
        "seconds": crowd.seconds + inference.seconds,
        "seconds_reading": crowd.seconds,
    }
    writers.write_json(folder / "result.json", result)
    return result


def format_result(result: dict[str, Any]) -> str:
    """Returns the text that a run prints."""
    lines = [
        f"{result['algorithm']}: annotations {result['annotations']:,}, tasks {result['tasks']:,}, "
        f"workers {result['workers']:,}, classes {len(result['classes'])}",
        f"iterations {result['iterations']}, "
        f"{'converged' if result['converged'] else 'not converged'}, {result['seconds']:.2f} s",
    ]
    if result["gold_tasks"]:
        lines.append(f"gold tasks: {result['gold_tasks']:,}, not counted in the accuracy")
    if result["tied_tasks"]:
        lines.append(f"tied tasks: {result['tied_tasks']:,}")
    if result["krippendorff_alpha"] is not None:
        lines.append(f"Krippendorff's alpha {result['krippendorff_alpha']:.3f}")
    if result["spammers"]:
        lines.append(f"workers whose labels hardly depend on the truth: {result['spammers']:,}")
    if result["accuracy"] is not None:
        share = f"{100 * result['accuracy']:.2f} %"
        lines.append(f"accuracy {share} of {result['known_tasks']:,} tasks with known truth")
    return "\n".join(lines)


def accuracy(
    labels: Int32[np.ndarray, " tasks"], known: Int32[np.ndarray, " tasks"]
) -> float | None:
    """Returns the share of right labels among tasks with known truth, or None without such tasks.

    A truth that is none of the classes counts as a mistake, as in crowd-kit.
    """
    measured = known != UNKNOWN
    return float((labels == known)[measured].mean()) if measured.any() else None


def expected_counts(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> Float64[np.ndarray, "workers classes classes"]:
    """Returns each worker's expected counts of labels (columns) given to each truth (row)."""
    _, workers, classes = annotations.sizes
    cell = annotations.worker.astype(np.int64) * classes + annotations.label
    by_truth = [
        np.bincount(cell, posteriors[annotations.task, k], workers * classes)
        for k in range(classes)
    ]
    return np.stack(by_truth, axis=1).reshape(workers, classes, classes).swapaxes(1, 2)


def expected_confusion(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> Float64[np.ndarray, "classes classes"]:
    """Returns the expected number of labels (column) given to each truth (row) by all workers."""
    tasks, _, classes = annotations.sizes
    ones = np.ones(len(annotations.task))
    given = sparse.csr_matrix((ones, (annotations.label, annotations.task)), (classes, tasks))
    return (given @ posteriors).T


def estimated_accuracy(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> Float64[np.ndarray, " workers"]:
    """Returns each worker's expected share of right labels under the posteriors, in [0, 1]."""
    right = posteriors[annotations.task, annotations.label]
    return np.bincount(annotations.worker, right) / np.bincount(annotations.worker)


def _shares(
    counts: Float64[np.ndarray, "workers classes classes"],
) -> Float64[np.ndarray, "workers classes classes"]:
    """Returns the shares of labels in each row; nan where a worker met no task of a class."""
    sizes = counts.sum(axis=2, keepdims=True)
    return np.divide(counts, sizes, out=np.full_like(counts, np.nan), where=sizes > 0)


def _labels(annotations: Annotations, inference: Inference) -> pa.Table:
    names = (f"p_{name}" for name in annotations.classes)
    return pa.table(
        {
            "task": annotations.tasks,
            "label": annotations.classes[inference.labels],
            **dict(zip(names, inference.posteriors.T, strict=True)),
            "entropy": inference.entropy,
        }
    )


def frequent_mistakes(
    annotations: Annotations, posteriors: Float[np.ndarray, "tasks classes"]
) -> list[tuple[int, int, float]]:
    """Returns each worker's most frequent mistake: truth, label and expected number.

    Of the pairs of a worker and a label only those that occur are looked at, some at a time.
    """
    tasks, workers, classes = annotations.sizes
    pairs, pair = np.unique(
        annotations.worker.astype(np.int64) * classes + annotations.label, return_inverse=True
    )
    ones = np.ones(len(pair))
    given = sparse.csr_matrix((ones, (pair, annotations.task)), (len(pairs), tasks))
    worst = [(0, 0, 0.0)] * workers
    step = max(1, AT_A_TIME // classes)
    for first in range(0, len(pairs), step):
        worker, label = np.divmod(pairs[first : first + step], classes)
        counts = given[first : first + step] @ posteriors
        counts[np.arange(len(label)), label] = 0
        truth = counts.argmax(axis=1)
        mistakes = zip(worker, truth, label, counts.max(axis=1), strict=True)
        for number, *mistake in mistakes:
            worst[number] = max(worst[number], tuple(mistake), key=lambda x: x[2])
    return [(int(k), int(j), float(n)) for k, j, n in worst]


def _workers(annotations: Annotations, inference: Inference) -> pa.Table:
    names = annotations.classes.astype(str)
    mistakes = [
        f"{names[k]} as {names[j]}" if times >= 0.5 else ""
        for k, j, times in frequent_mistakes(annotations, inference.posteriors)
    ]
    return pa.table(
        {
            "worker": annotations.workers,
            "labels": np.bincount(annotations.worker, minlength=len(annotations.workers)),
            "accuracy": estimated_accuracy(annotations, inference.posteriors),
            "most_frequent_mistake": mistakes,
            "spam_score": pa.array(spam_scores(annotations, inference.labels), from_pandas=True),
            "spammer": spammers(annotations, inference.labels),
        }
    )


def _write_confusions(annotations: Annotations, inference: Inference, path: Path) -> None:
    if inference.confusions is None:
        _, workers, classes = annotations.sizes
        logging.warning(
            "%s is left out: matrices of %s workers for %s classes would take %.1f GiB",
            *(path.name, f"{workers:,}", f"{classes:,}", 8 * workers * classes**2 / 2**30),
        )
        return
    names = {x: getattr(annotations, x).astype(str) for x in ("workers", "classes")}
    counts = expected_counts(annotations, inference.posteriors)
    writers.write_arrays(path, confusions=inference.confusions, counts=counts, **names)


def _write_table(table: pa.Table, path: Path) -> None:
    with writers.replacing(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(table, temporary)
        else:
            pa.csv.write_csv(table, temporary)
