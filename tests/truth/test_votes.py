"""Majority vote and PM: by hand, and what happens where the formula leaves it open."""

import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.truth import OptionError, majority_vote, pm
from ferjax.truth.majority import break_ties
from ferjax.truth.pm import NEVER_WRONG
from tests.truth.test_em import annotations_of, crowd, odd_crowd


def test_majority_gives_fractions_and_says_which_tasks_tie():
    found = majority_vote(annotations_of([(1, 1, 0), (1, 2, 0), (1, 3, 1), (2, 1, 0), (2, 2, 1)]))
    np.testing.assert_allclose(found.posteriors, [[2 / 3, 1 / 3], [1 / 2, 1 / 2]])
    assert found.labels[0] == 0
    assert found.tied.tolist() == [False, True]


def test_ties_are_broken_by_the_seed_each_label_as_often():
    annotations = annotations_of([(t, w, w) for t in range(2000) for w in (0, 1, 2)])
    labels = majority_vote(annotations, seed=1).labels
    np.testing.assert_array_equal(labels, majority_vote(annotations, seed=1).labels)
    assert (labels != majority_vote(annotations, seed=2).labels).any()
    np.testing.assert_allclose(np.bincount(labels) / 2000, 1 / 3, atol=0.05)


def test_pm_by_hand():
    """Votes decide 0, 0, 1, 1; worker 3 disagrees twice, 2 once, 1 never: −log of 0, ½ and ¼."""
    said = {1: (0, 0, 1, 1), 2: (0, 0, 1, 0), 3: (1, 0, 0, 1)}
    annotations = annotations_of([(t, w, v[t]) for w, v in said.items() for t in range(4)])
    found = pm(annotations)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.disagreements.tolist() == [0, 1, 2]
    np.testing.assert_allclose(found.weights, [-np.log(NEVER_WRONG / 2), np.log(2), 0], rtol=1e-6)
    assert (found.iterations, found.converged) == (2, True)


def test_pm_outvotes_a_majority_that_is_often_wrong():
    """Task 0 is 1 say two who disagree with all others elsewhere, and 0 says one who does not."""
    triples = [(t, w, 0) for t in range(1, 9) for w in (1, 2, 3, 4)]
    triples += [(t, w, 1) for t in range(1, 9) for w in (5, 6)]
    annotations = annotations_of([*triples, (0, 1, 0), (0, 5, 1), (0, 6, 1)])
    zero = annotations.tasks.tolist().index(0)
    assert majority_vote(annotations).labels[zero] == 1
    assert pm(annotations).labels[zero] == 0


def test_where_nobody_disagrees_all_weigh_one():
    found = pm(annotations_of([(t, w, t % 2) for t in range(4) for w in range(3)]))
    np.testing.assert_array_equal(found.weights, 1)
    assert found.converged


def test_votes_of_odd_crowds_are_finite():
    found = pm(odd_crowd())
    assert np.isfinite(found.weights).all()
    for votes in (found, majority_vote(odd_crowd())):
        np.testing.assert_allclose(votes.posteriors.sum(axis=1), 1)
        assert (votes.labels >= 0).all()


@pytest.mark.parametrize("iterations", [0, 2**31])
def test_pm_refuses_no_iterations_and_too_many(iterations):
    with pytest.raises(OptionError, match=r"max_iterations must be in \[1, 1,000,000\]"):
        pm(crowd()[0], max_iterations=iterations)


def test_a_draw_next_to_one_picks_the_last_of_those_that_tie():
    draw = jnp.array([1 - 2**-24], jnp.float32)
    assert break_ties(jnp.array([[0, 1, 1, 1]]), draw).tolist() == [3]
