"""The order of batches: a function of (seed, step, rows), whoever loads them."""

import gc
import itertools
import multiprocessing

import cv2
import numpy as np
import pytest

from ferjax.data import pipeline
from ferjax.data.record import Images, InMemory, Split
from ferjax.errors import UserError

SIDE = 5


class EncodedFaces(Images):
    """Faces as PNG in memory; every pixel of a face holds its row."""

    def __init__(self, count: int, unreadable: int = -1):
        self.unreadable = unreadable
        self.encoded = [
            cv2.imencode(".png", np.full((SIDE, SIDE, 1), row, np.uint8))[1] for row in range(count)
        ]

    def __len__(self) -> int:
        return len(self.encoded)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = [cv2.imdecode(self.encoded[row], cv2.IMREAD_GRAYSCALE) for row in rows]
        return np.stack(each)[..., None], rows != self.unreadable

    def name_of(self, row: int) -> str:
        return f"face{row}.png"


def faces(count: int, unreadable: int = -1) -> Split:
    row = np.arange(count)
    return Split(
        images=EncodedFaces(count, unreadable),
        labels={
            "annotations": np.stack([row, -row], axis=1).astype(np.int32),
            "va": np.stack([row, row], axis=1)[:, None].astype(np.float32) / 1000,
        },
        truth=row.astype(np.int32),
        truth_va=np.zeros((count, 2), np.float32),
        names=[f"face{i}.png" for i in range(count)],
    )


def all_rows(split: Split) -> np.ndarray:
    return np.arange(len(split.images), dtype=np.int32)


def first(batches: pipeline.Batches, steps: int) -> dict[str, np.ndarray]:
    """The first batches, stacked: [steps, local batch, ...]."""
    with batches:
        taken = list(itertools.islice(batches, steps))
    return {name: np.stack([batch[name] for batch in taken]) for name in taken[0]}


def train_order(split, *, rows=None, steps=9, batch_size=8, seed=3, **kwargs) -> np.ndarray:
    rows = all_rows(split) if rows is None else rows
    batches = pipeline.train_batches(split, rows, seed=seed, batch_size=batch_size, **kwargs)
    return first(batches, steps)["index"]


def test_processes_together_hold_the_global_batch_in_order():
    split = faces(37)
    whole = train_order(split)
    for count in (2, 4, 8):
        shares = [train_order(split, process=(number, count)) for number in range(count)]
        np.testing.assert_array_equal(np.concatenate(shares, axis=1), whole)


@pytest.mark.parametrize("start", [1, 4, 5, 40_003])
def test_starting_late_continues_the_same_sequence(start):
    split = faces(37)
    near = train_order(split, start_step=start - 1, steps=4, process=(1, 2))
    late = train_order(split, start_step=start, steps=3, process=(1, 2))
    np.testing.assert_array_equal(late, near[1:])


def test_the_first_batches_are_the_same_wherever_one_starts():
    split = faces(37)
    np.testing.assert_array_equal(train_order(split, start_step=6, steps=3), train_order(split)[6:])


def test_worker_processes_change_nothing():
    split = faces(37)
    rows = all_rows(split)
    plain, worked = (
        first(pipeline.train_batches(split, rows, seed=3, batch_size=8, workers=workers), 9)
        for workers in (0, 2)
    )
    assert plain.keys() == worked.keys() == {"image", "index", "annotations", "va"}
    for name in plain:
        np.testing.assert_array_equal(plain[name], worked[name])


def test_an_epoch_holds_no_face_twice_and_the_next_is_shuffled_anew():
    epochs = train_order(faces(37), steps=12).reshape(3, -1)  # 4 steps of 8, 5 faces left out
    for epoch in epochs:
        assert len(set(epoch)) == 32
    assert len({tuple(epoch) for epoch in epochs}) == 3
    # The faces left out differ too, so that all are seen in the end.
    assert len({frozenset(epoch) for epoch in epochs}) > 1


def test_seeds_give_different_orders_and_none_is_another_ones_next_epoch():
    split = faces(37)
    orders = [train_order(split, seed=seed, steps=4).ravel() for seed in range(3)]
    second_epoch = train_order(split, seed=0, start_step=4, steps=4).ravel()
    for other in orders[1:]:
        assert not np.array_equal(orders[0], other)
        assert not np.array_equal(second_epoch, other)


def test_only_the_given_rows_are_drawn_as_often_as_they_are_listed():
    rows = np.array([30, 2, 2, 2, 9, 11, 30, 4], np.int32)
    epochs = train_order(faces(37), rows=rows, batch_size=4, steps=6).reshape(3, 8)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.sort(rows))


@pytest.mark.parametrize("cached", [False, True])
def test_faces_and_labels_belong_to_the_row_in_index(cached):
    split = faces(37)
    split = pipeline.cache(split) if cached else split
    rows = np.arange(36, -1, -1, dtype=np.int32)
    batches = first(pipeline.train_batches(split, rows, seed=0, batch_size=6, process=(1, 3)), 8)
    index = batches["index"]
    assert index.dtype == np.int32
    assert batches["image"].shape == (8, 2, SIDE, SIDE, 1)
    assert batches["image"].dtype == np.uint8
    expected = np.broadcast_to(index[..., None, None, None], batches["image"].shape)
    np.testing.assert_array_equal(batches["image"], expected)
    np.testing.assert_array_equal(batches["annotations"], split.labels["annotations"][index])
    np.testing.assert_array_equal(batches["va"], split.labels["va"][index])


