"""What a workdir belongs to: one config and one set of data, checked whenever a run goes on.

`config.json` and `data.json` say so. Nothing is written before the run was checked, and a file
that no run wrote is left alone.
"""

import json
import logging
import shlex
import subprocess
import sys
from collections.abc import Set
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from ferjax import parallel, writers
from ferjax.errors import UserError

LOCATIONS = {"cache", "dir", "path", "test_path"}
"""Fields of `data` and its sets that may change when a run is resumed: what is there is checked by
itself."""

PACKAGES = (
    *("ferjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy"),
    *("tensorflow-datasets", "opencv-python-headless"),
)
"""Whose versions a run writes down."""


def check(workdir: Path, config: ConfigDict, may_change: Set[str]) -> None:
    """Checks that a run of this config may begin, or go on, in the workdir; writes nothing.

    Args:
      workdir: need not be there.
      config: of the run, resolved.
      may_change: fields that may differ from those of the run that was begun there.

    Raises:
      UserError: if it is no folder; if its `config.json` is none of ours, or a field that matters
        differs from that of the run that was begun there; or for a number that is not finite.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is not a folder")
    for field, value in flat(_resolved(config)).items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as error:
            raise UserError(f"{field} must be finite, not {value}") from error
    path = workdir / "config.json"
    if path.exists():
        saved = _saved(path, _begun(workdir))
        if _begun(workdir):  # else the run before may have failed for a mistake in its config
            _compare(workdir, saved["config"], config, may_change)


def claim(workdir: Path, config: ConfigDict, data: dict[str, Any], may_change: Set[str]) -> None:
    """Makes the workdir that of a run of this config on these data, or checks that it is.

    Of several processes the first writes, and the others check that theirs are alike.

    Args:
      workdir: is made if it isn't there.
      config: of the run, resolved.
      data: what tells the data from others, as JSON.
      may_change: see `check`.

    Raises:
      UserError: as `check`; if the run was begun on other data; or if not all processes share the
        folder.
    """
    if jax.process_index() == 0:
        _write(workdir, config, data)
    parallel.barrier("the workdir is claimed")
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"workdir {workdir} must be a folder that all processes share")
    _compare(workdir, _saved(path)["config"], config, may_change)
    _compare_data(workdir, data)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Returns nested fields by their dotted names, as they are set on the command line."""
    if not isinstance(value, dict):
        return {name: value}
    return {
        path: leaf
        for key, item in value.items()
        for path, leaf in flat(item, f"{name}.{key}" if name else key).items()
    }


def _saved(path: Path, begun: bool = True) -> dict[str, Any]:
    try:
        saved = json.loads(path.read_text())
        saved["config"].items()
        return saved
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if not begun:
            raise UserError(f"{path} was not written by a run: choose another workdir") from error
        raise UserError(
            f"{path} is damaged: delete it, and the same command goes on, "
            "but nobody checks that its config is that of the run"
        ) from error


def _compare(
    workdir: Path, saved: dict[str, Any], config: ConfigDict, may_change: Set[str]
) -> None:
    old, new = flat(saved), flat(_resolved(config))
    changed = [f for f in sorted(old.keys() | new.keys()) if old.get(f) != new.get(f)]
    changed = [f for f in changed if f not in may_change and not _is_location(f)]
    if changed:
        words = ", ".join(f"{f} was {old.get(f)}, is {new.get(f)}" for f in changed)
        raise UserError(f"{workdir} holds a run with another config: {words}")


def _compare_data(workdir: Path, data: dict[str, Any]) -> None:
    path = workdir / "data.json"
    try:
        checksums = json.loads(path.read_text())["checksums"].items()
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: delete it, and the same command goes on, "
            "but nobody checks that its data are those of the run"
        ) from error
    if checksums != data["checksums"].items():
        raise UserError(f"{workdir} holds a run on other data, see {path}")


def _is_location(field: str) -> bool:
    part, *_, name = field.split(".") if "." in field else (field, "")
    return part == "data" and name in LOCATIONS


def _write(workdir: Path, config: ConfigDict, data: dict[str, Any]) -> None:
    paths = workdir / "config.json", workdir / "data.json"
    now = _circumstances()
    begun = _begun(workdir)
    if not begun or not paths[1].exists():
        writers.write_json(paths[1], data)
    if not begun or not paths[0].exists():
        writers.write_json(paths[0], {"config": _resolved(config)} | _origin() | now)
        return
    _compare_data(workdir, data)
    saved = _saved(paths[0])
    resumed = saved.get("resumed", [])
    last = resumed[-1] if resumed else {name: saved.get(name) for name in now}
    if last != now:
        logging.info("resumed under other circumstances, see %s", paths[0])
        writers.write_json(paths[0], saved | {"resumed": [*resumed, now]})


def _begun(workdir: Path) -> bool:
    done = any(workdir.glob("stages/*/done.json"))
    labelled = any(workdir.glob("labels/*.parquet"))  # by another process than the one that logs
    saved = any(workdir.glob("stages/*/checkpoints/*"))
    return done or labelled or saved or writers.MetricsFile(workdir / "metrics.jsonl").begun()


def _resolved(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json_best_effort())


def _circumstances() -> dict[str, Any]:
    return {
        "versions": {"python": sys.version.split()[0]} | {n: _version(n) for n in PACKAGES},
        "devices": sorted({device.device_kind for device in jax.devices()}),
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),
        "git": _revision(),
    }


def _origin() -> dict[str, str]:
    """Returns the command of the run and when it began, for its report."""
    typed = Path(sys.argv[0]).name == "main.py"  # else it was called from Python
    words = ["python", "-m", "ferjax.main", *map(_quoted, sys.argv[1:])]
    command = " ".join(words) if typed else ""
    return {"command": command, "begun": datetime.now().astimezone().isoformat(timespec="seconds")}


def _quoted(word: str) -> str:
    """Quotes a word for a shell, in double quotes if it has single ones, as tuples have."""
    return f'"{word}"' if "'" in word and not set('"$`\\!') & set(word) else shlex.quote(word)


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
