"""Expectation–maximisation over sharded tasks: the E-step is local, the M-step needs one `psum`.

All models share both steps; they differ in how parameters come from expected counts. Each step is
one program, and Python repeats them: a loop on the device would hold them more than once and so
take longer to compile.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Float64, Int, Int32
from scipy import sparse

from ferjax.truth import segments
from ferjax.truth.annotations import Annotations, OptionError, stable_order
from ferjax.truth.majority import vote_counts
from ferjax.truth.memory import free_bytes

AXIS = "tasks"
SHARDED, REPLICATED = PartitionSpec(AXIS), PartitionSpec()
FLOOR = 1e-10
"""Least expected count: keeps logarithms finite if a worker never gave a label."""
NEVER = -1e30
"""Logarithm of probability 0; finite, so that differences stay finite."""

PART_TASKS = 1 << 15
"""Most tasks in a part of a shard, if there are many annotations."""
LEAST_OF_COUNT = 32
"""Least mean number of a part's annotations in an expected count: else padding costs more."""
PADDING = -2
"""Stands for the class of what is no task."""

DIAGONAL, OFF_DIAGONAL = 2.0, 0.5
"""Pseudo-counts under which held-out annotations were likeliest: tests/benchmarks/held_out.py."""

MOST_ITERATIONS = 1_000_000
PRIORS, CLASS_PRIORS = ("none", "diagonal"), ("estimate", "uniform")


class Parameters(NamedTuple):
    """The result of an M-step.

    Attributes:
      workers: the model's estimates of the workers.
      logs: what a worker's label adds to the joint logarithm: of each truth, [cells, K], see
        `Cells`; or of itself alone, [W, 1].
      prior: [K] probability of each class.
      log_prior: [K] what the joint logarithm of each truth begins with.
      offset: added to the log-likelihood.
    """

    workers: Any
    logs: Float32[Array, "counts columns"]
    prior: Float64[Array, " classes"]
    log_prior: Float32[Array, " classes"]
    offset: Float64[Array, ""]


MStep = Callable[..., Parameters]
"""(expected counts [cells, K] of each truth, or [W, 1] of right labels; mass [K] of each class; the
model's numbers by name) -> parameters."""


class Cells(NamedTuple):
    """The pairs of a worker and a label that this worker used; cells are sorted by both.

    Attributes:
      worker, label: [cells] indices.
      of_annotations: [N] the cell of each annotation.
    """

    worker: Int32[np.ndarray, " cells"]
    label: Int32[np.ndarray, " cells"]
    of_annotations: Int32[np.ndarray, " annotations"]


class Fitted(NamedTuple):
    """The outcome of EM on the host; see `Inferred` for the fields of the same name."""

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    parameters: Parameters
    log_likelihood: Float64[np.ndarray, " iterations"]
    converged: bool


class Unused(NamedTuple):
    """Probabilities of the labels that workers never used: pseudo-counts over sums.

    Attributes:
      pseudo_counts: [W, K, K], or [1, K, K] if they are the same for all; row = truth.
      sums: [W, K] of the counts of all labels of a worker to a truth, pseudo-counts included.
    """

    pseudo_counts: Float64[np.ndarray, "#workers truth label"]
    sums: Float64[np.ndarray, "workers truth"]


