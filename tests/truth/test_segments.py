"""Sums over segments are those of a loop, for all sizes, and few shapes are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.truth import segments


@pytest.mark.parametrize("free_rows", [0, segments.FREE_ROWS])
def test_totals_are_those_of_a_loop(monkeypatch, free_rows):
    monkeypatch.setattr(segments, "FREE_ROWS", free_rows)
    rng = np.random.default_rng(0)
    sizes = np.array([0, 1, 5, 8, 9, 40, 200, 3, 2, 0, 0, 17, 1, 100, 7, 30], np.int32)
    shard = rng.integers(0, 2, len(sizes)).astype(np.int32)
    values = np.append(rng.normal(size=(50, 4)), np.zeros((1, 4)), axis=0).astype(np.float32)
    rows = rng.integers(0, 50, sizes.sum()).astype(np.int32)
    layout = segments.lay_out(rows, sizes, shard, 2, none=50)
    blocks = [tuple(jnp.asarray(block[number]) for block in layout.blocks) for number in (0, 1)]
    totals = np.stack([segments.total(jnp.asarray(values), of_shard) for of_shard in blocks])
    assert totals.shape[1] == layout.segments
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    expected = np.stack([values[part].sum(axis=0) for part in parts])
    np.testing.assert_allclose(totals[shard, layout.position], expected, atol=1e-4)


def test_sizes_that_differ_widely_share_few_shapes():
    rng = np.random.default_rng(0)
    sizes = rng.geometric(0.02, 20_000).astype(np.int32)
    rows, shard = np.zeros(sizes.sum(), np.int32), np.zeros(len(sizes), np.int32)
    blocks = segments.lay_out(rows, sizes, shard, 1, none=1).blocks
    assert len(blocks) < 20
    assert sum(block.size for block in blocks) < 1.3 * sizes.sum()


def test_sums_are_exact_on_accelerators_that_would_round_products():
    blocks = (jnp.zeros((16, 2, 128), jnp.int32),)
    program = str(jax.make_jaxpr(segments.total)(jnp.zeros((4, 8)), blocks))
    assert "dot_general" in program
    assert program.count("HIGHEST") >= 2 * program.count("dot_general")
