"""The report of a training run: its files, its choices of faces, its numbers."""

import csv
import json
import re

import numpy as np
import pytest
from ml_collections import ConfigDict

from ferjax import results, writers
from ferjax.data.record import Dataset, Images, Split
from ferjax.predictor import STAGE
from ferjax.report import curves, figures, page, sheets, training
from ferjax.report.trained import Trained
from tests import tiny

CLASSES = ("neutral", "happy", "sad")
PNG = b"\x89PNG"


class CountingFaces(Images):
    """Grey noise, and how often a face was read."""

    def __init__(self, size):
        self.size, self.reads = size, 0

    def __len__(self):
        return self.size

    def read(self, rows):
        self.reads += len(rows)
        each = [np.random.default_rng(row).integers(0, 256, (8, 6, 1), np.uint8) for row in rows]
        return np.stack(each), np.ones(len(rows), bool)


def make_split(size, seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size).astype(np.int32)
    given = np.where(rng.random(size) < 0.4, (truth + 1) % 3, truth).astype(np.int32)
    return Split(
        images=CountingFaces(size),
        labels={"annotations": given[:, None], "va": np.zeros((size, 1, 2), np.float32)},
        truth=truth,
        truth_va=np.full((size, 2), np.nan, np.float32),
        names=[f"{row}.png" for row in range(size)],
    )


def make_dataset():
    notes = ("40% noise <script>alert(1)</script> & more",)
    train, test = make_split(300, seed=0), make_split(200, seed=1)
    splits = {"train": train, "test": test}
    return Dataset(CLASSES, ("people",), (8, 6, 1), splits, notes=notes)


STAGES = ("baseline", "teachers")


def save_predictions(folder, **arrays):
    """What a stage leaves that learnt from all 300 faces, labelled at random."""
    given = np.random.default_rng(3).integers(0, 2, 300).astype(np.int32)
    every = {"rows": np.arange(300, dtype=np.int32), "given": given, "kind": "class"}
    np.savez(folder / "predictions.npz", **every | arrays)


def fake_run(workdir, with_lambda=True):
    """A workdir as a run leaves it behind, and its config."""
    config = ConfigDict(
        {
            "headline": "teachers",
            "label": "",
            "data": {"name": "<faces>"},
        }
    )
    rng = np.random.default_rng(2)
    file = writers.MetricsFile(workdir / "metrics.jsonl")
    for stage in STAGES:
        teachers = stage == "teachers"
        for step in range(1, 7):
            epoch = step / 2
            terms = {"loss": 2.0 / step, "accuracy": 0.4 + step / 20}
            if teachers:
                terms |= {"network_1/accuracy": 0.5, "network_2/accuracy": 0.5}
                terms |= {"lambda": 0.1 * step} if with_lambda else {}
            speed = {"images_per_second": 100.0, "data_wait": 0.01, "seconds": epoch}
            file.write(stage=stage, split="train", step=step, epoch=epoch, **terms, **speed)
        for epoch, accuracy in enumerate((0.5, 0.8, 0.7), 1):
            heads = ("average", "network_1", "network_2") if teachers else ("class",)
            values = {f"{head}/accuracy": accuracy for head in heads} | {"accuracy": accuracy}
            values |= {"seconds": 9.0, "uar": 0.6, "macro_f1": 0.6}
            values |= {"confusion": [[8, 2, 0], [1, 3, 0], [0, 0, 0]]}
            file.write(stage=stage, split="eval", step=2 * epoch, epoch=float(epoch), **values)
        folder = workdir / "stages" / stage
        writers.write_json(folder / "done.json", {"peak_memory_bytes": 1})
        rows = np.arange(0, 300, 3, dtype=np.int32)
        test = rng.dirichlet(np.ones(3), 200).astype(np.float32)
        train = rng.dirichlet(np.ones(3), 100).astype(np.float32)
        save_predictions(folder, test=test, train=train, train_rows=rows)
        np.savez(folder / "learnt.npz")
        kinds = {"loss": "loss", "accuracy": "accuracy"}
        if teachers:
            kinds |= dict.fromkeys(("network_1/accuracy", "network_2/accuracy"), "accuracy")
            kinds |= {"lambda": "weight"} if with_lambda else {}
        recipe = {"method": "cct" if teachers else "supervised", "needs": {}}
        about = {"coders": ["people"], "label": "majority", "metrics": kinds, "recipe": recipe}
        writers.write_json(folder / STAGE, about | {"total_steps": 6, "eval_every": 2})
    saved = {"config": json.loads(config.to_json_best_effort()), "versions": {"jax": "9.8.7"}}
    writers.write_json(workdir / "config.json", saved)
    return config