def test_truth_never_enters_a_training_batch():
    split = faces(8)
    batch = first(pipeline.train_batches(split, all_rows(split), seed=0, batch_size=4), 1)
    assert batch.keys() == {"image", "index", *split.labels}


def test_batches_do_not_share_memory_with_the_faces_in_memory():
    split = pipeline.cache(faces(8))
    with pipeline.train_batches(split, all_rows(split), seed=0, batch_size=8) as batches:
        next(batches)["image"][:] = 255
    faces_now = split.images.faces(np.arange(8))
    np.testing.assert_array_equal(faces_now[:, 0, 0, 0], np.arange(8))


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("total", [1, 15, 16, 17, 37])
def test_evaluation_meets_every_face_once_in_row_order(total, count):
    split = faces(total)
    shares = []
    for number in range(count):
        with pipeline.evaluation_batches(split, batch_size=8, process=(number, count)) as batches:
            shares.append(list(batches))
    assert {len(share) for share in shares} == {-(-total // 8)}  # as many on every process
    whole = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    index = np.concatenate([batch["index"] for batch in whole])
    mask = np.concatenate([batch["mask"] for batch in whole])
    image = np.concatenate([batch["image"] for batch in whole])
    assert (index.dtype, mask.dtype, image.dtype) == (np.int32, np.bool_, np.uint8)
    np.testing.assert_array_equal(index[mask], np.arange(total))
    np.testing.assert_array_equal(image[:, 0, 0, 0], index)
    np.testing.assert_array_equal(mask, np.arange(len(mask)) < total)


def test_evaluation_is_the_same_from_worker_processes_and_from_memory():
    split = faces(13)
    plain = first(pipeline.evaluation_batches(split, batch_size=4), 4)
    worked = first(pipeline.evaluation_batches(split, batch_size=4, workers=2), 4)
    cached = first(pipeline.evaluation_batches(pipeline.cache(split), batch_size=4), 4)
    for name in plain:
        np.testing.assert_array_equal(plain[name], worked[name])
        np.testing.assert_array_equal(plain[name], cached[name])


def test_a_batch_larger_than_an_epoch_is_refused():
    with pytest.raises(UserError, match="batch size 256 is larger than the 37 training faces"):
        train_order(faces(37), batch_size=256)


def test_a_batch_that_does_not_divide_by_the_processes_is_refused():
    split = faces(37)
    with pytest.raises(UserError, match="batch size 8 does not divide by 3 processes"):
        train_order(split, process=(0, 3))
    with pytest.raises(UserError, match="batch size 8 does not divide by 3 processes"):
        pipeline.evaluation_batches(split, batch_size=8, process=(0, 3))


def test_a_face_that_cannot_be_read_is_named_wherever_it_is_decoded():
    split = faces(9, unreadable=7)
    with pytest.raises(UserError, match=r"face7\.png is not a readable picture"):
        pipeline.cache(split)
    for workers in (0, 1):
        batches = pipeline.evaluation_batches(split, batch_size=3, workers=workers)
        with batches, pytest.raises(UserError, match=r"face7\.png is not a readable picture"):
            list(batches)
        # The error's traceback holds semaphores; Python 3.12 warns if they are collected while
        # a later iterator talks to the resource tracker.
        gc.collect()


def test_caching_keeps_everything_but_the_way_to_the_faces():
    split = faces(5)
    cached = pipeline.cache(split)
    assert isinstance(cached.images, InMemory)
    assert cached.images.array.shape == (5, SIDE, SIDE, 1)
    assert cached._replace(images=split.images) is not split
    assert cached._replace(images=split.images) == split
    assert pipeline.cache(cached) is cached


class FacesByTheBatch(EncodedFaces):
    """Remembers how many faces each call asked for."""

    def __init__(self, count: int):
        super().__init__(count)
        self.calls: list[int] = []

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.calls.append(len(rows))
        return super().read(rows)


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_subset_is_read_by_the_batch(in_memory, monkeypatch):
    monkeypatch.setattr(pipeline, "CHUNK", 2)
    source = FacesByTheBatch(9)
    split = faces(9)._replace(images=source)
    split = pipeline.cache(split) if in_memory else split
    rows = np.array([0, 8, 3, 3, 5], np.int32)
    taken = split.take(np.arange(9, dtype=np.int32)).take(rows)
    batches = first(pipeline.evaluation_batches(taken, batch_size=5), 1)
    np.testing.assert_array_equal(batches["image"][0, :, 0, 0, 0], rows)
    if not in_memory:
        assert source.calls == [5]
    cached = pipeline.cache(taken).images.faces(np.arange(5))
    np.testing.assert_array_equal(cached[:, 0, 0, 0], rows)


def test_closed_batches_leave_no_worker_behind():
    with pipeline.evaluation_batches(faces(9), batch_size=3, workers=1) as batches:
        next(batches)
        assert multiprocessing.active_children()
    assert not multiprocessing.active_children()
