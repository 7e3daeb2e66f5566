"""Dawid and Skene's EM, with a class prior and one confusion matrix for each worker.

A. P. Dawid and A. M. Skene, *Maximum likelihood estimation of observer error-rates using the EM
algorithm*, Applied Statistics 28 (1979). With truth t of a task, class prior π and confusion matrix
C^w of worker w (row = truth, column = label), (2.3) and (2.5) there:

    p(t = k | labels) ∝ π_k · Π_w C^w[k, label_w],     C^w[k, l] ∝ Σ_tasks p(t = k)·1[label_w = l]
"""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float64, Int32

from ferjax.truth import em, segments, spectral
from ferjax.truth.annotations import Annotations, OptionError, read_known
from ferjax.truth.earlier import check_use, read_earlier, start_from


def dawid_skene(
    annotations: Annotations,
    *,
    init: str = "majority",
    prior: str = "none",
    diagonal: float = em.DIAGONAL,
    off_diagonal: float = em.OFF_DIAGONAL,
    class_prior: str = "estimate",
    earlier: Any = None,
    earlier_as: str = "prior",
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    seed: int = 0,
    mesh: Mesh | None = None,
) -> em.Inferred:
    """Infers labels, confusion matrices and class prior by EM.

    Args:
      annotations: labels with their tasks and workers.
      init: initial posteriors: 'majority' (the fractions of each task's labels) or 'spectral' (see
        `spectral.start`).
      prior: of the confusion matrices: 'none' (maximum likelihood) or 'diagonal', a Dirichlet
        distribution that adds pseudo-counts to each row.
      diagonal: pseudo-count of right labels, above 0, if `prior` is 'diagonal'.
      off_diagonal: pseudo-count of each wrong label, above 0, likewise.
      class_prior: 'estimate', or 'uniform' over classes.
      earlier: earlier confusion matrices of the workers, as counts, see `earlier.read_earlier`.
      earlier_as: 'prior' (added to the counts of every M-step), 'add' (to those of the first alone)
        or 'assign' (in their place; every worker must have a matrix). The latter two replace
        `init`, and the E-step after this M-step is not counted as an iteration.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      max_iterations: most iterations.
      tolerance: stop when the log-likelihood per annotation changes by less.
      seed: of the spectral start.
      mesh: devices to spread the tasks over; None: all devices.

    Raises:
      OptionError: for an argument out of its range.
      TableError: for a mistake in `gold` or `earlier`.
    """
    check_start(init, annotations)
    check_use(earlier_as)
    em.check_options(
        prior=prior,
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        class_prior=class_prior,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    known = read_known(gold, annotations)
    start = spectral.start(annotations, seed=seed) if init == "spectral" else None
    strengths = (diagonal, off_diagonal) if prior == "diagonal" else (0.0, 0.0)
    pseudo_counts = em.diagonal_counts(len(annotations.classes), *strengths)
    if earlier is not None:
        counts = read_earlier(earlier, annotations, everyone=earlier_as == "assign")
        if earlier_as == "prior":
            pseudo_counts = pseudo_counts + counts
        else:
            add, uniform = earlier_as == "add", class_prior == "uniform"
            start = start_from(annotations, counts, add=add, uniform=uniform, gold=known)
    return em.infer_confusions(
        annotations,
        _maximise,
        pseudo_counts=pseudo_counts,
        estimate_classes=class_prior == "estimate",
        start=start,
        gold=known,
        max_iterations=max_iterations,
        tolerance=tolerance,
        mesh=mesh,
    )


def check_start(init: str, annotations: Annotations) -> None:
    """Raises an `OptionError` for an invalid start, or a spectral one with too few workers."""
    if init not in ("majority", "spectral"):
        raise OptionError(f"init must be 'majority' or 'spectral', not {init!r}")
    if init == "spectral":
        spectral.check_workers(annotations)


def _maximise(
    counts: Float64[Array, "cells truth"],
    mass: Float64[Array, " truth"],
    *,
    cell_worker: Int32[Array, " cells"],
    pseudo: Float64[Array, "cells truth"],
    pseudo_unused: Float64[Array, "workers truth"],
    estimate_classes: Bool[Array, ""],
) -> em.Parameters:
    """Normalises expected counts over labels, (2.3); pseudo-counts act as a Dirichlet prior.

    The prior has α = 1 + pseudo-count. Without it a label that a worker never used has probability
    0; if the worker labelled no task of a class, its other labels are equally likely.
    """
    counts = jnp.maximum(counts + pseudo, em.FLOOR)
    sums = segments.add_at(pseudo_unused, cell_worker, counts)
    probs = counts / sums[cell_worker]
    logs = jnp.log(probs.astype(jnp.float32))
    penalty = jnp.sum(pseudo * logs.astype(jnp.float64)) - jnp.sum(pseudo_unused * jnp.log(sums))
    return em.Parameters((probs, sums), logs, *em.class_prior(mass, estimate_classes), penalty)