def write_report(workdir, dataset, **choices):
    config = fake_run(workdir, **choices)
    training.write(config, workdir, dataset, results.summarise(config.headline, STAGES, workdir))
    return workdir / "report"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A report's folder, and the data that it was written from."""
    dataset = make_dataset()
    return write_report(tmp_path_factory.mktemp("run"), dataset), dataset


def test_page_shows_every_figure_and_every_figure_is_on_the_page(written):
    folder, _ = written
    text = (folder / "index.html").read_text()
    shown = re.findall(r'<img src="([^"]+)" alt="[^"]+"', text)
    assert sorted(shown) == sorted(path.name for path in folder.glob("*.png"))
    assert len(shown) == 7
    assert "Coders and latent truth" not in text  # the method has no coders
    assert all((folder / name).read_bytes().startswith(PNG) for name in shown)


def test_page_tells_results_recipe_and_versions(written):
    text = (written[0] / "index.html").read_text()
    for said in ("teachers/network_1", "70.00", "80.00", "9.8.7", "trained on: majority"):
        assert said in text
    for words in ("0.0 points above baseline, trained", "precision, %", "ferjax.load("):
        assert words in text


def test_labels_in_doubt_leave_as_a_file_in_their_order(written):
    folder, dataset = written
    assert 'href="../doubtful.csv"' in (folder / "index.html").read_text()
    with (folder.parent / "doubtful.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100  # those that were predicted
    assert {row["file"] for row in rows} <= set(dataset.train.names)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores)


def test_text_from_the_run_cannot_become_markup(written):
    text = (written[0] / "index.html").read_text()
    assert "<script>" not in text
    assert "<faces>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text


def test_only_the_faces_on_the_sheets_are_read(written):
    _, dataset = written
    assert dataset.train.images.reads == sheets.SHEET_FACES
    assert dataset.test.images.reads == 2 * sheets.SHEET_FACES


def test_lambda_is_drawn_only_where_a_stage_logs_it(written, tmp_path):
    assert (written[0] / "lambda.png").exists()
    folder = write_report(tmp_path, make_dataset(), with_lambda=False)
    assert not (folder / "lambda.png").exists()
    assert "lambda.png" not in (folder / "index.html").read_text()


def test_rows_of_a_confusion_matrix_become_shares():
    shares = figures.row_shares(np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]]))
    np.testing.assert_allclose(shares[:2], [[0.8, 0.2, 0.0], [0.25, 0.75, 0.0]])
    assert np.isnan(shares[2]).all()


def test_mistakes_come_surest_first_and_unknown_truths_are_none():
    probs = np.array([[0.6, 0.4], [0.1, 0.9], [0.2, 0.8], [0.0, 1.0], [0.3, 0.7]])
    right = np.array([[False, True], [True, False], [False, True], [False, False], [True, True]])
    assert sheets.surest_mistakes(probs, right, 5).tolist() == [1, 0]


