"""Votes weighted by skills, given or estimated: by hand, beside loops and crowd-kit."""

import numpy as np
import pytest

from ferjax.truth import (
    OptionError,
    TableError,
    gold_majority_vote,
    iwmv,
    majority_vote,
    wawa,
    weighted_majority_vote,
    zero_based_skill,
)
from ferjax.truth.votes import Votes
from tests.truth.test_em import annotations_of, crowd, odd_crowd

ESTIMATED = (wawa, zero_based_skill, iwmv)


def scores_of(annotations, weights):
    """Adds up the weights of each task's labels, one by one."""
    scores = np.zeros((len(annotations.tasks), len(annotations.classes)))
    for task, worker, label in zip(*annotations[3:6], strict=True):
        scores[task, label] += weights[worker]
    return scores


def agreement_with(annotations, labels):
    """Returns the share of each worker's labels that equal `labels`, one worker at a time."""
    shares = []
    for worker in range(len(annotations.workers)):
        rows = annotations.worker == worker
        shares.append(np.mean(labels[annotations.task[rows]] == annotations.label[rows]))
    return np.array(shares)


def normalized(scores):
    return scores / scores.sum(axis=1, keepdims=True)


def test_a_skilled_worker_outvotes_two_others():
    annotations = annotations_of([("t", "a", 0), ("t", "b", 1), ("t", "c", 1)])
    voted = weighted_majority_vote(annotations, {"a": 0.9, "b": 0.3, "c": 0.3, "absent": 1.0})
    assert voted.labels.tolist() == [0]
    np.testing.assert_allclose(voted.posteriors, [[0.6, 0.4]], rtol=1e-6)


def test_votes_of_workers_without_skill_count_equally():
    annotations = annotations_of([("t", "a", 0), ("t", "b", 1), ("t", "c", 1), ("u", "d", 0)])
    voted = weighted_majority_vote(annotations, np.array([0.0, 0.0, 0.0, 1.0]))
    np.testing.assert_allclose(voted.posteriors, [[1 / 3, 2 / 3], [1, 0]], rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_equal_skills_are_a_majority_vote_with_the_same_ties(classes):
    annotations, _ = crowd(seed=classes, tasks=300, classes=classes)
    votes = majority_vote(annotations, seed=7)
    voted = weighted_majority_vote(annotations, np.full(9, 2.0), seed=7)
    assert votes.tied.any()
    np.testing.assert_array_equal(voted.labels, votes.labels)
    np.testing.assert_allclose(voted.posteriors, votes.posteriors, rtol=1e-6)


def test_skills_are_read_from_the_table_of_workers(tmp_path):
    path = tmp_path / "workers.csv"
    path.write_text("worker,labels,accuracy\nb,9,0.25\na,9,1\n")
    annotations = annotations_of([("t", "a", 0), ("t", "b", 1)])
    assert weighted_majority_vote(annotations, path).skills.tolist() == [1, 0.25]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a,1\n", r"has no skill of 1 of 2 workers, such as b"),
        ("a,1\na,1\nb,1\n", "worker a has several skills"),
        ("a,1\nb,-1\n", "the skill of worker b must be a finite number of at least 0, not -1"),
        ("a,1\nb,inf\n", "of worker b must be a finite number"),
        ("a,1\nb,good\n", "column skill: could not convert string to float: 'good'"),
    ],
)
def test_a_mistake_in_the_skills_is_named(tmp_path, rows, message):
    path = tmp_path / "skills.csv"
    path.write_text("worker,skill\n" + rows)
    annotations = annotations_of([("t", "a", 0), ("t", "b", 1)])
    with pytest.raises(TableError, match=message) as error:
        weighted_majority_vote(annotations, path)
    assert str(error.value).startswith(str(path))


def test_gold_gives_the_skills_and_strangers_get_the_mean():
    """On gold a is right once in two and b twice; c met none of it: 3 of 4 labels were right."""
    triples = [("g", "a", 0), ("g", "b", 0), ("h", "a", 0), ("h", "b", 1)]
    annotations = annotations_of([*triples, ("t", "a", 0), ("t", "b", 1), ("t", "c", 0)])
    voted = gold_majority_vote(annotations, gold={"g": 0, "h": 1})
    assert voted.skills.tolist() == [0.5, 1, 0.75]
    assert voted.labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(voted.posteriors, [[1, 0], [0, 1], [5 / 9, 4 / 9]], rtol=1e-6)


def test_a_vote_by_gold_without_gold_is_refused():
    with pytest.raises(OptionError, match="gold_majority_vote needs gold"):
        gold_majority_vote(crowd()[0], gold=None)


def test_wawa_equals_a_loop():
    annotations, _ = crowd(seed=3, classes=4)
    skills = agreement_with(annotations, majority_vote(annotations, seed=1).labels)
    voted = wawa(annotations, seed=1)
    np.testing.assert_allclose(voted.skills, skills, rtol=1e-12)
    np.testing.assert_allclose(
        voted.posteriors, normalized(scores_of(annotations, skills)), rtol=1e-6
    )


