"""iBCC: by hand, beside an independent implementation, and on workers with few labels."""

import numpy as np
import pytest
from scipy.special import digamma, gammaln, softmax

from ferjax.truth import dawid_skene, ibcc, majority_vote
from tests.truth.test_em import annotations_of, crowd


def independent(annotations, diagonal, off, iterations):
    """Returns posteriors, mean confusions and the lower bounds, by loops over dense arrays."""
    tasks, workers, classes = annotations.sizes
    triples = list(zip(annotations.task, annotations.worker, annotations.label, strict=True))
    prior = np.full((classes, classes), off) + (diagonal - off) * np.eye(classes)
    posteriors = np.zeros((tasks, classes))
    for task, _, label in triples:
        posteriors[task, label] += 1
    posteriors /= posteriors.sum(axis=1, keepdims=True)

    def update():
        alpha, beta = np.tile(prior, (workers, 1, 1)), 1 + posteriors.sum(axis=0)
        for task, worker, label in triples:
            alpha[worker, :, label] += posteriors[task]
        return alpha, beta

    def expected_log(alpha):
        return digamma(alpha) - digamma(alpha.sum(axis=-1, keepdims=True))

    def divergence(after, before):
        """Of two Dirichlet distributions, summed over all rows."""
        terms = gammaln(after.sum(axis=-1)) - gammaln(before.sum(axis=-1))
        terms += (gammaln(before) - gammaln(after)).sum(axis=-1)
        terms += ((after - before) * expected_log(after)).sum(axis=-1)
        return terms.sum()

    bounds = []
    for _ in range(iterations):
        alpha, beta = update()
        joint = np.tile(expected_log(beta), (tasks, 1))
        for task, worker, label in triples:
            joint[task] += expected_log(alpha)[worker, :, label]
        posteriors = softmax(joint, axis=1)
        bound = (posteriors * (joint - np.log(np.maximum(posteriors, 1e-300)))).sum()
        bound -= divergence(alpha, np.broadcast_to(prior, alpha.shape))
        bounds.append(bound - divergence(beta, np.ones(classes)))
    alpha, beta = update()
    return posteriors, alpha / alpha.sum(axis=2, keepdims=True), beta / beta.sum(), bounds


@pytest.mark.parametrize(("diagonal", "off"), [(1.0, 0.01), (2.0, 1.0)])
def test_it_equals_an_independent_implementation(diagonal, off):
    annotations, _ = crowd(seed=1, tasks=40, workers=12, classes=3, each=3)
    result = ibcc(
        annotations, diagonal=diagonal, off_diagonal=off, max_iterations=8, tolerance=-1.0
    )
    posteriors, confusions, prior, bounds = independent(annotations, diagonal, off, 8)
    np.testing.assert_allclose(result.posteriors, posteriors, atol=1e-4)
    np.testing.assert_allclose(result.confusions, confusions, atol=1e-4)
    np.testing.assert_allclose(result.prior, prior, atol=1e-4)
    np.testing.assert_allclose(result.log_likelihood, bounds, rtol=1e-4)


def test_one_step_by_hand():
    """A says 0 to task x and B says 1 to task y. With α = (2, 1) and one count, A has
    E ln C[0, 0] = ψ(3) − ψ(4) = −1/3 and E ln C[1, 0] = ψ(1) − ψ(3) = −3/2; classes are alike."""
    result = ibcc(
        annotations_of([("x", "A", 0), ("y", "B", 1)]),
        diagonal=2.0,
        off_diagonal=1.0,
        max_iterations=1,
    )
    right = 1 / (1 + np.exp(1 / 3 - 3 / 2))
    np.testing.assert_allclose(
        result.posteriors, [[right, 1 - right], [1 - right, right]], rtol=1e-5
    )


def test_the_bound_never_falls():
    annotations, _ = crowd(seed=3, classes=5)
    trace = ibcc(annotations, max_iterations=40, tolerance=-1.0).log_likelihood
    assert (np.diff(trace) > -1e-6 * np.abs(trace[1:])).all()


@pytest.mark.parametrize("each", [1, 3])
def test_priors_mend_what_dawid_and_skene_overfit(each, caplog):
    """Every worker gives few labels, 85 % of them right; four classes, four labels a task."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 150)
    task = rng.permutation(np.repeat(np.arange(150), 4))
    right = rng.random(600) < 0.85
    label = np.where(right, truth[task], rng.integers(0, 4, 600))
    worker = np.arange(600) // each
    annotations = annotations_of(zip(*(x.tolist() for x in (task, worker, label)), strict=True))
    known = truth[annotations.tasks]

    def accuracy(result):
        return (result.labels == known).mean()

    voted = accuracy(majority_vote(annotations))
    for result in (ibcc(annotations), dawid_skene(annotations, prior="diagonal")):
        assert accuracy(result) > voted - 0.02
    assert "prior='diagonal'" not in caplog.text
    assert accuracy(dawid_skene(annotations, prior="none")) < voted - 0.1
    given = "one label" if each == 1 else "3 labels"
    assert f"the median worker gave {given}, fewer than there are classes (4)" in caplog.text
    assert "use prior='diagonal', or algorithm ibcc or one_coin" in caplog.text
