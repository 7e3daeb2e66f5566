"""Stages run in order, once; what one makes reaches those that need it."""

import pytest

from ferjax.plan import Stage, run_stages


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
