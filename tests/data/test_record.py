"""The record that every dataset, method and figure agrees on."""

import numpy as np
import pytest

from ferjax.data import record
from ferjax.errors import UserError


def example() -> record.Split:
    row = np.arange(6)
    return record.Split(
        images=record.InMemory(np.full((6, 2, 2, 1), row[:, None, None, None], np.uint8)),
        labels={
            "annotations": np.stack([row, row + 10], axis=1).astype(np.int32),
            "votes": np.tile(row[:, None], (1, 8)).astype(np.int32),
        },
        truth=row.astype(np.int32),
        truth_va=np.stack([row / 10, -row / 10], axis=1).astype(np.float32),
        names=[f"face{i}" for i in row],
        groups=[f"subject{i // 2}" for i in row],
    )


def test_classes_keep_affectnets_order():
    assert record.CLASSES == (
        "neutral",
        "happy",
        "sad",
        "surprise",
        "fear",
        "disgust",
        "anger",
        "contempt",
    )


def test_take_gives_every_field_of_the_rows_in_the_order_asked():
    rows = np.array([4, 0, 4, 5], np.int32)
    taken = example().take(rows)
    assert len(taken.images) == 4
    assert [int(taken.images[i][0, 0, 0]) for i in range(4)] == rows.tolist()
    np.testing.assert_array_equal(taken.labels["annotations"][:, 1], rows + 10)
    np.testing.assert_array_equal(taken.labels["votes"][:, 7], rows)
    np.testing.assert_array_equal(taken.truth, rows)
    np.testing.assert_array_equal(taken.truth_va, example().truth_va[rows])
    assert taken.names == ["face4", "face0", "face4", "face5"]
    assert taken.groups == ["subject2", "subject0", "subject2", "subject2"]


def test_taking_twice_is_taking_the_composed_rows():
    outer, inner = np.array([5, 3, 1], np.int32), np.array([2, 0], np.int32)
    twice = example().take(outer).take(inner)
    once = example().take(outer[inner])
    assert [int(face[0, 0, 0]) for face in (twice.images[0], twice.images[1])] == [1, 5]
    np.testing.assert_array_equal(twice.truth, once.truth)
    assert twice.names == once.names


def test_taking_no_rows_leaves_an_empty_split_of_the_same_fields():
    taken = example().take(np.array([], np.int32))
    assert len(taken.images) == 0
    assert taken.labels["votes"].shape == (0, 8)
    assert taken.names == []


def test_a_split_without_groups_stays_without():
    assert example()._replace(groups=()).take(np.array([1], np.int32)).groups == ()


def test_sources_one_after_the_other_are_read_in_one_call_each():
    class Counted(record.InMemory):
        calls = 0

        def read(self, rows):
            self.calls += 1
            return super().read(rows)

    def counted(values):
        array = np.full((len(values), 2, 2, 1), 0, np.uint8)
        array[:] = np.array(values, np.uint8)[:, None, None, None]
        return Counted(array)

    first, second = counted([0, 1, 2]), counted([3, 4])
    joined = record.Concatenated([first, counted([]), second])
    faces, readable = joined.read(np.array([4, 0, 3, 1, 4]))
    assert faces[:, 0, 0, 0].tolist() == [4, 0, 3, 1, 4]
    assert readable.all()
    assert (first.calls, second.calls) == (1, 1)
    assert joined.name_of(4) == "picture 1"


def test_a_damaged_picture_is_named_when_it_is_wanted():
    class Damaged(record.InMemory):
        def read(self, rows):
            return self.array[rows], rows != 1

        def name_of(self, row):
            return f"face{row}.png"

    subset = record.Subset(Damaged(np.zeros((3, 2, 2, 1), np.uint8)), np.array([2, 1]))
    assert subset[0].shape == (2, 2, 1)
    with pytest.raises(UserError, match=r"face1\.png is not a readable picture"):
        subset.faces(np.array([0, 1]))


def test_every_split_but_those_of_training_is_a_test_split():
    names = ("train", "test", "validation", "pool", "sfew")
    dataset = record.Dataset(("a",), (), (2, 2, 1), {name: example() for name in names})
    assert list(dataset.tests) == ["test", "sfew"]
    assert dataset.with_split("ck", example()).tests.keys() == {"test", "sfew", "ck"}
    assert "ck" not in dataset.splits
