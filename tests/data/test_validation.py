"""Faces held out for validation: an exact share, by name, judged by the labels they were given."""

import numpy as np
import pytest

from ferjax.data import validation
from ferjax.errors import UserError
from tests import tiny


def noisy():
    """Forty faces, all labelled 0, right or wrong, but for four that nobody labelled."""
    dataset = tiny.dataset(train_size=40)
    given = np.zeros((40, 1), np.int32)
    given[:4] = -1
    labels = dataset.train.labels | {"annotations": given}
    return dataset.with_split("train", dataset.train._replace(labels=labels))


def hold_out(dataset, share=0.25, seed=3):
    given = dataset.train.labels["annotations"][:, 0]
    return validation.hold_out(dataset, share, given=given, seed=seed)


def test_a_share_of_the_labelled_faces_moves_and_is_judged_by_the_label_it_was_given():
    held = hold_out(noisy())
    assert len(held.validation.images) == 9
    assert held.validation.truth.tolist() == [0] * 9
    assert sorted([*held.train.names, *held.validation.names]) == sorted(noisy().train.names)
    assert {"0.png", "1.png", "2.png", "3.png"} <= set(held.train.names)
    assert "9 training faces held out" in held.notes[-1]


def test_the_draw_depends_on_names_and_not_on_their_order():
    dataset = noisy()
    turned = dataset.with_split("train", dataset.train.take(np.arange(40, dtype=np.int32)[::-1]))
    left, right = hold_out(dataset), hold_out(turned)
    assert set(left.validation.names) == set(right.validation.names)
    other = hold_out(dataset, seed=4)
    assert set(left.validation.names) != set(other.validation.names)


def test_a_group_is_held_out_as_a_whole_or_not_at_all():
    dataset = noisy()
    groups = [f"person {row // 4}" for row in range(40)]
    held = hold_out(dataset.with_split("train", dataset.train._replace(groups=groups)))
    assert 9 <= len(held.validation.names) < 13
    assert not set(held.validation.groups) & set(held.train.groups)


def test_valence_and_arousal_of_the_faces_held_out_are_those_given():
    dataset = noisy()
    va = np.random.default_rng(0).uniform(-1, 1, (40, 1, 2)).astype(np.float32)
    split = dataset.train._replace(labels=dataset.train.labels | {"va": va})
    held = hold_out(dataset.with_split("train", split)).validation
    np.testing.assert_array_equal(held.truth_va, held.labels["va"][:, 0])


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.0, r"data.validation must lie in \[0, 1\), not 1.0"),
        (-0.1, r"data.validation must lie in"),
        (0.001, r"data.validation=0.001 holds out 0 of 36 labelled faces"),
        (0.999, r"data.validation=0.999 holds out 36 of 36 labelled faces"),
    ],
)
def test_an_invalid_share_is_named(share, message):
    with pytest.raises(UserError, match=message):
        hold_out(noisy(), share)
