"""A workdir belongs to one run at a time, and to nobody whose process or host is gone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ferjax import lock
from ferjax.errors import UserError

ROOT = Path(__file__).parents[1]
HOLDER = """
import sys, time
from pathlib import Path
from ferjax import lock

lock.PERIOD = 0.1
with lock.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the folder `run`, renewing every tenth of a second."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def hold(folder: Path) -> dict:
    """Holds the folder for a moment and returns what the lock said."""
    with lock.hold(folder):
        return json.loads((folder / lock.LOCK).read_text())


def written_by(folder: Path, seconds_ago: float, **changes) -> None:
    """A lock as of this process but for some fields, last renewed a while ago."""
    folder.mkdir(exist_ok=True)
    path = folder / lock.LOCK
    path.write_text(json.dumps(lock._this_process() | changes))
    os.utime(path, (time.time() - seconds_ago,) * 2)


def test_a_held_workdir_says_by_whom_and_a_free_one_has_no_lock(tmp_path):
    folder = tmp_path / "a" / "run"
    assert hold(folder)["pid"] == os.getpid()
    assert not (tmp_path / "a").exists(), "nothing was written, so nothing is left"
    folder.mkdir(parents=True)
    hold(folder)
    assert list(folder.iterdir()) == []


def test_a_second_run_is_told_who_holds_the_workdir(tmp_path, other):
    with pytest.raises(UserError, match=rf"run is in use by process {other.pid} on ") as refusal:
        hold(tmp_path / "run")
    assert len(str(refusal.value)) <= 300
    assert (tmp_path / "run" / lock.LOCK).exists()


def test_a_killed_process_leaves_the_workdir_free_at_once(tmp_path, other):
    other.kill()  # nobody waits for it yet: it is a zombie
    while lock._start(other.pid) is not None:
        time.sleep(0.01)
    assert hold(tmp_path / "run")["pid"] == os.getpid()


def test_a_run_that_stood_still_and_lost_its_workdir_ends_with_a_line(tmp_path, other):
    other.send_signal(signal.SIGSTOP)
    path = tmp_path / "run" / lock.LOCK
    os.utime(path, (time.time() - 61,) * 2)
    with lock.hold(tmp_path / "run"):
        other.send_signal(signal.SIGCONT)
        _, error = other.communicate(timeout=30)
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert other.returncode == 1
    assert f"was taken over by process {os.getpid()}" in error
    assert len(error.split("\n")) == 3


@pytest.mark.parametrize(
    ("seconds_ago", "changes", "free"),
    [
        (50, {"host": "elsewhere"}, False),
        (70, {"host": "elsewhere"}, True),
        (50, {}, False),
        (70, {}, True),
        (0, {"start": 1}, True),  # the number was given to another process since
        (0, {"pid": 2**22 + 1}, True),
        (0, {"pid": 2**22 + 1, "machine": "another container"}, False),
    ],
)
def test_a_lock_is_stale_after_a_minute_or_when_its_process_is_dead(
    tmp_path, seconds_ago, changes, free
):
    written_by(tmp_path, seconds_ago, **changes)
    if free:
        hold(tmp_path)
    else:
        with pytest.raises(UserError, match="is in use by process"):
            hold(tmp_path)


def test_a_damaged_lock_is_named_while_somebody_may_hold_it(tmp_path):
    path = tmp_path / lock.LOCK
    path.write_bytes(b"\xff\x00")
    with pytest.raises(UserError, match=r"lock\.json is damaged"):
        hold(tmp_path)
    os.utime(path, (time.time() - 61,) * 2)
    hold(tmp_path)


def test_a_lock_that_was_deleted_is_written_again(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PERIOD", 0.01)
    with lock.hold(tmp_path):
        (tmp_path / lock.LOCK).unlink()
        while not (tmp_path / lock.LOCK).exists():
            time.sleep(0.01)


def test_only_the_first_of_several_processes_locks(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.jax, "process_index", lambda: 1)
    with lock.hold(tmp_path):
        assert list(tmp_path.iterdir()) == []
