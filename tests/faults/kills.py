"""Kills runs at random moments, repeats their commands, and compares what comes out bit by bit.

    PYTHONPATH=. python tests/faults/kills.py [--kills=50]

A run is killed (SIGKILL) again and again until it comes to its end, then the next one begins.
Prints a table: what was killed, how often, and faults: lost (a line of `metrics.jsonl` missing,
doubled or torn), crashed (the repeated command failed) and silent (predictions or labels that
differ from those of a run that nobody killed).
"""

import argparse
import contextlib
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ferjax import main
from tests import tiny
from tests.faults import damage
from tests.faults.damage import Counts

OUTCOMES = ("lost", "crashed", "silent")
SPLITS = {"trained, finished": ("train", "eval", "validation"), "labelled": ("annotate",)}
"""The cases of `damage` that are killed, and their splits in `metrics.jsonl`."""

UNEQUAL = ("cpu_seconds", "memory_bytes")


def run(command: Callable[[Path], int], workdir: Path, log: Path) -> None:
    """Runs a command in a process of its own, which ends with its exit code."""
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        logging.basicConfig(level=logging.WARNING, stream=file, force=True)
        sys.exit(command(workdir))


def start(case: damage.Case, workdir: Path) -> Any:
    """Starts the command of a case; all processes share what was imported once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([damage.__name__])
    arguments = case.command, workdir, workdir.with_suffix(".log")
    workdir.parent.mkdir(exist_ok=True)
    process = context.Process(target=run, args=arguments)
    process.start()
    return process


def lines(workdir: Path, splits: tuple[str, ...]) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` without what depends on time, by split and step."""
    every = [line for split in splits for line in tiny.lines(workdir, split)]
    kept = [{name: x for name, x in line.items() if name not in UNEQUAL} for line in every]
    return sorted(kept, key=lambda line: (line["split"], line["step"]))


def killed(
    name: str, case: damage.Case, workdir: Path, seconds: float, moments: random.Random, most: int
) -> tuple[int, str | None]:
    """Runs a case in `workdir` to its end; returns how often it was killed, and the fault.

    Args:
      name: of the case.
      case: its own workdir holds a run that nobody killed.
      workdir: where to run.
      seconds: that a run takes.
      moments: when to kill.
      most: kills.
    """
    for kills in range(most + 1):
        process = start(case, workdir)
        process.join(moments.uniform(0, seconds) if kills < most else None)
        if process.exitcode is not None:
            break
        process.kill()
        process.join()
    if process.exitcode != main.DONE:
        return kills, "crashed"
    if lines(workdir, SPLITS[name]) != lines(case.workdir, SPLITS[name]):
        return kills, "lost"
    if case.result(workdir) != case.result(case.workdir):
        return kills, "silent"
    return kills, None


def main_() -> int:
    """Kills runs, prints the table and returns the number of faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, help="of each kind of run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments, counts = random.Random(options.seed), dict[str, Counts]()
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = Path(folder)
        damage.make_inputs(root, faces=24)
        for name in SPLITS:
            case, row = damage.cases(root)[name], counts.setdefault(name, Counts())
            case, begin = case._replace(workdir=root / name / "straight"), time.perf_counter()
            start(case, case.workdir).join()
            seconds = time.perf_counter() - begin
            while row.total() < options.kills:
                workdir = root / name / str(row.total())
                kills, fault = killed(name, case, workdir, seconds, moments, 10)
                row["survived"] += kills
                if fault:
                    row.update({"survived": -1, fault: 1})
                    log = workdir.with_suffix(".log").read_text()
                    print(f"{name}: {fault}\n{log[-1500:]}", flush=True)
    print(damage.format_table(counts, OUTCOMES))
    return sum(row[outcome] for row in counts.values() for outcome in OUTCOMES)


if __name__ == "__main__":
    sys.exit(min(1, main_()))