def test_loss_is_the_main_curve_whatever_the_order_of_the_metrics():
    line = {"epoch": 2.0, "consistency": 0.5, "loss": 2.0, "accuracy": 0.5, "kept": 0.1}
    other = line | {"epoch": 1.5, "loss": 4.0}
    kinds = {"consistency": "loss", "loss": "loss", "accuracy": "accuracy", "kept": "weight"}
    terms = curves._of_kind("loss", [other, line], kinds)
    assert [curve.name for curve in terms] == ["loss", "consistency"]
    np.testing.assert_allclose(terms[0].values, [3.0])  # the epoch's mean, at its end
    np.testing.assert_allclose(terms[0].at, [2.0])


def told_apart(label, coders=(), learnt=None):
    """A stage that learnt from two coders, one of whom knew; the other is wrong of one in four."""
    data = tiny.dataset(train_size=40)
    truth = data.train.truth
    wrong = np.where(np.arange(40) % 4 == 0, 1 - truth, truth)
    labels = {
        "annotations": np.stack([wrong, truth], axis=1).astype(np.int32),
        "va": np.full((40, 2, 2), np.nan, np.float32),
    }
    data = data._replace(coders=("a", "clean"))
    data = data.with_split("train", data.train._replace(labels=labels))
    given = {"a": wrong, "clean": truth}.get(label, wrong).astype(np.int32)
    rows = np.arange(40, dtype=np.int32)
    about = "supervised", "", coders or data.coders, label
    return Trained(*about, {}, rows, given, learnt or {}), data


def test_each_stage_is_measured_by_the_labels_that_it_got():
    assert curves.right_share(*told_apart("a")) == 0.75
    assert curves.right_share(*told_apart("clean")) is None
    assert curves.right_share(*told_apart("random")) == 0.875
    assert curves.right_share(*told_apart("majority", coders=("a",))) == 0.75
    layered = told_apart("majority", learnt={"coders": np.array(["a", "clean"])})
    assert curves.right_share(*layered) == 0.875


def test_what_given_means_is_said_where_faces_have_several_annotations():
    assert sheets._of_several(*told_apart("a")) == ""
    assert sheets._of_several(*told_apart("random", coders=("a",))) == ""
    assert "is the most frequent" in sheets._of_several(*told_apart("random"))


def test_a_coder_who_knew_the_truth_but_was_not_learnt_from_does_not_appear(tmp_path):
    data = tiny.dataset(train_size=40)
    said = np.stack([1 - data.train.truth, data.train.truth], axis=1).astype(np.int32)
    labels = {"annotations": said, "va": np.full((40, 2, 2), np.nan, np.float32)}
    data = data._replace(coders=("a", "clean"))
    data = data.with_split("train", data.train._replace(labels=labels))
    config = fake_run(tmp_path)
    for stage in STAGES:
        folder = tmp_path / "stages" / stage
        test, learnt = np.eye(2)[data.test.truth], np.eye(2)[data.train.truth]
        rows = np.arange(40, dtype=np.int32)
        given = said[:, 0]
        arrays = {"test": test, "train": learnt, "train_rows": rows}
        save_predictions(folder, **arrays, rows=rows, given=given)
        np.savez(folder / "learnt.npz", coders=np.array(["a"]), transitions=np.eye(2)[None])
        about = json.loads((folder / STAGE).read_text())
        writers.write_json(folder / STAGE, about | {"coders": ["a"]})
    result = results.summarise(config.headline, STAGES, tmp_path)
    result["confusion"] = [[1, 0], [0, 1]]
    training.write(config, tmp_path, data, result)
    text = (tmp_path / "report" / "index.html").read_text()
    assert "No coder knew the truth." in text
    assert "40 of the 40 labels checked are wrong" in text


def test_labels_of_curves_are_moved_apart_but_no_further_than_needed():
    values = np.array([0.5, 0.9, 0.52, 0.1])
    moved = figures.spread(values, 0.1)
    np.testing.assert_allclose(moved, [0.46, 0.9, 0.56, 0.1])


def test_table_marks_one_row():
    text = page.table(("name", "value"), {"a": ["1"], "b": ["2"]}, marked="b")
    assert text.count("<tr class=mark>") == 1
    assert '<tr class=mark><th scope="row">b</th><td>2</td></tr>' in text
