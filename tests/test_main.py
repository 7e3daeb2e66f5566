"""The command a user types: what it leaves in the workdir, and one clear line for each mistake."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

import ferjax
from configs import cct, cct_sweep, ltnet, supervised
from ferjax import command_line, main, preemption, workdir
from ferjax.data import datasets, synthetic
from ferjax.data.datasets.ferplus import EMOTIONS, NAME, UNSURE, USAGE, VOTES
from ferjax.data.record import InMemory
from ferjax.errors import UserError
from tests import tiny

ROOT = Path(__file__).parents[1]
FIELDS = {
    "data.train_size": 48,
    "data.test_size": 16,
    "data.image_size": 24,
    "model.name": tiny.NETWORK,
    "model.width": 4,
    "loop.eval_batch_size": 16,
}
STAGES = {
    "teachers.networks": 2,
    "teachers.batch_size": 16,
    "teachers.epochs": 2.0,
    "student.batch_size": 16,
    "student.epochs": 1.0,
}


BASELINE = {"stages": ("baseline",), "headline": "baseline"}


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    tiny.use_tiny_network(monkeypatch)


def run(folder: Path, config: ConfigDict | None = None, **changes) -> int:
    config = config or cct.get_config()
    config.update_from_flattened_dict(FIELDS | STAGES | changes)
    return main.execute(config, folder)


def type_in(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ferjax.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_quick_start_leaves_what_the_contract_says(tmp_path, capsys):
    assert run(tmp_path) == 0
    table = capsys.readouterr().out
    result = json.loads((tmp_path / "result.json").read_text())
    rows = ["baseline", "teachers/network_1", "teachers/network_2", "teachers/vote"]
    for row in (*rows, "teachers/average", "student"):
        assert row in table
    assert result["headline"] == "student"
    assert set(result["comparators"]) == {*rows, "teachers/average"}
    assert 0 <= result["test_accuracy"] <= 1
    assert sum(map(sum, result["confusion"])) == 16
    for name in ("uar", "macro_f1", "images_per_second", "wall_seconds", "peak_memory_bytes"):
        assert result[name] >= 0
    assert (tmp_path / "report" / "index.html").exists()
    for stage in ("baseline", "teachers", "student"):
        assert (tmp_path / "stages" / stage / "done.json").exists()
        assert list((tmp_path / "stages" / stage / "checkpoints").iterdir())
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["config"]["baseline"]["epochs"] == 2  # the baseline follows the teachers
    assert config["versions"]["jax"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["split"] for line in lines} == {"train", "eval"}

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").rglob("*")}
    assert run(tmp_path) == 0  # nothing is trained again
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "stages").rglob("*")}
    assert json.loads((tmp_path / "result.json").read_text())["confusion"] == result["confusion"]

    shutil.rmtree(tmp_path / "stages" / "teachers" / "checkpoints")  # no need of them to predict
    assert ferjax.load(tmp_path).name == "student"
    with pytest.raises(UserError, match=r"no .*student/best; did the run hold faces out\?"):
        ferjax.load(tmp_path, weights="best")


def test_the_supervised_config_runs(tmp_path):
    config = supervised.get_config()
    changes = {"supervised.epochs": 1.0, "supervised.batch_size": 16, "data.validation": 0.25}
    config.update_from_flattened_dict(FIELDS | changes)
    assert main.execute(config, tmp_path) == 0
    assert json.loads((tmp_path / "result.json").read_text())["headline"] == "supervised"
    assert ferjax.load(tmp_path, weights="best").name == "supervised"


def two_small_teams(config):
    """The sets of built-in faces small, all stages one step."""
    for part in config.data.sets.values():
        part.train_size, part.test_size, part.image_size = 32, 8, 24
    config.model.name, config.model.width = tiny.NETWORK, 4
    config.loop.eval_batch_size = config.ltnet.batch_size = 16
    config.ltnet.steps, config.loop.log_steps = 2, 1
    return config


def test_the_ltnet_config_compares_what_is_trained_alike(tmp_path):
    config = two_small_teams(ltnet.get_config())
    assert main.execute(config.copy_and_resolve_references(), tmp_path) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["headline"] == "ltnet/truth"
    assert set(result["comparators"]) == {"mixture", "ltnet/as_east", "ltnet/as_west"}
    saved = json.loads((tmp_path / "config.json").read_text())["config"]
    assert saved["mixture"]["label"] == "random"
    assert saved["mixture"]["batch_size"] == 16
    data = json.loads((tmp_path / "data.json").read_text())
    assert data["coders"] == ["east", "west"]
    assert data["faces"] == {"train": 64, "test": 16}
    figures = {"transitions.png", "latent_truth.png", "diagonal.png"}
    assert figures <= {path.name for path in (tmp_path / "report").iterdir()}


@pytest.mark.parametrize(
    ("sweep", "values", "rows"),
    [
        ("networks", {"network_counts": (1, 2)}, ["1", "2"]),
        ("temperature", {"temperatures": (2.0,)}, ["2.0"]),
        ("beta", {"betas": (0.65,)}, ["0.65"]),
    ],
)
def test_a_sweep_prints_the_papers_table(tmp_path, capsys, sweep, values, rows):
    changes = {"sweep": sweep, "teachers.epochs": 1.0, **values}
    assert run(tmp_path, cct_sweep.get_config(), **changes) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:-1]] == rows
    accuracy = json.loads((tmp_path / "result.json").read_text())["accuracy"]
    assert table[-2].split()[-1] == f"{100 * list(accuracy.values())[-1]:.2f}"
    page = (tmp_path / "report" / "index.html").read_text()
    assert all(f'<th scope="row">{float(row):g}</th>' in page for row in rows)
    assert (tmp_path / "report" / "sweep.png").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teachers.batch_size": 20}, "teachers.batch_size must be a positive multiple of the 8"),
        ({"baseline.batch_size": 20}, "baseline: batch_size must be a positive multiple of the 8"),
        ({"teachers.epochs": 0.0}, "teachers.steps or teachers.epochs must be positive"),
        ({"data.train_size": 0}, "the training split of synthetic has no faces"),
        ({"model.input": "magic"}, "model.input 'magic' is none of imagenet, bgr, half"),
        ({"label": "nobody"}, "label='nobody' is none of"),
        ({"teachers.lambda_max": 2.0}, "teachers.lambda_max must lie in [0, 1], not 2.0"),
        ({"teachers.optimizer.name": "magic"}, "optimizer.name 'magic' is none of"),
        ({"noise.rate": 1.5}, "rate"),
        ({"seed": -1}, "seed"),
        ({"parallel": "magic"}, "parallel"),
        ({"run": "magic"}, "run='magic' is none of train, sweep"),
        ({"model.stem": "magic"}, "model.stem='magic' is none of"),
        ({"noise.seed": -1}, "noise.seed must lie in"),
        ({"noise.kind": "matrix", "noise.matrix": (0.5, 0.5)}, "noise.matrix"),
        ({"student.needs.teachers": "nobody"}, "stages names 'nobody', but the config has no"),
        ({"stages": ("baseline", "nothing")}, "no recipe of that name"),
        ({"stages": ("baseline", "baseline")}, "twice"),
        ({"stages": ("baseline",)}, "headline 'student' is not among"),
        ({"loop.log_steps": 0}, "loop.log_steps must be at least 1"),
        ({"loop.keep": 0}, "loop.keep must be at least 1"),
        ({"loop.save_epochs": 0.0}, "loop.save_steps or save_epochs must be positive"),
        ({"label": "votes"}, "label='votes' needs a dataset with that label"),
        ({"student.temperature": 0.0}, "student.temperature must be positive, not 0.0"),
        ({"student.optimizer.name": "magic"}, "optimizer.name 'magic' is none of"),
        ({"student.epochs": 0.0}, "student: steps or epochs must be positive"),
        ({"augment.scale": (1.2,)}, "augment.scale must be (smallest, largest)"),
        ({"augment.flip": 2.0}, "augment.flip must be a probability"),
        ({"teachers.lambda_max": float("inf")}, "teachers.lambda_max must be finite, not inf"),
        ({"data.validation": 1.0}, "data.validation must lie in [0, 1)"),
    ],
)
def test_a_mistake_in_the_config_is_one_line_and_exit_code_1(tmp_path, capsys, changes, words):
    assert run(tmp_path / "run", **changes) == 1
    error = capsys.readouterr().err
    line = next(line for line in error.splitlines() if line.startswith("error: "))
    assert words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--config=configs/cct.py", "--config.teachers.epoch=1"], 1, ["epoch"]),
        (["--config=configs/cct.py", "--config.teachers.epochs=many"], 2, ["many"]),
        (["--config=configs/cct.py:moonfaces"], 1, ["moonfaces", "ferplus"]),
        (["--config=configs/nothing.py"], 1, ["configs/nothing.py"]),
        (["--config=configs/cct.py", "--nonsense=1"], 2, ["nonsense"]),
        (["--config=configs/cct.py", "--config.nonsense=1"], 1, ["config: no field 'nonsense'"]),
        (["--config=configs/cct.py", "surplus"], 2, ["surplus"]),
    ],
)
def test_a_mistyped_command_is_explained_and_leaves_nothing(tmp_path, arguments, code, words):
    done = type_in(*arguments, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_must_be_named_and_a_folder(tmp_path, capsys):
    assert "workdir is empty" in type_in("--config=configs/cct.py", "--workdir=").stderr
    (tmp_path / "run").write_text("mine")
    assert run(tmp_path / "run", **BASELINE) == 1
    assert "run is not a folder" in capsys.readouterr().err
    assert (tmp_path / "run").read_text() == "mine"


def test_after_a_mistake_the_mended_command_may_use_the_same_workdir(tmp_path):
    """As after a loss that was not finite before anything was written about it."""
    rates = {f"teachers.optimizer.{x}": 1e30 for x in ("learning_rate", "classifier_rate")}
    assert run(tmp_path, **BASELINE, **rates, **{"loop.log_steps": 9}) == 1
    assert (tmp_path / "config.json").exists()
    assert run(tmp_path, **BASELINE) == 0


def test_a_file_that_no_run_wrote_is_left_alone(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    assert run(tmp_path, **BASELINE) == 1
    assert "was not written by a run: choose another workdir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'


def test_resuming_with_another_config_names_the_fields(tmp_path, capsys):
    assert run(tmp_path, **BASELINE) == 0
    before = (tmp_path / "config.json").read_text()
    capsys.readouterr()
    changes = {"teachers.epochs": 3.0, "seed": 1, "loop.log_steps": 5}
    assert run(tmp_path, **BASELINE, **changes) == 1
    error = capsys.readouterr().err
    assert "teachers.epochs was 2.0, is 3.0" in error
    assert "seed was 0, is 1" in error
    assert "log_steps" not in error
    assert (tmp_path / "config.json").read_text() == before


@pytest.mark.parametrize("part", ["labels", "images"])
def test_resuming_on_other_data_is_refused(tmp_path, capsys, monkeypatch, part):
    assert run(tmp_path, **BASELINE) == 0

    def load(config):
        dataset = synthetic.load(config)
        if part == "labels":
            annotations = dataset.train.labels["annotations"]
            annotations[0] = (annotations[0] + 1) % 7
            return dataset
        faces = dataset.train.images.faces(np.arange(len(dataset.train.images)))
        return dataset.with_split("train", dataset.train._replace(images=InMemory(faces // 2)))

    monkeypatch.setitem(datasets.DATASETS, "synthetic", load)
    assert run(tmp_path, **BASELINE) == 1
    assert "other data" in capsys.readouterr().err


def test_a_process_that_sees_other_data_than_the_first_is_told(tmp_path, monkeypatch):
    config = supervised.get_config()
    workdir.claim(tmp_path, config, {"checksums": {"names": 1}}, set())
    monkeypatch.setattr(workdir.jax, "process_index", lambda: 1)
    workdir.claim(tmp_path, config, {"checksums": {"names": 1}}, set())
    with pytest.raises(UserError, match="other data"):
        workdir.claim(tmp_path, config, {"checksums": {"names": 2}}, set())


def test_labels_of_another_model_are_not_gone_on_with(tmp_path):
    """As when the first process, which logs, had labelled nothing yet."""
    config = supervised.get_config()
    workdir.claim(tmp_path, config, {"checksums": {"model": 1}}, set())
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "part-00001-of-00003.parquet").touch()
    with pytest.raises(UserError, match="other data"):
        workdir.claim(tmp_path, config, {"checksums": {"model": 2}}, set())


def test_resuming_under_other_versions_is_written_down(tmp_path, monkeypatch):
    assert run(tmp_path, **BASELINE) == 0
    assert "resumed" not in json.loads((tmp_path / "config.json").read_text())
    monkeypatch.setattr(workdir, "_version", lambda package: "9")
    for _ in range(2):
        assert run(tmp_path, **BASELINE) == 0
    saved = json.loads((tmp_path / "config.json").read_text())
    assert [session["versions"]["jax"] for session in saved["resumed"]] == ["9"]
    assert saved["versions"]["jax"] != "9"


def test_seeds_and_the_baseline_follow_but_can_be_set_alone():
    config = cct.get_config()
    config.update_from_flattened_dict({"seed": 3, "teachers.epochs": 5.0})
    assert (config.data.seed, config.noise.seed, config.baseline.epochs) == (3, 3, 5.0)
    config.update_from_flattened_dict({"noise.seed": 7, "baseline.epochs": 2.0})
    assert (config.seed, config.data.seed, config.teachers.epochs) == (3, 3, 5.0)


def test_comparators_follow_ltnet_but_for_what_makes_them_what_they_are():
    config = ltnet.get_config("cifar10_small")
    config.update_from_flattened_dict({"ltnet.steps": 7, "ltnet.transition.epsilon": 0.5})
    config.ltnet.optimizer.learning_rate = 0.3
    resolved = config.copy_and_resolve_references()
    steps = {name: resolved[name].steps for name in config.stages}
    assert steps == dict.fromkeys(config.stages, 7) | {"mixture_long": 14}
    assert {resolved[name].optimizer.learning_rate for name in config.stages} == {0.3}
    assert resolved.ltnet_released.transition.epsilon == 0.5
    constraints = [resolved[name].transition.constraint for name in ("ltnet", "ltnet_released")]
    assert constraints == ["normalise", "project"]
    assert (resolved.ltnet.loss, resolved.identity.loss) == ("paper", "released")
    assert (resolved.nal.transition.shared, resolved.ltnet.transition.shared) == (True, False)


def test_who_knows_the_truth_votes_in_no_majority():
    for config in (supervised.get_config("cifar10"), cct.get_config("cifar10n")):
        assert "clean" not in config.data.coders
    assert ltnet.get_config("cifar10").data.coders[-1] == "clean"


def test_ltnets_recipes_are_not_those_of_other_methods():
    config = cct.get_config("faces")
    assert {config[stage].steps for stage in config.stages} == {0}
    assert (config.model.name, ltnet.get_config("faces").model.name) == ("resnet18", "resnet80")


@pytest.mark.parametrize("url", ["gs://bucket/run", "s3://b", "file:///tmp/x", "abfs+x://a"])
def test_an_address_of_a_bucket_is_refused_where_a_folder_is_expected(url):
    config = supervised.get_config("ferplus")
    config.data.cache = url
    with pytest.raises(UserError, match=rf"config.data.cache: {re.escape(url)} .* mount it"):
        command_line._refuse_urls("config", config)
    groups = ConfigDict({"groups": {"wild": (("SFEW", url),)}})
    with pytest.raises(UserError, match=r"config\.groups\.wild: "):
        command_line._refuse_urls("config", groups)
    command_line._refuse_urls("config", ConfigDict({"path": "C:\\faces", "ratio": "a:b", "n": 1}))


def test_a_workdir_in_a_bucket_is_one_line_and_makes_no_folder(tmp_path):
    command = [sys.executable, "-m", "ferjax.main", f"--config={ROOT / 'configs/cct.py'}"]
    done = subprocess.run(
        [*command, "--workdir=gs://bucket/run"],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: workdir: gs://bucket/run is no folder of this machine")
    assert list(tmp_path.iterdir()) == []


def test_a_home_folder_is_found_in_flags(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    groups = {"wild": (("SFEW", "~/sfew"),), "posed": ()}
    config = ConfigDict({"data": {"dir": "~/faces", "seed": 1}, "groups": groups})
    command_line._replace_home(config)
    assert config.data.to_dict() == {"dir": "/home/ann/faces", "seed": 1}
    assert config.groups.wild == (("SFEW", "/home/ann/sfew"),)


def test_a_config_that_names_no_run_is_told_which_there_are(tmp_path, capsys):
    assert main.execute(ConfigDict(), tmp_path / "run") == 1
    assert "run=None is none of train, sweep" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_crash_is_no_mistake_of_the_users(monkeypatch, capsys):
    def crash(config, folder):
        raise ZeroDivisionError("inside")

    monkeypatch.setattr(preemption, "watch", lambda: None)
    monkeypatch.setattr(main, "execute", crash)
    command = command_line.Command(ConfigDict(), Path("run"), False, None, None, None, 60)
    assert main.run(command) == 70
    assert "ZeroDivisionError: inside" in capsys.readouterr().err


@pytest.fixture
def ferplus(tmp_path):
    """The config of a run on 32 training and 16 test faces in files such as FERPlus's."""
    folder, rng = tmp_path / "files", np.random.default_rng(0)
    rows = []
    for usage, source, count in (
        ("Training", "FER2013Train", 32),
        ("PublicTest", "FER2013Valid", 16),
    ):
        (folder / source).mkdir(parents=True)
        for number in range(count):
            name = f"{usage}{number}.png"
            face = rng.integers(0, 256, (48, 48), np.uint8)
            (folder / source / name).write_bytes(cv2.imencode(".png", face)[1].tobytes())
            votes = [0] * 10
            votes[number % 8] = 10
            rows.append([usage, name, *votes])
    with (folder / VOTES).open("w", newline="") as file:
        csv.writer(file).writerows([(USAGE, NAME, *EMOTIONS.values(), *UNSURE), *rows])
    config = supervised.get_config("ferplus")
    config.data.dir, config.data.cache = str(folder), str(tmp_path / "cache")
    changes = {name: value for name, value in FIELDS.items() if not name.startswith("data.")}
    changes |= {"supervised.epochs": 1.0, "supervised.batch_size": 16}
    config.update_from_flattened_dict(changes)
    return config.copy_and_resolve_references()


