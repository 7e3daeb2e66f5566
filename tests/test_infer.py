"""The truth command: what it writes, and one clear line for each mistake."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from configs import truth
from ferjax import infer, main
from ferjax.infer import Inference, accuracy, expected_counts
from ferjax.report.truth import agreement
from tests.truth.test_em import annotations_of

CLASSES = ("anger", "fear", "sad")


@pytest.fixture
def crowd(tmp_path):
    """Files of a crowd: ann is right, bob takes sad for fear, cy guesses; 30 tasks, 3 classes."""
    rng = np.random.default_rng(0)
    known = rng.integers(0, 3, 30)
    rows = []
    for task, k in enumerate(known):
        labels = {"ann": k, "bob": min(k, 1), "cy": rng.integers(3), "dee": k, "eve": k}
        rows += [(f"img {task}", name, CLASSES[label]) for name, label in labels.items()]
    write(tmp_path / "labels.csv", ("item", "worker", "label"), rows)
    truths = [(f"img {task}", CLASSES[k]) for task, k in enumerate(known)]
    write(tmp_path / "truth.csv", ("item", "truth"), truths)
    return tmp_path


def write(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def run(folder, workdir="run", **changes):
    config = truth.get_config()
    config.annotations = str(folder / "labels.csv")
    config.update_from_flattened_dict(changes)
    return main.execute(config.copy_and_resolve_references(), folder / workdir)


def write_tables(folder, **changes):
    """Infers, and writes the tables, without a report, into `tables`; returns the result."""
    config = truth.get_config()
    config.annotations = str(folder / "labels.csv")
    config.update_from_flattened_dict(changes)
    crowd = infer.read(config)
    (folder / "tables").mkdir(exist_ok=True)
    return infer.write(config, crowd, infer.infer(config, crowd), folder / "tables")


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_what_the_config_promises(crowd, capsys):
    assert run(crowd, truth=str(crowd / "truth.csv"), prior="none") == 0
    done = crowd / "run"
    result = json.loads((done / "result.json").read_text())
    assert (result["tasks"], result["workers"], result["annotations"]) == (30, 5, 150)
    assert (result["accuracy"], result["known_tasks"]) == (1.0, 30)
    assert result["classes"] == list(CLASSES)
    assert result["seconds"] > result["seconds_reading"] > 0
    lines = [json.loads(line) for line in (done / "metrics.jsonl").read_text().splitlines()]
    trace = [line["log_likelihood"] for line in lines if line["split"] == "train"]
    assert len(trace) == result["iterations"]
    assert trace[-1] == result["log_likelihood"]
    labels = read(done / "labels.csv")
    assert list(labels[0]) == ["task", "label", "p_anger", "p_fear", "p_sad", "entropy"]
    assert [row["task"] for row in labels] == [f"img {task}" for task in range(30)]
    workers = {row["worker"]: row for row in read(done / "workers.csv")}
    assert workers["ann"]["labels"] == "30"
    assert float(workers["ann"]["accuracy"]) == pytest.approx(1, abs=1e-3)
    assert workers["ann"]["most_frequent_mistake"] == ""
    assert workers["bob"]["most_frequent_mistake"] == "sad as fear"
    saved = np.load(done / "confusions.npz")
    assert saved["workers"].tolist() == ["ann", "bob", "cy", "dee", "eve"]
    np.testing.assert_allclose(saved["confusions"][1, 2], [0, 1, 0], atol=1e-3)
    assert "accuracy 100.00 % of 30 tasks" in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", infer.ALGORITHMS)
def test_every_algorithm_fills_the_same_tables(crowd, algorithm):
    gold, skills = crowd / "gold.csv", crowd / "skills.csv"
    gold.write_text("\n".join((crowd / "truth.csv").read_text().splitlines()[:10]))
    skills.write_text("worker,skill\nann,1\nbob,0.6\ncy,0.2\ndee,1\neve,1\n")
    files = {"gold_majority_vote": {"gold": gold}, "weighted_majority_vote": {"skills": skills}}
    given = {name: str(path) for name, path in files.get(algorithm, {}).items()}
    result = write_tables(crowd, algorithm=algorithm, table="parquet", **given)
    labels = pq.read_table(crowd / "tables/labels.parquet")
    probabilities = np.stack([labels[f"p_{name}"].to_numpy() for name in CLASSES], axis=1)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    workers = {row["worker"]: row for row in read(crowd / "tables/workers.csv")}
    assert {name for name, row in workers.items() if row["spammer"] == "true"} == {"cy"}
    assert float(workers["ann"]["spam_score"]) == pytest.approx(1)
    by_likelihood = ("dawid_skene", "ibcc", "one_coin", "glad", "mace")
    assert (result["log_likelihood"] is not None) == (algorithm in by_likelihood)
    assert 0.3 < result["krippendorff_alpha"] < 0.9
    assert result["spammers"] == 1


@pytest.mark.parametrize("algorithm", ["dawid_skene", "mace", "pm"])
def test_every_kind_of_algorithm_has_a_report(crowd, capsys, algorithm):
    assert run(crowd, algorithm=algorithm) == 0
    page = (crowd / "run/report/index.html").read_text()
    assert "labels hardly depend on the truth" in page
    assert "Krippendorff" in page
    pictures = set(re.findall(r'src="([^"]+)"', page))
    assert {"coders.png", "most_reliable.png", "entropy.png", "agreement.png"} <= pictures
    for name in pictures:
        assert (crowd / "run/report" / name).read_bytes().startswith(b"\x89PNG")
    assert "workers whose labels hardly depend on the truth: 1" in capsys.readouterr().out


def test_workers_of_an_earlier_run_give_the_skills(crowd, capsys):
    write_tables(crowd)
    skills = {"algorithm": "weighted_majority_vote", "skills": str(crowd / "tables/workers.csv")}
    assert write_tables(crowd, truth=str(crowd / "truth.csv"), **skills)["accuracy"] == 1
    (crowd / "tables/workers.csv").write_text("worker,skill\nann,1\nbob,1\n")
    assert run(crowd, **skills) == 1
    assert "has no skill of 3 of 5 workers, such as cy" in capsys.readouterr().err


def test_a_finished_run_infers_nothing_again(crowd, monkeypatch, capsys):
    assert run(crowd) == 0
    before = (crowd / "run/metrics.jsonl").read_bytes(), capsys.readouterr().out.splitlines()[0]
    monkeypatch.setattr(infer, "infer", None)
    assert run(crowd) == 0
    after = (crowd / "run/metrics.jsonl").read_bytes(), capsys.readouterr().out.splitlines()[0]
    assert after == before
    (crowd / "labels.csv").write_text("task,worker,label\na,b,c\na,c,d\n")
    assert run(crowd) == 1
    assert "holds a run on other data" in capsys.readouterr().err


def test_what_a_run_is_measured_by_may_be_given_later(crowd):
    assert run(crowd) == 0
    assert run(crowd, truth=str(crowd / "truth.csv"), table="parquet") == 0
    result = json.loads((crowd / "run/result.json").read_text())
    assert (result["accuracy"], result["known_tasks"]) == (1.0, 30)
    assert (crowd / "run/labels.parquet").exists()


def test_gold_is_left_out_of_the_accuracy(crowd, capsys):
    (crowd / "gold.csv").write_text("task,label\nimg 3,sad\nimg 4,fear\n")
    assert run(crowd, gold=str(crowd / "gold.csv"), truth=str(crowd / "truth.csv")) == 0
    result = json.loads((crowd / "run/result.json").read_text())
    assert (result["known_tasks"], result["gold_tasks"]) == (28, 2)
    assert "gold tasks: 2, not counted in the accuracy" in capsys.readouterr().out
    truth_file = str(crowd / "truth.csv")
    assert run(crowd, workdir="all", gold=truth_file, truth=truth_file) == 0
    assert json.loads((crowd / "all/result.json").read_text())["accuracy"] is None


@pytest.mark.parametrize("classes", [2, 3, 13])
def test_reports_of_odd_crowds_are_written(tmp_path, classes):
    """One worker, many classes, names of any length with signs that mean something elsewhere."""
    names = [f"$x^{k}$ " + "a long name " * k for k in range(classes)]
    rows = [(f"<task {k}>", "w$_1$" * 9, names[k]) for k in range(classes)]
    write(tmp_path / "labels.csv", ("task", "worker", "label"), rows)
    assert run(tmp_path) == 0
    page = (tmp_path / "run/report/index.html").read_text()
    assert "<task 0>" not in page
    assert "&lt;task 0&gt;" in page
    assert "agreement.png" not in page
    assert ("most_reliable.png" in page) == (classes <= 12)


@pytest.mark.parametrize("use", ["prior", "add", "assign"])
def test_confusions_of_an_earlier_run_are_used(crowd, use):
    """The earlier run's three able workers outvote cy, though in the new labels all are alike."""
    write_tables(crowd)
    (crowd / "tables/confusions.npz").rename(crowd / "earlier.npz")
    rows = [(task, name, "sad") for task in range(4) for name in ("ann", "dee", "cy")]
    write(crowd / "labels.csv", ("task", "worker", "label"), [*rows, (4, "cy", "fear")])
    changes = {"earlier": str(crowd / "earlier.npz"), "earlier_as": use}
    changes |= {"classes": CLASSES, "prior": "none"}
    write_tables(crowd, **changes)
    assert [row["label"] for row in read(crowd / "tables/labels.csv")][:4] == ["sad"] * 4
    confusions = np.load(crowd / "tables/confusions.npz")["confusions"]
    if use == "prior":
        np.testing.assert_allclose(confusions[0], np.eye(3), atol=1e-3)


