"""The spectral start: the power method finds what a tensor is made of, and moments the workers."""

import jax
import numpy as np
import pytest

from ferjax.truth import spectral
from tests.truth.test_em import annotations_of


def test_the_power_method_finds_the_parts_of_an_orthogonal_tensor():
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        parts, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        weights = np.array([3.0, 2.0, 1.5, 0.5])
        tensor = np.einsum("h,hi,hj,hk->ijk", weights, parts, parts, parts)
        values, vectors = spectral.tensor_power(jax.numpy.asarray(tensor), jax.random.key(0))
    order = np.argsort(-np.asarray(values))
    np.testing.assert_allclose(np.asarray(values)[order], weights, rtol=1e-8)
    np.testing.assert_allclose(np.asarray(vectors)[order], parts, atol=1e-8)


def test_the_start_is_nearly_the_truth_where_workers_are_many_and_better_than_chance():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 2000)
    triples = [
        (task, worker, int(truth[task] if rng.random() < 0.6 else rng.integers(0, 3)))
        for task in range(2000)
        for worker in range(9)
    ]
    start = spectral.start(annotations_of(triples), seed=0)
    np.testing.assert_allclose(start.sum(axis=1), 1, atol=1e-9)
    assert (start.argmax(axis=1) == truth).mean() > 0.97
    again = spectral.start(annotations_of(triples), seed=0)
    np.testing.assert_array_equal(start, again)


def test_two_workers_are_too_few():
    with pytest.raises(ValueError, match="at least three workers, not 2"):
        spectral.start(annotations_of([(t, w, t % 2) for t in range(4) for w in (1, 2)]))
