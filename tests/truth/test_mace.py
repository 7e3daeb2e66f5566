"""MACE: beside its definition in loops, crowd-kit, and properties."""

import sys

import numpy as np
import pandas
import pytest
from scipy.special import digamma

from ferjax.truth import Annotations, OptionError, mace, majority_vote
from tests.truth.test_em import annotations_of, crowd, odd_crowd

module = sys.modules["ferjax.truth.mace"]


def start_at(monkeypatch, knows, strategy):
    """Starts at θ [W] and ξ [W, K]."""
    monkeypatch.setattr(
        module,
        "_start",
        lambda rng, annotations, pairs: module._Parameters(
            knows, 1 - knows, strategy.reshape(-1)[pairs]
        ),
    )


def loops(annotations, knows, strategy, iterations):
    """Variational EM as in the paper, one label and one class at a time."""
    tasks, workers, classes = annotations.sizes
    triples = list(zip(*annotations[3:6], strict=True))
    draws = 1 - knows
    for iteration in range(iterations + 1):
        joint = np.full((tasks, classes), 1 / classes)
        for task, worker, label in triples:
            for truth in range(classes):
                drawn = draws[worker] * strategy[worker, label]
                joint[task, truth] *= drawn + knows[worker] * (label == truth)
        posteriors = joint / joint.sum(axis=1, keepdims=True)
        if iteration == iterations:
            competences = knows / (knows + draws)
            return posteriors, competences, np.log(joint.sum(axis=1)).sum()
        right, drawn_labels = np.zeros(workers), np.zeros((workers, classes))
        for task, worker, label in triples:
            drawn = draws[worker] * strategy[worker, label]
            known = posteriors[task, label] * knows[worker] / (knows[worker] + drawn)
            right[worker] += known
            drawn_labels[worker, label] += 1 - known
        drawn = drawn_labels.sum(axis=1)
        knows = np.exp(digamma(right + 0.5) - digamma(right + drawn + 1))
        draws = np.exp(digamma(drawn + 0.5) - digamma(right + drawn + 1))
        totals = digamma(drawn + 10 * classes)[:, None]
        strategy = np.exp(digamma(drawn_labels + 10) - totals)


def random_start(workers, classes, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.3, 0.7, workers), rng.dirichlet(np.full(classes, 9.0), workers)


@pytest.mark.parametrize("classes", [2, 3, 6])
def test_ten_iterations_equal_loops(monkeypatch, classes):
    annotations, _ = crowd(seed=classes, tasks=20, classes=classes)
    start = random_start(9, classes)
    start_at(monkeypatch, *start)
    result = mace(annotations, restarts=1, max_iterations=10, tolerance=-1.0)
    posteriors, competences, log_likelihood = loops(annotations, *start, 10)
    np.testing.assert_allclose(result.posteriors, posteriors, atol=1e-6)
    np.testing.assert_allclose(result.competences, competences, rtol=1e-9)
    np.testing.assert_allclose(result.log_likelihood[-1], log_likelihood, rtol=1e-9)
    assert (result.iterations, result.converged) == (10, False)


def test_posteriors_and_competences_equal_those_of_crowd_kit(monkeypatch):
    """Golden values: crowd-kit 1.4.2, `MACE(n_restarts=1)`, from its own start. Tasks, workers and
    labels are numbered as they appear: it mixes them up otherwise."""
    annotations, _ = crowd(seed=1, tasks=20)
    columns = {
        name: pandas.factorize(getattr(annotations, name))[0]
        for name in ("task", "worker", "label")
    }
    annotations = Annotations.from_table(pandas.DataFrame(columns))
    draws = [1 + 1.5 * np.random.RandomState(0).random((9, count)) for count in (2, 3)]
    spamming, strategy = (draw / draw.sum(axis=1, keepdims=True) for draw in draws)
    start_at(monkeypatch, spamming[:, 1], strategy)
    result = mace(annotations, restarts=1, max_iterations=50, tolerance=-1.0)
    competences = [0.368245, 0.645263, 0.529556, 0.481819, 0.977213, 0.980812, 0.61835, 0.188285]
    np.testing.assert_allclose(result.competences, [*competences, 0.969332], atol=1e-6)
    np.testing.assert_allclose(result.posteriors[0], [0.103207, 0.244285, 0.652508], atol=1e-6)
    np.testing.assert_allclose((result.posteriors**2).sum(), 18.725581, rtol=1e-6)


def test_the_likeliest_of_several_runs_counts():
    annotations, _ = crowd(seed=1, tasks=15, workers=6, each=3)
    runs = [mace(annotations, restarts=count, seed=5).log_likelihood[-1] for count in (1, 4, 12)]
    assert runs[0] <= runs[1] <= runs[2]
    again = [mace(annotations, restarts=4, seed=5).posteriors for _ in range(2)]
    np.testing.assert_array_equal(*again)


def test_workers_who_always_give_one_label_are_unmasked():
    """Three of seven workers always say 0, and the majority often follows them."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    triples = [(t, f"lazy {w}", 0) for t in range(300) for w in range(3)]
    for task, label in enumerate(truth):
        for worker in range(4):
            right = rng.random() < 0.85
            triples.append((task, f"able {worker}", int(label if right else rng.integers(3))))
    annotations = annotations_of(triples)
    result = mace(annotations)
    assert (majority_vote(annotations).labels == truth).mean() < 0.9
    assert (result.labels == truth).mean() > 0.95
    lazy = np.char.startswith(annotations.workers.astype(str), "lazy")
    assert result.competences[lazy].max() < 0.2 < 0.6 < result.competences[~lazy].min()


def test_gold_stays_fixed_and_teaches_the_competences():
    annotations, _ = crowd(seed=6)
    free = mace(annotations)
    flipped = {task: int((free.labels[task] + 1) % 3) for task in range(30)}
    result = mace(annotations, gold=flipped)
    np.testing.assert_array_equal(result.posteriors[:30], np.eye(3)[list(flipped.values())])
    assert result.competences.mean() < free.competences.mean()


def test_odd_crowds_have_finite_posteriors():
    result = mace(odd_crowd())
    np.testing.assert_allclose(result.posteriors.sum(axis=1), 1, rtol=1e-6)
    assert np.isfinite(result.competences).all()


def test_no_restarts_and_no_iterations_are_refused():
    with pytest.raises(OptionError, match="restarts must be at least 1, not 0"):
        mace(crowd()[0], restarts=0)
    with pytest.raises(OptionError, match=r"max_iterations must be in \[1, 1,000,000\]"):
        mace(crowd()[0], max_iterations=0)
