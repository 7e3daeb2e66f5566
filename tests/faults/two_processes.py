"""Kills, stops and doubles runs of two processes on one machine, and repeats their commands.

    PYTHONPATH=. python tests/faults/two_processes.py [--only=stopped]

Prints a table: the fault, times tried, and what went wrong: lost (another result once the same
command came to its end, or a process left behind), crashed (a traceback or a stack dump) and
silent (no line says what happened).
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ferjax import lock
from tests.faults import damage
from tests.faults.damage import Counts

ROOT = Path(__file__).parents[2]
HEARTBEAT = 20
PATIENCE = 240
"""Seconds within which everything must have ended."""
OUTCOMES = ("lost", "crashed", "silent")
DUMP = re.compile(r"Traceback \(most|stack trace|^\s+@ +0x", re.MULTILINE)
CONFIGS = {
    "training": """
from tests import tiny

def get_config():
    config = tiny.whole_run()
    config.supervised.epochs = 200.0
    return config
""",
    "labelling": """
from configs import annotate
from ferjax.nn import networks
from tests import tiny

networks.NETWORKS[tiny.NETWORK] = tiny.one_block

def get_config():
    config = annotate.get_config()
    config.annotate.batch_size = config.annotate.shard_size = 1
    return config
""",
}


LABELLED = {"trained": "trained", "path": "faces"}
"""Fields of the config that labels, and what they name."""


class Fault(NamedTuple):
    """Something that happens to a run.

    Attributes:
      config: what runs, 'training' or 'labelling'.
      happens: (launcher, its processes by number) -> None.
      said: what must be said then, as a pattern.
      codes: exit codes of the launcher that are right.
    """

    config: str
    happens: Callable[[int, dict[int, int]], None]
    said: str
    codes: tuple[int, ...]


def _send(number: int | None, signum: int) -> Callable[[int, dict[int, int]], None]:
    """Sends a signal to a process of that number, or to the launcher."""
    return lambda launcher, pids: os.kill(launcher if number is None else pids[number], signum)


STOPPED = f"process {{}} gave no sign for {HEARTBEAT} s"
FAULTS = {
    "process 0 killed": Fault("training", _send(0, signal.SIGKILL), "process 0 of 2.*KILL", (137,)),
    "process 1 killed": Fault("training", _send(1, signal.SIGKILL), "process 1 of 2.*KILL", (137,)),
    "process 0 stopped": Fault("training", _send(0, signal.SIGSTOP), STOPPED.format(0), (70,)),
    "process 1 stopped": Fault("training", _send(1, signal.SIGSTOP), STOPPED.format(1), (70,)),
    "launcher killed": Fault("training", _send(None, signal.SIGKILL), "", (-9,)),
    "launcher told to stop": Fault("training", _send(None, signal.SIGTERM), "stopped: ", (75,)),
    "process 1 told to stop": Fault("training", _send(1, signal.SIGTERM), "stopped: ", (75,)),
    "labelling, launcher told to stop": Fault(
        "labelling", _send(None, signal.SIGTERM), "stopped: annotate labelled", (75,)
    ),
    "labelling, process 1 told to stop": Fault(
        "labelling", _send(1, signal.SIGTERM), "stopped: annotate labelled", (75,)
    ),
    "labelling, process 1 killed": Fault(
        "labelling", _send(1, signal.SIGKILL), "process 1 of 2.*KILL", (137,)
    ),
}


def launch(root: Path, config: str, workdir: Path) -> subprocess.Popen:
    """Starts two processes that train, or label pictures with `root/trained`."""
    arguments = [f"--config={root / config}.py"]
    if config == "labelling":
        arguments += [f"--config.{x}={root / y}" for x, y in LABELLED.items()]
    command = [sys.executable, "launch/local.py", "--processes=2", "--", *arguments]
    environment = {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": str(root / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", f"--heartbeat={HEARTBEAT}"],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=log,
            stderr=log,
        )


def processes_of(launcher: int) -> dict[int, int]:
    """Returns the processes that a launcher started, by their number in the run."""
    pids = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            command = (path / "cmdline").read_text()
        except OSError:
            continue
        number = re.search(r"--process=(\d)", command)
        if parent == launcher and number:
            pids[int(number[1])] = int(path.name)
    return pids


def wait_for(condition: Callable[[], Any]) -> bool:
    """Returns whether a condition came true within `PATIENCE`."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())


