"""Dropout whose mask depends on the face, not on its position in the batch."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


class Dropout(nn.Module):
    """Dropout (N. Srivastava et al., JMLR 2014), scaled in training instead of evaluation.

    The mask of a face depends on the random stream `dropout`, the layer and the face's row number
    alone, so it does not matter how a batch is spread over devices.

    Attributes:
      rate: the probability of dropping a feature, in [0, 1).
    """

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], index: Int32[Array, " batch"] | None, train: bool
    ) -> Float[Array, "batch ..."]:
        """Drops features in training; returns `x` in evaluation, where `index` may be None."""
        if not train or self.rate == 0:
            return x
        assert index is not None
        key = self.make_rng("dropout")

        def keep(row: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(keep)(index), x / (1 - self.rate), jnp.zeros_like(x))
