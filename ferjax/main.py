"""`python -m ferjax.main --config=configs/<method>.py[:<dataset>] --workdir=DIR`."""

import json
import logging
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from ferjax import preemption, stages, writers
from ferjax.errors import UserError

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "configs/<method>.py[:<dataset>].", lock_config=True)
flags.DEFINE_string("workdir", None, "Folder that the run writes to, and is resumed from.")
flags.DEFINE_bool("distributed", False, "Join the other hosts of a pod or cluster first.")
flags.mark_flags_as_required(["config", "workdir"])

DONE, USER_ERROR, BAD_FLAGS, PREEMPTED = 0, 1, 2, 75

IMMATERIAL = ("data.cache", "data.in_memory", "loop", "parallel")
"""Fields that may change when a run is resumed: they say how it is computed, not what."""


def main() -> int:
    """Parses the command line and runs; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config, workdir = _parse()
    except flags.Error as error:
        return _say(f"{error}\nusage: {__doc__}", BAD_FLAGS)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    if FLAGS.distributed:
        jax.distributed.initialize()
    preemption.watch()
    return execute(config, workdir)


def execute(config: ConfigDict, workdir: Path) -> int:
    """Runs a resolved config in a workdir; returns the exit code."""
    try:
        _claim(workdir, config)
        stages.run(config, workdir)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    except preemption.Preempted as notice:
        return _say(f"stopped: {notice}; run the same command to go on", PREEMPTED)
    return DONE


def _parse() -> tuple[ConfigDict, Path]:
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it would show tracebacks of mistakes
    try:
        rest = FLAGS(sys.argv)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"config: {_one_line(error)}") from error
    logging.getLogger("absl").setLevel(logging.ERROR)
    if len(rest) > 1:
        raise flags.Error(f"unknown argument {rest[1]!r}")
    return FLAGS.config.copy_and_resolve_references(), Path(FLAGS.workdir)


def _claim(workdir: Path, config: ConfigDict) -> None:
    """Saves the resolved config, or checks it against that of the run to be resumed.

    Raises:
      UserError: if a field that matters differs, or the folder cannot be written.
    """
    path = workdir / "config.json"
    resolved = json.loads(config.to_json_best_effort())
    if path.exists():
        saved = json.loads(path.read_text())["config"]
        old, new = _flat(saved), _flat(resolved)
        changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f)]
        changed = [f for f in changed if not f.startswith(IMMATERIAL)]
        if changed:
            words = ", ".join(f"{f} was {old.get(f)}, is {new.get(f)}" for f in changed)
            raise UserError(f"{workdir} holds a run with another config: {words}")
    try:
        writers.write_json(path, {"config": resolved} | _circumstances())
    except OSError as error:
        raise UserError(f"cannot write to workdir {workdir}: {error.strerror}") from error


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
