"""Max pooling whose gradient is fast on CPU."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def max_pool(
    x: Float[Array, "*batch height width channels"], size: int, stride: int, padding: int
) -> Float[Array, "*batch out_height out_width channels"]:
    """Takes the maximum over square windows, one axis after the other, padded with minus infinity.

    Its gradient is a sum of slices; that of `nn.max_pool` is a select-and-scatter, which XLA runs
    on one CPU thread. Equal maxima share the gradient.
    """
    lowest = jnp.array(-jnp.inf, x.dtype)
    for axis in (x.ndim - 3, x.ndim - 2):
        edges = [(padding, padding, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        padded = lax.pad(x, lowest, edges)
        last = padded.shape[axis] - size
        x = lax.slice_in_dim(padded, 0, last + 1, stride, axis)
        for start in range(1, size):
            shifted = lax.slice_in_dim(padded, start, start + last + 1, stride, axis)
            x = jnp.maximum(x, shifted)
    return x
