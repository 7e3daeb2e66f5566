"""The analysis of coders: cases of agreement, confusions counted from either truth."""

import numpy as np

from ferjax.report import coders
from tests import tiny


def test_the_five_cases_of_the_paper():
    latent, first, second = np.array([[1, 1, 1], [1, 2, 0], [1, 0, 0], [1, 1, 0], [1, 0, 1]]).T
    assert coders.case_of(latent, first, second).tolist() == [0, 1, 2, 3, 4]


def test_confusions_are_counted_over_faces_with_both():
    shares = coders.counted_confusion(np.array([0, 0, 1, -1, 1]), np.array([0, 1, 1, 1, -1]), 3)
    np.testing.assert_allclose(shares[:2], [[0.5, 0.5, 0], [0, 1, 0]])
    assert np.isnan(shares[2]).all()


def crowd(annotations):
    """The tiny dataset with three coders; the model is right about all of it."""
    data = tiny.dataset(train_size=len(annotations))
    labels = data.train.labels | {"annotations": annotations.astype(np.int32)}
    data = data._replace(coders=("a", "b", "c"))
    data = data.with_split("train", data.train._replace(labels=labels))
    probs = np.eye(2)[data.train.truth].astype(np.float32)
    return data, {"train": probs, "train_rows": np.arange(len(annotations), dtype=np.int32)}


def test_pairs_with_faces_in_common_are_compared_the_largest_first():
    annotations = np.zeros((20, 3), np.int32)
    annotations[15:, 1] = -1
    annotations[5:, 2] = -1
    data, predictions = crowd(annotations)
    shares = coders.agreement(coders.predicted_faces(predictions, data), data)
    assert list(shares) == [("", 0, 1), ("", 0, 2), ("", 1, 2)]
    right = np.mean(data.train.truth[:15] == 0)
    np.testing.assert_allclose(shares["", 0, 1], [right, 0, 1 - right, 0, 0])


def test_figures_are_drawn_for_methods_that_learnt_matrices_alone():
    data, predictions = crowd(np.random.default_rng(0).integers(-1, 2, (20, 3)))
    learnt = {"coders": np.array(data.coders), "transitions": np.tile(np.eye(2), (3, 1, 1))}
    drawn = list(coders.pictures(learnt, predictions, data))
    names = ["transitions.png", "latent_truth.png", "agreement.png", "agreement_cases.png"]
    assert [picture.file for picture in drawn] == names
    assert "agrees with it on 100.0% of these" in drawn[1].caption
    assert "No coder knew the truth." in drawn[1].caption
    assert list(coders.pictures({}, predictions, data)) == []
