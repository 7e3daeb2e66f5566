"""Transition matrices: how likely each annotation of a coder is, given the truth.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018. Coder c has a matrix T^c: row = truth, column = annotation, each row sums to
one. If p are a face's class probabilities, c annotates it as j with probability
p̂^c_j = Σ_i p_i·T^c_ij.

Training moves parameters from which `matrices` makes T; see `CONSTRAINTS`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray

CONSTRAINTS = ("project", "normalise", "softmax")
"""How the rows of T are kept distributions.

- 'project': the parameters are T itself. Before each step `project` makes them distributions again
  (negative entries become ε, rows are divided by their sums), and the gradient ignores it, as in
  the authors' program. A row then rests where its entries are proportional to their gradients,
  not where the loss is least: on faces whose truth the network knows, T_ij becomes √t_ij, rows
  normalised, where t is the coder's matrix. Coders who are right on 60 % of the faces of ten
  classes, and whose mistakes are spread evenly, get a diagonal of 0.29.
- 'normalise': T is the parameters divided by the sums of their rows, differentiably, as in the
  paper. Parameters that a step made negative become ε as above, or they would never move again.
- 'softmax': rows of T are softmax of the parameters, the paper's alternative. While T_ij is
  small, so is its gradient: plain SGD learns mistakes too late, Adam, which scales gradients, does
  not.

With the last two, T rests where the loss is least, at t.
"""

LEAST = 1e-30
"""Floor of an annotation's probability before its logarithm is taken."""
LEAST_SOFTMAX = 1e-3
"""Floor of the initial entries in 'softmax', where an entry of zero would have no gradient."""
MOST_ODDS = 60.0
"""Bound on log p_i of a class with T_ij = 0, relative to the likeliest class with T_ij > 0."""

Matrices = Float[Array, "coders classes classes"]


def near_identity(key: PRNGKeyArray, coders: int, classes: int, delta: float) -> Matrices:
    """Draws I + δ·U, rows normalised, U uniform in (0, 1): coders who are nearly always right."""
    noise = jax.random.uniform(key, (coders, classes, classes))
    return _normalised(jnp.eye(classes)[None] + delta * noise)


def parameters(matrices: Matrices, constraint: str) -> Matrices:
    """Returns parameters that `matrices` turns into T; 'softmax' raises entries near zero."""
    return jnp.log(jnp.maximum(matrices, LEAST_SOFTMAX)) if constraint == "softmax" else matrices


def project(parameters: Matrices, constraint: str, epsilon: float) -> Matrices:
    """Returns the parameters that a step starts from.

    In 'project' and 'normalise' negative entries become ε and small positive ones stay; in
    'project' rows are then divided by their sums. In 'softmax' nothing changes.
    """
    if constraint == "softmax":
        return parameters
    positive = jnp.where(parameters < 0, epsilon, parameters)
    return _normalised(positive) if constraint == "project" else positive


def matrices(parameters: Matrices, constraint: str) -> Matrices:
    """Computes T, rows summing to one, from projected parameters, differentiably."""
    if constraint == "softmax":
        return jax.nn.softmax(parameters)
    if constraint == "normalise":
        return _normalised(parameters)
    return parameters


def log_annotation(
    log_probs: Float[Array, "batch classes"],
    matrices: Matrices,
    annotations: Int32[Array, "batch coders"],
) -> Float[Array, "batch coders"]:
    """Computes log p̂^c of each annotation in log space; 0 where there is none (-1).

    Entries of T may be zero: their gradient is p_i/p̂_j, which is exact up to a ratio of
    e^`MOST_ODDS` and finite beyond. Where a whole column is zero, p̂_j is zero, the loss is large
    and the gradient zero.
    """
    annotated = annotations >= 0
    columns = jnp.swapaxes(matrices, 1, 2)  # [coders, annotation, truth]
    coders = jnp.arange(matrices.shape[0])[None]
    weights = columns[coders, jnp.maximum(annotations, 0)]  # [batch, coders, truth]
    log_p = log_probs[:, None]
    possible = jnp.where(weights > 0, log_p, -jnp.inf)
    top = jnp.max(possible, axis=-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, jnp.max(log_p, axis=-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    total = jnp.sum(weights * jnp.exp(jnp.minimum(log_p - top, MOST_ODDS)), axis=-1)
    log_p_hat = jnp.log(jnp.maximum(total, LEAST)) + top[..., 0]
    return jnp.where(annotated, log_p_hat, 0.0)


def annotation_probs(
    probs: Float[Array, "batch classes"], matrices: Matrices
) -> Float[Array, "batch coders classes"]:
    """Computes p̂^c: the probabilities of each coder's annotation."""
    return jnp.einsum("bi,cij->bcj", probs, matrices, precision="highest")


def _normalised(matrices: Matrices) -> Matrices:
    return matrices / jnp.sum(matrices, axis=-1, keepdims=True)
