"""Sums over segments are those of a loop, for all sizes, and few shapes are compiled."""

import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.truth import segments


@pytest.mark.parametrize("free_rows", [0, segments.FREE_ROWS])
def test_totals_are_those_of_a_loop(monkeypatch, free_rows):
    monkeypatch.setattr(segments, "FREE_ROWS", free_rows)
    rng = np.random.default_rng(0)
    sizes = np.array([[0, 1, 5, 8, 9, 40, 200, 3], [2, 0, 0, 17, 1, 100, 7, 30]], np.int32)
    values = np.append(rng.normal(size=(50, 4)), np.zeros((1, 4)), axis=0).astype(np.float32)
    rows = [rng.integers(0, 50, total).astype(np.int32) for total in sizes.sum(axis=1)]
    layout = segments.lay_out(rows, sizes, none=50)
    for shard, mine in enumerate(rows):
        blocks = tuple(jnp.asarray(block[shard]) for block in layout.blocks)
        found = segments.total(jnp.asarray(values), blocks)[layout.place[shard]]
        parts = np.split(mine, np.cumsum(sizes[shard])[:-1])
        expected = np.stack([values[part].sum(axis=0) for part in parts])
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sizes_that_differ_widely_share_few_shapes():
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.02, (1, 20_000)).astype(np.int32)
    rows = [np.zeros(sizes.sum(), np.int32)]
    blocks = segments.lay_out(rows, sizes, none=1).blocks
    assert len(blocks) < 20
    assert sum(block.size for block in blocks) < 1.3 * sizes.sum()