class Inferred(NamedTuple):
    """The result of EM; rows in the order of `Annotations.tasks`, `.workers` and `.classes`.

    Attributes:
      labels: [T] the likeliest class of each task.
      posteriors: [T, K] probability of each class, from the last E-step.
      cells: the labels that workers used.
      probs: [cells, K] probability of a cell's label given each truth, from the last M-step.
      unused: probabilities of the labels that workers never used.
      prior: [K] probability of each class.
      log_likelihood: [iterations] of all annotations at each E-step, plus the logarithm of the
        prior's density up to a constant; or its bound if the model is variational. It never falls,
        except by float32 rounding of the posteriors (about 1e-9 per annotation).
      iterations: number done.
      converged: True if the last one changed the log-likelihood by less than the tolerance.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    cells: Cells
    probs: Float64[np.ndarray, "cells classes"]
    unused: Unused
    prior: Float64[np.ndarray, " classes"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool

    @property
    def confusions(self) -> Float64[np.ndarray, "workers classes classes"]:
        """[W, K, K] probability of a label (column) given the truth (row); made on each access."""
        confusions = self.unused.pseudo_counts / self.unused.sums[..., None]
        confusions[self.cells.worker, :, self.cells.label] = self.probs
        return confusions


class Shards(NamedTuple):
    """The annotations in one shard for each device; rows are tasks in order of size, then padding.

    Attributes:
      of_tasks: for each row the rows of `Parameters.logs` of its annotations; or for each row and
        label.
      of_counts: for each expected count the rows of its annotations; or the rows and labels.
      known: [shards, rows] class of gold, -1, or `PADDING`.
    """

    of_tasks: segments.Blocks
    of_counts: segments.Blocks
    known: Int32[Any, "..."]


def infer(
    annotations: Annotations,
    m_step: MStep,
    numbers: dict[str, Any],
    *,
    cells: Cells | None,
    start: Float[np.ndarray, "tasks classes"] | None = None,
    gold: Int32[np.ndarray, " tasks"],
    max_iterations: int,
    tolerance: float,
    mesh: Mesh | None,
) -> Fitted:
    """Runs EM.

    Args:
      annotations: labels with their tasks and workers.
      m_step: of the model.
      numbers: arguments of `m_step`.
      cells: None if a worker's vote counts for the label alone, not for each truth.
      start: initial posteriors; None: the shares of each task's labels.
      gold: known class of each task, which stays fixed, or -1.
      max_iterations: most iterations.
      tolerance: stop when the log-likelihood per annotation changes by less.
      mesh: devices to spread the tasks over; None: all devices.
    """
    devices = np.array(jax.devices()) if mesh is None else mesh.devices.reshape(-1)
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    shards, rows = _shards(annotations, gold, mesh.size, cells)
    posteriors = _start(annotations, start, shards.known.shape, rows, gold)
    mass = posteriors.sum(axis=(0, 1), dtype=np.float64)[: len(annotations.classes)]
    classes, wide = len(annotations.classes), cells is not None
    counts = len(annotations.workers if cells is None else cells.worker)
    expect = _expectation(mesh, classes, wide)
    maximise = _maximisation(mesh, m_step, classes, counts, wide)
    trace: list[float] = []
    least_change, change = tolerance * len(annotations.task), np.inf
    with jax.enable_x64(True):
        shards, posteriors = _put((shards, posteriors), mesh, SHARDED)
        numbers = _put(jax.tree.map(np.asarray, numbers), mesh, REPLICATED)
        parameters = maximise(shards, posteriors, mass, numbers)
        while len(trace) < max_iterations and not change < least_change:
            posteriors, mass, log_likelihood = expect(shards, parameters)
            parameters = maximise(shards, posteriors, mass, numbers)  # before Python waits for it
            trace.append(float(log_likelihood))
            change = abs(trace[-1] - trace[-2]) if len(trace) > 1 else np.inf
    if not posteriors.is_fully_addressable:
        posteriors = multihost_utils.process_allgather(posteriors, tiled=True)
    posteriors = np.asarray(posteriors).reshape(-1, posteriors.shape[-1])
    posteriors = posteriors[rows, : len(annotations.classes)]
    return Fitted(
        labels=posteriors.argmax(axis=1).astype(np.int32),
        posteriors=posteriors,
        parameters=jax.device_get(parameters),
        log_likelihood=np.array(trace),
        converged=bool(change < least_change),
    )


def infer_confusions(
    annotations: Annotations,
    m_step: MStep,
    *,
    pseudo_counts: Float64[np.ndarray, "#workers truth label"],
    estimate_classes: bool,
    **options: Any,
) -> Inferred:
    """Runs EM with a confusion matrix for each worker; options are those of `infer`.

    `m_step` gets, by name,

        cell_worker: [cells] worker of each cell;
        pseudo: [cells, K] pseudo-count of each cell and truth;
        pseudo_unused: [W, K] sum of the pseudo-counts of all labels that a worker never used;
        estimate_classes: whether to estimate the class prior;

    and returns as estimates the probability of each cell's label given each truth, and [W, K] the
    counts of each worker and truth, all pseudo-counts included.
    """
    check_memory(annotations)
    _warn_of_few_labels(annotations, has_prior=bool(pseudo_counts.any()))
    cells, workers = _cells(annotations), len(annotations.workers)
    row = cells.worker if len(pseudo_counts) > 1 else 0
    pseudo = pseudo_counts[row, :, cells.label]
    used = sparse.csr_matrix((np.ones(len(pseudo)), cells.worker, np.arange(len(pseudo) + 1)))
    used.resize((len(pseudo), workers))
    numbers = {
        "cell_worker": cells.worker,
        "pseudo": pseudo,
        "pseudo_unused": np.maximum(pseudo_counts.sum(axis=2) - used.T @ pseudo, 0),
        "estimate_classes": estimate_classes,
    }
    fitted = infer(annotations, m_step, numbers, cells=cells, **options)
    probs, sums = fitted.parameters.workers
    return Inferred(
        labels=fitted.labels,
        posteriors=fitted.posteriors,
        cells=cells,
        probs=probs,
        unused=Unused(pseudo_counts, sums),
        prior=np.asarray(fitted.parameters.prior),
        log_likelihood=fitted.log_likelihood,
        iterations=len(fitted.log_likelihood),
        converged=fitted.converged,
    )


def check_memory(annotations: Annotations) -> None:
    """Raises an `OptionError` if EM with confusion matrices would take more memory than is free."""
    tasks, workers, classes = annotations.sizes
    cells = min(len(annotations.task), workers * classes)
    needed = 8 * classes * (6 * cells + 4 * workers + 4 * tasks) + 100 * len(annotations.task)
    free = free_bytes()
    if needed > free:
        raise OptionError(
            f"confusion matrices of {workers:,} workers for {classes:,} classes would take about "
            f"{needed / 2**30:,.1f} GiB of memory, but {free / 2**30:,.1f} GiB are free; "
            "algorithm majority_vote, one_coin or pm takes less"
        )


def diagonal_counts(
    classes: int, diagonal: float, off_diagonal: float
) -> Float64[np.ndarray, "1 truth label"]:
    """Returns pseudo-counts that are the same for all workers."""
    return np.where(np.eye(classes, dtype=bool), diagonal, off_diagonal)[None]


def _warn_of_few_labels(annotations: Annotations, *, has_prior: bool) -> None:
    """Warns if confusion matrices have more rows than the median worker gave labels."""
    given, classes = np.median(np.bincount(annotations.worker)), len(annotations.classes)
    advice = (
        "confusion matrices follow their prior; compare with algorithm one_coin"
        if has_prior
        else "confusion matrices overfit; use prior='diagonal', or algorithm ibcc or one_coin"
    )
    if given < classes:
        logging.warning(
            "the median worker gave %s, fewer than there are classes (%d): %s",
            *("one label" if given == 1 else f"{given:g} labels", classes, advice),
        )


def _cells(annotations: Annotations) -> Cells:
    """Finds the cells by a table of all pairs, which is faster than sorting."""
    _, workers, classes = annotations.sizes
    pair = annotations.worker.astype(np.int64) * classes + annotations.label
    used = np.zeros(workers * classes, bool)
    used[pair] = True
    worker, label = np.divmod(np.flatnonzero(used), classes)
    number = np.cumsum(used, dtype=np.int32) - np.int32(1)
    return Cells(worker.astype(np.int32), label.astype(np.int32), number[pair])


def class_prior(
    mass: Float64[Array, " classes"], estimate: Bool[Array, ""]
) -> tuple[Float64[Array, " classes"], Float32[Array, " classes"]]:
    """Returns each class's share of the mass, or equal shares, and their logarithms."""
    prior = jnp.where(estimate, mass / jnp.sum(mass), 1 / len(mass))
    return prior, jnp.log(jnp.maximum(prior, FLOOR)).astype(jnp.float32)


