"""Sums over segments of different sizes by gathers: a scatter would run on one CPU core.

A segment's rows lie in chunks of up to `WIDTH`, and segments of similar size share a dense block
of chunks. A chunk is summed by adding gathers, which XLA fuses into one pass over the block.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from ferjax.truth.annotations import stable_order

STEP = 8
"""Segments with more rows than this are padded to a multiple of it."""
WIDTH = 128
"""Most rows of a chunk."""

ROUND = 16
"""Blocks hold a multiple of this many segments: XLA:CPU does not vectorise odd numbers."""

FREE_ROWS = 1 << 14
"""Padding by up to this many rows is cheaper than compiling another shape."""

Blocks = tuple[Int32[Array, "_ _ _"], ...]


class Layout(NamedTuple):
    """Which rows make up each segment of each shard; shards have equal shapes.

    Attributes:
      blocks: each [shards, segments of the block, chunks, rows of a chunk] int32, indices of rows;
        shorter segments are padded with the index that stands for no row. Blocks are filled up
        with empty segments; the last segment is always empty.
      position: [segments] int32, of each segment in its shard's blocks, counted through them.
    """

    blocks: tuple[Int32[np.ndarray, "shards _ _ _"], ...]
    position: Int32[np.ndarray, " segments"]

    @property
    def segments(self) -> int:
        """Number of segments in all blocks of a shard, padding included."""
        return sum(block.shape[1] for block in self.blocks)


def lay_out(
    rows: Int32[np.ndarray, " rows"],
    sizes: Int32[np.ndarray, " segments"],
    shard: Int32[np.ndarray, " segments"],
    shards: int,
    none: int,
) -> Layout:
    """Sorts segments of rows by size into padded blocks, alike on every shard.

    Args:
      rows: indices of rows, segment after segment.
      sizes: number of rows in each segment.
      shard: the shard of each segment. A block is as long as the shard with most segments of that
        size needs, so all shards should have similar sizes.
      shards: number of shards.
      none: the index that stands for no row.
    """
    shapes = _padded(sizes)
    blocks, filled = [], 0
    position = np.zeros(len(sizes), np.int32)
    starts = np.cumsum(sizes, dtype=np.int32) - sizes
    rows = np.append(rows, np.int32(none))
    for shape in np.unique(shapes):
        members = np.flatnonzero(shapes == shape)
        turn = _turn(shard[members], shards)
        count = int(turn.max()) + 1 + int(shape == shapes.max())  # one more ends the last block
        count = -(-count // ROUND) * ROUND
        at = starts[members, None] + np.arange(shape, dtype=np.int32)
        at[at >= (starts + sizes)[members, None]] = len(rows) - 1
        block = np.full((shards, count, shape), none, np.int32)
        block[shard[members], turn] = rows[at]
        width = shape if shape <= WIDTH else math.gcd(int(shape), WIDTH)
        blocks.append(block.reshape(shards, count, -1, width))
        position[members] = filled + turn
        filled += count
    return Layout(tuple(blocks), position)


def total(values: Float[Array, "rows columns"], blocks: Blocks) -> Float[Array, "segments columns"]:
    """Sums the rows of each segment, in the order of one shard's blocks.

    Args:
      values: one row for each index; the row that stands for none must be zero.
      blocks: of one shard.
    """
    return jnp.concatenate([_block_total(values, block) for block in blocks])


def _block_total(values: Array, block: Array) -> Array:
    chunk = values.at[block[..., 0]].get(mode="promise_in_bounds")
    for row in range(1, block.shape[-1]):
        chunk += values.at[block[..., row]].get(mode="promise_in_bounds")
    if block.shape[1] == 1:
        return chunk[:, 0]
    # A reduction would be fused with the gathers and repeat them; a product with ones is not.
    ones = jnp.ones(block.shape[1], values.dtype)
    return jnp.einsum("c,ncp->np", ones, chunk, precision="highest")  # else bfloat16 on a TPU


def _turn(shard: np.ndarray, shards: int) -> np.ndarray:
    """Counts how many segments of the same shard come before each segment."""
    sizes = np.bincount(shard, minlength=shards)
    turn = np.empty(len(shard), np.int32)
    turn[stable_order(shard, shards)] = np.arange(len(shard)) - np.repeat(
        np.cumsum(sizes) - sizes, sizes
    )
    return turn


def _padded(sizes: np.ndarray) -> np.ndarray:
    """Returns the padded size of each segment; few sizes, as each is compiled separately."""
    chunks = np.maximum(-(-sizes // STEP), 1)
    step = 2 ** np.maximum(np.floor(np.log2(chunks)).astype(np.int64) - 2, 0)
    fine = np.where(sizes <= STEP, np.maximum(sizes, 1), -(-chunks // step) * step * STEP)
    shapes, counts = (list(x) for x in np.unique(fine, return_counts=True))
    allowance = max(FREE_ROWS, sizes.sum() // 20)
    while len(shapes) > 1:
        costs = [n * (up - at) for n, at, up in zip(counts, shapes, shapes[1:], strict=False)]
        cheapest = int(np.argmin(costs))
        allowance -= costs[cheapest]
        if allowance < 0:
            break
        counts[cheapest + 1] += counts[cheapest]
        del counts[cheapest], shapes[cheapest]
    return np.array(shapes)[np.searchsorted(shapes, fine)]
