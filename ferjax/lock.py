"""One workdir, one run: `lock.json` names the process that writes to a workdir.

That process renews the file every ten seconds. A lock that nobody renewed for a minute is stale,
whichever host wrote it, so that a run can go on when its host was replaced; one whose process has
ended on this machine is stale at once.
"""

import contextlib
import fcntl
import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

import jax

from ferjax import writers
from ferjax.errors import UserError

LOCK = "lock.json"

PERIOD = 10.0
"""Seconds from one renewal to the next."""

STALE = 60.0
"""Seconds without renewal after which another run may take a workdir over."""

Holder = dict[str, Any]
"""`host`, `pid`, `start` (of the process, in clock ticks), `machine` and `since`."""


@contextlib.contextmanager
def hold(workdir: Path) -> Iterator[None]:
    """Holds a workdir, which is made if need be, for one run; of several processes the first does.

    If the workdir is taken over nonetheless, because this process was stopped for a minute, the
    process ends with a line and exit code 1.

    Raises:
      UserError: if another run holds it.
    """
    if jax.process_index() > 0:
        yield
        return
    made = _make(workdir)
    path, own, released = workdir / LOCK, _this_process(), threading.Event()
    try:
        _take(path, own)
        renewal = threading.Thread(target=_renew, args=(path, own, released), daemon=True)
        renewal.start()
        try:
            yield
        finally:
            released.set()
            renewal.join()
            _release(path, own)
    finally:
        for folder in made:  # a run that was refused leaves nothing
            with contextlib.suppress(OSError):
                folder.rmdir()


def _take(path: Path, own: Holder) -> None:
    with writers.naming(path), _opened(path) as file:
        holder, age = _read(file), _age(path)
        if age <= STALE and holder is None and path.stat().st_size:
            raise UserError(
                f"{path} is damaged: if no run is writing there, delete it, or wait {STALE:.0f} s"
            )
        if age <= STALE and holder is not None and not _has_ended(holder):
            raise UserError(
                f"{path.parent} is in use by {_name(holder)}; should that run be lost, the "
                f"workdir is free {STALE:.0f} s after {path} was last renewed"
            )
        _write(file, own)


def _renew(path: Path, own: Holder, released: threading.Event) -> None:
    while not released.wait(PERIOD):
        with contextlib.suppress(OSError), _opened(path) as file:
            holder = _read(file)
            if holder not in (own, None):
                _end(f"{path.parent} was taken over by {_name(holder)} while this run stood still")
            _write(file, own)


def _release(path: Path, own: Holder) -> None:
    with contextlib.suppress(OSError), _opened(path) as file:
        if _read(file) in (own, None):
            path.unlink()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """Opens the lock, for one process at a time where the file system can do that."""
    while True:
        with path.open("a+") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if _is_current(file, path):  # else it was removed while this process waited
                yield file
                return


def _is_current(file: TextIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _read(file: TextIO) -> Holder | None:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return holder if holder["host"] and int(holder["pid"]) else None
    except (KeyError, TypeError, ValueError):
        return None


def _write(file: TextIO, own: Holder) -> None:
    file.truncate(0)  # opened to append
    file.write(json.dumps(own) + "\n")
    file.flush()


def _age(path: Path) -> float:
    """Returns the seconds since the lock was renewed, both by the clock of the file system."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{LOCK}") as probe:
        return abs(os.stat(probe.name).st_mtime - path.stat().st_mtime)


def _this_process() -> Holder:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": _start(os.getpid()),
        "machine": _machine(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _has_ended(holder: Holder) -> bool:
    """Returns whether it is known that the process has ended: only of those on this machine."""
    machine = _machine()
    same = holder["host"] == socket.gethostname() and holder.get("machine", machine) == machine
    return bool(machine) and same and _start(holder["pid"]) != holder.get("start")


def _start(pid: int) -> int | None:
    """Returns when a process was started, which tells it from others of its number, if it runs."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if state in "ZX" else int(fields[18])


def _machine() -> str:
    """Returns what the numbers of processes hold for: a boot and a container; "" if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _make(workdir: Path) -> list[Path]:
    """Makes a folder with those above it, and returns those that were not there, inmost first."""
    missing = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
    workdir.mkdir(parents=True, exist_ok=True)
    return missing


def _name(holder: Holder) -> str:
    return f"process {holder['pid']} on {holder['host']}, begun {holder.get('since')}"


def _end(reason: str) -> NoReturn:
    print(f"\nerror: {reason}", file=sys.stderr, flush=True)  # below the progress bar
    os._exit(1)
