"""Krippendorff's α: the published example, by hand, and beside crowd-kit."""

import numpy as np
import pytest

from ferjax.truth import krippendorff_alpha
from tests.truth.test_em import annotations_of, crowd

PUBLISHED = """
    1 2 3 3 2 1 4 1 2 . . .
    1 2 3 3 2 2 4 1 2 5 . 3
    . 3 3 3 2 3 4 2 2 5 1 .
    1 2 3 3 2 4 4 1 2 5 1 .
"""


def test_the_published_example_with_missing_values():
    """Krippendorff, *Computing Krippendorff's alpha-reliability* (2011), C: α = .743."""
    triples = [
        (task, worker, label)
        for worker, line in enumerate(PUBLISHED.split("\n")[1:-1])
        for task, label in enumerate(line.split())
        if label != "."
    ]
    assert krippendorff_alpha(annotations_of(triples)) == pytest.approx(0.743, abs=5e-4)


def test_three_pairs_by_hand():
    """Of 3 pairs one differs. Of the labels' 15 pairs 9 differ: 1 − (1/3)/(9/15) = 4/9."""
    triples = [(0, "a", 0), (0, "b", 0), (1, "a", 1), (1, "b", 1), (2, "a", 0), (2, "b", 1)]
    assert krippendorff_alpha(annotations_of(triples)) == pytest.approx(4 / 9)
    alone = [*triples, (3, "a", 2)]  # compared with nothing
    assert krippendorff_alpha(annotations_of(alone)) == pytest.approx(4 / 9)
    repeated = [*triples, (1, "b", 0), (1, "b", 1)]  # the last label of a worker counts
    assert krippendorff_alpha(annotations_of(repeated)) == pytest.approx(4 / 9)


def test_it_equals_that_of_crowd_kit():
    """Golden values: crowd-kit 1.4.2, `alpha_krippendorff`."""
    annotations, _ = crowd(seed=1, tasks=12, workers=5)
    assert krippendorff_alpha(annotations) == pytest.approx(0.3835368611488016)
    annotations, _ = crowd(seed=2, tasks=30, workers=8, classes=4, each=5)
    assert krippendorff_alpha(annotations) == pytest.approx(0.4740109555690809)


def test_it_is_nan_where_nothing_can_be_compared():
    nothing = annotations_of([(0, "a", 0), (1, "b", 1)])
    alike = annotations_of([(0, "a", 0), (0, "b", 0)], classes=(0, 1))
    assert np.isnan([krippendorff_alpha(nothing), krippendorff_alpha(alike)]).all()
