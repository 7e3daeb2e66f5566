"""The command line: its help, misspelt fields, and errors that name what the user can set."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import cct
from ferjax import command_line
from ferjax.data import datasets
from ferjax.errors import UserError

PROGRAM = [sys.executable, "-m", "ferjax.main"]


def type_in(*arguments: str) -> subprocess.CompletedProcess:
    """Types a command in a process that cannot import JAX."""
    code = "import sys, runpy; sys.modules['jax'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_module('ferjax.main', run_name='__main__')"
    command = [sys.executable, "-c", code, "ferjax.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_help_lists_flags_and_configs_and_exits_0():
    done = type_in("--help")
    assert done.returncode == 0
    assert "--workdir " in done.stdout
    assert "configs/cct.py: Consensual Collaborative Training" in done.stdout
    assert "recipes.py" not in done.stdout


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_on_a_config_lists_its_fields_with_their_comments(flag):
    done = type_in("--config=configs/cct.py:ferplus", flag)
    assert done.returncode == 0
    lines = {x.split("=")[0].strip(): x for x in done.stdout.splitlines() if "--config." in x}
    assert "# e_r as a fraction of the epochs" in lines["--config.teachers.ramp"]
    assert "=0.9 " in lines["--config.teachers.ramp"]
    assert (
        "# when rates drop, as fractions of the run"
        in lines["--config.baseline.optimizer.milestones"]
    )
    assert "# 7: without contempt" in lines["--config.data.classes"]
    assert "#" not in lines["--config.noise.classes"]  # truth.py says something of its own classes


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--config.teachers.epoch=1"], 1, "'teachers.epoch'; did you mean teachers.epochs?"),
        (["--config.tachers.epochs=1"], 1, "'tachers.epochs'; did you mean teachers.epochs?"),
        (["--config.learning_rate=1"], 1, "did you mean baseline.optimizer.learning_rate"),
        (["--config.nonsense=1"], 1, "no field 'nonsense'; see --help"),
        (["--wrkdir=1"], 2, "Did you mean: workdir"),
        (["--config.data.train_size=a"], 2, "--config.data.train_size=a"),
    ],
)
def test_a_misspelt_field_is_answered_before_jax_is_imported(tmp_path, arguments, code, words):
    done = type_in("--config=configs/cct.py", f"--workdir={tmp_path / 'run'}", *arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert max(map(len, done.stderr.splitlines())) <= 300


def test_a_misspelt_config_is_answered_with_the_one_that_is_meant(tmp_path):
    done = type_in("--config=configs/cc.py", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (
        1,
        "error: config: there is no file configs/cc.py; did you mean configs/cct.py?\n",
    )


def catches_ctrl_c(process: subprocess.Popen) -> bool:
    """Whether a process has a handler of SIGINT of its own, as Python has."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16) & 1 << signal.SIGINT - 1)


def wait_until(happened) -> None:
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    raise TimeoutError


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_ctrl_c_while_importing_ends_without_a_traceback(tmp_path):
    command = [*PROGRAM, "--config=configs/cct.py", f"--workdir={tmp_path / 'run'}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: catches_ctrl_c(process))
        wait_until(lambda: not catches_ctrl_c(process))
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    ("message", "explained"),
    [
        ("baseline: steps or epochs must be positive", "teachers.steps or teachers.epochs must be"),
        ("baseline: optimizer.name 'magic' is none of", "teachers.optimizer.name 'magic' is none"),
        ("noise.seed must lie in", "seed must lie in"),
        ("baseline: label='nobody' is none of", "baseline: label='nobody' is none of"),
        ("student: epochs must be positive", "student: epochs must be positive"),
        ("/data.seed/list.txt: no such file", "/data.seed/list.txt: no such file"),
    ],
)
def test_an_error_names_the_field_that_others_follow(message, explained):
    config = cct.get_config()
    config.lock()
    assert command_line.explain(UserError(message), config).startswith(explained)


def test_a_field_that_was_set_by_itself_is_named_itself():
    config = cct.get_config()
    config.baseline.epochs = 0.0
    message = "baseline: epochs must be positive"
    assert command_line.explain(UserError(message), config) == message


def test_errors_about_a_set_name_the_field_of_the_set(tmp_path):
    config = cct.get_config("faces")
    with pytest.raises(UserError, match=r"none of data.sets.affectnet.path, data.sets.raf_db"):
        datasets.load(config.data)
    (tmp_path / "1.png").write_bytes(b"picture")
    listed = tmp_path / "list.csv"
    listed.write_text("file,label\n1.png,happy\n")
    config.data.sets.raf_db.path = str(listed)
    config.data.image_size = 3
    with pytest.raises(UserError) as raised:
        datasets.load(config.data)
    assert str(raised.value) == "data.sets.raf_db.image_size must be at least 8, not 3"
    expected = "data.image_size must be at least 8, not 3"
    assert command_line.explain(raised.value, config) == expected


def test_a_config_without_stages_is_explained_as_it_is():
    assert command_line.explain(UserError("trained: no run"), ConfigDict({"a": 1})) == (
        "trained: no run"
    )
