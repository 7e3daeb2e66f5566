"""Sums over segments are those of a loop, and the program does not grow with the sizes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.truth import segments


@pytest.mark.parametrize("largest", [1, 5, 1000])
@pytest.mark.parametrize("parts", [1, 3])
def test_totals_are_those_of_a_loop(largest, parts):
    rng = np.random.default_rng(0)
    values = np.append(rng.normal(size=(50, 4)), np.zeros((1, 4)), axis=0).astype(np.float32)
    sizes = rng.integers(0, largest + 1, (2, parts, 20))
    rows = rng.integers(0, 50, sizes.sum()).astype(np.int32)
    ends = np.cumsum(sizes).reshape(sizes.shape)
    blocks = segments.lay_out(rows, ends - sizes, sizes, none=50)
    for shard in range(2):
        own = jax.tree.map(lambda x, shard=shard: jnp.asarray(x[shard]), blocks)
        totals = segments.total(jnp.asarray(values), own, 20, jnp.float32)
        expected = np.zeros((20, 4))
        for part, segment in np.ndindex(parts, 20):
            end, size = ends[shard, part, segment], sizes[shard, part, segment]
            expected[segment] += values[rows[end - size : end]].sum(axis=0)
        np.testing.assert_allclose(totals, expected, atol=1e-3)


def test_the_program_is_as_small_for_a_long_tail_as_for_equal_sizes():
    def operations(sizes: np.ndarray) -> int:
        starts = np.cumsum(sizes) - sizes
        rows = np.zeros(sizes.sum(), np.int32)
        blocks = segments.lay_out(rows, starts[None, None], sizes[None, None], none=1)
        own = jax.tree.map(lambda x: jnp.asarray(x[0]), blocks)
        total = partial(segments.total, segments=len(sizes), dtype=jnp.float32)
        return len(jax.make_jaxpr(total)(jnp.zeros((2, 4), jnp.float32), own).eqns)

    tail = np.random.default_rng(0).zipf(1.3, 2000).clip(max=5000)
    assert operations(tail) <= operations(np.full(500, segments.WIDEST)) + 5


def test_equal_sizes_are_not_padded_and_need_no_scatter():
    sizes = np.full((1, 1, 32), 5)
    starts = np.arange(0, 160, 5).reshape(1, 1, 32)
    blocks = segments.lay_out(np.zeros(160, np.int32), starts, sizes, none=1)
    assert blocks.segment is None
    assert blocks.rows.shape == (1, 32, 5)
