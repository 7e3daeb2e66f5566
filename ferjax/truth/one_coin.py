"""The one-coin model: EM with one accuracy for each worker, for workers with few labels.

Y. Zhang, X. Chen, D. Zhou and M. I. Jordan, *Spectral methods meet EM*, JMLR 17 (2016), section 2:
a worker gives the true label with probability p_w, else one of the others, all equally likely.
"""

from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float64

from ferjax.truth import em
from ferjax.truth.annotations import Annotations, read_known


def one_coin(
    annotations: Annotations,
    *,
    pseudo_count: float = 0.0,
    prior: str = "estimate",
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    mesh: Mesh | None = None,
) -> em.Inferred:
    """Infers labels, accuracies and class prior by EM, starting from the shares of labels.

    The result's confusions have p_w on the diagonal and (1 − p_w)/(K − 1) elsewhere. Arguments and
    errors are those of `dawid_skene`; the pseudo-count is added to each worker's counts of right
    and of wrong labels.
    """
    return em.infer(
        annotations,
        _confusions,
        pseudo_count=pseudo_count,
        prior=prior,
        gold=read_known(gold, annotations),
        max_iterations=max_iterations,
        tolerance=tolerance,
        mesh=mesh,
    )


def _confusions(
    counts: Float64[Array, "workers label truth"], pseudo_count: Array
) -> tuple[Float64[Array, "workers label truth"], Float64[Array, ""]]:
    classes = counts.shape[-1]
    right = jnp.trace(counts, axis1=1, axis2=2) + pseudo_count
    wrong = jnp.sum(counts, axis=(1, 2)) - (right - pseudo_count) + pseudo_count
    right, wrong = jnp.maximum(right, em.FLOOR), jnp.maximum(wrong, em.FLOOR)
    log_right, log_wrong = jnp.log(right / (right + wrong)), jnp.log(wrong / (right + wrong))
    each_wrong = log_wrong - jnp.log(classes - 1.0)
    logs = jnp.where(
        jnp.eye(classes, dtype=bool)[None], log_right[:, None, None], each_wrong[:, None, None]
    )
    return logs, pseudo_count * jnp.sum(log_right + log_wrong)
