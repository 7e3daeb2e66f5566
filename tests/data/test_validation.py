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
    return dataset._replace(train=dataset.train._replace(labels=labels))


def hold_out(dataset, share=0.25):
    return validation.hold_out(dataset, share, label="coder", seed=3)


def test_a_share_of_the_labelled_faces_moves_and_is_judged_by_the_label_it_was_given():
    held = hold_out(noisy())
    assert len(held.validation.images) == 9
    assert held.validation.truth.tolist() == [0] * 9
    assert sorted([*held.train.names, *held.validation.names]) == sorted(noisy().train.names)
    assert {"0.png", "1.png", "2.png", "3.png"} <= set(held.train.names)
    assert "9 training faces held out" in held.notes[-1]


def test_the_draw_hangs_on_names_and_not_on_their_order():
    dataset = noisy()
    turned = dataset._replace(train=dataset.train.take(np.arange(40, dtype=np.int32)[::-1]))
    left, right = hold_out(dataset), hold_out(turned)
    assert set(left.validation.names) == set(right.validation.names)
    other = validation.hold_out(dataset, 0.25, label="coder", seed=4)
    assert set(left.validation.names) != set(other.validation.names)


def test_a_group_is_held_out_as_a_whole_or_not_at_all():
    dataset = noisy()
    groups = [f"person {row // 4}" for row in range(40)]
    held = hold_out(dataset._replace(train=dataset.train._replace(groups=groups)))
    assert 9 <= len(held.validation.names) < 13
    assert not set(held.validation.groups) & set(held.train.groups)


def test_labels_may_be_those_of_some_coders_alone():
    """The first is always wrong, the others know: a majority of all would be right."""
    dataset = tiny.dataset(train_size=40)
    truth = dataset.train.truth
    said = np.stack([1 - truth, truth, truth], axis=1).astype(np.int32)
    labels = {"annotations": said, "va": np.full((40, 3, 2), np.nan, np.float32)}
    dataset = dataset._replace(
        coders=("a", "b", "c"), train=dataset.train._replace(labels=labels, names=names(truth))
    )
    for coders, right in (((), 1.0), (("a",), 0.0)):
        held = validation.hold_out(dataset, 0.5, label="majority", seed=3, coders=coders)
        known = [int(name[0]) for name in held.validation.names]
        assert np.mean(held.validation.truth == known) == right


def names(truth):
    return [f"{k}-{row}.png" for row, k in enumerate(truth)]


def test_no_share_holds_nothing_out():
    assert hold_out(noisy(), 0.0).validation is None


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (1.0, r"data.validation must lie in \[0, 1\), not 1.0"),
        (-0.1, r"data.validation must lie in"),
        (0.001, r"data.validation=0.001 holds 0 of 36 labelled faces out"),
        (0.999, r"data.validation=0.999 holds 36 of 36 labelled faces out"),
    ],
)
def test_a_share_that_cannot_be_is_named(share, message):
    with pytest.raises(UserError, match=message):
        hold_out(noisy(), share)