def test_ferplus_runs_from_files_to_the_report(ferplus, tmp_path):
    assert main.execute(ferplus, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert [sum(row) for row in result["confusion"]] == [2] * 8
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "trains on Training, tests on PublicTest (no PrivateTest images)" in page


def test_a_corrupt_image_is_named_or_skipped_and_counted(ferplus, tmp_path, capsys):
    Path(ferplus.data.dir, "FER2013Train", "Training3.png").write_bytes(b"not a picture")
    assert main.execute(ferplus, tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "FER2013Train/Training3.png: image is corrupt (1 in all)" in error
    assert not (tmp_path / "run").exists()
    ferplus.data.skip_corrupt = True
    assert main.execute(ferplus, tmp_path / "run") == 0
    notes = json.loads((tmp_path / "run" / "data.json").read_text())["notes"]
    assert any("1 unreadable images skipped, listed in" in note for note in notes)


def test_a_vote_out_of_range_names_file_and_line(ferplus, tmp_path, capsys):
    path = Path(ferplus.data.dir, VOTES)
    path.write_text(
        path.read_text().replace("Training5.png,0,0,0,0,0,10", "Training5.png,0,0,0,0,0,11")
    )
    assert main.execute(ferplus, tmp_path / "run") == 1
    assert "fer2013new.csv:7: '11' is not a whole number from 0 to 10" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_missing_data_folder_says_what_is_expected(tmp_path, capsys):
    config = cct.get_config("ferplus")
    config.data.dir = str(tmp_path / "nowhere")
    assert main.execute(config.copy_and_resolve_references(), tmp_path / "run") == 1
    error = capsys.readouterr().err
    assert "fer2013new.csv" in error
    assert "nowhere" in error
