"""A warning before training: classes of which there is one training face, or none."""

import logging

import numpy as np

from ferjax.runs import train
from tests import tiny


def test_classes_with_one_face_or_none_are_named(caplog):
    caplog.set_level(logging.WARNING)
    data = tiny.dataset()._replace(classes=("neutral", "happy", "sad", "fear"))
    train.warn_of_rare_classes(tiny.dataset(), 0)
    assert caplog.messages == []
    annotations = data.train.labels["annotations"].copy()
    annotations[0] = 3
    labels = data.train.labels | {"annotations": annotations}
    data = data.with_split("train", data.train._replace(labels=labels))
    train.warn_of_rare_classes(data, 0)
    assert caplog.messages == [
        "warning: no training face of class sad",
        "warning: one training face alone of class fear",
    ]


def test_faces_that_nobody_labelled_are_no_reason_to_warn(caplog):
    data = tiny.dataset()
    labels = data.train.labels | {"annotations": np.full((40, 1), -1, np.int32)}
    train.warn_of_rare_classes(data.with_split("train", data.train._replace(labels=labels)), 0)
    assert caplog.messages == []
