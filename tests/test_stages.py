"""Stages run in order, once, after those that they need; what one makes reaches the others."""

import pytest

from ferjax.errors import UserError
from ferjax.stages import Stage, run_stages, with_needed


def stage(name: str, log: list, needs: tuple[str, ...] = (), **changes) -> Stage:
    def run(inputs):
        log.append((f"run {name}", inputs))
        return f"output of {name}"

    def load(inputs):
        log.append((f"load {name}", inputs))
        return f"output of {name}"

    return Stage(name, needs, run, load)._replace(**changes)


def test_a_stage_gets_the_outputs_that_it_needs(tmp_path):
    log = []
    outputs = run_stages((stage("a", log), stage("b", log, ("a",))), tmp_path)
    assert log == [("run a", {}), ("run b", {"a": "output of a"})]
    assert outputs("b") == "output of b"


def test_a_finished_stage_is_loaded_only_if_somebody_asks(tmp_path):
    run_stages((stage("a", []),), tmp_path)
    log = []
    outputs = run_stages((stage("a", log), stage("b", log)), tmp_path)
    assert log == [("run b", {})]
    assert outputs("a") == "output of a"
    assert log[1:] == [("load a", {})]
    run_stages((stage("a", log), stage("c", log, ("a",))), tmp_path)
    assert log[2:] == [("load a", {}), ("run c", {"a": "output of a"})]


def test_a_stage_that_fails_is_not_finished(tmp_path):
    def fail(inputs):
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        run_stages((stage("a", [], run=fail),), tmp_path)
    log = []
    run_stages((stage("a", log),), tmp_path)
    assert log == [("run a", {})]


def test_a_finished_stage_of_which_something_is_missing_is_run_again(tmp_path):
    run_stages((stage("a", []),), tmp_path)
    log = []
    run_stages((stage("a", log, complete=lambda: False),), tmp_path)
    assert log == [("run a", {})]


NEEDS = {"ltnet": ("annotate", "union"), "annotate": ("machine",), "em": ("truth",)}


def test_needed_stages_come_before_those_that_need_them_and_once():
    order = with_needed(("machine", "em", "ltnet"), lambda name: NEEDS.get(name, ()))
    assert order == ("machine", "truth", "em", "annotate", "union", "ltnet")


def test_a_circle_and_a_stage_named_twice_are_refused():
    with pytest.raises(UserError, match="need each other in a circle: a -> b -> a"):
        with_needed(("a",), lambda name: {"a": ("b",), "b": ("a",)}[name])
    with pytest.raises(UserError, match="stages names 'a' twice"):
        with_needed(("a", "b", "a"), lambda name: ())
