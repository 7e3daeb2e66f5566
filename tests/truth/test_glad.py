"""GLAD: beside a plain EM, crowd-kit, and posteriors worked by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize

from ferjax.truth import OptionError, glad, majority_vote
from tests.truth.test_em import annotations_of, crowd, odd_crowd


def posteriors_of(annotations, abilities, easiness):
    """Multiplies the probabilities of the labels, task by task."""
    tasks, _, classes = annotations.sizes
    rows = np.ones((tasks, classes))
    for task, worker, label in zip(*annotations[3:6], strict=True):
        right = 1 / (1 + np.exp(-abilities[worker] * easiness[task]))
        for truth in range(classes):
            rows[task, truth] *= right if label == truth else (1 - right) / (classes - 1)
    return rows / rows.sum(axis=1, keepdims=True)


def test_a_stationary_point_of_the_plain_em_by_loops():
    """Whitehill's E-step and M-step, with numerical gradients, stay where GLAD has converged."""
    annotations, _ = crowd(seed=4, tasks=7, workers=4, each=3)
    result = glad(annotations, tolerance=1e-13, max_iterations=1000)
    rows = posteriors_of(annotations, result.abilities, result.easiness)
    np.testing.assert_allclose(result.posteriors, rows, atol=1e-6)

    def expected_loss(parameters):
        loss = np.sum((parameters - 1) ** 2) / 2
        for task, worker, label in zip(*annotations[3:6], strict=True):
            right = 1 / (1 + np.exp(-parameters[worker] * np.exp(parameters[4 + task])))
            p = rows[task, label]
            loss -= p * np.log(right) + (1 - p) * np.log((1 - right) / 2)
        return loss

    start = np.append(result.abilities, np.log(result.easiness))
    following = minimize(expected_loss, start + 0.01, options={"gtol": 1e-7}).x
    np.testing.assert_allclose(following, start, atol=1e-4)


def test_abilities_and_posteriors_equal_those_of_crowd_kit():
    """Golden values: crowd-kit 1.4.2, `GLAD(n_iter=150, tol=-inf, m_step_max_iter=200,
    m_step_tol=1e-7)`, whose defaults stop earlier."""
    result = glad(crowd(seed=1, tasks=12, workers=5)[0], tolerance=1e-13, max_iterations=1000)
    abilities = [0.18038, 0.45487, 0.79422, 0.92708, 1.27448]
    np.testing.assert_allclose(result.abilities, abilities, atol=1e-5)
    first = [[0.131278, 0.857774, 0.010948], [0.023635, 0.35621, 0.620154]]
    np.testing.assert_allclose(result.posteriors[:2], first, atol=1e-5)


def test_the_likelihood_of_one_label_by_hand():
    """With one label, p(label = truth) sums to 1/K over classes, whatever α and β: they stay 1."""
    result = glad(annotations_of([("t", "w", 0)], classes=(0, 1, 2)), max_iterations=3)
    right = 1 / (1 + np.exp(-np.e))
    np.testing.assert_allclose(result.easiness, [np.e], rtol=1e-6)
    np.testing.assert_allclose(
        result.posteriors, [[right, (1 - right) / 2, (1 - right) / 2]], rtol=1e-6
    )


def test_the_likelihood_never_falls():
    trace = glad(crowd(seed=2)[0], tolerance=1e-9).log_likelihood
    assert len(trace) > 10
    assert (np.diff(trace) >= 0).all()


def test_it_beats_the_majority_where_abilities_differ():
    annotations, truth = crowd(seed=8, tasks=300, workers=12, classes=4, each=5)
    rates = [
        (result.labels == truth).mean()
        for result in (glad(annotations), majority_vote(annotations))
    ]
    assert rates[0] > rates[1] + 0.02


def test_gold_stays_fixed_and_teaches_the_abilities():
    annotations, _ = crowd(seed=6)
    free = glad(annotations)
    flipped = {task: int((free.labels[task] + 1) % 3) for task in range(30)}
    result = glad(annotations, gold=flipped)
    np.testing.assert_array_equal(result.posteriors[:30], np.eye(3)[list(flipped.values())])
    assert result.abilities.mean() < free.abilities.mean()


def test_odd_crowds_have_finite_posteriors():
    result = glad(odd_crowd())
    np.testing.assert_allclose(result.posteriors.sum(axis=1), 1, rtol=1e-6)
    assert np.isfinite(result.abilities).all()


def test_it_stops_at_the_limit_and_refuses_none():
    assert not glad(crowd()[0], max_iterations=2, tolerance=0.0).converged
    with pytest.raises(OptionError, match=r"max_iterations must be in \[1, 1,000,000\]"):
        glad(crowd()[0], max_iterations=0)
