"""Dawid and Skene's EM, with a class prior and one confusion matrix for each worker.

A. P. Dawid and A. M. Skene, *Maximum likelihood estimation of observer error-rates using the EM
algorithm*, Applied Statistics 28 (1979). With truth t of a task, class prior π and confusion matrix
C^w of worker w (row = truth, column = label), (2.3) and (2.5) there:

    p(t = k | labels) ∝ π_k · Π_w C^w[k, label_w],     C^w[k, l] ∝ Σ_tasks p(t = k)·1[label_w = l]
"""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float64

from ferjax.truth import em, spectral
from ferjax.truth.annotations import Annotations, OptionError, read_known


def dawid_skene(
    annotations: Annotations,
    *,
    init: str = "majority",
    pseudo_count: float = 0.0,
    prior: str = "estimate",
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
      pseudo_count: added to every expected count of a confusion matrix; 0 is maximum likelihood.
      prior: 'estimate', or 'uniform' over classes.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      max_iterations: most iterations.
      tolerance: stop when the log-likelihood per annotation changes by less.
      seed: of the spectral start.
      mesh: devices to spread the tasks over; None: all devices.

    Raises:
      OptionError: for an argument out of its range.
      TableError: for a mistake in `gold`.
    """
    check_start(init, annotations)
    return em.infer(
        annotations,
        _confusions,
        start=spectral.start(annotations, seed=seed) if init == "spectral" else None,
        pseudo_count=pseudo_count,
        prior=prior,
        gold=read_known(gold, annotations),
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


def _confusions(
    counts: Float64[Array, "workers label truth"], pseudo_count: Array
) -> tuple[Float64[Array, "workers label truth"], Float64[Array, ""]]:
    """Normalises expected counts over labels, (2.3); pseudo-counts act as a Dirichlet prior.

    The prior has α = 1 + pseudo-count. Without pseudo-counts a label that a worker never gave has
    probability 0; if the worker labelled no task of a class, its other labels are equally likely.
    """
    given = (jnp.sum(counts, axis=2, keepdims=True) > 0.5) | (pseudo_count > 0)
    counts = jnp.where(given, jnp.maximum(counts + pseudo_count, em.FLOOR), 0.0)
    shares = counts / jnp.sum(counts, axis=1, keepdims=True)
    logs = jnp.where(given, jnp.log(jnp.where(given, shares, 1.0)), em.NEVER)
    return logs, jnp.where(pseudo_count > 0, pseudo_count * jnp.sum(logs), 0.0)
