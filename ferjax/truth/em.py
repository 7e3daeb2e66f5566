"""Expectation–maximisation over tasks that are sharded: E-step local, M-step one `psum`.

What the truths of tasks and the confusion matrices of workers say about each other is the same for
all models here; they differ in how confusion matrices follow from expected counts.
"""

import functools
import itertools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Float64, Int32

from ferjax.truth import segments
from ferjax.truth.annotations import Annotations

AXIS = "tasks"
FLOOR = 1e-10
"""Least expected count: keeps logarithms finite where a worker never gave a label."""
NEVER = -1e30
"""Logarithm of the probability of what cannot be; finite, so that differences are."""

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
        penalised one. It never falls.
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
      pieces: of some annotations of one cell the tasks.
      of_cells: for each cell its pieces.
      cell_place: [shards, workers·K] of each cell in its blocks.
      start: [shards, rows, columns] posteriors to begin with; None: fractions of the labels.
      gold: [shards, rows] known class or -1.
      real: [shards, rows] 1 for tasks, 0 for rows that only fill up.
    """

    of_tasks: tuple[Int32[Any, "..."], ...]
    pieces: Int32[Any, "shards pieces _"]
    of_cells: tuple[Int32[Any, "..."], ...]
    cell_place: Int32[Any, "shards cells"]
    start: Float32[Any, "shards rows columns"] | None
    gold: Int32[Any, "shards rows"]
    real: Float32[Any, "shards rows"]


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
      ValueError: see `check_options`.
    """
    check_options(pseudo_count=pseudo_count, prior=prior, max_iterations=max_iterations)
    devices = np.array(jax.devices()) if mesh is None else mesh.devices.reshape(-1)
    mesh = Mesh(devices, (AXIS,), axis_types=(AxisType.Auto,))
    shards, rows = _shards(annotations, start, gold, mesh.size)
    with jax.enable_x64(True):
        run = _compiled(mesh, m_step, prior == "estimate", max_iterations)
        least_change = tolerance * len(annotations.task)
        tasks, *shape = annotations.sizes
        found = run(_place(shards, mesh), tuple(shape), tasks, pseudo_count, least_change)
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


def check_options(*, pseudo_count: float, prior: str, max_iterations: int) -> None:
    """Raises a ValueError for another prior, a negative pseudo-count, fewer than one iteration."""
    if prior not in ("estimate", "uniform"):
        raise ValueError(f"prior must be 'estimate' or 'uniform', not {prior!r}")
    if not pseudo_count >= 0:
        raise ValueError(f"pseudo_count must be at least 0, not {pseudo_count}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, not {max_iterations}")


def _shards(
    annotations: Annotations,
    start: Float[np.ndarray, "tasks classes"] | None,
    gold: Int32[np.ndarray, " tasks"],
    count: int,
) -> tuple[Shards, np.ndarray]:
    """The shards, and each task's row in all of their rows, padding included."""
    task = annotations.task
    tasks, workers, classes = annotations.sizes
    cells = workers * classes
    cell = annotations.worker * np.int32(classes) + annotations.label
    of_task = np.bincount(task, minlength=tasks)
    # Neighbouring tasks to a shard, and about as many annotations to each.
    starts = np.concatenate([[0], np.cumsum(of_task)])
    cuts = np.searchsorted(starts[1:], np.arange(1, count) * len(task) / count)
    cuts = np.concatenate([[0], cuts, [tasks]])
    sizes = np.zeros((count, int(np.diff(cuts).max())), np.int32)
    parts = []
    for shard, (first, last) in enumerate(itertools.pairwise(cuts)):
        sizes[shard, : last - first] = of_task[first:last]
        parts.append(slice(starts[first], starts[last]))
    by_task = segments.lay_out([cell[part] for part in parts], sizes, none=cells)
    shard_of = np.repeat(np.arange(count), np.diff(cuts))
    inside = by_task.place[shard_of, np.arange(tasks) - cuts[shard_of]]
    rows = [inside[task[part]] for part in parts]
    by_cell = segments.lay_out_tiled(rows, [cell[part] for part in parts], cells, by_task.rows)
    posteriors = None
    if start is not None:
        posteriors = np.zeros((count, by_task.rows, _columns(classes)), np.float32)
        posteriors[shard_of, inside, :classes] = start
    known = np.full((count, by_task.rows), -1, np.int32)
    known[shard_of, inside] = gold
    real = np.zeros((count, by_task.rows), np.float32)
    real[shard_of, inside] = 1
    layout = by_cell.layout
    shards = Shards(
        by_task.blocks, by_cell.pieces, layout.blocks, layout.place, posteriors, known, real
    )
    return shards, shard_of * by_task.rows + inside


