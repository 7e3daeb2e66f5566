"""Stages: the pieces of a run, each in its own folder and with an output that others name."""

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

from ferjax import parallel, preemption, writers
from ferjax.errors import UserError

DONE = "done.json"
"""In the folder of a finished stage: what it took, and checksums of the files beside it."""

STAGE = "stage.json"
"""In the folder of a stage that trained: what its model can be rebuilt from."""

Outputs = Callable[[str], Any]
"""Name of a stage -> its output."""


class Stage(NamedTuple):
    """One piece of work in a run.

    Attributes:
      name: also its folder's, `DIR/stages/<name>/`.
      needs: the stages whose outputs it takes.
      run: (outputs of other stages by name) -> output; does the work.
      load: (outputs of other stages by name) -> output of finished work.
      complete: returns whether what finished work left is all there; if not it is done again.
    """

    name: str
    needs: tuple[str, ...]
    run: Callable[[dict[str, Any]], Any]
    load: Callable[[dict[str, Any]], Any]
    complete: Callable[[], bool] = lambda: True


class Plan(NamedTuple):
    """A run that was checked and may begin.

    Attributes:
      stages: the work, in order.
      data: what the run works on, as JSON, to tell it from other data when the run goes on.
      finish: (outputs) -> None; writes results and report, on the first process alone.
    """

    stages: tuple[Stage, ...]
    data: dict[str, Any]
    finish: Callable[[Outputs], None]


def run_stages(stages: Sequence[Stage], folder: Path) -> Outputs:
    """Runs, in order, the stages that are not finished; each ends by writing `done.json`.

    A finished stage some of whose files are damaged is run again: what takes long, such as
    checkpoints and labels, it finds there.

    Returns:
      What gives the output of each stage, loaded when it is first asked for.
    """
    by_name = {stage.name: stage for stage in stages}
    outputs: dict[str, Any] = {}

    def inputs(stage: Stage) -> dict[str, Any]:
        return {name: output(name) for name in stage.needs}

    def output(name: str) -> Any:
        if name not in outputs:
            outputs[name] = by_name[name].load(inputs(by_name[name]))
        return outputs[name]

    for stage in stages:
        own = folder / "stages" / stage.name
        if parallel.of_first_process(int(_finished(own) and stage.complete())):
            continue
        if preemption.requested():
            raise preemption.Preempted(f"{stage.name} has not begun")
        outputs[stage.name] = stage.run(inputs(stage))
        parallel.barrier(f"{stage.name} is finished")
        about = {"peak_memory_bytes": parallel.peak_memory(), "files": _checksums(own)}
        writers.write_json(own / DONE, about)
    return output


def damaged(folder: Path, names: Set[str] | None = None) -> list[str]:
    """Returns the files that are not as the finished stage in `folder` left them.

    Args:
      folder: of the stage.
      names: the files to look at, as predictions may be large; None: all.
    """
    try:
        about = json.loads((folder / DONE).read_text())
        int(about["peak_memory_bytes"])
        expected = dict(about.get("files", {}))  # runs of earlier versions have none
    except (KeyError, OSError, TypeError, ValueError):
        return [DONE]
    looked_at = expected.keys() if names is None else expected.keys() & names
    return [name for name in sorted(looked_at) if _checksum(folder / name) != expected[name]]


def _finished(folder: Path) -> bool:
    if not (folder / DONE).exists():
        return False
    names = damaged(folder)
    if names:
        logging.warning("%s: %s damaged or missing, made again", folder, ", ".join(names))
    return not names


def _checksums(folder: Path) -> dict[str, int | None]:
    files = sorted(path for path in folder.glob("*") if path.is_file() and path.name != DONE)
    return {path.name: _checksum(path) for path in files}


def _checksum(path: Path) -> int | None:
    """Returns the CRC-32 of a file, None if it is gone."""
    return zlib.crc32(path.read_bytes()) if path.is_file() else None


def with_needed(wanted: Sequence[str], needs: Callable[[str], Sequence[str]]) -> tuple[str, ...]:
    """Puts before each wanted stage those that it needs, and that these need.

    Args:
      wanted: names of stages.
      needs: name of a stage -> names of those whose outputs it takes.

    Raises:
      UserError: for a stage that is named twice, or needs itself through others.
    """
    ordered: list[str] = []

    def add(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise UserError(f"stages need each other in a circle: {' -> '.join((*path, name))}")
        if name not in ordered:
            for needed in needs(name):
                add(needed, (*path, name))
            ordered.append(name)

    for index, name in enumerate(wanted):
        if name in wanted[:index]:
            raise UserError(f"stages names {name!r} twice")
        add(name, ())
    return tuple(ordered)


def inputs_of(names: Mapping[str, str], outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns outputs by the names that a stage knows them by."""
    return {known_as: outputs[stage] for known_as, stage in names.items()}
