"""The spectral start of Dawid and Skene's EM: moments avoid poor local optima.

Y. Zhang, X. Chen, D. Zhou and M. I. Jordan, *Spectral methods meet EM: a provably optimal algorithm
for crowdsourcing*, JMLR 17 (2016), Algorithm 1 and section 3.1. Workers are split into three
groups; the mean label vectors of the groups are independent given the truth, so that their second
and third cross moments are Σ_k w_k μ_k⊗μ_k and Σ_k w_k μ_k⊗μ_k⊗μ_k, with μ_k the mean label vector
of a group where the truth is k. Whitening makes the μ_k orthogonal, and the robust tensor power
method (A. Anandkumar et al., JMLR 15, 2014, Algorithm 1) finds them.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64
from scipy.optimize import linear_sum_assignment

from ferjax.truth.annotations import Annotations, OptionError

RESTARTS, POWER_STEPS = 100, 100
LEAST = 1e-6
"""Least probability and eigenvalue: with few labels, moments may give negative ones."""


def start(annotations: Annotations, *, seed: int = 0) -> Float64[np.ndarray, "tasks classes"]:
    """Returns the posteriors of the tasks' classes under confusion matrices from moments.

    Args:
      annotations: of at least three workers.
      seed: of the random groups and of the power method's restarts.

    Raises:
      OptionError: for fewer than three workers.
    """
    check_workers(annotations)
    tasks, workers, classes = annotations.sizes
    group = np.random.default_rng(seed).permutation(np.arange(workers) % 3).astype(np.int32)
    key = jax.random.key(seed)
    triples = annotations.task, annotations.worker, annotations.label
    with jax.enable_x64(True):
        means = _group_means(*triples, group, tasks, classes)
        groups = [_group(means, third, jax.random.fold_in(key, third)) for third in range(3)]
        group_labels, weights = zip(*map(_in_order_of_classes, groups), strict=True)
        matrices = jnp.asarray(np.stack(group_labels))
        prior = np.mean(weights, axis=0)
        prior = jnp.asarray(prior / prior.sum())
        return np.asarray(_posteriors(*triples, group, means, matrices, prior))


def check_workers(annotations: Annotations) -> None:
    """Raises an `OptionError` for fewer than three workers: the method needs three groups."""
    if len(annotations.workers) < 3:
        raise OptionError(
            f"the spectral start needs at least three workers, not {len(annotations.workers)}"
        )


def tensor_power(
    tensor: Float64[Array, "k k k"], key: Array, restarts: int = RESTARTS, steps: int = POWER_STEPS
) -> tuple[Float64[Array, " k"], Float64[Array, "k k"]]:
    """Returns eigenvalues, and eigenvectors as rows, of a symmetric tensor.

    This is the robust tensor power method: the best of `restarts` random starts after `steps` steps
    takes `steps` more and is the next eigenvector, which is then subtracted from the tensor.
    """
    size = tensor.shape[0]

    def power(tensor: Array, vector: Array) -> Array:
        def step(_, v):
            v = jnp.einsum("ijk,j,k->i", tensor, v, v)
            return v / jnp.maximum(jnp.linalg.norm(v), 1e-300)

        return jax.lax.fori_loop(0, steps, step, vector)

    def value(tensor: Array, v: Array) -> Array:
        return jnp.einsum("ijk,i,j,k->", tensor, v, v, v)

    def deflate(tensor: Array, key: Array) -> tuple[Array, tuple[Array, Array]]:
        starts = jax.random.normal(key, (restarts, size), tensor.dtype)
        starts /= jnp.linalg.norm(starts, axis=1, keepdims=True)
        ends = jax.vmap(power, (None, 0))(tensor, starts)
        best = power(tensor, ends[jnp.argmax(jax.vmap(value, (None, 0))(tensor, ends))])
        eigenvalue = value(tensor, best)
        rest = tensor - eigenvalue * jnp.einsum("i,j,k->ijk", best, best, best)
        return rest, (eigenvalue, best)

    _, (values, vectors) = jax.lax.scan(deflate, tensor, jax.random.split(key, size))
    return values, vectors


@partial(jax.jit, static_argnums=(4, 5))
def _group_means(task, worker, label, group, tasks, classes):
    """Returns Z_g, [3, T, K]: each group's sum of label vectors over its number of workers."""
    sizes = jnp.maximum(jnp.bincount(group, length=3), 1).astype(jnp.float64)
    sums = jnp.zeros((3, tasks, classes)).at[group[worker], task, label].add(1.0)
    return sums / sizes[:, None, None]


@partial(jax.jit, static_argnums=1)
def _group(means, third, key):
    """Returns (μ as rows, w) of one group, in the power method's order."""
    tasks = means.shape[1]
    first, second, own = (means[(third + turn) % 3] for turn in (1, 2, 3))
    # Views of the other two groups as if they were this one's: (3) of the paper.
    as_own_1 = first @ (own.T @ second @ jnp.linalg.pinv(first.T @ second)).T
    as_own_2 = second @ (own.T @ first @ jnp.linalg.pinv(second.T @ first)).T
    pairs = as_own_1.T @ as_own_2 / tasks
    triples = jnp.einsum("ti,tj,tk->ijk", as_own_1, as_own_2, own) / tasks
    eigenvalues, vectors = jnp.linalg.eigh((pairs + pairs.T) / 2)
    root = jnp.sqrt(jnp.maximum(eigenvalues, LEAST))[None]
    whitened = jnp.einsum("ijk,ia,jb,kc->abc", triples, *[vectors / root] * 3)
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    symmetric = jnp.mean(jnp.stack([whitened.transpose(order) for order in orders]), axis=0)
    values, eigenvectors = tensor_power(symmetric, key)
    values = jnp.maximum(values, LEAST)
    return values[:, None] * eigenvectors @ (vectors * root).T, values**-2


def _in_order_of_classes(moments: tuple[Array, Array]) -> tuple[np.ndarray, np.ndarray]:
    """Assigns each μ to the class that it favours most; groups must be better than chance."""
    means, weights = map(np.asarray, moments)
    shares = means / np.maximum(np.abs(means).sum(axis=1, keepdims=True), LEAST)
    rows, classes = linear_sum_assignment(-shares)
    order = rows[np.argsort(classes)]
    return means[order], weights[order]


@jax.jit
def _posteriors(task, worker, label, group, means, matrices, prior):
    """Returns the posteriors under the workers' confusion matrices, (6) of the paper."""
    tasks, classes = means.shape[1:]
    workers = group.shape[0]
    other = (group + 1) % 3
    seen = means[other[worker], task]
    joint = jnp.zeros((workers, classes, classes)).at[worker, label].add(seen) / tasks
    back = jnp.linalg.pinv(prior[None, :, None] * matrices)  # of [3, truth, label of the group]
    confusions = joint @ back[other]  # [workers, label, truth]
    confusions = jnp.maximum(confusions, LEAST)
    confusions /= jnp.sum(confusions, axis=1, keepdims=True)
    likelihood = jnp.zeros((tasks, classes)).at[task].add(jnp.log(confusions)[worker, label])
    return jax.nn.softmax(jnp.log(prior)[None] + likelihood)
