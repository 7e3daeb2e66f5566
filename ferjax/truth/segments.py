"""Sums over segments of any sizes, by a program whose size does not depend on the sizes.

The rows of a segment lie in chunks of one width, the same for all segments. A chunk is summed by
adding gathers, which XLA fuses into one vectorised pass on all cores, and the chunks of a segment
by a scatter, which XLA:CPU runs on one core: only the few sums of chunks go through it.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Int32

WIDEST = 8
"""Most rows of a chunk: the gather of each is compiled."""
SCATTER = 2
"""Adding a chunk to its segment takes as long as gathering this many rows."""
ROUND = 16
"""Blocks hold a multiple of this many chunks: XLA:CPU does not vectorise odd numbers."""


class Blocks(NamedTuple):
    """The rows of the segments, with a first axis of shards or of one shard without it.

    Attributes:
      rows: [shards, chunks, width] int32, indices of rows; chunks are padded with the index that
        stands for no row.
      segment: [shards, chunks] int32, of each chunk; None: chunk i is segment i.
    """

    rows: Int32[Array | np.ndarray, "..."]
    segment: Int32[Array | np.ndarray, "..."] | None


def lay_out(
    rows: Int32[np.ndarray, " rows"],
    starts: Int[np.ndarray, "shards parts segments"],
    sizes: Int[np.ndarray, "shards parts segments"],
    none: int,
) -> Blocks:
    """Lays out segments.

    Args:
      rows: indices of rows.
      starts: index in `rows` of the first row of each part of a segment; its others follow.
      sizes: number of rows in it. All first parts are summed before the second ones, so rows of a
        part that lie close together are still in a cache for the next segment.
      none: the index that stands for no row.
    """
    shards, parts, segments = sizes.shape
    width = _width(sizes)
    chunks = -(-sizes // width).reshape(shards, -1)
    alone = parts == 1 and chunks.max() <= 1
    if alone:
        chunks = np.ones_like(chunks)
    counts = chunks.sum(axis=1)
    shard = np.repeat(np.arange(shards), counts)  # of each chunk
    turn = np.arange(len(shard)) - (np.cumsum(counts) - counts)[shard]  # in its shard
    part = np.repeat(np.arange(sizes.size), chunks.reshape(-1))
    first = np.cumsum(chunks) - chunks.reshape(-1)
    skipped = width * (np.arange(len(part)) - first[part])
    column = np.arange(width, dtype=np.int32)
    at = (starts.reshape(-1)[part] + skipped)[:, None] + column
    at[column >= (sizes.reshape(-1)[part] - skipped)[:, None]] = len(rows)
    shape = shards, rounded(int(counts.max()))
    blocks = np.full((*shape, width), none, np.int32)
    blocks[shard, turn] = np.append(rows, np.int32(none))[at]
    if alone:
        return Blocks(blocks, None)
    segment = np.full(shape, segments - 1, np.int32)
    segment[shard, turn] = part % segments
    return Blocks(blocks, segment)


def total(
    values: Float[Array, "rows columns"], blocks: Blocks, segments: int, dtype: DTypeLike
) -> Float[Array, "segments columns"]:
    """Sums the rows of each segment of one shard.

    Args:
      values: one row for each index; the row that stands for none must be zero.
      blocks: of the shard.
      segments: number of segments.
      dtype: in which to add the sums of chunks.
    """
    rows = jnp.asarray(blocks.rows)
    sums = _gather(values, rows[:, 0])
    for row in range(1, rows.shape[1]):
        sums += _gather(values, rows[:, row])
    sums = sums.astype(dtype)
    if blocks.segment is None:
        return sums[:segments]
    return add_at(jnp.zeros((segments, values.shape[1]), dtype), jnp.asarray(blocks.segment), sums)


def add_at(
    totals: Float[Array, "segments columns"],
    segment: Int32[Array, " rows"],
    rows: Float[Array, "rows columns"],
) -> Float[Array, "segments columns"]:
    """Adds each row to that of its segment."""
    return totals.at[segment].add(rows, mode="promise_in_bounds", wrap_negative_indices=False)


def _gather(values: Array, rows: Array) -> Array:
    return values.at[rows].get(mode="promise_in_bounds", wrap_negative_indices=False)


def rounded(count: int) -> int:
    """Returns the least multiple of `ROUND` that is not less."""
    return -(-count // ROUND) * ROUND


def _width(sizes: np.ndarray) -> int:
    """Returns the width of chunks that takes the least time."""
    counts = np.bincount(sizes.reshape(-1))
    distinct = np.flatnonzero(counts)
    widths = np.arange(1, WIDEST + 1)
    chunks = counts[distinct] @ -(-distinct[:, None] // widths)
    alone = widths >= sizes.max()
    times = np.where(alone, sizes.size * widths, chunks * (widths + SCATTER))
    return int(widths[times.argmin()])
