"""Batch normalisation by the statistics of the global batch, under jit and pmap alike."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    S. Ioffe and C. Szegedy, "Batch Normalization", ICML 2015, Algorithm 1. Parameters and running
    statistics are float32, and statistics are computed in at least float32, whatever the type of
    the input; the output has the input's type.

    Attributes:
      momentum: weight of the old running statistics in the new ones.
      epsilon: added to the variance.
      axis_name: pmap's axis, over which the batch is spread, or None under jit.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch channels"], train: bool
    ) -> Float[Array, "*batch channels"]:
        """Normalises by the running statistics; with `train`, by the batch's, and updates them."""
        channels = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        dtype = np.promote_types(x.dtype, jnp.float32)
        wide = x.astype(dtype)
        mean, var = running_mean.value.astype(dtype), running_var.value.astype(dtype)
        if train:
            axes = tuple(range(x.ndim - 1))
            moments = jnp.stack([wide.mean(axes), (wide * wide).mean(axes)])
            if self.axis_name and not self.is_initializing():
                moments = lax.pmean(moments, self.axis_name)
            mean, var = moments[0], jnp.maximum(moments[1] - moments[0] ** 2, 0)
            if not self.is_initializing():
                self._update(running_mean, mean)
                self._update(running_var, var)
        gain = scale.astype(dtype) * lax.rsqrt(var + self.epsilon)
        shift = bias.astype(dtype) - mean * gain
        return (wide * _like(gain, x) + _like(shift, x)).astype(x.dtype)

    def _update(self, running: nn.Variable, value: Float[Array, " channels"]) -> None:
        value = value.astype(running.value.dtype)
        running.value = self.momentum * running.value + (1 - self.momentum) * value


def _like(channels: Array, x: Array) -> Array:
    return channels.reshape((1,) * (x.ndim - 1) + channels.shape)
