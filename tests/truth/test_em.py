"""Dawid–Skene and one-coin EM: by hand, by properties, and beside what others compute."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pytest
from jax.sharding import Mesh

from ferjax.truth import Annotations, dawid_skene, em, majority_vote, one_coin, spectral
from ferjax.truth.annotations import read_known

CROWDS = Path(__file__).parents[2] / "../shared/data/crowd"
needs_crowds = pytest.mark.skipif(not CROWDS.exists(), reason=f"no label sets in {CROWDS}")


def annotations_of(triples, **options) -> Annotations:
    columns = zip(("task", "worker", "label"), map(list, zip(*triples, strict=True)), strict=True)
    return Annotations.from_table(pa.table(dict(columns)), **options)


def crowd(seed=0, tasks=60, workers=9, classes=3, each=4):
    """Random workers, from good to spiteful, who label some of the tasks each."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, tasks)
    skill = rng.uniform(0.2, 0.95, workers)
    triples = []
    for task in range(tasks):
        for worker in rng.permutation(workers)[:each]:
            right = rng.random() < skill[worker]
            label = truth[task] if right else rng.integers(0, classes)
            triples.append((task, int(worker), int(label)))
    return annotations_of(triples), truth


def on_devices(count: int) -> Mesh:
    return Mesh(np.array(jax.devices()[:count]), ("anything",))


