"""The order of doubt: by margins, by those of several coders, or by the teachers."""

import csv

import numpy as np

from ferjax.report import doubt
from ferjax.report.trained import Trained
from tests import tiny


def trained(given, teachers="", coders=("coder",), label="majority"):
    rows = np.arange(len(given), dtype=np.int32)
    given = np.array(given, np.int32)
    return Trained("supervised", teachers, coders, label, {}, rows, given, {})


def save(folder, stage, probs, **arrays):
    (folder / "stages" / stage).mkdir(parents=True)
    rows = np.arange(len(probs), dtype=np.int32)
    path = folder / "stages" / stage / "predictions.npz"
    np.savez(path, train=np.array(probs), train_rows=rows, rows=rows, **arrays)


def test_the_margin_decides_and_the_probability_only_where_there_is_none(tmp_path):
    data = tiny.dataset(train_size=4)
    probs = [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.5, 0.5]]
    margins = np.array([[-2.0, 2.0], [-3.0, 3.0], [1.0, -1.0], [0.0, 0.0]])
    save(tmp_path, "with", probs, margins=margins)
    save(tmp_path, "without", probs)
    given = [0, 1, 0, -1]  # nobody labelled the last
    by_margin = doubt.doubts(tmp_path, "with", trained(given), data)
    assert by_margin.rows.tolist() == [0, 2, 1]
    assert by_margin.score.tolist() == [-2.0, 1.0, 3.0]
    assert by_margin.likelier.tolist() == [1, -1, -1]
    assert by_margin.probability.tolist() == [0.9, 0.4, 0.8]
    by_probability = doubt.doubts(tmp_path, "without", trained(given), data)
    assert by_probability.rows.tolist() == [2, 1, 0]
    assert by_probability.score.tolist() == [0.4, 0.8, 0.9]


def test_a_student_doubts_what_its_teachers_doubt(tmp_path):
    data = tiny.dataset(train_size=2)
    save(tmp_path, "student", [[0.9, 0.1], [0.6, 0.4]])
    save(tmp_path, "teachers", [[0.3, 0.7], [0.6, 0.4]])
    doubted = doubt.doubts(tmp_path, "student", trained([0, 0], teachers="teachers"), data)
    assert (doubted.judge, doubted.rows.tolist()) == ("teachers", [0, 1])


def test_of_several_coders_the_trusted_ones_count_most():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 200)
    good = [np.where(rng.random(200) < 0.05, 1 - truth, truth) for _ in range(3)]
    guesses = rng.integers(0, 2, 200)
    annotations = np.stack([*good, guesses], axis=1).astype(np.int32)
    annotations[0] = (-1, -1, 0, 1)
    annotations[1] = (-1, -1, -1, 1)
    margins = np.tile([2.0, -2.0], (200, 1))
    scores = doubt.weighted(margins, np.full((200, 2), 0.5), annotations)
    assert 0.3 < scores[0] < 1.0  # about 2·(0.95 − 0.5) / (0.95 + 0.5)
    assert scores[1] == -2.0  # a face with one annotation has that one's margin


def test_several_coders_are_weighed_unless_one_is_learnt_from_alone(tmp_path):
    data = tiny.dataset(train_size=40)
    truth = data.train.truth
    labels = {
        "annotations": np.stack([truth, 1 - truth, truth], axis=1).astype(np.int32),
        "va": np.full((40, 3, 2), np.nan, np.float32),
    }
    data = data._replace(coders=("a", "b", "c"))
    data = data.with_split("train", data.train._replace(labels=labels))
    margins = np.eye(2)[truth] * 2 - 1
    save(tmp_path, "stage", np.eye(2)[truth], margins=margins)
    alone = trained(truth, coders=data.coders, label="a")
    assert set(doubt.doubts(tmp_path, "stage", alone, data).score) == {1.0}
    several = trained(truth, coders=data.coders, label="soft")
    assert (doubt.doubts(tmp_path, "stage", several, data).score < 1).all()


def test_the_file_lists_labelled_faces_in_the_order_of_doubt(tmp_path):
    data = tiny.dataset(train_size=3)
    save(tmp_path, "stage", [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    doubted = doubt.doubts(tmp_path, "stage", trained([0, 0, 1]), data)
    names = ['a "quoted", name.png', "täglich.png", "c.png"]
    doubt.write(tmp_path / doubt.FILE, doubted, names, ("no", "yes"))
    with (tmp_path / doubt.FILE).open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(doubt.COLUMNS),
        ["täglich.png", "no", "0.2000", "yes", "0.2000"],
        ["c.png", "yes", "0.6000", "", "0.6000"],
        ['a "quoted", name.png', "no", "0.9000", "", "0.9000"],
    ]
