import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.nn.pooling import max_pool


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (2, 7, 5, 3), (2, 1, 2, 3)])
def test_max_pool_equals_linen_in_value_and_gradient(shape):
    x = jax.random.permutation(jax.random.key(0), jnp.arange(np.prod(shape), dtype=jnp.float32))
    x = x.reshape(shape)

    def run(pool):
        value, pull = jax.vjp(pool, x)
        return value, *pull(jnp.sin(value))

    linen = lambda x: nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))  # noqa: E731
    for actual, expected in zip(run(lambda x: max_pool(x, 3, 2, 1)), run(linen), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_equal_maxima_share_one_gradient():
    gradient = jax.grad(lambda x: max_pool(x, 3, 2, 1).sum())(jnp.zeros((1, 2, 2, 1)))
    assert gradient.sum() == 1
