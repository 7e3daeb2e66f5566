"""Expectation–maximisation over sharded tasks: the E-step is local, the M-step needs one `psum`.

All models share the E-step; they differ in how they compute confusion matrices from expected
counts.
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
"""Least expected count: keeps logarithms finite if a worker never gave a label."""
NEVER = -1e30
"""Logarithm of probability 0; finite, so that differences stay finite."""

SHARD_TASKS = 1 << 16
"""Most tasks in a shard, if there are many annotations."""
LEAST_OF_CELL = 32
"""Least mean number of annotations per worker and label in a shard: else padding costs more."""

TRACE = 128
"""The trace of log-likelihoods is padded to a multiple of this, so that few sizes are compiled."""

MOST_ITERATIONS = 1_000_000

MStep = Callable[[Float64[Array, "workers label truth"], Array], tuple[Array, Array]]


class Inferred(NamedTuple):
    """The result of EM; rows in the order of `Annotations.tasks`, `.workers` and `.classes`.

    Attributes:
      labels: [T] the likeliest class of each task.
      posteriors: [T, K] probability of each class, from the last E-step.
      confusions: [W, K, K] probability of a label (column) given the truth (row), from the last
        M-step.
      prior: [K] probability of each class.
      log_likelihood: [iterations] of all annotations at each E-step; penalised if there are
        pseudo-counts. It never falls, except by float32 rounding of the posteriors (about 1e-9 per
        annotation).
      iterations: number done.
      converged: True if the last one changed the log-likelihood by less than the tolerance.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    confusions: Float64[np.ndarray, "workers classes classes"]
    prior: Float64[np.ndarray, " classes"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool


class Shards(NamedTuple):
    """The annotations in shards; a shard's tasks are numbered in the order of its blocks.

    Attributes:
      of_tasks: for each task the cells (worker·K + label) of its annotations.
      of_cells: for each cell the tasks of its annotations.
      cell_position: [shards, workers·K] position of each cell in its blocks.
      start: [shards, tasks, columns] initial posteriors; None: the shares of each task's labels.
      gold: [shards, tasks] known class or -1.
      real: [shards, tasks] True for a task, False for padding.
    """

    of_tasks: tuple[Int32[Any, "..."], ...]
    of_cells: tuple[Int32[Any, "..."], ...]
    cell_position: Int32[Any, "shards cells"]
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
      annotations: labels with their tasks and workers.
      m_step: (expected counts [workers, label, truth], pseudo-count) -> logarithms of the
        confusions, in the same shape, and the penalty (≤ 0) added to the log-likelihood.
      start: initial posteriors; None: the shares of each task's labels.
      pseudo_count: added to the model's counts, at least 0.
      prior: 'estimate' or 'uniform'.
      gold: known class of each task, which stays fixed, or -1.
      max_iterations: most iterations.
      tolerance: stop when the log-likelihood per annotation changes by less.
      mesh: devices to spread the tasks over; None: all devices.

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
        outputs = run(
            _put(shards, mesh), tuple(shape), tasks, max_iterations, pseudo_count, least_change
        )
        of_tasks, *others = outputs
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
    """Raises an `OptionError` for a number out of range or an invalid prior."""
    if prior not in ("estimate", "uniform"):
        raise OptionError(f"prior must be 'estimate' or 'uniform', not {prior!r}")
    if not 0 <= pseudo_count < np.inf:
        raise OptionError(f"pseudo_count must be at least 0 and finite, not {pseudo_count}")
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
    annotations: Annotations,
    start: Float[np.ndarray, "tasks classes"] | None,
    gold: Int32[np.ndarray, " tasks"],
    devices: int,
) -> tuple[Shards, np.ndarray]:
    """Makes the shards, and returns each task's row number among all their rows, padding included.

    Each device gets enough shards that the posteriors of one fit a core's cache, but fewer if a
    cell would have too few annotations in each.
    """
    tasks, workers, classes = annotations.sizes
    cells = workers * classes
    least = len(annotations.task) / (devices * cells * LEAST_OF_CELL)
    count = devices * int(np.clip(least, 1, -(-tasks // (devices * SHARD_TASKS))))
    # Tasks are dealt out by size, so that all shards have equally many of each size.
    sizes = np.bincount(annotations.task, minlength=tasks).astype(np.int32)
    shard = np.empty(tasks, np.int32)
    shard[stable_order(sizes, int(sizes.max()) + 1)] = np.arange(tasks, dtype=np.int32) % count
    cell = annotations.worker * np.int32(classes) + annotations.label
    by_task = segments.lay_out(cell, sizes, shard, count, none=cells)
    offset = shard.astype(np.int64) * cells  # cells of the preceding shards
    cell = cell + np.repeat(offset.astype(np.int32 if count * cells < 2**31 else np.int64), sizes)
    row = np.repeat(by_task.position, sizes)
    starts = np.arange(len(row) + 1, dtype=np.int32)
    by_cell = sparse.csr_matrix((row, cell, starts), (len(row), count * cells)).tocsc()
    by_cell = segments.lay_out(
        by_cell.data,
        np.diff(by_cell.indptr).astype(np.int32),
        np.repeat(np.arange(count, dtype=np.int32), cells),
        count,
        none=by_task.segments - 1,  # the posteriors of padding are zero
    )
    shape = count, by_task.segments
    posteriors = None
    if start is not None:
        posteriors = np.zeros((*shape, _columns(classes)), np.float32)
        posteriors[shard, by_task.position, :classes] = start
    known = np.full(shape, -1, np.int32)
    known[shard, by_task.position] = gold
    real = np.zeros(shape, bool)
    real[shard, by_task.position] = True
    cell_position = by_cell.position.reshape(count, cells)
    shards = Shards(by_task.blocks, by_cell.blocks, cell_position, posteriors, known, real)
    return shards, shard * by_task.segments + by_task.position


def _put(shards: Shards, mesh: Mesh) -> Shards:
    """Puts each shard on its device."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), shards
    )


@functools.cache
def _compiled(mesh: Mesh, m_step: MStep, estimate_prior: bool, trace_size: int) -> Callable:
    """Returns EM over the shards of all devices; `cache` keeps it from being compiled again."""
    sharded, replicated = PartitionSpec(AXIS), PartitionSpec()

    @partial(jax.jit, static_argnums=1)
    def run(shards, shape, *numbers):
        return jax.shard_map(
            partial(_em, m_step, estimate_prior, trace_size, shape),
            mesh=mesh,
            in_specs=(sharded, *[replicated] * len(numbers)),
            out_specs=(sharded, *[replicated] * 5),
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
    """Runs EM on one device's shards, one shard at a time."""
    workers, classes = shape
    columns = _columns(classes)
    each_class = jnp.arange(columns, dtype=jnp.int32)[None]

    def begin(shard):
        """Returns the initial posteriors."""
        posteriors = shard.start
        if posteriors is None:
            label = jnp.arange(workers * classes + 1, dtype=jnp.int32)[:, None] % classes
            votes = (label == each_class).at[-1].set(False).astype(jnp.float32)
            posteriors = segments.total(votes, shard.of_tasks)
            posteriors /= jnp.maximum(jnp.sum(posteriors, axis=1, keepdims=True), 1)
        known = shard.gold[:, None]
        return jnp.where(known < 0, posteriors, (known == each_class).astype(jnp.float32))

    def expect(parameters, shard):
        """Returns the posteriors of one shard and its part of the log-likelihood."""
        log_confusions, log_prior = parameters
        padding = (0, columns - classes)
        table = log_confusions.reshape(-1, classes).astype(jnp.float32)
        joint = segments.total(jnp.pad(table, ((0, 1), padding)), shard.of_tasks)
        joint += jnp.pad(log_prior.astype(jnp.float32), padding, constant_values=NEVER)[None]
        known = shard.gold[:, None]
        joint = jnp.where((known < 0) | (known == each_class), joint, jnp.float32(NEVER))
        evidence = jax.nn.logsumexp(joint, axis=1)
        log_likelihood = jnp.sum(jnp.where(shard.real, evidence, 0), dtype=jnp.float64)
        evidence = jnp.where(shard.real, evidence, jnp.float32(-NEVER))  # makes padding zero
        return jnp.exp(joint - evidence[:, None]), log_likelihood

    def maximise(expected):
        """Returns parameters, penalty and log-likelihood, given the E-step of a shard."""

        def count(shard):
            posteriors, log_likelihood = expected(shard)
            counts = segments.total(posteriors, shard.of_cells)[shard.cell_position]
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
    """Returns the number of classes padded to a power of two, or to a multiple of eight."""
    return max(2, 1 << (classes - 1).bit_length()) if classes <= 8 else -(-classes // 8) * 8
