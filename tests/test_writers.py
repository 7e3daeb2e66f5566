"""What is written is strict JSON, whole or absent, and forgets what will be run again."""

import json

import pytest

from ferjax import writers


def test_lines_are_strict_json_even_for_nan(tmp_path):
    metrics = writers.MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(stage="a", split="train", step=1, epoch=0.5, loss=float("nan"), counts=[[1, 2]])
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=pytest.fail) == {
        "step": 1, "epoch": 0.5, "split": "train", "stage": "a", "loss": None, "counts": [[1, 2]]
    }  # fmt: skip


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path):
    metrics = writers.MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(stage="a", split="train", step=1, epoch=1.0)
    with metrics.path.open("a") as file:
        file.write('{"step": 2, "ep')
    assert [line["step"] for line in metrics.read()] == [1]
    metrics.forget("a", after_step=1)
    assert metrics.path.read_text().endswith("}\n")


def test_forgetting_keeps_other_stages_and_earlier_steps(tmp_path):
    metrics = writers.MetricsFile(tmp_path / "metrics.jsonl")
    for stage, step in (("a", 1), ("a", 2), ("b", 2)):
        metrics.write(stage=stage, split="train", step=step, epoch=1.0)
    metrics.forget("a", after_step=1)
    assert [(line["stage"], line["step"]) for line in metrics.read()] == [("a", 1), ("b", 2)]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    writers.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        writers.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