def test_zero_based_skill_equals_a_loop():
    """Until 20 iterations the rate is 1; an odd number of votes of two classes is never tied."""
    annotations, _ = crowd(seed=4, tasks=200, workers=25, classes=2, each=3)
    skills, rate = np.full(25, 1 / 2 + 1e-5), 1.0
    for iteration in range(1, 101):
        rate = rate / 2 if iteration % 20 == 0 else rate
        labels = scores_of(annotations, skills).argmax(axis=1)
        skills = skills + rate * (agreement_with(annotations, labels) - skills)
    voted = zero_based_skill(annotations)
    np.testing.assert_allclose(voted.skills, skills, atol=1e-9)
    np.testing.assert_allclose(
        voted.posteriors, normalized(scores_of(annotations, skills)), rtol=1e-5
    )
    assert voted.converged
    assert not zero_based_skill(annotations, max_iterations=1).converged


def test_iwmv_equals_a_loop():
    annotations, _ = crowd(seed=5, tasks=200, workers=25, classes=3, each=5)
    labels = majority_vote(annotations).labels
    for _ in range(30):
        weights = 3 * agreement_with(annotations, labels) - 1
        scores = scores_of(annotations, weights)
        labels = scores.argmax(axis=1)
    voted = iwmv(annotations)
    np.testing.assert_array_equal(voted.labels, labels)
    np.testing.assert_allclose(3 * voted.skills - 1, weights, rtol=1e-9)
    odds = np.exp(1.5 * scores)
    np.testing.assert_allclose(voted.posteriors, normalized(odds), rtol=1e-5)
    assert voted.converged


def test_iwmv_takes_a_class_that_nobody_gave_from_workers_worse_than_chance():
    """Worker s is always wrong, so that its weight is −1: alone on a task, it speaks for others."""
    triples = [(t, w, 0) for t in range(9) for w in "abc"] + [(t, "s", 1) for t in range(9)]
    voted = iwmv(annotations_of([*triples, (9, "s", 1)], classes=(0, 1, 2)))
    assert voted.skills.tolist() == [1, 1, 1, 0]
    assert voted.labels[9] in (0, 2)
    odds = np.exp([0, -1.5, 0])
    np.testing.assert_allclose(voted.posteriors[9], odds / odds.sum(), rtol=1e-6)


def test_of_several_classes_that_nobody_gave_the_draw_decides():
    pairs = annotations_of([(0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 1, 3)], classes=range(5))
    votes = Votes.of(pairs, np.int32([-1, -1, -1]))
    labels = votes.winners(np.full(4, -1.0), np.array([0.24, 0.26, 0.99]))
    assert labels.tolist() == [0, 2, 4]


def test_skills_and_posteriors_equal_those_of_crowd_kit():
    """Golden values: crowd-kit 1.4.2 on the same crowd; the sums of squares of all posteriors."""
    annotations, truth = crowd(seed=3, classes=2, each=5)
    agreement = [0.787879, 0.911765, 0.810811, 0.636364, 0.875, 0.871795, 0.939394, 0.724138]
    for voted in (wawa(annotations), zero_based_skill(annotations)):
        np.testing.assert_allclose(voted.skills, [*agreement, 0.966667], atol=1e-6)
        np.testing.assert_allclose((voted.posteriors**2).sum(), 46.93865, rtol=1e-6)
    gold = {task: int(truth[task]) for task in range(10)}
    skills = gold_majority_vote(annotations, gold=gold).skills
    expected = [0.666667, 0.714286, 0.8, 0.714286, 1, 1, 1, 0.75, 1]
    np.testing.assert_allclose(skills, expected, atol=1e-6)
    voted = weighted_majority_vote(annotations, np.linspace(0.2, 0.95, 9) ** 2)
    np.testing.assert_allclose((voted.posteriors**2).sum(), 48.589703, rtol=1e-6)


@pytest.mark.parametrize("infer", ESTIMATED)
def test_gold_stays_fixed_and_teaches_the_skills(infer):
    annotations, _ = crowd(seed=6)
    free = infer(annotations)
    flipped = {task: int((free.labels[task] + 1) % 3) for task in range(20)}
    voted = infer(annotations, gold=flipped)
    assert voted.labels[:20].tolist() == list(flipped.values())
    np.testing.assert_array_equal(voted.posteriors[:20], np.eye(3)[list(flipped.values())])
    assert (voted.skills != free.skills).any()


@pytest.mark.parametrize("infer", ESTIMATED)
def test_odd_crowds_have_finite_posteriors(infer):
    voted = infer(odd_crowd())
    np.testing.assert_allclose(voted.posteriors.sum(axis=1), 1, rtol=1e-6)
    assert (voted.labels >= 0).all()


@pytest.mark.parametrize("infer", [zero_based_skill, iwmv])
def test_no_iterations_are_refused(infer):
    with pytest.raises(OptionError, match=r"max_iterations must be in \[1, 1,000,000\]"):
        infer(crowd()[0], max_iterations=0)