def check_options(
    *,
    prior: str,
    diagonal: float,
    off_diagonal: float,
    class_prior: str,
    max_iterations: int,
    tolerance: float,
) -> None:
    """Raises an `OptionError` for an invalid prior or a number out of range."""
    if prior not in PRIORS:
        raise OptionError(f"prior must be 'none' or 'diagonal', not {prior!r}")
    if class_prior not in CLASS_PRIORS:
        raise OptionError(f"class_prior must be 'estimate' or 'uniform', not {class_prior!r}")
    for name, strength in (("diagonal", diagonal), ("off_diagonal", off_diagonal)):
        if not 0 < strength < np.inf:
            raise OptionError(f"{name} must be positive and finite, not {strength}")
    if not np.isfinite(tolerance):
        raise OptionError(f"tolerance must be finite, not {tolerance}")
    check_iterations(max_iterations)


def check_iterations(max_iterations: int) -> None:
    """Raises an `OptionError` unless `max_iterations` is in [1, `MOST_ITERATIONS`]."""
    if not 1 <= max_iterations <= MOST_ITERATIONS:
        raise OptionError(
            f"max_iterations must be in [1, {MOST_ITERATIONS:,}], not {max_iterations}"
        )


def _shards(
    annotations: Annotations, gold: Int32[np.ndarray, " tasks"], shards: int, cells: Cells | None
) -> tuple[Shards, np.ndarray]:
    """Makes the shards, and returns each task's row number among all their rows, padding included.

    Expected counts are summed over one part of a shard's tasks after another, so that the
    posteriors of a part fit a core's cache; over fewer parts if few annotations go into a count.
    """
    tasks, workers, classes = annotations.sizes
    task, worker, label = annotations.task, annotations.worker, annotations.label
    counts = workers if cells is None else len(cells.worker)
    # Tasks are dealt out by size, so that all shards have equally many of each size.
    sizes = np.bincount(task, minlength=tasks)
    dealt = np.empty(tasks, np.int64)
    dealt[stable_order(sizes.astype(np.int32), int(sizes.max()) + 1)] = np.arange(tasks)
    a_shard = segments.rounded(-(-tasks // shards) + 1)  # the last row is padding in each
    shard, row = dealt % shards, dealt // shards
    rows = shard * a_shard + row
    most = max(1, len(task) // (shards * counts * LEAST_OF_COUNT))
    parts = min(-(-a_shard // PART_TASKS), most)
    part = shard * parts + row * parts // a_shard
    row_of = row.astype(np.int32)[task]
    if cells is None:
        columns = _columns(classes)
        of_tasks = _group(
            rows[task] * columns + label, worker, (shards, 1, a_shard * columns), none=counts
        )
        count, element, none = worker, row_of * columns + label, (a_shard - 1) * columns
    else:
        starts, lengths = np.zeros((2, shards * a_shard), np.int64)
        starts[rows], lengths[rows] = np.cumsum(sizes) - sizes, sizes
        shape = shards, 1, a_shard
        count, element, none = cells.of_annotations, row_of, a_shard - 1
        of_tasks = segments.lay_out(count, starts.reshape(shape), lengths.reshape(shape), counts)
    part_count = count + np.repeat(part * counts, sizes)
    of_counts = _group(part_count, element, (shards, parts, counts), none)
    known = np.full(shards * a_shard, PADDING, np.int32)
    known[rows] = gold
    return Shards(of_tasks, of_counts, known.reshape(shards, a_shard)), rows


def _group(
    segment: Int[np.ndarray, " annotations"],
    row: Int32[np.ndarray, " annotations"],
    shape: tuple[int, int, int],
    none: int,
) -> segments.Blocks:
    """Lays out annotations, given the segment of each among those of all shards and parts."""
    starts = np.arange(len(row) + 1, dtype=np.int32)
    size = math.prod(shape)
    kind = np.int32 if size < 2**31 else np.int64
    grouped = sparse.csr_matrix((row, segment.astype(kind), starts), (len(row), size)).tocsc()
    starts = grouped.indptr.reshape(-1)
    return segments.lay_out(
        grouped.data, starts[:-1].reshape(shape), np.diff(starts).reshape(shape), none
    )


def _put(arrays: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Puts arrays on the devices."""
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), arrays
    )


def _start(
    annotations: Annotations,
    start: Float[np.ndarray, "tasks classes"] | None,
    shape: tuple[int, int],
    rows: np.ndarray,
    gold: Int32[np.ndarray, " tasks"],
) -> Float32[np.ndarray, "shards rows columns"]:
    """Returns the initial posteriors of all shards."""
    if start is None:
        votes = vote_counts(annotations)
        start = votes / np.maximum(votes.sum(axis=1, keepdims=True), 1)
    classes = len(annotations.classes)
    posteriors = np.zeros((shape[0] * shape[1], _columns(classes)), np.float32)
    posteriors[rows, :classes] = start
    known = np.flatnonzero(gold >= 0)
    posteriors[rows[known]] = 0
    posteriors[rows[known], gold[known]] = 1
    return posteriors.reshape(*shape, -1)


@functools.cache
def _expectation(mesh: Mesh, classes: int, wide: bool) -> Callable:
    """Returns the E-step over the shards of all devices; `cache` keeps the compiled program."""
    columns = _columns(classes)
    padding = (0, columns - classes)
    each_class = np.arange(columns, dtype=np.int32)[None]

    def expect(shards, parameters):
        of_tasks, known = jax.tree.map(lambda x: x[0], (shards.of_tasks, shards.known))
        rows, known = len(known), known[:, None]
        table = jnp.pad(parameters.logs, ((0, 1), padding if wide else (0, 0)))
        sums = rows if wide else rows * columns
        joint = segments.total(table, of_tasks, sums, table.dtype).reshape(rows, columns)
        joint += jnp.pad(parameters.log_prior, padding, constant_values=NEVER)[None]
        joint = jnp.where((known < 0) | (known == each_class), joint, jnp.float32(NEVER))
        greatest = jnp.max(joint, axis=1, keepdims=True)
        exponentials = jnp.exp(joint - greatest)
        totals = jnp.sum(exponentials, axis=1, keepdims=True)
        real = known != PADDING
        evidence = jnp.where(real, greatest + jnp.log(totals), 0)
        posteriors = exponentials * jnp.where(real, 1 / totals, 0)
        log_likelihood = jnp.sum(evidence, dtype=jnp.float64)
        mass = jnp.sum(posteriors, axis=0)[:classes].astype(jnp.float64)
        mass, log_likelihood = jax.lax.psum((mass, log_likelihood), AXIS)
        return posteriors[None], mass, log_likelihood + parameters.offset

    return _over_devices(mesh, expect, (SHARDED, REPLICATED), (SHARDED, REPLICATED, REPLICATED))


@functools.cache
def _maximisation(mesh: Mesh, m_step: MStep, classes: int, counts: int, wide: bool) -> Callable:
    """Returns the M-step over the shards of all devices; `cache` keeps the compiled program."""
    columns = _columns(classes) if wide else 1

    def maximise(shards, posteriors, mass, numbers):
        values = posteriors.reshape(-1, columns)
        blocks = jax.tree.map(lambda x: x[0], shards.of_counts)
        expected = segments.total(values, blocks, counts, jnp.float64)
        return m_step(jax.lax.psum(expected, AXIS)[:, :classes], mass, **numbers)

    return _over_devices(mesh, maximise, (SHARDED, SHARDED, REPLICATED, REPLICATED), REPLICATED)


def _over_devices(mesh: Mesh, step: Callable, arguments: Any, outputs: Any) -> Callable:
    return jax.jit(jax.shard_map(step, mesh=mesh, in_specs=arguments, out_specs=outputs))


def _columns(classes: int) -> int:
    """Returns the number of classes padded to a power of two, or to a multiple of eight."""
    return max(2, 1 << (classes - 1).bit_length()) if classes <= 8 else -(-classes // 8) * 8
