"""Losses with one value a face; reduction, masking and weighting happen in the training step."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def cross_entropy(
    logits: Float[Array, "*batch classes"], target: Float[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """Cross-entropy −Σ_c target_c · log softmax(logits)_c, in nats.

    Args:
      logits: unnormalised log-probabilities of the prediction.
      target: probabilities of the target; one-hot for hard labels.
    """
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)


def multi_target(
    logits: Float[Array, "*batch classes"], allowed: Bool[Array, "*batch classes"]
) -> Float[Array, "*batch"]:
    """−log of the largest probability among the classes that count as right, in nats.

    Source: Barsoum et al., Training deep networks for facial expression recognition with
    crowd-sourced label distribution (ICMI 2016), eq. 3. Infinite-free: a face with no class allowed
    costs 0.
    """
    log_probs = jax.nn.log_softmax(logits)
    best = jnp.max(jnp.where(allowed, log_probs, -jnp.inf), axis=-1)
    return jnp.where(jnp.any(allowed, axis=-1), -best, 0.0)


def disagreement(logits: Float[Array, "networks *batch classes"]) -> Float[Array, "*batch"]:
    """Σ_j Σ_{k≠j} KL(p_k ‖ p_j) between all ordered pairs of networks, in nats; 0 for one network.

    Source: Gera & Balasubramanian, Consensual Collaborative Training (2021), the consistency loss.
    Written as Σ_k Σ_c p_k (M·log p_k − Σ_j log p_j): the pair k = j adds nothing. Gradients flow
    through both arguments of every KL.
    """
    log_probs = jax.nn.log_softmax(logits)
    networks = logits.shape[0]
    gap = networks * log_probs - jnp.sum(log_probs, axis=0, keepdims=True)
    return jnp.sum(jnp.exp(log_probs) * gap, axis=(0, -1))
