"""Measures of classification against counts made by hand."""

import numpy as np

from ferjax import metrics

# Class 0: 3 of 4 right; class 1: 1 of 2; class 2 never occurs but is predicted once; class 3 never.
CONFUSION = np.array([[3, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


def test_confusion_counts_truth_by_row_and_prediction_by_column():
    truth = np.array([0, 0, 0, 0, 1, 1], np.int32)
    predicted = np.array([0, 2, 0, 0, 1, 0], np.int32)
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, predicted, 4), CONFUSION)


def test_confusion_leaves_out_faces_of_unknown_truth():
    truth, predicted = np.array([-1, 1, -1], np.int32), np.array([0, 1, 1], np.int32)
    np.testing.assert_array_equal(metrics.confusion_matrix(truth, predicted, 2), [[0, 0], [0, 1]])


def test_accuracy_counts_any_right_class_and_skips_faces_without_one():
    right = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0]], bool)
    assert metrics.accuracy(np.array([0, 1, 0, 2]), right) == 2 / 3


def test_recall_is_unknown_for_a_class_without_faces():
    np.testing.assert_allclose(metrics.recall(CONFUSION), [0.75, 0.5, np.nan, np.nan])


def test_uar_averages_over_the_classes_that_occur():
    assert metrics.uar(CONFUSION) == (0.75 + 0.5) / 2


def test_macro_f1_averages_over_the_classes_that_occur_or_are_predicted():
    # F1: 2·3/(4 + 4), 2·1/(2 + 1), and 0 for the class predicted in vain.
    np.testing.assert_allclose(metrics.macro_f1(CONFUSION), (6 / 8 + 2 / 3 + 0) / 3)


def test_no_known_truth_gives_zero_and_no_warning():
    nothing = np.zeros((3, 3), int)
    assert metrics.uar(nothing) == metrics.macro_f1(nothing) == 0.0
    assert metrics.accuracy(np.array([1]), np.zeros((1, 3), bool)) == 0.0
