"""Sums over segments of unlike sizes as gathers alone: a scatter would run on one CPU core.

A segment's rows lie in chunks of up to `WIDTH`, and segments of like size share a dense block of
chunks. A chunk is summed by adding gathers, which XLA fuses into one pass over the block.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from ferjax.truth.annotations import stable_order

WIDTH = 8
"""Rows of a chunk."""

FREE_ROWS = 1 << 14
"""So many rows of padding cost nothing worth compiling for."""

TILE = 1 << 16
"""Neighbouring rows that are gathered from at a time, where a segment's rows lie far apart."""
PIECE = 32
"""Most rows of a piece: what of a segment lies in a tile is cut into pieces."""

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


class Tiled(NamedTuple):
    """Segments whose rows lie scattered, tile by tile, so that gathering stays in the caches.

    Attributes:
      pieces: [shards, pieces, rows of a piece] int32, places of rows, or the place after the last.
      layout: of the pieces that make up each segment.
    """

    pieces: Int32[np.ndarray, "shards pieces _"]
    layout: Layout


def lay_out_tiled(
    rows: Sequence[Int32[np.ndarray, " _"]],
    segment: Sequence[Int32[np.ndarray, " _"]],
    segments: int,
    none: int,
) -> Tiled:
    """Lays out segments of scattered rows.

    Args:
      rows: for each shard the places of rows, in any order.
      segment: for each shard the segment of each of them.
      segments: how many there are.
      none: the place that stands for no row.
    """
    mean = sum(map(len, rows)) / len(rows) / segments
    # Tiles leave two full pieces of a segment on average, or there would be more gaps than rows.
    tiles = int(np.clip(mean / (2 * PIECE), 1, -(-none // TILE)))
    width = int(np.clip(2 ** np.floor(np.log2(max(mean / tiles / 2, 1))), 1, PIECE))
    cut = [
        _cut(*shard, segments, -(-none // tiles), tiles, width)
        for shard in zip(rows, segment, strict=True)
    ]
    count = max(len(starts) for _, starts, _, _ in cut)
    pieces = np.full((len(rows), count, width), none, np.int32)
    places, sizes = [], np.zeros((len(rows), segments), np.int32)
    turn = np.arange(width, dtype=np.int32)
    for shard, (ordered, starts, ends, owner) in enumerate(cut):
        at = starts[:, None] + turn
        at[at >= ends[:, None]] = len(ordered)
        np.take(
            np.append(ordered, np.int32(none)), at, out=pieces[shard, : len(starts)], mode="clip"
        )
        places.append(stable_order(owner, segments))
        sizes[shard] = np.bincount(owner, minlength=segments)
    return Tiled(pieces, lay_out(places, sizes, none=count))


def _cut(rows, segment, segments, tile, tiles, width):
    """One shard's rows by tile and segment; and first row, end and segment of each piece."""
    run = rows // np.int32(tile) * np.int32(segments) + segment
    sizes = np.bincount(run, minlength=tiles * segments).astype(np.int32)
    count = -(-sizes // width)
    of_run = np.repeat(np.arange(len(sizes), dtype=np.int32), count)
    ends = np.cumsum(sizes, dtype=np.int32)
    turn = (
        np.arange(len(of_run), dtype=np.int32) - (np.cumsum(count, dtype=np.int32) - count)[of_run]
    )
    starts = (ends - sizes)[of_run] + turn * np.int32(width)
    return rows[stable_order(run, len(sizes))], starts, ends[of_run], of_run % np.int32(segments)


def total(values: Float[Array, "rows columns"], blocks: Blocks) -> Float[Array, "segments columns"]:
    """The sum of each segment's rows, in the order of one shard's blocks.

    Args:
      values: the last row is zero and stands for no row.
      blocks: of one shard.
    """
    return jnp.concatenate([_block_total(values, block) for block in blocks])


def total_tiled(
    values: Float[Array, "rows columns"], pieces: Int32[Array, "pieces _"], blocks: Blocks
) -> Float[Array, "segments columns"]:
    """The sum of each segment's rows, in the order of the blocks; of one shard.

    Args:
      values: the last row is zero and stands for no row.
      pieces: of `Tiled`.
      blocks: of its layout.
    """
    # Padding copies the sums: their gathers would be fused with those that follow, and repeated.
    sums = jnp.pad(_chunk_total(values, pieces), ((0, 1), (0, 0)))
    return total(sums, blocks)


def _chunk_total(values: Array, chunks: Array) -> Array:
    """The sum of each chunk's rows, its last axis, in one pass."""
    result = values.at[chunks[..., 0]].get(mode="promise_in_bounds")
    for row in range(1, chunks.shape[-1]):
        result += values.at[chunks[..., row]].get(mode="promise_in_bounds")
    return result


def _block_total(values: Array, block: Array) -> Array:
    chunk = _chunk_total(values, block)
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
