"""Batches of the faces of a split, in an order that depends on (seed, step, rows) alone.

Grain shuffles row numbers, and one map turns a batch of them into faces, so that Grain's cost per
record is that of the shuffle alone. Labels are attached afterwards by row number.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import grain.python as grain
import numpy as np
from absl import flags
from jaxtyping import Int, Int32

from ferjax.data.record import Images, InMemory, Split
from ferjax.errors import UserError

Batch = dict[str, np.ndarray]

CHUNK = 256  # faces decoded at once to fill a cache


class Batches(Iterator[Batch]):
    """An iterator over this process's share of each global batch.

    Close it, or threads and shared memory leak.

    Args:
      batches: Grain's dataset of batches without labels.
      labels: arrays with one row per face, attached to each batch by its `index`.
    """

    def __init__(self, batches: grain.IterDataset[Batch], labels: dict[str, np.ndarray]):
        self._iterator = iter(batches)
        self._labels = labels

    def __next__(self) -> Batch:
        batch = next(self._iterator)
        index = batch["index"]
        return batch | {name: array[index] for name, array in self._labels.items()}

    def __enter__(self) -> "Batches":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the background threads and worker processes."""
        self._iterator.close()


def train_batches(
    split: Split,
    rows: Int32[np.ndarray, " rows"],
    *,
    seed: int,
    batch_size: int,
    start_step: int = 0,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    prefetch: int = 4,
) -> Batches:
    """Returns endless shuffled batches of the given rows, from `start_step` on.

    The global batch of a step depends on its size and on (seed, step, rows) only: the number of
    processes, the starting step and the workers change who loads it, never what it holds. Process
    p of P holds the p-th contiguous block of each. An epoch is ⌊rows / batch_size⌋ steps, each
    epoch is shuffled anew, and no batch spans two.

    Args:
      split: the faces and their labels.
      rows: the faces an epoch draws from; a row listed twice is seen twice.
      seed: of the shuffle, in [0, 2³²).
      batch_size: faces in a global batch.
      start_step: the first step to yield.
      process: (number of this process, number of processes).
      workers: processes that load faces; 0 loads them in threads. Faces in memory need none.
      prefetch: batches to hold ready in each loading process.

    Returns:
      Batches of `image` [batch_size / P, H, W, C] uint8, `index` [batch_size / P] int32 (row in
      the split) and every array of `split.labels`.

    Raises:
      UserError: if the batch is larger than `rows`, or not divisible by the number of processes.
    """
    number, count = process
    local_size = _local_size(batch_size, count)
    if batch_size > len(rows):
        raise UserError(f"batch size {batch_size} is larger than the {len(rows)} training faces")
    epoch = len(rows) // batch_size * batch_size
    order = grain.MapDataset.range(len(rows)).seed(seed).shuffle()[:epoch].repeat()
    # Batches are sliced, not records, so that a process holds one block of the global batch.
    shares = order.batch(local_size, drop_remainder=True, batch_fn=np.asarray)
    shares = shares[start_step * count + number :: count]
    batches = shares.map(_Training(split.images, rows))
    return Batches(_prefetched(batches, split.images, workers, prefetch), split.labels)


