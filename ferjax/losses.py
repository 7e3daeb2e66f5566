"""Losses with one value per face; reduction, masking and weighting happen in the training step.

The exception is the concordance correlation, a statistic of the whole batch.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ferjax import parallel


def cross_entropy(
    logits: Float[Array, "*batch classes"], target: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """Returns the cross-entropy −Σ_c target_c · log softmax(logits)_c, in nats.

    Args:
      logits: unnormalised log-probabilities of the prediction.
      target: probabilities of the target; one-hot for hard labels.
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def multi_target(
    logits: Float[Array, "*batch classes"], allowed: Bool[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """Returns −log of the largest probability among the classes that count as right, in nats.

    Source: Barsoum et al., Training deep networks for facial expression recognition with
    crowd-sourced label distribution (ICMI 2016), eq. 3. A face with no allowed class costs 0.
    """
    log_probs = jax.nn.log_softmax(logits)
    best = jnp.max(jnp.where(allowed, log_probs, -jnp.inf), axis=-1)
    return jnp.where(jnp.any(allowed, axis=-1), -best, 0.0)


def disagreement(logits: Float[Array, "networks *batch classes"]) -> Float[Array, "*batch"]:
    """Returns Σ_j Σ_{k≠j} KL(p_k ‖ p_j) over all ordered pairs of networks, in nats.

    Source: Gera & Balasubramanian, Consensual Collaborative Training (2021), the consistency loss.
    Computed as Σ_k Σ_c p_k (M·log p_k − Σ_j log p_j): the pair k = j adds nothing, so one network
    gives 0. Gradients flow through both arguments of every KL.
    """
    log_probs = jax.nn.log_softmax(logits)
    networks = logits.shape[0]
    gap = networks * log_probs - jnp.sum(log_probs, axis=0, keepdims=True)
    return jnp.sum(jnp.exp(log_probs) * gap, axis=(0, -1))


def margins(logits: Float[Array, "*batch classes"]) -> Float[Array, "*batch classes"]:
    """Returns by how much the logit of each class exceeds the largest of the other classes.

    Positive for the predicted class alone. Averaged over training, the margin of the given label is
    low where that label is wrong. Source: G. Pleiss et al., *Identifying Mislabeled Data using the
    Area Under the Margin Ranking*, NeurIPS 2020, Eq. 1 and 2.
    """
    best = jax.lax.top_k(logits, min(2, logits.shape[-1]))[0]
    likeliest = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
    return logits - jnp.where(likeliest, best[..., -1:], best[..., :1])


def concordance(
    predicted: Float[Array, "batch values"],
    target: Float[Array, "batch values"],
    weights: Float[Array, " batch"],
    axis_name: str | None,
) -> Float[Array, " values"]:
    """Returns Lin's concordance correlation coefficient over the global batch, in [-1, 1].

    2·cov / (var_p + var_t + (mean_p − mean_t)²) of each value. It and its gradient are finite for
    any batch; it is 0 for fewer than two faces. Source: L. Lin, "A concordance correlation
    coefficient to evaluate reproducibility", Biometrics 1989.

    Args:
      predicted: numbers of each face, such as valence and arousal.
      target: the true ones; finite also where the weight is 0.
      weights: of the faces, 0 for those that don't count.
      axis_name: pmap's axis, or None under jit.
    """

    def mean(values: Array) -> Array:
        share = parallel.mean_over_faces(values.swapaxes(0, 1), weights, axis_name)[0]
        return parallel.sum(share, axis_name)

    mean_p, mean_t = mean(predicted), mean(target)
    off_p, off_t = predicted - mean_p[None], target - mean_t[None]
    apart = mean(off_p**2) + mean(off_t**2) + (mean_p - mean_t) ** 2
    return 2 * mean(off_p * off_t) / jnp.maximum(apart, 1e-8)
