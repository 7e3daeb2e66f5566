"""A run repeated over seeds: whole workdirs, and their mean ± deviation, added up by hand."""

import json
import math

import pytest

from configs import cct
from ferjax import main, repeat
from ferjax.errors import UserError
from tests import tiny

STAGES = ("baseline", "teachers", "student")


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def small(**changes):
    """CCT on 48 faces, for two seeds."""
    config = cct.get_config()
    config.seeds = (0, 1)
    config.data.train_size, config.data.test_size, config.data.image_size = 48, 16, 24
    config.model.name, config.model.width = tiny.NETWORK, 4
    config.loop.eval_batch_size = 16
    config.teachers.networks, config.teachers.epochs, config.student.epochs = 2, 2.0, 1.0
    config.teachers.batch_size = config.student.batch_size = 16
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    assert main.execute(small(), folder) == 0
    return folder


def read(path):
    return json.loads(path.read_text())


def by_hand(values):
    """Mean and deviation of two values."""
    first, second = values
    return [(first + second) / 2, abs(first - second) / math.sqrt(2)]


def test_each_seed_has_a_whole_workdir_in_which_all_seeds_follow(finished):
    for seed in (0, 1):
        one = finished / f"seed-{seed}"
        config = read(one / "config.json")["config"]
        assert config["seed"] == config["data"]["seed"] == config["noise"]["seed"] == seed
        assert config["seeds"] == []
        assert read(one / "result.json")["headline"] == "student"
        assert (one / "report" / "index.html").exists()
        for stage in STAGES:
            assert (one / "stages" / stage / "done.json").exists()
    data = [read(finished / f"seed-{seed}" / "data.json") for seed in (0, 1)]
    assert data[0] != data[1], "faces of their own"


def test_the_result_has_mean_and_deviation_of_every_row(finished):
    result = read(finished / "result.json")
    both = [read(finished / f"seed-{seed}" / "result.json") for seed in (0, 1)]
    assert result["seeds"] == [0, 1]
    assert result["headline"] == "student"
    assert set(result["rows"]) == {"student"} | set(both[0]["comparators"])
    student, vote = result["rows"]["student"], result["rows"]["teachers/vote"]
    assert student["each"] == [one["test_accuracy"] for one in both]
    assert student["last"] == pytest.approx(by_hand(student["each"]))
    assert vote["last"] == pytest.approx(by_hand([x["comparators"]["teachers/vote"] for x in both]))
    heads = [one["stages"]["teachers"]["heads"]["vote"] for one in both]
    best = [head["oracle_best"] for head in heads]
    assert vote["oracle_best"] == pytest.approx(by_hand(best))
    drops = [head["oracle_best"] - head["last"] for head in heads]
    assert vote["drop"] == pytest.approx(by_hand(drops))
    assert "best_validation" not in vote
    shares = [one["latent_truth"]["baseline"] for one in both]
    assert result["latent_truth"]["baseline"] == pytest.approx(by_hand(shares))


def test_the_second_command_trains_nothing_and_prints_the_same_table(finished, capsys):
    # All but result and report, which are written again.
    kept = [*finished.glob("seed-*/stages/**/*"), *finished.glob("seed-*/metrics.jsonl")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    result = (finished / "result.json").read_text()
    assert main.execute(small(), finished) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert (finished / "result.json").read_text() == result
    table = capsys.readouterr().out
    both = [read(finished / f"seed-{seed}" / "result.json")["test_accuracy"] for seed in (0, 1)]
    mean, deviation = by_hand(both)
    titles = next(line for line in table.splitlines() if "2 seeds" in line)
    columns = [x.strip() for x in titles.split("  ") if x.strip()]
    assert columns == ["test accuracy, %, 2 seeds", "last", "oracle best", "drop"]
    row = next(x for x in table.splitlines() if x.startswith("student ") and "±" in x)
    assert f"  {100 * mean:.2f} ± {100 * deviation:.2f}  " in row
    assert f"report: {finished / 'report' / 'index.html'}" in table


def test_the_report_has_the_table_and_links_to_each_seeds_report(finished):
    text = (finished / "report" / "index.html").read_text()
    result = read(finished / "result.json")
    for row in result["rows"].values():
        mean, deviation = row["last"]
        assert f"<td>{100 * mean:.2f} ± {100 * deviation:.2f}</td>" in text
    for seed in (0, 1):
        address = f"../seed-{seed}/report/index.html"
        assert f'href="{address}"' in text
        assert (finished / "report" / address).resolve().exists()


def test_deviation_is_that_of_the_sample_and_zero_for_one_run():
    def result(last, best):
        figures = {"score": "accuracy", "last": last, "oracle_best": best}
        return {
            "headline": "a",
            "latent_truth": {},
            "stages": {"a": {"heads": {"class": figures}}},
        }

    three = repeat.summarise([result(0.2, 0.5), result(0.4, 0.5), result(0.6, 0.8)])
    row = three["rows"]["a"]
    assert row["last"] == pytest.approx((0.4, 0.2))
    assert row["oracle_best"] == pytest.approx((0.6, math.sqrt(0.03)))
    assert row["drop"] == pytest.approx((0.2, 0.1))
    assert repeat.summarise([result(0.2, 0.5)])["rows"]["a"]["last"] == (0.2, 0.0)


def test_a_seed_that_is_named_twice_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"seeds: one of \(0, 1, 0\) is named twice"):
        repeat.over_seeds(small(seeds=(0, 1, 0)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_another_kind_of_run_is_refused_in_one_line(tmp_path, capsys):
    with pytest.raises(UserError, match="run='truth' cannot be repeated, only 'train'"):
        repeat.over_seeds(small(run="truth"), tmp_path / "run")
    assert main.execute(small(run="truth"), tmp_path / "run") == 1
    assert capsys.readouterr().err == "error: seeds: run='truth' cannot be repeated, only 'train'\n"
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_one_seed_stops_before_anything_is_trained(tmp_path, capsys):
    assert main.execute(small(seeds=(0, -1)), tmp_path / "run") == 1
    assert "seed must lie in [0, 2³²), not -1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