def _place(shards: Shards, mesh: Mesh) -> Shards:
    """Each shard on its device."""
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), shards
    )


@functools.cache
def _compiled(mesh: Mesh, m_step: MStep, estimate_prior: bool, max_iterations: int) -> Callable:
    """EM over one shard a device, compiled once for each shape of the data."""
    each, all_alike = PartitionSpec(AXIS), PartitionSpec()

    @partial(jax.jit, static_argnums=1)
    def run(shards, shape, tasks, pseudo_count, least_change):
        em = partial(_em, m_step, estimate_prior, max_iterations, shape)
        return jax.shard_map(
            em,
            mesh=mesh,
            in_specs=(each, all_alike, all_alike, all_alike),
            out_specs=(each, *[all_alike] * 5),
        )(shards, tasks, pseudo_count, least_change)

    return run


def _em(m_step, estimate_prior, max_iterations, shape, shards, tasks, pseudo_count, least_change):
    """What one device does; arrays have a leading axis of one shard."""
    shards = jax.tree.map(lambda x: x[0], shards)
    workers, classes = shape
    columns = _columns(classes)
    each_class = jnp.arange(columns, dtype=jnp.int32)[None]
    known, is_known = shards.gold[:, None] == each_class, shards.gold[:, None] >= 0

    def begin():
        if shards.start is not None:
            posteriors = shards.start
        else:
            label = jnp.arange(workers * classes + 1, dtype=jnp.int32) % classes
            votes = (label[:, None] == each_class).at[-1].set(False).astype(jnp.float32)
            posteriors = segments.total(votes, shards.of_tasks)
            posteriors /= jnp.maximum(jnp.sum(posteriors, axis=1, keepdims=True), 1)
        return jnp.pad(jnp.where(is_known, known.astype(jnp.float32), posteriors), ((0, 1), (0, 0)))

    def maximise(posteriors):
        counts = segments.total_tiled(posteriors, shards.pieces, shards.of_cells)
        counts = counts[shards.cell_place]
        counts = jax.lax.psum(counts.astype(jnp.float64), AXIS)
        counts = counts.reshape(workers, classes, columns)[..., :classes]
        log_confusions, penalty = m_step(counts, pseudo_count)
        mass = jax.lax.psum(jnp.sum(posteriors, axis=0, dtype=jnp.float64), AXIS)[:classes]
        prior = mass / tasks if estimate_prior else jnp.full(classes, 1 / classes)
        return log_confusions, jnp.log(jnp.maximum(prior, FLOOR)), penalty

    def expect(log_confusions, log_prior):
        padding = (0, columns - classes)
        table = log_confusions.reshape(-1, classes).astype(jnp.float32)
        table = jnp.pad(table, ((0, 1), padding))
        joint = segments.total(table, shards.of_tasks)
        joint += jnp.pad(log_prior.astype(jnp.float32), padding, constant_values=NEVER)[None]
        joint = jnp.where(is_known & ~known, jnp.float32(NEVER), joint)
        evidence = jax.nn.logsumexp(joint, axis=1)
        posteriors = jnp.exp(joint - evidence[:, None]) * shards.real[:, None]
        total = jax.lax.psum(jnp.sum(evidence * shards.real, dtype=jnp.float64), AXIS)
        return jnp.pad(posteriors, ((0, 1), (0, 0))), total

    def iterate(carry):
        done, posteriors, (log_confusions, log_prior, penalty), trace, _ = carry
        posteriors, log_likelihood = expect(log_confusions, log_prior)
        value = log_likelihood + penalty
        before = jnp.where(done > 0, trace[done - 1], -jnp.inf)
        small = jnp.abs(value - before) < least_change
        return done + 1, posteriors, maximise(posteriors), trace.at[done].set(value), small

    def goes_on(carry):
        done, *_, small = carry
        return (done < max_iterations) & ~small

    trace = jnp.zeros(max_iterations, jnp.float64)
    posteriors = begin()
    start = (jnp.int32(0), posteriors, maximise(posteriors), trace, jnp.bool(False))
    done, posteriors, (log_confusions, log_prior, _), trace, small = jax.lax.while_loop(
        goes_on, iterate, start
    )
    posteriors = posteriors[None, :-1, :classes]
    labels = jnp.argmax(posteriors, axis=-1).astype(jnp.int32)
    confusions, prior = jnp.exp(log_confusions), jnp.exp(log_prior)
    return (labels, posteriors), confusions, prior, trace, done, small


def _columns(classes: int) -> int:
    """Classes padded to what a vector register holds: a power of two, or of eights."""
    return max(2, 1 << (classes - 1).bit_length()) if classes <= 8 else -(-classes // 8) * 8
