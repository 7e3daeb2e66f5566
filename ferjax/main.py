"""`python -m ferjax.main --config=configs/<method>.py[:<dataset>] --workdir=DIR`."""

import json
import logging
import os
import subprocess
import sys
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ferjax import memory, parallel, preemption, stages, writers
from ferjax.errors import UserError

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "configs/<method>.py[:<dataset>].", lock_config=True
)
flags.DEFINE_string("workdir", None, "Folder that the run writes to, and is resumed from.")
flags.DEFINE_bool(
    "distributed", False, "One of several processes, on a Cloud TPU pod, Kubernetes, SLURM or MPI."
)
flags.DEFINE_string("coordinator", None, "host:port of process 0, where --distributed finds none.")
flags.DEFINE_integer("processes", None, "With --coordinator: how many processes.", lower_bound=1)
flags.DEFINE_integer("process", None, "With --coordinator: which one this is.", lower_bound=0)
flags.mark_flags_as_required(["config", "workdir"])


@flags.multi_flags_validator(
    ["coordinator", "processes", "process"],
    "--coordinator=host:port, --processes and --process below it go together",
)
def _together(given: dict[str, Any]) -> bool:
    if all(value is None for value in given.values()):
        return True
    if None in given.values():
        return False
    host, _, port = given["coordinator"].rpartition(":")
    return bool(host) and port.isdigit() and given["process"] < given["processes"]


DONE, USER_ERROR, BAD_FLAGS, PREEMPTED = 0, 1, 2, 75

IMMATERIAL = {
    "data.cache",
    "data.dir",  # what was in it is checked by itself
    "data.in_memory",
    "loop.keep",
    "loop.log_steps",
    "loop.save_epochs",
    "loop.save_steps",
    "loop.workers",
    "parallel",
}
"""Fields that may change when a run is resumed: they say how it is computed, not what."""


def main() -> int:
    """Parses the command line and runs; returns the exit code."""
    memory.keep_freed_memory()
    app.define_help_flags()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config, workdir = _parse()
        _join()
    except flags.Error as error:
        return _say(f"{error}\nusage: {__doc__}", BAD_FLAGS)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    preemption.watch()
    if jax.process_count() == 1:
        return execute(config, workdir)
    return _execute_with_others(config, workdir)


def execute(config: ConfigDict, workdir: Path) -> int:
    """Runs a resolved config in a workdir; returns the exit code."""
    try:
        _claim(workdir, config)
        stages.run(config, workdir)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        return _say(f"error: {error.strerror or error}{place}", USER_ERROR)
    except preemption.Preempted as notice:
        return _say(f"stopped: {notice}; run the same command to go on", PREEMPTED)
    return DONE


def _join() -> None:
    """Meets the other processes, if there are any; before this nothing may ask for devices.

    Raises:
      UserError: if they are not found.
    """
    try:
        if FLAGS.coordinator is not None:
            jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
        elif FLAGS.distributed:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {_one_line(error)}; where --distributed does not "
            "find them, pass --coordinator=host:port --processes=N --process=i"
        ) from error


def _execute_with_others(config: ConfigDict, workdir: Path) -> int:
    """As `execute`; a process that fails alone ends at once, and takes the others with it.

    An orderly exit would wait for the others, who wait for this one in the middle of a step.
    """
    if jax.process_index() > 0:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        code = execute(config, workdir)
    except (Exception, KeyboardInterrupt):
        traceback.print_exc()
        code = USER_ERROR
    if code not in (DONE, PREEMPTED):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _parse() -> tuple[ConfigDict, Path]:
    try:
        rest = FLAGS(sys.argv)
        config = FLAGS.config.copy_and_resolve_references()
    except ImportError as error:
        raise UserError(f"config: {error}; run from the folder that holds configs/") from error
    except (AttributeError, KeyError, SyntaxError, TypeError, ValueError, OSError) as error:
        raise UserError(f"config: {_one_line(error)}") from error
    logging.getLogger("absl").setLevel(logging.ERROR)
    if len(rest) > 1:
        raise flags.Error(f"unknown argument {rest[1]!r}")
    return config, Path(FLAGS.workdir)


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Saves the resolved config, or checks it against that of the run to be resumed.

    Of several processes the first saves it, and the others check theirs against it.

    Raises:
      UserError: if a field that matters differs, or the folder cannot be written or is not shared.
    """
    path = workdir / "config.json"
    resolved = json.loads(config.to_json_best_effort())
    if jax.process_index() == 0:
        if path.exists() and writers.MetricsFile(workdir / "metrics.jsonl").begun():
            _compare(path, resolved)
        else:  # nothing was trained yet, perhaps for a mistake in the config
            writers.write_json(path, {"config": resolved} | _circumstances())
    parallel.barrier("config.json is written")
    if not path.exists():
        raise UserError(f"workdir {workdir} must be a folder that all processes share")
    _compare(path, resolved)


def _compare(path: Path, resolved: dict[str, Any]) -> None:
    try:
        saved = json.loads(path.read_text())["config"]
    except (KeyError, ValueError) as error:
        raise UserError(f"{path} was not written by a run: choose another workdir") from error
    old, new = _flat(saved), _flat(resolved)
    changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f)]
    changed = [f for f in changed if f not in IMMATERIAL]
    if changed:
        words = ", ".join(f"{f} was {old.get(f)}, is {new.get(f)}" for f in changed)
        raise UserError(f"{path.parent} holds a run with another config: {words}")


def _circumstances() -> dict[str, Any]:
    names = ("ferjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "versions": {"python": sys.version.split()[0]} | {n: _version(n) for n in names},
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "git": _revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _revision() -> str | None:
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in _flat(item, f"{name}.{key}" if name else key).items()
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
