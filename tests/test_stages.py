"""Stages run in order, once; what one makes reaches those that need it."""

import pytest

from ferjax.errors import UserError
from ferjax.stages import Stage, inputs_of, run_stages, with_needed


def stage(
    name: str,
    log: list,
    needs: tuple[str, ...] = (),
    fails: bool = False,
    complete: bool = True,
) -> Stage:
    def run(outputs):
        if fails:
            raise RuntimeError("killed")
        log.append((f"run {name}", outputs))
        return f"output of {name}"

    def load(outputs):
        log.append((f"load {name}", outputs))
        return f"output of {name}"

    return Stage(name, needs, run, load, lambda: complete)


def test_a_stage_gets_the_outputs_that_it_needs_by_stage(tmp_path):
    log = []
    outputs = run_stages((stage("a", log), stage("b", log, ("a",))), tmp_path)
    assert log == [("run a", {}), ("run b", {"a": "output of a"})]
    assert [outputs("a"), outputs("b")] == ["output of a", "output of b"]
    assert len(log) == 2, "what has run is not loaded"


def test_a_finished_stage_is_loaded_once_and_only_if_needed(tmp_path):
    run_stages((stage("a", []),), tmp_path)
    log = []
    outputs = run_stages((stage("a", log), stage("b", log)), tmp_path)
    assert log == [("run b", {})]
    assert outputs("a") == outputs("a") == "output of a"
    assert log[1:] == [("load a", {})]
    log.clear()
    run_stages((stage("a", log), stage("c", log, ("a",)), stage("d", log, ("a",))), tmp_path)
    needed = {"a": "output of a"}
    assert log == [("load a", {}), ("run c", needed), ("run d", needed)]


def test_what_a_loaded_stage_needs_is_loaded_first(tmp_path):
    run_stages((stage("a", []), stage("b", [], ("a",))), tmp_path)
    log = []
    run_stages((stage("a", log), stage("b", log, ("a",)), stage("c", log, ("b",))), tmp_path)
    assert log == [
        ("load a", {}),
        ("load b", {"a": "output of a"}),
        ("run c", {"b": "output of b"}),
    ]


def test_a_stage_that_fails_is_not_finished(tmp_path):
    with pytest.raises(RuntimeError):
        run_stages((stage("a", [], fails=True),), tmp_path)
    log = []
    run_stages((stage("a", log),), tmp_path)
    assert log == [("run a", {})]


def test_a_finished_stage_that_lost_some_of_its_work_runs_again(tmp_path):
    run_stages((stage("a", []), stage("b", [])), tmp_path)
    log = []
    run_stages((stage("a", log, complete=False), stage("b", log)), tmp_path)
    assert log == [("run a", {})]


def test_needed_stages_come_first_and_once():
    needs = {"student": ("teachers", "truth"), "teachers": ("truth",)}.get
    assert with_needed(("student",), lambda name: needs(name, ())) == (
        "truth",
        "teachers",
        "student",
    )
    assert with_needed(("baseline", "student", "teachers"), lambda name: needs(name, ())) == (
        "baseline",
        "truth",
        "teachers",
        "student",
    )
    assert with_needed((), needs) == ()


@pytest.mark.parametrize(
    ("needs", "circle"),
    [
        ({"a": ("a",)}, "a -> a"),
        ({"a": ("b",), "b": ("c",), "c": ("a",)}, "a -> b -> c -> a"),
        ({"a": ("b",), "b": ("c",), "c": ("b",)}, "a -> b -> c -> b"),
    ],
)
def test_stages_that_need_each_other_are_refused(needs, circle):
    with pytest.raises(UserError, match=f"stages need each other in a circle: {circle}$"):
        with_needed(("a",), lambda name: needs[name])


def test_a_stage_named_twice_is_refused():
    with pytest.raises(UserError, match="stages names 'a' twice"):
        with_needed(("a", "b", "a"), lambda name: ())
    assert with_needed(("a", "b"), {"a": (), "b": ("a",)}.get) == ("a", "b")


def test_a_stage_may_know_its_inputs_by_other_names():
    outputs = {"crowd": "output of crowd", "cct": "output of cct"}
    assert inputs_of({"teachers": "cct"}, outputs) == {"teachers": "output of cct"}
