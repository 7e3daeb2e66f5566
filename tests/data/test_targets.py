"""What a face is trained on: one answer for training, balancing, validation and reports."""

import numpy as np
import pytest

from ferjax.data.record import InMemory, Split
from ferjax.data.targets import targets, valence_arousal
from ferjax.errors import UserError

ANNOTATIONS = [[0, 2], [1, -1], [-1, 2], [-1, -1]]
VOTES = [[5, 0, 5], [7, 2, 1], [4, 3, 3], [0, 0, 0]]
POSTERIORS = [[0.9, 0.1, 0], [0, 1, 0], [0.2, 0.3, 0.5], [0, 0, 0]]
CODERS = ("anna", "ben")


def split(annotations=ANNOTATIONS, votes=VOTES, names=None) -> Split:
    annotations = np.array(annotations, np.int32)
    count = len(annotations)
    labels = {
        "annotations": annotations,
        "va": np.full((*annotations.shape, 2), np.nan, np.float32),
    }
    if votes is not None:
        labels["votes"] = np.array(votes, np.int32)
    return Split(
        images=InMemory(np.zeros((count, 8, 8, 1), np.uint8)),
        labels=labels,
        truth=np.full(count, -1, np.int32),
        truth_va=np.full((count, 2), np.nan, np.float32),
        names=names or [f"{row}.png" for row in range(count)],
    )


def targets_of(label, faces=None, *, coders=CODERS, seed=0, posteriors=None):
    faces = faces or split()
    return targets(faces, label, coders=coders, classes=3, seed=seed, posteriors=posteriors)


def test_a_coders_name_takes_that_coders_annotation():
    probs, given = targets_of("ben")
    np.testing.assert_array_equal(probs, [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(given, [2, -1, 2, -1])


def test_majority_takes_the_most_chosen_class_and_where_tied_one_drawn_once():
    tied = split([[2, 2, 1], [-1, 2, -1], [-1, -1, -1]] + [[1, 0, -1]] * 200, votes=None)
    probs, given = targets_of("majority", tied, coders=("a", "b", "c"))
    np.testing.assert_array_equal(given[:3], [2, 2, -1])
    assert set(given[3:]) == {0, 1}
    assert 0.4 < np.mean(given[3:]) < 0.6
    np.testing.assert_array_equal(probs.sum(axis=1), given >= 0)
    np.testing.assert_array_equal(probs.argmax(axis=1)[given >= 0], given[given >= 0])


def test_ties_are_drawn_by_seed_and_file_name_and_by_nothing_else():
    faces = split([[1, 0]] * 60, votes=None)
    straight = targets_of("majority", faces).given
    turned = targets_of("majority", faces.take(np.arange(60, dtype=np.int32)[::-1])).given
    np.testing.assert_array_equal(turned[::-1], straight)
    assert (targets_of("majority", faces, seed=1).given != straight).any()
    np.testing.assert_array_equal(targets_of("soft", faces).given, straight)
    np.testing.assert_array_equal(targets_of("random", faces).given, straight)


def test_soft_takes_shares_of_annotations():
    faces = split([[2, 2, 1], [1, 0, -1], [-1, -1, -1]], votes=None)
    probs, _ = targets_of("soft", faces, coders=("a", "b", "c"))
    np.testing.assert_allclose(probs, [[0, 1 / 3, 2 / 3], [0.5, 0.5, 0], [0, 0, 0]], atol=1e-6)


def test_inferred_takes_the_likeliest_class_and_posterior_the_probabilities():
    posteriors = np.array(POSTERIORS, np.float32)
    probs, given = targets_of("inferred", posteriors=posteriors)
    np.testing.assert_array_equal(given, [0, 1, 2, -1])
    np.testing.assert_array_equal(probs, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_allclose(targets_of("posterior", posteriors=posteriors).probs, POSTERIORS)


def test_the_majority_stands_in_for_truth_inference_before_it_has_run():
    np.testing.assert_array_equal(targets_of("inferred").given, targets_of("majority").given)


def test_votes_are_taken_as_shares():
    expected = [[0.5, 0, 0.5], [0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0, 0, 0]]
    np.testing.assert_allclose(targets_of("votes").probs, expected, rtol=1e-6)


def test_multi_target_allows_every_class_with_more_than_thirty_percent():
    probs, given = targets_of("multi_target")
    np.testing.assert_array_equal(probs, [[1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    assert given.tolist()[1:] == [0, 0, -1]


@pytest.mark.parametrize("label", ["votes", "multi_target"])
def test_votes_need_a_dataset_that_has_them(label):
    with pytest.raises(UserError, match=f"label='{label}' needs a dataset with votes"):
        targets_of(label, split(votes=None))


def test_an_unknown_label_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"'carl' is none of .*random.*anna, ben"):
        targets_of("carl")


def test_valence_and_arousal_are_the_mean_over_coders_who_gave_both():
    nan = np.nan
    va = np.array([[[0.2, 0.4], [0.4, 0.0]], [[nan, 0.1], [0.5, -0.5]], [[nan, nan]] * 2])
    mean = valence_arousal(va.astype(np.float32))
    np.testing.assert_allclose(mean, [[0.3, 0.2], [0.5, -0.5], [nan, nan]], rtol=1e-6)
