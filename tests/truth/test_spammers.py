"""Spam scores: by the paper's formula, by hand, and on workers who guess."""

import numpy as np
import pytest

from ferjax.truth import spam_scores, spammers
from ferjax.truth.spammers import NEAR_ZERO
from tests.truth.test_em import annotations_of

TRUTH = np.repeat(np.arange(3), 200).astype(np.int32)


def worker_of(confusion, seed=0):
    """Annotations of one worker with these rows, 200 tasks of each of three classes."""
    rng = np.random.default_rng(seed)
    labels = [rng.choice(3, p=confusion[k]) for k in TRUTH]
    triples = [(task, "w", int(label)) for task, label in enumerate(labels)]
    return annotations_of(triples, classes=(0, 1, 2))


def paper(confusion):
    """Raykar and Yu's score, pair by pair."""
    pairs = [(c, d) for d in range(3) for c in range(d)]
    return sum(np.sum((confusion[c] - confusion[d]) ** 2) for c, d in pairs) / 6


def test_a_worker_by_hand():
    """Truth 0: 0, 0, 1 and truth 1: 1, 1. ‖a_0‖² is estimated by the 1 of 3 equal pairs, ‖a_1‖² is
    1, and a_0·a_1 is ⅓: (⅓ + 1 − ⅔)/2 = ⅓. Truth 2, met once, is left out."""
    labels, truth = [0, 0, 1, 1, 1, 2], np.int32([0, 0, 0, 1, 1, 2])
    annotations = annotations_of([(t, "w", label) for t, label in enumerate(labels)])
    np.testing.assert_allclose(spam_scores(annotations, truth), [1 / 3])


def test_always_right_is_1_and_always_the_same_is_0():
    assert spam_scores(worker_of(np.eye(3)), TRUTH) == pytest.approx(1)
    assert spam_scores(worker_of(np.eye(3)[[1, 2, 0]]), TRUTH) == pytest.approx(1)  # always wrong
    assert spam_scores(worker_of(np.eye(3)[[1, 1, 1]]), TRUTH) == pytest.approx(0)


@pytest.mark.parametrize("diagonal", [1 / 3, 0.5, 0.8])
def test_it_estimates_the_papers_score(diagonal):
    confusion = np.full((3, 3), (1 - diagonal) / 2)
    np.fill_diagonal(confusion, diagonal)
    scores = [spam_scores(worker_of(confusion, seed), TRUTH)[0] for seed in range(20)]
    assert np.mean(scores) == pytest.approx(paper(confusion), abs=0.01)


def test_workers_who_guess_are_flagged_and_honest_ones_are_not():
    """With 40 labels and eight classes the plain formula gives both about the same."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 8, 600).astype(np.int32)
    triples = []
    for worker in range(30):
        for task in rng.choice(600, 40, replace=False):
            right = worker >= 10 and rng.random() < 0.7
            triples.append((int(task), worker, int(truth[task] if right else rng.integers(8))))
    annotations = annotations_of(triples)
    guessed = annotations.workers < 10
    flagged = spammers(annotations, truth[annotations.tasks])
    assert flagged[guessed].mean() >= 0.8
    assert not flagged[~guessed].any()


def test_workers_of_few_labels_are_not_flagged():
    annotations = annotations_of([(task, "w", 0) for task in range(9)], classes=(0, 1))
    truth = np.arange(9, dtype=np.int32) % 2
    assert spam_scores(annotations, truth)[0] < NEAR_ZERO
    assert not spammers(annotations, truth).any()
    once = annotations_of([(0, "w", 0), (1, "w", 1)])
    assert np.isnan(spam_scores(once, np.int32([0, 1]))).all()
