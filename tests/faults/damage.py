"""Damages every file of small workdirs, one at a time, and repeats the command.

    PYTHONPATH=. python tests/faults/damage.py [--only=finished]

Each file is emptied, cut to half and garbled. The command may mend it (it ends with the same
result), or name it in one line; then what the line says to delete is deleted, and the command must
end with the same result. Prints a table: the workdir and the damage, times tried, mended, named,
and faults: lost (no result even then), crashed (a traceback, or more than a line) and silent
(another result without a word).
"""

import argparse
import contextlib
import io
import itertools
import json
import logging
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import numpy as np

from configs import annotate as annotate_config
from configs import evaluate as evaluate_config
from configs import truth
from ferjax import annotate, main, predictor, preemption
from ferjax.errors import UserError
from tests import tiny

LONGEST_LINE = 300
TIMES = ("images_per_second", "data_wait", "seconds", "peak_memory_bytes", "wall_seconds")
OUTCOMES = ("mended", "named", "lost", "crashed", "silent")
FAULTS = OUTCOMES[2:]
Counts = Counter[str]


def _garble(written: bytes) -> bytes:
    """Overwrites some bytes in the middle."""
    noise = np.random.default_rng(len(written)).bytes(max(1, min(64, len(written) // 2)))
    middle = len(written) // 2
    return written[:middle] + noise + written[middle + len(noise) :]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda written: b"",
    "cut": lambda written: written[: len(written) // 2],
    "garbled": _garble,
}


class Case(NamedTuple):
    """A workdir to damage.

    Attributes:
      workdir: its folder.
      command: workdir -> exit code.
      result: workdir -> what must come out again.
    """

    workdir: Path
    command: Callable[[Path], int]
    result: Callable[[Path], Any]


def train(workdir: Path) -> int:
    """Runs `tiny.whole_run`."""
    return main.execute(tiny.whole_run(), workdir)


def trained(workdir: Path) -> Any:
    """Returns results and predictions of a run of training."""
    predictions = np.load(workdir / "stages/supervised/predictions.npz")
    arrays = {name: predictions[name].tolist() for name in predictions.files}
    return untimed(json.loads((workdir / "result.json").read_text())), arrays


def untimed(value: Any) -> Any:
    """Returns results without what depends on time."""
    if isinstance(value, dict):
        return {name: untimed(x) for name, x in value.items() if name not in TIMES}
    return [untimed(x) for x in value] if isinstance(value, list) else value


def stop_after(steps: int, workdir: Path) -> None:
    """Runs `tiny.whole_run`, and stops it after some steps."""
    calls = iter([False] * steps)
    requested, preemption.requested = preemption.requested, lambda: next(calls, True)
    try:
        assert train(workdir) == main.PREEMPTED
    finally:
        preemption.requested = requested


def write_pictures(folder: Path, count: int = 8) -> None:
    """Writes grey pictures into a folder for each of two classes."""
    for number in range(count):
        path = folder / ("neutral", "happy")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        path.write_bytes(cv2.imencode(".png", noise)[1].tobytes())


def load(root: Path, workdir: Path) -> int:
    """Loads the last and the best weights of a run, and notes what they predict of a picture."""
    try:
        models = [predictor.load(workdir, weights=weights) for weights in ("last", "best")]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return main.USER_ERROR
    picture = root / "faces/happy/1.png"
    probabilities = [model.predict([picture]).probabilities for model in models]
    (workdir / "loaded.txt").write_text(repr(probabilities))
    return main.DONE


def label(root: Path, workdir: Path) -> int:
    """Labels the pictures in `root/faces` with the run `root/trained`, two a shard."""
    config = annotate_config.get_config()
    config.trained, config.path = str(root / "trained"), str(root / "faces")
    config.annotate.batch_size = config.annotate.shard_size = len(jax.devices())
    return main.execute(config, workdir)


def labelled(workdir: Path) -> Any:
    """Returns counts, labels and the numbers of the lines of a run that labels faces."""
    steps = sorted(line["step"] for line in tiny.lines(workdir, "annotate"))
    result = untimed(json.loads((workdir / "result.json").read_text()))
    return result, annotate.read(workdir / "labels").to_pylist(), steps


def evaluate(root: Path, workdir: Path) -> int:
    """Evaluates the run `root/trained` on the pictures in `root/faces`."""
    config = evaluate_config.get_config()
    config.trained, config.batch_size = str(root / "trained"), len(jax.devices())
    config.groups.wild = (("faces", str(root / "faces")),)
    return main.execute(config, workdir)


def infer(root: Path, workdir: Path) -> int:
    """Infers the truth from `root/labels.csv`."""
    config = truth.get_config()
    config.annotations = str(root / "labels.csv")
    return main.execute(config, workdir)


def cases(root: Path) -> dict[str, Case]:
    """Returns what is done in which workdir, by the name in the table."""
    return {
        "trained, finished": Case(root / "trained", train, trained),
        "trained, stopped": Case(root / "stopped", train, trained),
        "loaded": Case(root / "loaded", partial(load, root), _text("loaded.txt")),
        "labelled": Case(root / "labelled", partial(label, root), labelled),
        "evaluated": Case(root / "evaluated", partial(evaluate, root), _text("result.json")),
        "inferred": Case(root / "inferred", partial(infer, root), _text("labels.csv")),
    }


def _text(name: str) -> Callable[[Path], str]:
    return lambda workdir: (workdir / name).read_text()


def make_inputs(root: Path, faces: int = 8) -> None:
    """Makes what the cases read: pictures, a finished run and annotations."""
    write_pictures(root / "faces", faces)
    rows = [f"{t},{w},{(t + (w == t % 3)) % 2}\n" for t in range(9) for w in range(3)]
    (root / "labels.csv").write_text("task,worker,label\n" + "".join(rows))
    assert train(root / "trained") == main.DONE


def make(name: str, case: Case, root: Path) -> None:
    """Makes the workdir of a case."""
    if name == "trained, stopped":
        stop_after(5, case.workdir)
        return
    if name == "loaded":
        shutil.copytree(root / "trained", case.workdir)
    assert case.command(case.workdir) == main.DONE


def run(command: Callable[[Path], int], workdir: Path) -> tuple[int, str]:
    """Runs a command; returns its exit code and what it logged and printed as errors."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = command(workdir)
    except Exception:
        said.write(traceback.format_exc())
        code = main.CRASHED
    finally:
        logging.getLogger().removeHandler(handler)
    return code, said.getvalue()


def outcome(case: Case, path: Path, damage: str, expected: Any) -> tuple[str, str]:
    """Damages a file of a copy of the workdir; returns one of `OUTCOMES`, and what was said."""
    with tempfile.TemporaryDirectory(dir=case.workdir.parent) as folder:
        copy = Path(folder) / "run"
        shutil.copytree(case.workdir, copy)
        victim = copy / path
        victim.write_bytes(DAMAGES[damage](victim.read_bytes()))
        code, said = run(case.command, copy)
        if code == 0:
            return ("mended" if case.result(copy) == expected else "silent"), said
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        if code != main.USER_ERROR or len(errors) != 1 or len(errors[0]) > LONGEST_LINE:
            return "crashed", said
        remove(advised(errors[0], str(copy)))
        again = case.command if "the command of that run" not in errors[0] else train
        code, more = run(again, copy)
        if code == 0 and again is not case.command:
            code, more = run(case.command, copy)
        if code != 0 or case.result(copy) != expected:
            return "lost", said + more
        return "named", said


def advised(error: str, workdir: str) -> Path | None:
    """Returns what a line says to delete: the path after the word, or `it`, the path before."""
    path = rf"({re.escape(workdir)}[^\s,;:]*)"
    after = re.search(rf"delete {path}", error)
    before = re.search(rf"{path}.*delete it", error)
    match = after or before
    return Path(match[1]) if match else None


def remove(path: Path | None) -> None:
    """Removes a file or a folder, if any."""
    if path is not None and path.is_dir():
        shutil.rmtree(path)
    elif path is not None:
        path.unlink()


def files(workdir: Path) -> list[Path]:
    """Returns all files of a workdir, relative to it."""
    return sorted(path.relative_to(workdir) for path in workdir.rglob("*") if path.is_file())


def main_() -> int:
    """Damages everything, prints the table and returns the number of faults."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="part of the names of workdirs")
    only, counts, faults = parser.parse_args().only, dict[str, Counts](), 0
    with tempfile.TemporaryDirectory(prefix="damage-") as folder:
        root = Path(folder)
        make_inputs(root)
        for name, case in cases(root).items():
            if only not in name:
                continue
            make(name, case, root)
            copy = root / "expected"  # for a stopped run has no result yet
            shutil.copytree(case.workdir, copy)
            assert run(case.command, copy)[0] == main.DONE
            expected = case.result(copy)
            shutil.rmtree(copy)
            for path, damage in itertools.product(files(case.workdir), DAMAGES):
                kind, said = outcome(case, path, damage, expected)
                counts.setdefault(f"{name}: {damage}", Counts())[kind] += 1
                if kind in FAULTS:
                    faults += 1
                    print(f"{name}: {path} {damage}: {kind}\n{said[-1500:]}", flush=True)
    print(format_table(counts, OUTCOMES))
    return faults


def format_table(counts: Mapping[str, Counts], outcomes: Sequence[str]) -> str:
    """Formats how often each fault was tried, and how often it had each outcome."""
    total: Counts = sum(counts.values(), Counts())
    lines = [f"{'fault':<40}" + "".join(f"{x:>9}" for x in ("tried", *outcomes))]
    for title, row in [*counts.items(), ("all", total)]:
        cells = (row.total(), *(row[outcome] for outcome in outcomes))
        lines.append(f"{title:<40}" + "".join(f"{cell:>9,}" for cell in cells))
    return "\n".join(lines)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, handlers=[logging.NullHandler()])
    sys.exit(min(1, main_()))