def begun(workdir: Path) -> bool:
    """Returns whether a run has written a line about its work."""
    path = workdir / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


def run(root: Path, config: str, workdir: Path) -> Any:
    """Runs to the end, and returns what came out."""
    assert launch(root, config, workdir).wait() == 0, workdir.with_suffix(".log").read_text()
    return damage.labelled(workdir) if config == "labelling" else damage.trained(workdir)


def outcome(root: Path, fault: Fault, workdir: Path, expected: Any) -> str | None:
    """Lets a fault happen to a run; returns what went wrong, if anything."""
    launcher, log = launch(root, fault.config, workdir), workdir.with_suffix(".log")
    assert wait_for(lambda: begun(workdir)), log.read_text()
    pids = processes_of(launcher.pid)
    fault.happens(launcher.pid, pids)
    ended = wait_for(lambda: not any(map(lock._start, pids.values())))
    for pid in pids.values():
        if lock._start(pid) is not None:
            os.kill(pid, signal.SIGKILL)
    code, said = launcher.wait(), log.read_text()
    if DUMP.search(said):
        return "crashed"
    if code not in fault.codes or not re.search(fault.said, said):
        return "silent"
    log.unlink()
    return None if ended and run(root, fault.config, workdir) == expected else "lost"


def second_run(root: Path, workdir: Path, expected: Any) -> str | None:
    """Starts a run in the workdir of another; returns what went wrong, if anything."""
    first = launch(root, "training", workdir)
    assert wait_for(lambda: begun(workdir))
    log = workdir.with_suffix(".log")
    log.rename(log.with_suffix(".first"))
    code, said = launch(root, "training", workdir).wait(), log.read_text()
    first_code = first.wait()
    if DUMP.search(said):
        return "crashed"
    if code != 1 or not re.search(rf"error: {workdir} is in use by process \d+ on", said):
        return "silent"
    return None if first_code == 0 and damage.trained(workdir) == expected else "lost"


def main_() -> int:
    """Tries every fault, prints the table and returns how many went wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names of faults")
    only, counts = parser.parse_args().only, dict[str, Counts]()
    with tempfile.TemporaryDirectory(prefix="two-processes-") as folder:
        root = Path(folder)
        for name, text in CONFIGS.items():
            (root / f"{name}.py").write_text(text)
        damage.make_inputs(root, faces=400)
        expected = {x: run(root, x, root / x) for x in ("training", "labelling")}
        for name, fault in FAULTS.items():
            if only in name:
                workdir = root / name.replace(" ", "-").replace(",", "")
                wrong = outcome(root, fault, workdir, expected[fault.config])
                report(counts, name, wrong, workdir)
        name, workdir = "a second run in the workdir", root / "second"
        if only in name:
            report(counts, name, second_run(root, workdir, expected["training"]), workdir)
    print(damage.format_table(counts, OUTCOMES))
    return sum(row[outcome] for row in counts.values() for outcome in OUTCOMES)


def report(counts: dict[str, Counts], name: str, wrong: str | None, workdir: Path) -> None:
    """Counts what went wrong, and prints what the run said."""
    counts.setdefault(name, Counts())[wrong or "survived"] += 1
    print(json.dumps({name: wrong}), flush=True)
    if wrong:
        print(workdir.with_suffix(".log").read_text()[-3000:], flush=True)


if __name__ == "__main__":
    sys.exit(min(1, main_()))
