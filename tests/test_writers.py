"""What is written is strict JSON, whole or absent, and forgets what will be run again."""

import errno
import json
import os
import stat

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


@pytest.mark.parametrize(
    "damage", [b"", b'{"step": 2, "ep', b"\xff\x00\x01", b"[]", b'{"step": 2}', b"12"]
)
def test_a_damaged_line_is_left_out_and_named(tmp_path, caplog, damage):
    metrics = writers.MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.write(stage="a", split="train", step=step, epoch=1.0)
    lines = metrics.path.read_bytes().splitlines()
    metrics.path.write_bytes(b"\n".join([lines[0], damage, lines[2], b""]))
    assert [line["step"] for line in metrics.read()] == [1, 3]
    assert "metrics.jsonl: line 2 is damaged and left out" in caplog.text
    metrics.forget("b", after_step=0)
    assert metrics.path.read_bytes().splitlines() == [lines[0], lines[2]]


def test_what_replaces_a_file_is_on_the_disk_before_it_and_then_the_folder(tmp_path, monkeypatch):
    path, order = tmp_path / "result.json", []
    writers.write_text(path, "old")

    def sync(descriptor):
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append(("folder" if folder else "file", path.read_text()))

    monkeypatch.setattr(writers.os, "fsync", sync)
    writers.write_text(path, "new")
    assert order == [("file", "old"), ("folder", "new")]


def test_a_full_disk_names_the_file(tmp_path):
    def write(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "result.json"
    with pytest.raises(OSError, match=r"No space left on device: '.*/result\.json'"):  # noqa: SIM117
        with writers.replacing(path) as temporary, temporary.open("w") as file:
            write(file)
    assert list(tmp_path.iterdir()) == []
