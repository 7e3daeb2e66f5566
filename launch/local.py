"""Runs several processes of one run on one machine, to try out a cluster or give each a GPU.

    python launch/local.py --processes=2 -- --config=configs/cct.py --workdir=runs/cct

Everything after `--` goes to `python -m ferjax.main`, run in the current folder. With GPUs,
process i uses GPU i. SIGTERM and Ctrl-C are passed on to all processes; when one fails, the others
are killed. Prints the output of process 0, and the stderr of the others, each line after the number
of its process. The exit code is that of the first process to fail, or 0; 75 means: run the same
command again.
"""

import argparse
import os
import queue
import signal
import socket
import subprocess
import sys
import threading

DONE, PREEMPTED = 0, 75


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
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number, process in enumerate(processes):
        threading.Thread(target=_watch, args=(number, process, failed, ended)).start()
    first = DONE
    for _ in processes:
        code = ended.get()
        first = first or code
        if code not in (DONE, PREEMPTED) and not failed.is_set():
            failed.set()
            for process in processes:
                process.kill()
    return first


def _start(number: int, count: int, coordinator: str, arguments: list[str]) -> subprocess.Popen:
    """Starts a process in its own session, so that Ctrl-C reaches it only once, passed on."""
    flags = [f"--coordinator={coordinator}", f"--processes={count}", f"--process={number}"]
    return subprocess.Popen(
        [sys.executable, "-m", "ferjax.main", *flags, *arguments],
        env={"JAX_CUDA_VISIBLE_DEVICES": str(number)} | os.environ,
        stdout=None if number == 0 else subprocess.DEVNULL,
        stderr=None if number == 0 else subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _watch(
    number: int, process: subprocess.Popen, failed: threading.Event, ended: queue.SimpleQueue
) -> None:
    """Prints a process's stderr until another has failed; later lines are only consequences."""
    for line in process.stderr or ():
        if not failed.is_set():
            print(f"[{number}] {line}", end="", file=sys.stderr)
    code = process.wait()
    ended.put(code if code >= 0 else 128 - code)  # signals as a shell reports them


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