def test_one_step_by_hand():
    """Votes say A is 0 by 2/3 and B is 1. Workers 1 and 2 then have confusions [[1, 0], [¼, ¾]],
    worker 3 always says 1, and the prior is (⅓, ⅔): A is 0 by ⅓ : ⅔·¼·¼ = 8 : 1."""
    labels = [("A", 1, 0), ("A", 2, 0), ("A", 3, 1), ("B", 1, 1), ("B", 2, 1), ("B", 3, 1)]
    found = dawid_skene(annotations_of(labels), max_iterations=1)
    np.testing.assert_allclose(found.posteriors, [[8 / 9, 1 / 9], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(found.log_likelihood, [2 * np.log(3 / 8)], rtol=1e-6)
    np.testing.assert_allclose(found.confusions[0], [[1, 0], [0.1, 0.9]], atol=1e-6)
    np.testing.assert_allclose(found.confusions[2], [[0, 1], [0, 1]], atol=1e-6)
    np.testing.assert_allclose(found.prior, [4 / 9, 5 / 9], rtol=1e-6)
    assert (found.iterations, found.converged) == (1, False)


def test_one_coin_by_hand():
    """As above: workers 1 and 2 are right with (⅔ + 1)/2 = 5/6, worker 3 with (⅓ + 1)/2 = ⅔."""
    labels = [("A", 1, 0), ("A", 2, 0), ("A", 3, 1), ("B", 1, 1), ("B", 2, 1), ("B", 3, 1)]
    found = one_coin(annotations_of(labels), max_iterations=1)
    zero, one = 1 / 3 * (5 / 6) ** 2 * (1 / 3), 2 / 3 * (1 / 6) ** 2 * (2 / 3)
    np.testing.assert_allclose(found.posteriors[0, 0], zero / (zero + one), rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("infer", [dawid_skene, one_coin])
@pytest.mark.parametrize("options", [{}, {"prior": "diagonal"}, {"class_prior": "uniform"}])
def test_the_log_likelihood_never_falls(seed, infer, options):
    classes = 2 + seed % 4
    annotations, _ = crowd(seed, workers=5 + seed, classes=classes)
    trace = infer(annotations, max_iterations=30, tolerance=0.0, **options).log_likelihood
    assert (np.diff(trace) > -1e-6 * np.abs(trace[1:])).all()


def test_workers_and_classes_in_another_order_give_the_same_in_that_order():
    annotations, _ = crowd()
    found = dawid_skene(annotations, max_iterations=10, tolerance=0.0)
    worker = np.array([4, 2, 0, 1, 3, 8, 7, 6, 5])[annotations.worker]
    other = annotations_of(
        zip(
            annotations.task.tolist(),
            worker.tolist(),
            (2 - annotations.label).tolist(),
            strict=True,
        )
    )
    turned = dawid_skene(other, max_iterations=10, tolerance=0.0)
    np.testing.assert_allclose(turned.posteriors, found.posteriors[:, ::-1], atol=1e-5)
    same = np.array([list(other.workers).index(w) for w in (4, 2, 0, 1, 3, 8, 7, 6, 5)])
    np.testing.assert_allclose(turned.confusions[same], found.confusions[:, ::-1, ::-1], atol=1e-5)


@pytest.mark.parametrize("infer", [dawid_skene, one_coin])
def test_one_device_and_eight_agree(infer):
    annotations, _ = crowd(tasks=201, each=5)
    options = {"max_iterations": 15, "tolerance": 0.0}
    one, eight = (infer(annotations, mesh=on_devices(n), **options) for n in (1, 8))
    np.testing.assert_allclose(eight.posteriors, one.posteriors, atol=1e-6)
    np.testing.assert_allclose(eight.confusions, one.confusions, atol=1e-6)
    np.testing.assert_allclose(eight.log_likelihood, one.log_likelihood, rtol=1e-6)


@pytest.mark.parametrize("init", ["majority", "spectral"])
def test_sums_over_parts_agree_with_those_over_the_whole(monkeypatch, init):
    annotations, truth = crowd(tasks=150, each=5)
    start = np.random.default_rng(0).dirichlet(np.ones(3), 150)
    monkeypatch.setattr(spectral, "start", lambda annotations, seed: start)
    options = {"max_iterations": 15, "tolerance": 0.0, "init": init, "gold": {3: int(truth[3])}}
    whole = dawid_skene(annotations, mesh=on_devices(1), **options)
    monkeypatch.setattr(em, "PART_TASKS", 20)
    monkeypatch.setattr(em, "LEAST_OF_COUNT", 1)
    parts = dawid_skene(annotations, mesh=on_devices(2), **options)
    np.testing.assert_allclose(parts.posteriors, whole.posteriors, atol=1e-6)
    np.testing.assert_allclose(parts.confusions, whole.confusions, atol=1e-6)
    np.testing.assert_array_equal(parts.labels, whole.labels)


def test_gold_stays_and_teaches():
    """Most workers spite; the gold of half the tasks turns their votes round."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 80)
    triples = [
        (task, worker, int(truth[task] ^ (worker > 0 or rng.random() < 0.1)))
        for task in range(80)
        for worker in range(4)
    ]
    annotations = annotations_of(triples)
    gold = dict(enumerate(truth[:40].tolist()))
    found = dawid_skene(annotations, gold=gold)
    np.testing.assert_array_equal(found.labels, truth)
    np.testing.assert_array_equal(found.posteriors[:40], np.eye(2)[truth[:40]])
    assert (dawid_skene(annotations).labels == truth).mean() < 0.1


def odd_crowd() -> Annotations:
    """A worker with one label, one who always disagrees, a task with one label, repeated pairs, and
    a class that nobody chose."""
    triples = [(t, w, t % 2) for t in range(8) for w in (1, 2)]
    triples += [(t, 3, 1 - t % 2) for t in range(8)] + [(99, 4, 2), (0, 1, 0), (0, 1, 1)]
    return annotations_of(triples, classes=[0, 1, 2, 3])


@pytest.mark.parametrize("infer", [dawid_skene, one_coin, partial(dawid_skene, init="spectral")])
@pytest.mark.parametrize("class_prior", ["estimate", "uniform"])
def test_odd_crowds_give_finite_results(infer, class_prior):
    annotations = odd_crowd()
    found = infer(annotations, class_prior=class_prior, max_iterations=50)
    assert annotations.repeated == 2
    for value in (found.posteriors, found.confusions, found.prior, found.log_likelihood):
        assert np.isfinite(value).all()
    np.testing.assert_allclose(found.posteriors.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found.confusions.sum(axis=2), 1, atol=1e-9)


def test_em_tells_good_coders_from_bad_where_votes_do_not():
    """Four of nine workers are good, and the others err alike: of what EM gets right a vote misses
    every tenth at least."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    herd = rng.integers(0, 3, 300)
    triples = []
    for task in range(300):
        for worker in range(9):
            source = truth if worker < 4 else herd
            right = rng.random() < (0.95 if worker < 4 else 0.6)
            triples.append((task, worker, int(source[task] if right else rng.integers(0, 3))))
    annotations = annotations_of(triples)
    known = read_known(dict(enumerate(truth.tolist())), annotations)
    voted = (majority_vote(annotations).labels == known).mean()
    inferred = (dawid_skene(annotations).labels == known).mean()
    assert inferred > 0.97
    assert voted < 0.9 * inferred


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"init": "zero"}, "init must be"),
        ({"prior": "flat"}, "prior must be 'none' or 'diagonal', not 'flat'"),
        ({"class_prior": "flat"}, "class_prior must be 'estimate' or 'uniform', not 'flat'"),
        ({"diagonal": -1.0}, "diagonal must be positive and finite, not -1.0"),
        ({"off_diagonal": np.inf}, "off_diagonal must be positive and finite, not inf"),
        ({"tolerance": np.nan}, "tolerance must be finite, not nan"),
        ({"max_iterations": 0}, "max_iterations must be in"),
        ({"gold": {0: 7}}, "label 7 is none of the classes"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        dawid_skene(crowd()[0], **options)


PUBLISHED = {
    "bluebird": (75.9, 89.8),
    "rte": (89.7, 92.75),
    "dog": (82.2, 84.3),
    "web": (73.1, 82.8),  # run to convergence; 81.9 where it was stopped early
    "d_possent": (93.35, 96.0),
}
"""Accuracy of majority vote and of Dawid–Skene, in per cent."""


@needs_crowds
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_accuracies_are_met(name):
    annotations = Annotations.from_table(CROWDS / name / "label.csv")
    truth = read_known(CROWDS / name / "truth.csv", annotations)
    known = truth >= 0
    voted, inferred = (
        100 * (found.labels == truth)[known].mean()
        for found in (majority_vote(annotations), dawid_skene(annotations))
    )
    assert voted == pytest.approx(PUBLISHED[name][0], abs=1)
    assert inferred == pytest.approx(PUBLISHED[name][1], abs=1)


SMALL_CROWD = ("01.1", "0.12", "0121", "111.", "2221", "1.01", "122.", "1110")
"""A task in each string, a worker in each column, "." where the worker gave no label."""


def test_posteriors_and_confusions_of_a_small_crowd_are_crowd_kits():
    """Golden values: crowd-kit 1.4.2, `DawidSkene(n_iter=2, tol=-inf)`, which also begins with the
    fractions of the votes."""
    triples = [
        (task, worker, int(label))
        for task, labels in enumerate(SMALL_CROWD)
        for worker, label in enumerate(labels)
        if label != "."
    ]
    annotations = annotations_of(triples)
    found = dawid_skene(annotations, max_iterations=2, tolerance=0.0)
    posteriors = [
        [0.440273, 0.543221, 0.016507],
        [0.655693, 0.339344, 0.004962],
        [0.414131, 0.519224, 0.066645],
        [0.198844, 0.798389, 0.002768],
        [0.000000, 0.000261, 0.999739],
        [0.158564, 0.841436, 0.000000],
        [0.000000, 0.062800, 0.937200],
        [0.077672, 0.922328, 0.000000],
    ]
    confusions = [
        [[0.776329, 0.223671, 0.0], [0.348097, 0.651838, 0.000065], [0.043452, 0.463536, 0.493012]],
        [[0.0, 1.0, 0.0], [0.0, 0.977844, 0.022156], [0.0, 0.042474, 0.957526]],
        [[0.105365, 0.619447, 0.275188], [0.241529, 0.591329, 0.167142], [0.0, 0.003843, 0.996157]],
        [[0.044477, 0.580054, 0.375469], [0.291340, 0.601470, 0.107190], [0.0, 0.995439, 0.004561]],
    ]
    np.testing.assert_allclose(found.posteriors, posteriors, atol=2e-6)
    by_number = np.argsort(annotations.workers)
    np.testing.assert_allclose(found.confusions[by_number], confusions, atol=2e-6)
    np.testing.assert_allclose(found.prior, [0.243147, 0.503375, 0.253478], atol=2e-6)


CROWD_KIT = {
    "bluebird": (89.814815, 107.493802, 55.573269),
    "rte": (92.75, 789.981121, 265.760058),
    "dog": (84.262701, 796.626633, 345.056983),
    "web": (83.716547, 2360.559609, 607.472799),
    "d_possent": (96.0, 996.724261, 133.254911),
}
"""Of crowd-kit 1.4.2 after 12 iterations: accuracy in per cent, and the sums of the squares of the
posteriors and of the confusions."""


@needs_crowds
@pytest.mark.parametrize("name", CROWD_KIT)
def test_twelve_iterations_on_a_published_set_give_what_crowd_kit_gives(name):
    annotations = Annotations.from_table(CROWDS / name / "label.csv")
    truth = read_known(CROWDS / name / "truth.csv", annotations, others=True)
    found = dawid_skene(annotations, max_iterations=12, tolerance=0.0)
    accuracy = 100 * (found.labels == truth)[truth != -1].mean()
    squares = [np.square(x, dtype=np.float64).sum() for x in (found.posteriors, found.confusions)]
    np.testing.assert_allclose([accuracy, *squares], CROWD_KIT[name], rtol=1e-5)


@needs_crowds
@pytest.mark.parametrize(("name", "at_least"), [("bluebird", 88), ("rte", 92)])
def test_the_spectral_start_leads_to_as_good_labels(name, at_least):
    annotations = Annotations.from_table(CROWDS / name / "label.csv")
    truth = read_known(CROWDS / name / "truth.csv", annotations)
    found = dawid_skene(annotations, init="spectral")
    assert 100 * (found.labels == truth).mean() > at_least
