"""Stages run in order, once; what one makes reaches those that need it. Data are told apart."""

import cv2
import numpy as np
import pytest
from ferjax.plan import Stage, checksum_of, run_stages
from ml_collections import ConfigDict

from ferjax.data.datasets import folder
from ferjax.errors import UserError


def stage(name: str, log: list, needs: dict | None = None, fails: bool = False) -> Stage:
    def run(inputs):
        if fails:
            raise RuntimeError("killed")
        log.append((f"run {name}", inputs))
        return f"output of {name}"

    def load(inputs):
        log.append((f"load {name}", inputs))
        return f"output of {name}"

    return Stage(name, needs or {}, run, load)


def test_a_stage_gets_what_it_needs_by_the_name_it_knows(tmp_path):
    log = []
    run_stages((stage("a", log), stage("b", log, {"teacher": "a"})), tmp_path)
    assert log == [("run a", {}), ("run b", {"teacher": "output of a"})]


def test_a_finished_stage_is_loaded_only_if_needed(tmp_path):
    run_stages((stage("a", []),), tmp_path)
    log = []
    run_stages((stage("a", log), stage("b", log)), tmp_path)
    assert log == [("run b", {})]
    run_stages((stage("a", log), stage("c", log, {"a": "a"})), tmp_path)
    assert log[1:] == [("load a", {}), ("run c", {"a": "output of a"})]


def test_a_stage_that_fails_is_not_finished(tmp_path):
    with pytest.raises(RuntimeError):
        run_stages((stage("a", [], fails=True),), tmp_path)
    log = []
    run_stages((stage("a", log),), tmp_path)
    assert log == [("run a", {})]


def test_a_damaged_picture_stops_a_run_before_it_begins_if_somebody_labelled_it(tmp_path):
    """Else the run could not go on once the picture is mended: these would be other data."""
    for row in range(2):
        path = tmp_path / f"happy/{row}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), row, np.uint8))
    path.write_bytes(b"no picture")
    config = ConfigDict({"path": str(tmp_path), "test_path": "", "coder": "team"})
    config.update(classes=7, image_size=8, channels=1)
    with pytest.raises(UserError, match=r"happy/1\.png is not a readable picture"):
        checksum_of(folder.load(config).train)
    config.coder = ""
    assert checksum_of(folder.load(config).train) > 0
