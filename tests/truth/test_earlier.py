"""Earlier confusion matrices: read in any order, and what is wrong named in one line."""

import numpy as np
import pytest

from ferjax.truth import OptionError, TableError, dawid_skene
from ferjax.truth.earlier import read_earlier, start_from
from tests.truth.test_em import annotations_of, crowd

ANNOTATIONS = annotations_of([(0, "a", 0), (0, "b", 1), (1, "c", 2)])
MATRICES = np.arange(18.0).reshape(2, 3, 3)


def saved(path, **changes):
    arrays = {"counts": MATRICES, "workers": ["b", "z"], "classes": ["2", "0", "1"]}
    np.savez(path, **{name: np.array(value) for name, value in (arrays | changes).items()})
    return path


def test_workers_and_classes_are_put_in_order(tmp_path):
    counts = read_earlier(saved(tmp_path / "e.npz"), ANNOTATIONS, everyone=False)
    np.testing.assert_array_equal(counts[1], [[4, 5, 3], [7, 8, 6], [1, 2, 0]])
    assert counts[[0, 2]].sum() == 0
    np.testing.assert_array_equal(read_earlier(counts, ANNOTATIONS, everyone=False), counts)


def test_classes_that_a_worker_never_met_count_nothing():
    matrices = np.full((3, 3, 3), np.nan)
    matrices[:, 0] = 1 / 3
    counts = read_earlier(matrices, ANNOTATIONS, everyone=True)
    np.testing.assert_allclose(counts.sum(axis=2), [[1, 0, 0]] * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": ["2", "0", "happy"]},
            "class happy is none of the classes 0, 1, 2; set classes",
        ),
        ({"counts": -MATRICES}, "counts of worker b must be at least 0 and finite"),
        ({"counts": MATRICES + np.inf}, "counts of worker b must be at least 0 and finite"),
        ({"workers": ["b"]}, "the matrices do not fit its workers and classes"),
        ({}, "has no matrix of 2 of 3 workers, such as a"),
    ],
)
def test_a_mistake_is_named(tmp_path, changes, message):
    with pytest.raises(TableError, match=message):
        read_earlier(saved(tmp_path / "e.npz", **changes), ANNOTATIONS, everyone=True)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "e.npz").write_text("worker,label")
    for path in (tmp_path / "e.npz", tmp_path / "nowhere.npz"):
        with pytest.raises(TableError, match=r"\.npz is no confusions.npz of a truth run") as error:
            read_earlier(path, ANNOTATIONS, everyone=False)
        assert "\n" not in str(error.value)
    with pytest.raises(TableError, match=r"must have shape \(3, 3, 3\)"):
        read_earlier(np.ones((2, 3, 3)), ANNOTATIONS, everyone=False)


def counted(seed, workers=6, classes=3):
    """Random counts of workers who are mostly right."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, (workers, classes, classes)) + 9.0 * np.eye(classes)


def loops(annotations, earlier, use, iterations):
    """Dawid and Skene's EM, one label at a time, begun by earlier counts."""
    tasks, workers, classes = annotations.sizes
    triples = list(zip(*annotations[3:6], strict=True))
    posteriors = np.zeros((tasks, classes))
    for task, _, label in triples:
        posteriors[task, label] += 1
    posteriors /= posteriors.sum(axis=1, keepdims=True)
    for iteration in range(iterations):
        counts = np.zeros((workers, classes, classes))
        for task, worker, label in triples:
            counts[worker, :, label] += posteriors[task]
        if use == "prior" or (use == "add" and iteration == 0):
            counts += earlier
        elif use == "assign" and iteration == 0:
            counts = earlier
        confusions = np.maximum(counts, 1e-10)
        confusions /= confusions.sum(axis=2, keepdims=True)
        joint = np.tile(posteriors.mean(axis=0), (tasks, 1))
        for task, worker, label in triples:
            joint[task] *= confusions[worker, :, label]
        posteriors = joint / joint.sum(axis=1, keepdims=True)
    return posteriors


@pytest.mark.parametrize("use", ["assign", "add"])
def test_a_start_is_the_first_iteration(use):
    annotations, _ = crowd(seed=5, tasks=20, workers=6)
    unknown = np.full(20, -1, np.int32)
    found = start_from(annotations, counted(5), add=use == "add", uniform=False, gold=unknown)
    np.testing.assert_allclose(found, loops(annotations, counted(5), use, 1), atol=1e-9)
    # Golden values: crowd-kit 1.4.2, n_iter=1, strategies 'assign' and 'addition'.
    squares = {"assign": 18.200574823, "add": 17.452296577}
    np.testing.assert_allclose((found**2).sum(), squares[use], rtol=1e-8)


@pytest.mark.parametrize("use", ["prior", "add", "assign"])
@pytest.mark.parametrize("iterations", [1, 4])
def test_em_equals_loops(use, iterations):
    """A start is itself the first of the loop's E-steps."""
    annotations, _ = crowd(seed=5, tasks=20, workers=6)
    done = iterations if use == "prior" else iterations + 1
    found = dawid_skene(
        annotations,
        prior="none",
        earlier=counted(5),
        earlier_as=use,
        max_iterations=iterations,
        tolerance=-1.0,
    )
    expected = loops(annotations, counted(5), use, done)
    np.testing.assert_allclose(found.posteriors, expected, atol=1e-5)
    np.testing.assert_allclose(found.confusions.sum(axis=2), 1, rtol=1e-6)


def test_a_known_worker_needs_no_new_labels_to_be_believed():
    """One label: the matrix of its worker says 0 where the truth is 1 as often as where it is 0."""
    annotations = annotations_of([("t", "a", 0)], classes=(0, 1))
    earlier = np.array([[[6.0, 2.0], [3.0, 9.0]]])
    found = dawid_skene(annotations, earlier=earlier, class_prior="uniform", max_iterations=1)
    zero, one = 7 / 9, 3 / 12
    np.testing.assert_allclose(found.posteriors[0, 0], zero / (zero + one), rtol=1e-5)


def test_a_mistake_in_the_use_is_named():
    with pytest.raises(OptionError, match="earlier_as must be 'prior', 'add' or 'assign', not 'x'"):
        dawid_skene(ANNOTATIONS, earlier=np.ones((3, 3, 3)), earlier_as="x")
    earlier = np.ones((3, 3, 3)) * np.array([1, 1, 0])[:, None, None]
    with pytest.raises(TableError, match="has no matrix of 1 of 3 workers, such as c"):
        dawid_skene(ANNOTATIONS, earlier=earlier, earlier_as="assign")
