"""The record that every dataset, method and figure agrees on."""

import numpy as np
import pytest

from ferjax.data import record


def example() -> record.Split:
    row = np.arange(6)
    return record.Split(
        images=np.full((6, 2, 2, 1), row[:, None, None, None], np.uint8),
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


@pytest.mark.parametrize(
    ("label", "expected"),
    [("ann", [2, -1, 0]), ("majority", [1, -1, 0]), ("random", [1, -1, 0]), ("votes", [2, 0, -1])],
)
def test_given_label_is_the_one_that_the_run_trained_on(label, expected):
    labels = {
        "annotations": np.array([[2, 1, 1], [-1, -1, -1], [0, 0, -1]], np.int32),
        "votes": np.array([[0, 1, 3], [2, 2, 0], [0, 0, 0]], np.int32),
    }
    assert record.given_labels(labels, ("ann", "bob", "cy"), label).tolist() == expected


def test_of_classes_that_were_said_as_often_each_is_given_as_often():
    annotations = np.tile(np.array([[3, 1, -1]], np.int32), (1000, 1))
    given = record.given_labels({"annotations": annotations}, ("ann", "bob", "cy"), "majority")
    assert set(given) == {1, 3}
    np.testing.assert_allclose(np.mean(given == 1), 0.5, atol=0.06)
