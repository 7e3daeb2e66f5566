"""The head of a report, its tables by class, and pictures of faces that are files."""

import json

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from ferjax import workdir
from ferjax.data.images import FileImages
from ferjax.data.record import Names
from ferjax.report import page, parts, sheets, summary
from ferjax.report.trained import Trained
from tests import tiny


def stage(accuracy, score="accuracy"):
    return {"heads": {"class": {"score": score, "last": accuracy}}}


def trained(method):
    rows = np.arange(40, dtype=np.int32)
    truth = tiny.dataset().train.truth
    given = np.where(rows < 10, 1 - truth, truth).astype(np.int32)
    return Trained(method, "", ("coder",), "coder", {}, rows, given, {})


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        (
            (0.712, 0.604),
            "student reaches 71.2% test accuracy, 10.8 points above baseline, trained",
        ),
        ((0.5, 0.604), "student reaches 50.0% test accuracy, 10.4 points below baseline, trained"),
    ],
)
def test_the_head_says_what_came_out_beside_the_baseline(scores, words):
    stages = {"student": stage(scores[0]), "baseline": stage(scores[1]), "teachers": stage(0.9)}
    methods = {"student": "cct_student", "baseline": "supervised", "teachers": "cct"}
    text = summary.outcome(
        {"headline": "student", "stages": stages}, {x: trained(m) for x, m in methods.items()}
    )
    assert text == f"{words} alike."


def test_a_run_without_a_baseline_is_compared_with_nothing():
    result = {"headline": "alone", "stages": {"alone": stage(0.25, "ccc")}}
    assert summary.outcome(result, {"alone": trained("supervised")}) == (
        "alone reaches 0.250 test CCC."
    )


def test_the_head_says_what_was_run(tmp_path, monkeypatch):
    command = ["/x/ferjax/main.py", "--config.stages=('a',)", "--workdir=a folder"]
    monkeypatch.setattr(workdir.sys, "argv", command)
    config = ConfigDict(
        {"headline": "one", "data": {"name": "tiny"}, "noise": {"kind": "pair_flip"}}
    )
    workdir.claim(tmp_path, config, {"checksums": {}}, set())
    result = {"headline": "one", "stages": {"one": stage(0.5)}, "wall_seconds": 135.0}
    data = tiny.dataset()
    text = summary.head(config, tmp_path, data, result, {"one": trained("ltnet")})
    assert "Method of one: LTNet: one network for the latent truth" in text
    assert "learnt from 40 images of tiny in 2 classes and was tested on 20 images" in text
    assert "(pair_flip noise). 25.0% of its labels are wrong." in text
    assert "Training took 2 min 15 s." in text
    typed = "python -m ferjax.main \"--config.stages=('a',)\" '--workdir=a folder'"
    assert json.loads((tmp_path / "config.json").read_text())["command"] == typed
    assert page.code(typed) in text


def test_faces_and_measures_are_told_by_class():
    counts = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])
    rows = summary.by_class(counts, np.array([0, 0, 0, 1, -1]), ("a", "b", "c"))
    assert rows == {
        "a": ["3", "75.0", "10", "88.9", "80.0", "84.2"],
        "b": ["1", "25.0", "4", "60.0", "75.0", "66.7"],
        "c": ["0", "0.0", "0", "–", "–", "–"],
    }


def test_numbers_agree_with_what_they_count():
    assert parts.count(1, "test set") == "1 test set"
    assert parts.count(1200, "test set") == "1,200 test sets"
    assert parts.count(2, "class") == "2 classes"
    assert "white-space: nowrap" in page.STYLE.split("dl.figures div")[1].split("}")[0]


def test_sheets_show_files_themselves_with_links_to_them(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), rng.integers(0, 256, (64, 48, 3), np.uint8))
    (tmp_path / "c.png").unlink()  # since it was trained on
    (tmp_path / "c.png").write_bytes(b"")
    names = Names.of(["a b.png", "c.png"])
    images = FileImages(size=8, channels=3, root=str(tmp_path), names=names)
    split = tiny.split(2, 0)._replace(images=images, names=names)
    assert sheets.originals(split, np.array([0]))[0].shape == (256, 256, 3)
    assert sheets._links(split, np.array([0])) == {"a b.png": (tmp_path / "a b.png").as_uri()}
    drawn = tiny.split(2, 0)
    assert sheets.originals(drawn, np.array([1]))[0].shape == (8, 8, 1)
    assert sheets._links(drawn, np.array([1])) == {}