def evaluation_batches(
    split: Split,
    *,
    batch_size: int,
    process: tuple[int, int] = (0, 1),
    workers: int = 0,
    prefetch: int = 4,
) -> Batches:
    """Returns batches of every face of the split, once and in row order.

    Global batch b holds the rows from b · batch_size on; the last one is padded. All processes get
    the same number of batches.

    Args:
      split: the faces; labels are not attached.
      batch_size: faces in a global batch.
      process: (number of this process, number of processes).
      workers: processes that load faces; 0 loads them in threads.
      prefetch: batches to hold ready in each loading process.

    Returns:
      Batches of `image` [batch_size / P, H, W, C] uint8, `index` [batch_size / P] int32 and `mask`
      [batch_size / P] bool, false on padding, whose `index` repeats the last row.

    Raises:
      UserError: if the batch is not divisible by the number of processes.
    """
    number, count = process
    local_size = _local_size(batch_size, count)
    padded = -(-len(split.images) // batch_size) * batch_size
    shares = grain.MapDataset.range(padded).batch(local_size, batch_fn=np.asarray)[number::count]
    batches = shares.map(_Evaluation(split.images))
    return Batches(_prefetched(batches, split.images, workers, prefetch), {})


def prediction_batches(
    images: Images,
    rows: Int32[np.ndarray, " rows"],
    *,
    batch_size: int,
    workers: int = 0,
    prefetch: int = 4,
) -> Batches:
    """Returns batches of the given rows, in their order, for this process alone.

    Args:
      images: where faces come from.
      rows: rows of the faces, padded with -1 to a multiple of the batch size.
      batch_size: faces in a batch.
      workers: processes that load faces; 0 loads them in threads.
      prefetch: batches to hold ready in each loading process.

    Returns:
      Batches of `image` [batch_size, H, W, C] uint8, `index` [batch_size] int32 (the row) and
      `mask` [batch_size] bool, false on padding and on faces that cannot be read.
    """
    batches = grain.MapDataset.range(len(rows)).batch(batch_size, batch_fn=np.asarray)
    batches = batches.map(_Prediction(images, rows))
    return Batches(_prefetched(batches, images, workers, prefetch), {})


def check_batch(field: str, size: int, devices: int) -> None:
    """Checks that devices can share a batch equally.

    Raises:
      UserError: naming the field, if they cannot.
    """
    if size < 1 or size % devices:
        raise UserError(f"{field} must be a positive multiple of the {devices} devices, not {size}")


def cache(split: Split) -> Split:
    """Decodes the faces of a split once, into one array in memory.

    Sources whose pictures may be damaged stay as they are: a damaged picture is an error when it is
    read, and the run may never need it.

    Args:
      split: faces all of one shape.

    Returns:
      The split with the faces of all other sources in memory.
    """
    images = split.images.cached(_decoded)
    return split if images is split.images else split._replace(images=images)


def _decoded(images: Images) -> Images:
    """Returns all faces of a source in one array."""
    if not len(images):
        return images
    faces = np.empty((len(images), *images[0].shape), np.uint8)

    def decode(rows: np.ndarray) -> None:
        faces[rows] = images.faces(rows)

    chunks = np.split(np.arange(len(faces)), range(CHUNK, len(faces), CHUNK))
    with ThreadPoolExecutor(_cores()) as pool:
        list(pool.map(decode, chunks))  # a list, so that a face that cannot be read raises here
    return InMemory(faces)


class _Training(NamedTuple):
    """Maps positions in an epoch to faces and their rows; a class, because workers pickle it."""

    images: Images
    rows: np.ndarray

    def __call__(self, positions: Int[np.ndarray, " batch"]) -> Batch:
        index = self.rows[positions]
        return {"image": self.images.faces(index), "index": index}


class _Evaluation(NamedTuple):
    """Maps rows, counted on past the last face, to faces, rows and which of them are real."""

    images: Images

    def __call__(self, rows: Int[np.ndarray, " batch"]) -> Batch:
        last = len(self.images) - 1
        index = np.minimum(rows, last).astype(np.int32)
        return {"image": self.images.faces(index), "index": index, "mask": rows <= last}


class _Prediction(NamedTuple):
    """Maps positions in `rows` to faces, rows and which of them are real and can be read."""

    images: Images
    rows: np.ndarray

    def __call__(self, positions: Int[np.ndarray, " batch"]) -> Batch:
        index = self.rows[positions]
        faces, readable = self.images.read(np.maximum(index, 0))
        return {"image": faces, "index": index, "mask": readable & (index >= 0)}


def _prefetched(
    batches: grain.MapDataset[Batch], images: Images, workers: int, prefetch: int
) -> grain.IterDataset[Batch]:
    if images.in_memory:
        workers = 0  # each would be sent a copy of what is in memory
    threads = 1 if workers else min(_cores(), prefetch)
    dataset = batches.to_iter_dataset(grain.ReadOptions(threads, prefetch))
    if not workers:
        return dataset
    if not flags.FLAGS.is_parsed():  # Grain reads its own flags in each worker
        flags.FLAGS.mark_as_parsed()
    return dataset.mp_prefetch(grain.MultiprocessingOptions(workers, prefetch))


def _local_size(batch_size: int, processes: int) -> int:
    if batch_size % processes:
        raise UserError(f"batch size {batch_size} does not divide by {processes} processes")
    return batch_size // processes


def _cores() -> int:
    return os.cpu_count() or 1
