"""Several seeds: each a whole workdir, and the mean and deviation of what came out."""

import json

import numpy as np
import pytest

from configs import supervised, truth
from ferjax import main
from tests import tiny


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    tiny.use_tiny_network(monkeypatch)


def small(**changes):
    config = supervised.get_config()
    fields = {"data.train_size": 32, "data.test_size": 16, "data.image_size": 24}
    fields |= {"model.name": tiny.NETWORK, "model.width": 4, "loop.eval_batch_size": 16}
    fields |= {"supervised.batch_size": 16, "supervised.epochs": 1.0, "seeds": (0, 3)}
    config.update_from_flattened_dict(fields | changes)
    return config


def read(path):
    return json.loads(path.read_text())


def test_each_seed_is_a_whole_run_and_the_table_has_mean_and_deviation(tmp_path, capsys):
    assert main.execute(small(), tmp_path) == 0
    table = capsys.readouterr().out
    runs = [tmp_path / "seed-0", tmp_path / "seed-3"]
    for seed, run in zip((0, 3), runs, strict=True):
        config = read(run / "config.json")["config"]
        assert config["seed"] == config["data"]["seed"] == config["noise"]["seed"] == seed
        assert (run / "report/index.html").exists()
    scores = [100 * read(run / "result.json")["test_accuracy"] for run in runs]
    spread = f"{np.mean(scores):9.2f} ± {np.std(scores, ddof=1):6.2f}"
    assert spread in table.splitlines()[-1]
    result = read(tmp_path / "result.json")
    assert result["seeds"] == [0, 3]
    row = result["rows"]["supervised"]
    np.testing.assert_allclose(
        row["last"], np.array([np.mean(scores), np.std(scores, ddof=1)]) / 100
    )
    np.testing.assert_allclose(100 * np.array(row["each"]), scores)


def test_a_repeated_command_trains_nothing_again_and_further_seeds_are_added(tmp_path):
    assert main.execute(small(), tmp_path) == 0
    done = tmp_path / "seed-0/stages/supervised/done.json"
    before = done.stat().st_mtime_ns
    assert main.execute(small(seeds=(0, 3, 4)), tmp_path) == 0
    assert done.stat().st_mtime_ns == before
    assert len(read(tmp_path / "result.json")["rows"]["supervised"]["each"]) == 3


def test_mistakes_are_one_line(tmp_path, capsys):
    assert main.execute(small(seeds=(1, 1)), tmp_path / "run") == 1
    assert "seeds: one of (1, 1) is named twice" in capsys.readouterr().err
    config = truth.get_config()
    config.seeds = (0, 1)
    assert main.execute(config, tmp_path / "run") == 1
    assert "seeds: run='truth' cannot be repeated" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
