"""What an epoch draws from: every face once, or a weighted draw that is new each epoch."""

import numpy as np
import pytest

from ferjax.data import epochs
from ferjax.errors import UserError

GIVEN = np.repeat(np.array([0, 1, 2, -1], np.int32), [400, 140, 40, 20])
"""Labels of 600 faces: three classes, of unequal sizes, and some faces without one."""


def test_an_epoch_takes_every_face_once():
    epoch = epochs.every_face(80)
    assert epoch.size == 80
    for number in (0, 7):
        np.testing.assert_array_equal(epoch.rows(number), np.arange(80))


def test_the_balanced_draw_takes_every_class_about_as_often_and_as_many_rows_each_epoch():
    epoch = epochs.balanced(GIVEN, 3, seed=0)
    assert epoch.size == 600
    for number in range(3):
        rows = epoch.rows(number)
        assert rows.shape == (600,)
        assert rows.dtype == np.int32
        counts = np.bincount(GIVEN[rows] + 1, minlength=4)
        assert counts[0] == 0
        assert counts[1:].min() > 150
        assert counts[1:].max() < 250


def test_the_balanced_draw_is_a_function_of_the_seed_and_the_epoch():
    epoch, other = epochs.balanced(GIVEN, 3, seed=0), epochs.balanced(GIVEN, 3, seed=1)
    np.testing.assert_array_equal(epoch.rows(1), epoch.rows(1))
    assert not np.array_equal(epoch.rows(1), epoch.rows(2))
    assert not np.array_equal(epoch.rows(1), other.rows(1))


def test_faces_without_any_label_cannot_be_balanced():
    with pytest.raises(UserError, match="balanced: no training face has a label"):
        epochs.balanced(np.full(4, -1, np.int32), 3, seed=0)


def test_sets_of_a_union_are_drawn_from_as_weighted():
    sets = np.repeat(np.array([0, 1, 2], np.int32), [300, 100, 200])
    epoch = epochs.in_proportion(sets, (1.0, 3.0, 0.0), ("a", "b", "c"), seed=0)
    counts = np.bincount(sets[epoch.rows(0)], minlength=3)
    assert counts[2] == 0
    assert 420 < counts[1] < 480


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, float("nan"), 1.0), ("1", "2", "3")],
)
def test_weights_that_do_not_suit_the_sets_are_named(weights):
    sets = np.array([0, 0, 1, 1, 2, 2], np.int32)
    with pytest.raises(UserError, match="set_weights"):
        epochs.in_proportion(sets, weights, ("a", "b", "c"), seed=0)
