"""Evaluation counts every face once, on any number of devices, and measures what it says."""

import jax
import numpy as np
import pytest

from ferjax import evaluate, parallel
from ferjax.nn.heads import Head
from ferjax.nn.networks import Weights
from tests import tiny

HEADS = (Head("main", "class"), Head("other", "class"))


def brightness(weights, images):
    """Predicts class 1 for faces that are brighter below; no parameters at all."""
    halves = images.astype("float32").reshape(len(images), 2, -1).mean(axis=-1) + 1
    probs = halves / halves.sum(axis=-1, keepdims=True)
    return {"main": probs, "other": probs[:, ::-1]}


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("faces", [1, 16, 21])
def test_every_face_is_predicted_once_in_row_order(mode, faces):
    split = tiny.split(faces, seed=5)
    devices = parallel.find_devices(mode, jax.devices()[:4])
    sweep = evaluate.Sweeper(brightness, devices, batch_size=8)
    predictions = sweep(Weights({}, {}), split)
    np.testing.assert_array_equal(predictions["main"].argmax(axis=1), split.truth)
    assert predictions["other"].shape == (faces, 2)


def test_measures_of_each_head_and_of_the_main_one():
    split = tiny.split(20, seed=5)
    right = evaluate.right_classes(split, classes=2, multi_target=False)
    perfect = np.eye(2, dtype=np.float32)[split.truth]
    predictions = {"main": perfect, "other": perfect[:, ::-1]}
    values = evaluate.measure(HEADS, predictions, split, right)
    assert values["accuracy"] == values["main/accuracy"] == 1
    assert values["other/accuracy"] == 0
    assert values["uar"] == values["macro_f1"] == 1
    assert sum(map(sum, values["confusion"])) == 20


def test_with_multiple_targets_a_class_with_over_30_percent_of_the_votes_is_right():
    split = tiny.split(3, seed=5)
    votes = np.array([[6, 4], [7, 3], [10, 0]], np.int32)
    split = split._replace(labels=split.labels | {"votes": votes})
    right = evaluate.right_classes(split, classes=2, multi_target=True)
    np.testing.assert_array_equal(right, [[True, True], [True, False], [True, False]])


def test_a_head_of_valence_and_arousal_is_not_scored_as_a_class():
    split = tiny.split(20, seed=5)
    right = evaluate.right_classes(split, classes=2, multi_target=False)
    heads = (Head("class", "class"), Head("va", "va"))
    predictions = {"class": np.eye(2)[split.truth], "va": split.truth_va.astype(np.float64)}
    values = evaluate.measure(heads, predictions, split, right)
    assert (values["class/accuracy"], values["va/ccc"], values["ccc_valence"]) == (1, 1, 1)
    assert values["accuracy"] == 1
    assert "va/accuracy" not in values
    alone = evaluate.measure(heads[1:], predictions, split, right)
    assert alone["rmse"] == 0
    assert "accuracy" not in alone
