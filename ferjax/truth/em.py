"""Expectation–maximisation over tasks that are sharded: E-step local, M-step one `psum`.

What the truths of tasks and the confusion matrices of workers say about each other is the same for
all models here; they differ in how confusion matrices follow from expected counts.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Float32, Float64, Int32
from scipy import sparse

from ferjax.truth import segments
from ferjax.truth.annotations import Annotations, OptionError, stable_order

AXIS = "tasks"
FLOOR = 1e-10
"""Least expected count: keeps logarithms finite where a worker never gave a label."""
NEVER = -1e30
"""Logarithm of the probability of what cannot be; finite, so that differences are."""

SHARD_TASKS = 1 << 16
"""Most tasks whose posteriors a device works on at a time, where annotations are many."""
LEAST_OF_CELL = 32
"""Annotations that a worker's label has in a shard on average: with fewer the gaps cost more."""

TRACE = 128
"""The trace of log-likelihoods has room for a multiple of this, so that few sizes are compiled."""

MOST_ITERATIONS = 1_000_000

MStep = Callable[[Float64[Array, "workers label truth"], Array], tuple[Array, Array]]


class Inferred(NamedTuple):
    """What EM ended with; rows in the order of `Annotations.tasks`, `.workers` and `.classes`.

    Attributes:
      labels: [T] the likeliest class of each task.
      posteriors: [T, K] probability of each class, of the last E-step.
      confusions: [W, K, K] probability of a label (column) given the truth (row), of the last
        M-step.
      prior: [K] probability of each class.
      log_likelihood: [iterations] of all annotations, at each E-step; with pseudo-counts the
        penalised one. It never falls, but for the rounding of posteriors in float32 (some 1e-9 an
        annotation).
      iterations: how many were done.
      converged: whether the last one changed the log-likelihood by less than the tolerance.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    confusions: Float64[np.ndarray, "workers classes classes"]
    prior: Float64[np.ndarray, " classes"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool


class Shards(NamedTuple):
    """The annotations, shard by shard; a shard's tasks are numbered in the order of its blocks.

    Attributes:
      of_tasks: for each task the cells (worker·K + label) of its annotations.
      of_cells: for each cell the tasks of its annotations.
      cell_place: [shards, workers·K] of each cell in its blocks.
      start: [shards, tasks, columns] posteriors to begin with; None: fractions of the labels.
      gold: [shards, tasks] known class or -1.
      real: [shards, tasks] whether these are tasks, or rows that only fill up.
    """

    of_tasks: tuple[Int32[Any, "..."], ...]
    of_cells: tuple[Int32[Any, "..."], ...]
    cell_place: Int32[Any, "shards cells"]
    start: Float32[Any, "shards rows columns"] | None
    gold: Int32[Any, "shards rows"]
    real: Bool[Any, "shards rows"]


def infer(
    annotations: Annotations,
    m_step: MStep,
    *,
    start: Float[np.ndarray, "tasks classes"] | None = None,
    pseudo_count: float,
    prior: str,
    gold: Int32[np.ndarray, " tasks"],
    max_iterations: int,
    tolerance: float,
    mesh: Mesh | None,
) -> Inferred:
    """Runs EM.

    Args:
      annotations: who said what.
      m_step: expected counts [workers, label, truth] and pseudo-count -> logarithms of the
        confusions, alike in shape, and what the log-likelihood is penalised with (≤ 0).
      start: posteriors to begin with; None: the fractions of each task's labels.
      pseudo_count: added to what the model counts, at least 0.
      prior: 'estimate' or 'uniform'.
      gold: known class of each task, at which it begins and stays, or -1.
      max_iterations: at most so many.
      tolerance: stop when the log-likelihood per annotation changes by less.
      mesh: devices to spread the tasks over; None: all.

    Raises:
      OptionError: see `check_options`.
    """
    check_options(
        pseudo_count=pseudo_count,
        prior=prior,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    devices = np.array(jax.devices()) if mesh is None else mesh.devices.reshape(-1)
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    shards, rows = _shards(annotations, start, gold, mesh.size)
    with jax.enable_x64(True):
        run = _compiled(mesh, m_step, prior == "estimate", -(-max_iterations // TRACE) * TRACE)
        least_change = tolerance * len(annotations.task)
        tasks, *shape = annotations.sizes
        found = run(
            _place(shards, mesh), tuple(shape), tasks, max_iterations, pseudo_count, least_change
        )
        of_tasks, *others = found
        if not of_tasks[0].is_fully_addressable:
            of_tasks = multihost_utils.process_allgather(of_tasks, tiled=True)
        confusions, class_prior, trace, iterations, converged = jax.device_get(others)
    labels, posteriors = (np.asarray(x).reshape(-1, *x.shape[2:])[rows] for x in of_tasks)
    return Inferred(
        labels=labels,
        posteriors=posteriors,
        confusions=confusions.swapaxes(1, 2),
        prior=class_prior,
        log_likelihood=trace[:iterations],
        iterations=int(iterations),
        converged=bool(converged),
    )


def check_options(
    *, pseudo_count: float, prior: str, max_iterations: int, tolerance: float
) -> None:
    """Raises an `OptionError` for a number out of its range, or another prior."""
    if prior not in ("estimate", "uniform"):
        raise OptionError(f"prior must be 'estimate' or 'uniform', not {prior!r}")
    if not 0 <= pseudo_count < np.inf:
        raise OptionError(f"pseudo_count must be at least 0 and finite, not {pseudo_count}")
    if not np.isfinite(tolerance):
        raise OptionError(f"tolerance must be finite, not {tolerance}")
    check_iterations(max_iterations)


def check_iterations(max_iterations: int) -> None:
    """Raises an `OptionError` for fewer than one, or more than a trace should hold."""
    if not 1 <= max_iterations <= MOST_ITERATIONS:
        raise OptionError(
            f"max_iterations must lie in [1, {MOST_ITERATIONS:,}], not {max_iterations}"
        )


def _shards(
    annotations: Annotations,
    start: Float[np.ndarray, "tasks classes"] | None,
    gold: Int32[np.ndarray, " tasks"],
    devices: int,
) -> tuple[Shards, np.ndarray]:
    """The shards, and each task's row in all of their rows, those that only fill up included.

    Each device has as many as keep the posteriors of one within a core's cache; but fewer if a cell
    would have too few annotations in each.
    """
    tasks, workers, classes = annotations.sizes
    cells = workers * classes
    least = len(annotations.task) / (devices * cells * LEAST_OF_CELL)
    count = devices * int(np.clip(least, 1, -(-tasks // (devices * SHARD_TASKS))))
    # Tasks are dealt by their sizes, so that all shards have as many of each.
    sizes = np.bincount(annotations.task, minlength=tasks).astype(np.int32)
    shard = np.empty(tasks, np.int32)
    shard[stable_order(sizes, int(sizes.max()) + 1)] = np.arange(tasks, dtype=np.int32) % count
    cell = annotations.worker * np.int32(classes) + annotations.label
    by_task = segments.lay_out(cell, sizes, shard, count, none=cells)
    before = shard.astype(np.int64) * cells  # cells of the shards before
    cell = cell + np.repeat(before.astype(np.int32 if count * cells < 2**31 else np.int64), sizes)
    row = np.repeat(by_task.place, sizes)
    each = np.arange(len(row) + 1, dtype=np.int32)
    by_cell = sparse.csr_matrix((row, cell, each), (len(row), count * cells)).tocsc()
    by_cell = segments.lay_out(
        by_cell.data,
        np.diff(by_cell.indptr).astype(np.int32),
        np.repeat(np.arange(count, dtype=np.int32), cells),
        count,
        none=by_task.segments - 1,  # the posteriors of what is no task are zero
    )
    shape = count, by_task.segments
    posteriors = None
    if start is not None:
        posteriors = np.zeros((*shape, _columns(classes)), np.float32)
        posteriors[shard, by_task.place, :classes] = start
    known = np.full(shape, -1, np.int32)
    known[shard, by_task.place] = gold
    real = np.zeros(shape, bool)
    real[shard, by_task.place] = True
    cell_place = by_cell.place.reshape(count, cells)
    shards = Shards(by_task.blocks, by_cell.blocks, cell_place, posteriors, known, real)
    return shards, shard * by_task.segments + by_task.place


def _place(shards: Shards, mesh: Mesh) -> Shards:
    """Each shard on its device."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), shards
    )


