"""`result.json` is a function of `metrics.jsonl`: last epoch, mean of five, oracle's best."""

import json

import pytest

from ferjax import results
from ferjax.errors import UserError
from ferjax.writers import MetricsFile, write_json

STAGES = ("baseline", "teachers", "student")


@pytest.fixture
def workdir(tmp_path):
    """A run of baseline and student over six epochs, whose baseline ends below its best."""
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    common = {"uar": 0.5, "macro_f1": 0.4, "confusion": [[3, 1], [2, 2]]}
    stages = {"baseline": [2, 9, 8, 7, 6, 5], "teachers": [1] * 6, "student": [3] * 6}
    for stage, scores in stages.items():
        for epoch, score in enumerate(scores, start=1):
            line = {"stage": stage, "step": epoch, "epoch": float(epoch), "seconds": epoch / 3}
            speed = {"images_per_second": 100.0 * epoch, "data_wait": 0.01}
            metrics.write(split="train", **line, **speed)
            heads = {"network/accuracy": score / 10}
            if stage == "teachers":
                heads = {"average/accuracy": 0.7, "vote/accuracy": 0.6}
            metrics.write(split="eval", **line, **heads, **common)
        write_json(tmp_path / "stages" / stage / "done.json", {"peak_memory_bytes": 7})
        lengths = {"total_steps": 6, "eval_every": 1}
        write_json(tmp_path / "stages" / stage / "stage.json", lengths)
    return tmp_path


def test_the_result_reports_the_last_epoch_and_names_the_oracle(workdir):
    result = results.summarise("student", STAGES, workdir)
    assert result["headline"] == "student"
    assert result["test_accuracy"] == 0.3
    assert result["comparators"] == {"baseline": 0.5, "teachers/vote": 0.6, "teachers/average": 0.7}
    assert result["stages"]["baseline"]["heads"]["network"] == {
        "score": "accuracy", "last": 0.5, "last_5_mean": pytest.approx(0.7), "oracle_best": 0.9
    }  # fmt: skip
    assert result["images_per_second"] == 350
    assert result["wall_seconds"] == 6
    assert result["peak_memory_bytes"] == 7
    assert result["confusion"] == [[3, 1], [2, 2]]
    json.dumps(result, allow_nan=False)


def test_what_did_best_on_validation_faces_is_reported_when_there_are_some(workdir):
    metrics = MetricsFile(workdir / "metrics.jsonl")
    for stage, best in (("baseline", 2), ("teachers", 1), ("student", 6)):
        for epoch in range(1, 7):
            accuracy = 0.5 if epoch >= best else 0.4  # the first of several as good is chosen
            line = {"stage": stage, "step": epoch, "epoch": float(epoch)}
            metrics.write(split="validation", **line, accuracy=accuracy)
    result = results.summarise("student", STAGES, workdir)
    assert result["best_validation"] == 0.3
    assert result["stages"]["baseline"]["heads"]["network"]["best_validation"] == 0.9
    table = results.format_table(result).splitlines()
    assert table[0].endswith("best on validation  oracle best")
    assert table[1].split()[1:] == ["50.00", "70.00", "90.00", "90.00"]


def test_the_table_has_a_row_for_each_head_the_main_one_last(workdir):
    table = results.format_table(results.summarise("student", STAGES, workdir)).splitlines()
    rows = [line.split()[0] for line in table[1:]]
    assert rows == ["baseline", "teachers/vote", "teachers/average", "student"]
    assert table[1].split()[1:] == ["50.00", "70.00", "90.00"]


def test_labelling_counts_as_time_of_the_run(workdir):
    MetricsFile(workdir / "metrics.jsonl").write(
        stage="annotate_east", split="annotate", step=1, epoch=1.0, seconds=30.0
    )
    assert results.summarise("student", STAGES, workdir)["wall_seconds"] == 36


def test_a_finished_stage_without_metrics_is_named(workdir):
    (workdir / "metrics.jsonl").write_text("")
    with pytest.raises(UserError, match="baseline"):
        results.summarise("student", STAGES, workdir)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("step", [1, 4, 6])
def test_no_result_is_computed_from_some_of_the_evaluations(workdir, stage, step):
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    parts = f'"step": {step},', '"split": "eval"', f'"stage": "{stage}"'
    path.write_text("".join(x for x in lines if not all(part in x for part in parts)))
    message = rf"lacks the evaluation of {stage} at step {step} .*: delete .*/stages/{stage}, and"
    with pytest.raises(UserError, match=message):
        results.summarise("student", STAGES, workdir)


def test_a_stage_is_evaluated_at_its_end_whatever_the_interval():
    assert results.evaluated_steps(4, 10) == {4, 8, 10}
    assert results.evaluated_steps(4, 10, upto=9) == {4, 8}
    assert results.evaluated_steps(40, 10, upto=0) == set()
