"""Transition matrices: what a coder says, given the truth.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018. Coder c has T^c, row = truth, column = annotation, rows summing to one. A face
of class probabilities p is annotated j by coder c with probability p̂^c_j = Σ_i p_i·T^c_ij.

What is trained are parameters from which `matrices` makes T; see `CONSTRAINTS`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray

CONSTRAINTS = ("project", "normalise", "softmax")
"""How rows are kept distributions.

- 'project': the parameters are T itself. Before each step `project` puts them back where they
  belong (negative entries become ε, rows are divided by their sums), and the gradient does not see
  it: what the authors' program does. A row is then at rest where its entries are as the gradient's,
  not where the loss is least: of faces whose truth the network knows, T_ij becomes √t_ij, rows
  normalised, where the coder's matrix is t. Coders who are right on 60 % of ten classes, and wrong
  on the others alike, get a diagonal of 0.29.
- 'normalise': T is the parameters divided by the sums of their rows, differentiably: what the paper
  says. Parameters that a step made negative become ε as above, or they would never move again.
- 'softmax': rows of T are softmax of the parameters: the paper's alternative. Gradients of mistakes
  still thought rare are small, and plain SGD comes too late; Adam, which scales them, does not.

The last two are at rest where the loss is least, at t.
"""

LEAST = 1e-30
"""Least probability of an annotation that a logarithm is taken of."""
LEAST_SOFTMAX = 1e-3
"""Least entry to start from in 'softmax': the gradient of a logit is in proportion to its entry."""
MOST_ODDS = 60.0
"""Logarithm of the most that an entry of zero may weigh against those that are not."""

Matrices = Float[Array, "coders classes classes"]


def near_identity(key: PRNGKeyArray, coders: int, classes: int, delta: float) -> Matrices:
    """Rows of I + δ·U, normalised, U uniform in (0, 1): coders who are nearly always right."""
    noise = jax.random.uniform(key, (coders, classes, classes))
    return _normalised(jnp.eye(classes)[None] + delta * noise)


def parameters(matrices: Matrices, constraint: str) -> Matrices:
    """Parameters that `matrices` turns into the given T, but for its least entries in 'softmax'."""
    return jnp.log(jnp.maximum(matrices, LEAST_SOFTMAX)) if constraint == "softmax" else matrices


def project(parameters: Matrices, constraint: str, epsilon: float) -> Matrices:
    """The parameters to begin a step with.

    In 'project' and 'normalise' negative entries become ε and small positive ones stay; in
    'project' rows are then divided by their sums. In 'softmax' nothing changes.
    """
    if constraint == "softmax":
        return parameters
    positive = jnp.where(parameters < 0, epsilon, parameters)
    return _normalised(positive) if constraint == "project" else positive


def matrices(parameters: Matrices, constraint: str) -> Matrices:
    """T of projected parameters, rows summing to one, differentiably; in 'project' T is they."""
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
    """log p̂^c of what each coder said; 0 where the coder said nothing (-1).

    In log space. Entries of T may be zero: their gradient is the true one, p_i/p̂_j, up to a
    factor of e^`MOST_ODDS` between the two, so that it is finite always. Where all of a column
    are, there is no p̂_j, the loss is large and the gradient zero.
    """
    said = annotations >= 0
    columns = jnp.swapaxes(matrices, 1, 2)  # [coders, annotation, truth]
    coders = jnp.arange(matrices.shape[0])[None]
    weights = columns[coders, jnp.maximum(annotations, 0)]  # [batch, coders, truth]
    log_p = log_probs[:, None]
    possible = jnp.where(weights > 0, log_p, -jnp.inf)
    top = jnp.max(possible, axis=-1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, jnp.max(log_p, axis=-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    total = jnp.sum(weights * jnp.exp(jnp.minimum(log_p - top, MOST_ODDS)), axis=-1)
    found = jnp.log(jnp.maximum(total, LEAST)) + top[..., 0]
    return jnp.where(said, found, 0.0)


def annotation_probs(
    probs: Float[Array, "batch classes"], matrices: Matrices
) -> Float[Array, "batch coders classes"]:
    """p̂^c: probabilities of what each coder would say."""
    return jnp.einsum("bi,cij->bcj", probs, matrices, precision="highest")


def _normalised(matrices: Matrices) -> Matrices:
    return matrices / jnp.sum(matrices, axis=-1, keepdims=True)