@functools.cache
def _compiled(mesh: Mesh, m_step: MStep, estimate_prior: bool, trace_size: int) -> Callable:
    """EM over the shards of all devices, compiled once for each shape of the data."""
    each, all_alike = PartitionSpec(AXIS), PartitionSpec()

    @partial(jax.jit, static_argnums=1)
    def run(shards, shape, *numbers):
        return jax.shard_map(
            partial(_em, m_step, estimate_prior, trace_size, shape),
            mesh=mesh,
            in_specs=(each, *[all_alike] * len(numbers)),
            out_specs=(each, *[all_alike] * 5),
        )(shards, *numbers)

    return run


def _em(
    m_step,
    estimate_prior,
    trace_size,
    shape,
    shards,
    tasks,
    max_iterations,
    pseudo_count,
    least_change,
):
    """What one device does, shard by shard."""
    workers, classes = shape
    columns = _columns(classes)
    each_class = jnp.arange(columns, dtype=jnp.int32)[None]

    def begin(shard):
        """Posteriors to begin with."""
        posteriors = shard.start
        if posteriors is None:
            label = jnp.arange(workers * classes + 1, dtype=jnp.int32)[:, None] % classes
            votes = (label == each_class).at[-1].set(False).astype(jnp.float32)
            posteriors = segments.total(votes, shard.of_tasks)
            posteriors /= jnp.maximum(jnp.sum(posteriors, axis=1, keepdims=True), 1)
        known = shard.gold[:, None]
        return jnp.where(known < 0, posteriors, (known == each_class).astype(jnp.float32))

    def expect(parameters, shard):
        """Posteriors of one shard, and its part of the log-likelihood."""
        log_confusions, log_prior = parameters
        padding = (0, columns - classes)
        table = log_confusions.reshape(-1, classes).astype(jnp.float32)
        joint = segments.total(jnp.pad(table, ((0, 1), padding)), shard.of_tasks)
        joint += jnp.pad(log_prior.astype(jnp.float32), padding, constant_values=NEVER)[None]
        known = shard.gold[:, None]
        joint = jnp.where((known < 0) | (known == each_class), joint, jnp.float32(NEVER))
        evidence = jax.nn.logsumexp(joint, axis=1)
        log_likelihood = jnp.sum(jnp.where(shard.real, evidence, 0), dtype=jnp.float64)
        evidence = jnp.where(shard.real, evidence, jnp.float32(-NEVER))  # so that the rest is zero
        return jnp.exp(joint - evidence[:, None]), log_likelihood

    def maximise(expected):
        """Parameters, penalty and log-likelihood from what is expected of each shard."""

        def count(shard):
            posteriors, log_likelihood = expected(shard)
            counts = segments.total(posteriors, shard.of_cells)[shard.cell_place]
            return counts, jnp.sum(posteriors, axis=0), log_likelihood

        sums = jax.lax.map(count, shards)
        sums = jax.tree.map(lambda x: jnp.sum(x, axis=0, dtype=jnp.float64), sums)
        counts, mass, log_likelihood = jax.lax.psum(sums, AXIS)
        counts = counts.reshape(workers, classes, columns)[..., :classes]
        log_confusions, penalty = m_step(counts, pseudo_count)
        prior = mass[:classes] / tasks if estimate_prior else jnp.full(classes, 1 / classes)
        return (log_confusions, jnp.log(jnp.maximum(prior, FLOOR))), penalty, log_likelihood

    def iterate(carry):
        done, _, parameters, penalty, trace, _ = carry
        following, next_penalty, log_likelihood = maximise(partial(expect, parameters))
        value = log_likelihood + penalty
        before = jnp.where(done > 0, trace[done - 1], -jnp.inf)
        small = jnp.abs(value - before) < least_change
        return done + 1, parameters, following, next_penalty, trace.at[done].set(value), small

    def goes_on(carry):
        done, *_, small = carry
        return (done < max_iterations) & ~small

    parameters, penalty, _ = maximise(lambda shard: (begin(shard), jnp.float64(0)))
    trace = jnp.zeros(trace_size, jnp.float64)
    start = (jnp.int32(0), parameters, parameters, penalty, trace, jnp.bool(False))
    done, before, parameters, _, trace, small = jax.lax.while_loop(goes_on, iterate, start)
    posteriors = jax.lax.map(lambda shard: expect(before, shard)[0][:, :classes], shards)
    labels = jnp.argmax(posteriors, axis=-1).astype(jnp.int32)
    confusions, prior = jax.tree.map(jnp.exp, parameters)
    return (labels, posteriors), confusions, prior, trace, done, small


def _columns(classes: int) -> int:
    """Classes padded to what a vector register holds: a power of two, or of eights."""
    return max(2, 1 << (classes - 1).bit_length()) if classes <= 8 else -(-classes // 8) * 8
