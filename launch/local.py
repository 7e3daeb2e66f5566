"""Runs several processes of one run on one machine, to try out a cluster or give each a GPU.

    python launch/local.py --processes=2 -- --config=configs/cct.py --workdir=runs/cct

Everything after `--` goes to `python -m ferjax.main`, run in the current folder. With GPUs,
process i uses GPU i. SIGTERM and Ctrl-C are passed on to all processes. When one fails, it is named
with its last lines, and the others are killed, as they are when this launcher is (on Linux). Prints
the output of process 0, and the stderr of the others, each line after the number of its process.
The exit code is that of the first process to fail, or 0; 75 means: run the same command again.
"""

import argparse
import collections
import ctypes
import io
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

DONE, PREEMPTED = 0, 75
LAST_LINES = 10
"""Lines of a process that failed that are repeated."""
FATAL = re.compile(r"[EF]\d{4} ")
"""How a line of JAX's own errors begins."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Parses the command line, runs the processes and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--processes", type=int, required=True, metavar="N")
    parser.add_argument("arguments", nargs="+", help="arguments of ferjax.main, after --")
    options = parser.parse_args()
    if options.processes < 1:
        parser.error("--processes must be positive")
    return launch(options.processes, options.arguments)


def launch(count: int, arguments: list[str]) -> int:
    """Runs `count` processes to their end and returns the first nonzero exit code, or 0."""
    coordinator = f"127.0.0.1:{_free_port()}"
    processes = [_start(number, count, coordinator, arguments) for number in range(count)]

    def pass_on(signum: int, frame: object) -> None:
        for process in processes:
            process.send_signal(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, pass_on)
    failed = threading.Event()
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    for number, process in enumerate(processes):
        threading.Thread(target=_watch, args=(number, process, failed, ended)).start()
    first = DONE
    for _ in processes:
        number, code, last = ended.get()
        first = first or (code if code >= 0 else 128 - code)  # signals as a shell reports them
        if code not in (DONE, PREEMPTED) and not failed.is_set():
            failed.set()
            for process in processes:
                process.kill()
            print(_describe(number, count, code, last), file=sys.stderr)
    return first


Ended = tuple[int, int, list[str]]
"""Number, exit code and last lines of a process."""


def _describe(number: int, count: int, code: int, last: list[str]) -> str:
    """Says which process failed first, how, and what it said last."""
    how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
    lines = [f"process {number} of {count} ended with {how}; the others were ended"]
    if last:
        lines = [f"{lines[0]}; its last lines:", *(f"[{number}] {line}" for line in last)]
    return "\n".join(["", *lines])


def _start(number: int, count: int, coordinator: str, arguments: list[str]) -> subprocess.Popen:
    """Starts a process in its own session, so that Ctrl-C reaches it only once, passed on.

    Its stderr is passed on as well, except for a progress bar on a terminal.
    """
    bar = number == 0 and sys.stderr.isatty()
    flags = [f"--coordinator={coordinator}", f"--processes={count}", f"--process={number}"]
    return subprocess.Popen(
        [sys.executable, "-m", "ferjax.main", *flags, *arguments],
        env={"JAX_CUDA_VISIBLE_DEVICES": str(number)} | os.environ,
        stdout=None if number == 0 else subprocess.DEVNULL,
        stderr=None if bar else subprocess.PIPE,
        start_new_session=True,
        preexec_fn=_end_with_parent if sys.platform == "linux" else None,
    )


def _end_with_parent() -> None:
    """Has the system kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _watch(
    number: int, process: subprocess.Popen, failed: threading.Event, ended: queue.SimpleQueue
) -> None:
    """Prints a process's stderr until another has failed; later lines are only consequences."""
    lines: collections.deque[str] = collections.deque(maxlen=LAST_LINES)
    for part in _parts(process):
        if number > 0 and FATAL.match(part):  # JAX says so when another process was killed
            failed.wait(1)
        if not failed.is_set():
            lines += [line for line in part.splitlines() if line.strip()]
            print(part if number == 0 else f"[{number}] {part}", end="", file=sys.stderr)
            sys.stderr.flush()
    ended.put((number, process.wait(), list(lines)))


def _parts(process: subprocess.Popen) -> Iterator[str]:
    """Yields what a process says, cut where a progress bar begins anew, too."""
    if process.stderr is None:
        return
    with io.TextIOWrapper(process.stderr, errors="replace", newline="") as text:
        yield from text


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
