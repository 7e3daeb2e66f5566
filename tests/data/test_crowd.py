"""Truth inference on faces: rows and coders keep their places, wherever annotations are missing."""

import numpy as np
import pytest

from ferjax.data import crowd
from ferjax.errors import UserError


def annotated(size=300):
    """Anna is always silent on the first face, Ben is always right, Cleo is right half the time."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, size)
    said = np.repeat(truth[:, None], 4, axis=1)
    wrong = rng.random((size, 4)) > [0.8, 1.0, 0.5, 0.8]
    said = np.where(wrong, (said + rng.integers(1, 3, said.shape)) % 3, said)
    said[0] = -1
    said[1, :3] = -1
    return truth, said.astype(np.int32)


@pytest.mark.parametrize("start", ["majority", "spectral"])
def test_posteriors_and_confusions_are_in_the_order_of_rows_and_coders(start):
    truth, said = annotated()
    found = crowd.dawid_skene(said, 3, start=start, seed=0)
    assert (found.posteriors.argmax(axis=1) == truth)[2:].mean() > 0.97
    assert (found.posteriors[0] == 0).all()
    right = np.trace(found.confusions, axis1=1, axis2=2) / 3
    np.testing.assert_allclose(right, [0.8, 1.0, 0.5, 0.8], atol=0.08)
    np.testing.assert_allclose(found.confusions.sum(axis=2), 1, atol=1e-6)


def test_mistakes_are_one_line():
    with pytest.raises(UserError, match="nobody annotated"):
        crowd.dawid_skene(np.full((3, 2), -1, np.int32), 3, start="majority", seed=0)
    with pytest.raises(UserError, match="init must be 'majority' or 'spectral'"):
        crowd.dawid_skene(np.zeros((3, 2), np.int32), 3, start="magic", seed=0)


def test_a_class_that_there_is_not_is_a_mistake_of_the_users():
    with pytest.raises(UserError, match=r"truth inference: .* label 3 is none of the classes"):
        crowd.dawid_skene(np.array([[0, 1], [2, 3]], np.int32), 3, start="majority", seed=0)