def test_earlier_confusions_of_others_are_refused(crowd, capsys):
    write_tables(crowd)
    earlier = {"earlier": str(crowd / "tables/confusions.npz")}
    write(
        crowd / "labels.csv", ("task", "worker", "label"), [(0, "ann", "sad"), (0, "flo", "fear")]
    )
    assert run(crowd, **earlier) == 1
    assert "class anger is none of the classes fear, sad; set classes" in capsys.readouterr().err
    assert run(crowd, **earlier, earlier_as="assign", classes=CLASSES) == 1
    assert "has no matrix of 1 of 2 workers, such as flo" in capsys.readouterr().err


def test_gold_stays_fixed(crowd):
    (crowd / "gold.csv").write_text("task,label\nimg 3,sad\nimg 4,fear\n")
    assert run(crowd, gold=str(crowd / "gold.csv")) == 0
    rows = {row["task"]: row for row in read(crowd / "run/labels.csv")}
    assert [rows[task]["label"] for task in ("img 3", "img 4")] == ["sad", "fear"]
    assert float(rows["img 3"]["p_sad"]) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"algorithm": "dawid"},
            "one_coin, dawid_skene, ibcc, not 'dawid'",
        ),
        ({"table": "json"}, "table must be one of csv, parquet, not 'json'"),
        ({"annotations": ""}, "annotations is not set"),
        ({"annotations": "nowhere.csv"}, "cannot read nowhere.csv: No such file"),
        (
            {"algorithm": "pm", "gold": "gold.csv"},
            "gold cannot be used with pm, only with weighted_majority_vote, gold_majority_vote",
        ),
        ({"algorithm": "gold_majority_vote"}, "gold is not set; gold_majority_vote needs the file"),
        (
            {"algorithm": "weighted_majority_vote"},
            "skills is not set; weighted_majority_vote needs",
        ),
        (
            {"skills": "skills.csv"},
            "skills cannot be used with dawid_skene, only with weighted_majority_vote",
        ),
        ({"earlier_as": "x"}, "earlier_as must be 'prior', 'add' or 'assign', not 'x'"),
        (
            {"algorithm": "ibcc", "earlier": "confusions.npz"},
            "earlier cannot be used with ibcc, only with dawid_skene",
        ),
        ({"restarts": 0}, "restarts must be at least 1, not 0"),
        ({"prior": "flat"}, "prior must be 'none' or 'diagonal', not 'flat'"),
        ({"class_prior": "flat"}, "class_prior must be 'estimate' or 'uniform', not 'flat'"),
        ({"init": "zero"}, "init must be 'majority' or 'spectral', not 'zero'"),
        ({"diagonal": -1.0}, "diagonal must be positive and finite, not -1.0"),
        ({"off_diagonal": float("inf")}, "off_diagonal must be finite, not inf"),
        ({"tolerance": float("nan")}, "tolerance must be finite, not nan"),
        ({"max_iterations": 0}, "max_iterations must be in [1, 1,000,000], not 0"),
        ({"algorithm": "pm", "init": "spectral"}, "init must be 'majority' for pm, not 'spectral'"),
        ({"repeated": "first"}, "repeated must be 'keep' or 'last', not 'first'"),
        ({"seed": -1}, "seed must be in [0, 2³²), not -1"),
        ({"classes": ("anger", "fear")}, "label sad is none of the classes anger, fear"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(crowd, capsys, changes, message):
    assert run(crowd, **changes) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (crowd / "run").exists()


def test_a_label_in_gold_that_nobody_may_choose_is_refused_or_left_out_with_a_warning(
    crowd, capsys, caplog
):
    gold = crowd / "gold.csv"
    gold.write_text("task,label\nimg 1,Fear\nimg 2,joy\n")
    assert run(crowd, gold=str(gold)) == 1
    error = capsys.readouterr().err
    assert "gold.csv, row 1: label 'Fear' (which is not 'fear') is none of the classes" in error
    gold.write_text("task,label\nimg 1,fear\nimg 2,joy\nimg 3,\n")
    assert run(crowd, gold=str(gold)) == 0
    assert json.loads((crowd / "run/result.json").read_text())["gold_tasks"] == 1
    assert "1 of 2 labels left out, being none of the classes anger, fear, sad: joy" in caplog.text


def test_labels_that_mean_nothing_are_dropped_where_the_config_says_so(crowd):
    with (crowd / "labels.csv").open("a") as file:
        file.write("img 0,fay,None\nimg 1,ann,\n")
    assert run(crowd, missing=("None", "")) == 0
    result = json.loads((crowd / "run/result.json").read_text())
    assert (result["classes"], result["annotations"], result["workers"]) == ([*CLASSES], 150, 5)


def test_a_truth_that_is_no_class_counts_as_missed():
    assert accuracy(np.int32([0, 1, 2, 0]), np.int32([0, -2, -1, 1])) == pytest.approx(1 / 3)
    assert accuracy(np.int32([0]), np.int32([-1])) is None


def test_expected_counts_by_hand():
    annotations = annotations_of([(0, "a", 0), (0, "b", 1), (1, "a", 1)])
    counts = expected_counts(annotations, np.array([[0.75, 0.25], [0.1, 0.9]]))
    np.testing.assert_allclose(counts, [[[0.75, 0.1], [0.25, 0.9]], [[0, 0.75], [0, 0.25]]])


def test_ties_and_entropy_of_posteriors():
    posteriors = np.float32([[0.5, 0.5], [1, 0], [0.25, 0.75]])
    unused = np.empty((1, 2, 2)), np.empty(0), 1, True, 0.0
    inference = Inference(np.int32([0, 0, 1]), posteriors, *unused)
    assert inference.tied.tolist() == [True, False, False]
    np.testing.assert_allclose(inference.entropy, [1, 0, 0.811278], atol=1e-6)


def test_agreement_by_hand_counts_the_last_of_several_labels(monkeypatch):
    triples = [(0, "a", 0), (0, "b", 0), (1, "a", 1), (1, "b", 0), (1, "b", 1), (2, "a", 1)]
    triples += [(3, "a", 0), (3, "b", 1), (4, "c", 0)]
    monkeypatch.setattr("ferjax.report.truth.LEAST_SHARED", 1)
    shares = agreement(annotations_of(triples), np.arange(3))
    np.testing.assert_allclose(shares[:2, :2], [[1, 2 / 3], [2 / 3, 1]])
    assert np.isnan(shares[2, :2]).all()
