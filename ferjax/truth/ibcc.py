"""iBCC: variational Bayes over the workers' confusion matrices, for workers with few labels.

H.-C. Kim and Z. Ghahramani, *Bayesian classifier combination*, AISTATS 2012, the independent model,
with the variational updates of E. Simpson, S. Roberts, I. Psorakis and A. Smith, *Dynamic Bayesian
combination of multiple imperfect classifiers* (2013), section 3. Each row of a confusion matrix has
a Dirichlet prior α, and so has the class prior, with α = 1. Where Dawid and Skene's EM takes the
likeliest matrices, their distribution is kept: with N^w[k, l] the expected count of label l where
the truth is k, ψ the digamma function, and N_k the expected number of tasks,

    p(t = k | labels) ∝ exp(E ln π_k + Σ_w E ln C^w[k, label_w]),
    E ln C^w[k, l] = ψ(α_kl + N^w[k, l]) − ψ(Σ_l α_kl + N^w[k, l]),    E ln π_k = ψ(1 + N_k) − …
"""

import math
from typing import Any

import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float64, Int32

from ferjax.truth import em, segments
from ferjax.truth.annotations import Annotations, read_known


def ibcc(
    annotations: Annotations,
    *,
    diagonal: float = em.DIAGONAL,
    off_diagonal: float = em.OFF_DIAGONAL,
    class_prior: str = "estimate",
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    mesh: Mesh | None = None,
) -> em.Inferred:
    """Infers labels and distributions of the confusion matrices and the class prior.

    The result's confusions and class prior are means. `log_likelihood` is the lower bound on the
    logarithm of the evidence that each iteration raises.

    Args:
      annotations: labels with their tasks and workers.
      diagonal: α of right labels, above 0.
      off_diagonal: α of each wrong label, above 0.
      class_prior: 'estimate', or 'uniform' over classes.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      max_iterations: most iterations.
      tolerance: stop when the bound per annotation changes by less.
      mesh: devices to spread the tasks over; None: all devices.

    Raises:
      OptionError: for an argument out of its range.
      TableError: for a mistake in `gold`.
    """
    em.check_options(
        prior="diagonal",
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        class_prior=class_prior,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    return em.infer_confusions(
        annotations,
        _maximise,
        pseudo_counts=em.diagonal_counts(len(annotations.classes), diagonal, off_diagonal),
        estimate_classes=class_prior == "estimate",
        gold=read_known(gold, annotations),
        max_iterations=max_iterations,
        tolerance=tolerance,
        mesh=mesh,
    )


def _maximise(
    counts: Float64[Array, "cells truth"],
    mass: Float64[Array, " truth"],
    *,
    cell_worker: Int32[Array, " cells"],
    pseudo: Float64[Array, "cells truth"],
    pseudo_unused: Float64[Array, "workers truth"],
    estimate_classes: Bool[Array, ""],
) -> em.Parameters:
    """Updates the Dirichlet distributions; the offset is minus their divergence from the priors."""
    after = counts + pseudo
    prior_sums = segments.add_at(pseudo_unused, cell_worker, pseudo)
    sums = segments.add_at(pseudo_unused, cell_worker, after)
    logs = digamma(after) - digamma(sums)[cell_worker]
    # Labels that a worker never used have the same parameter before and after.
    divergence = jnp.sum(counts * logs + gammaln(pseudo) - gammaln(after))
    divergence += jnp.sum(gammaln(sums) - gammaln(prior_sums))
    classes, tasks = len(mass), jnp.sum(mass)
    log_prior = digamma(1 + mass) - digamma(classes + tasks)
    of_classes = jnp.sum(mass * log_prior - gammaln(1 + mass))
    of_classes += gammaln(classes + tasks) - gammaln(jnp.float64(classes))
    return em.Parameters(
        workers=(after / sums[cell_worker], sums),
        logs=logs.astype(jnp.float32),
        prior=jnp.where(estimate_classes, (1 + mass) / (classes + tasks), 1 / classes),
        log_prior=jnp.where(estimate_classes, log_prior, -math.log(classes)).astype(jnp.float32),
        offset=-divergence - jnp.where(estimate_classes, of_classes, 0),
    )
