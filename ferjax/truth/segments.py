"""Sums over segments of unlike sizes as gathers alone: a scatter would run on one CPU core.

A segment's rows lie in chunks of up to `WIDTH`, and segments of like size share a dense block of
chunks. A chunk is summed by adding gathers, which XLA fuses into one pass over the block.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

WIDTH = 8
"""Rows of a chunk."""

FREE_ROWS = 1 << 14
"""So many rows of padding cost nothing worth compiling for."""

Blocks = tuple[Int32[Array, "_ _ _"], ...]


class Layout(NamedTuple):
    """Which rows make up each segment of each shard; shards have equal shapes.

    Attributes:
      blocks: each [shards, segments of the block, chunks, rows of a chunk] int32, places of rows;
        where a segment has fewer, the place after the last.
      place: [shards, segments] int32, of each segment in the blocks, one after another.
    """

    blocks: tuple[Int32[np.ndarray, "shards _ _ _"], ...]
    place: Int32[np.ndarray, "shards _"]

    @property
    def rows(self) -> int:
        """Segments of all blocks of a shard, with those that only fill up."""
        return sum(block.shape[1] for block in self.blocks)


def lay_out(
    rows: Sequence[Int32[np.ndarray, " _"]],
    sizes: Int32[np.ndarray, "shards segments"],
    none: int,
) -> Layout:
    """Lays out segments.

    Args:
      rows: for each shard the places of rows, segment after segment.
      sizes: rows of each segment of each shard.
      none: the place that stands for no row.
    """
    shapes = _padded(sizes)
    blocks, filled = [], 0
    place = np.zeros(sizes.shape, np.int32)
    starts = np.cumsum(sizes, axis=1, dtype=np.int32) - sizes
    ends = [np.append(part, none).astype(np.int32) for part in rows]
    for shape in np.unique(shapes):
        members = [np.flatnonzero(mine == shape) for mine in shapes]
        count = max(len(some) for some in members)
        block = np.full((len(rows), count, shape), none, np.int32)
        turn = np.arange(shape, dtype=np.int32)
        for shard, some in enumerate(members):
            at = starts[shard, some, None] + turn
            at[turn >= sizes[shard, some, None]] = len(rows[shard])
            np.take(ends[shard], at, out=block[shard, : len(some)], mode="clip")
            place[shard, some] = filled + np.arange(len(some))
        blocks.append(block.reshape(len(rows), count, -1, min(shape, WIDTH)))
        filled += count
    return Layout(tuple(blocks), place)


def total(values: Float[Array, "rows columns"], blocks: Blocks) -> Float[Array, "segments columns"]:
    """The sum of each segment's rows, in the order of one shard's blocks.

    Args:
      values: the last row is zero and stands for no row.
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
    return jnp.einsum("c,ncp->np", jnp.ones(block.shape[1], values.dtype), chunk)


def _padded(sizes: np.ndarray) -> np.ndarray:
    """Rows that each segment is padded to: few different numbers, as each is compiled by itself."""
    chunks = np.maximum(-(-sizes // WIDTH), 1)
    step = 2 ** np.maximum(np.floor(np.log2(chunks)).astype(np.int64) - 2, 0)
    fine = np.where(sizes <= WIDTH, np.maximum(sizes, 1), -(-chunks // step) * step * WIDTH)
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
