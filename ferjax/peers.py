"""Ends a process with a line when another one of the run stands still or cannot be reached.

JAX does so, too, but with a stack dump. Every process counts upwards in the coordination service,
which process 0 runs, and reads how far the others got.
"""

import itertools
import os
import sys
import threading
import time
from typing import NoReturn

import jax

from ferjax import parallel

KEY = "ferjax/alive/"
CRASHED = 70


def watch(heartbeat: float) -> None:
    """Begins to watch, where there are several processes.

    Args:
      heartbeat: seconds without a sign of a process after which it counts as lost.
    """
    if jax.process_count() == 1:
        return
    heard = dict.fromkeys(range(jax.process_count()), time.monotonic())
    threading.Thread(target=_listen, args=(heard, heartbeat / 10), daemon=True).start()
    threading.Thread(target=_judge, args=(heard, heartbeat), daemon=True).start()


def _listen(heard: dict[int, float], pause: float) -> None:
    """Notes when each process last counted; blocks while process 0 does not answer."""
    client, counts = parallel.coordination(), dict[str, str]()
    for count in itertools.count():
        try:
            own = f"{KEY}{jax.process_index()}"
            client.key_value_set(own, str(count), allow_overwrite=True)
            for key, value in client.key_value_dir_get(KEY):
                if counts.get(key) != value:
                    counts[key] = value
                    heard[int(key.rpartition("/")[2])] = time.monotonic()
        except jax.errors.JaxRuntimeError:  # process 0 is gone
            pass
        time.sleep(pause)


def _judge(heard: dict[int, float], heartbeat: float) -> None:
    checked = time.monotonic()
    while True:
        time.sleep(min(1.0, heartbeat / 10))
        last, checked = checked, time.monotonic()
        if checked - last > heartbeat:
            _end(f"this process stood still for {checked - last:.0f} s, and the others went away")
        silent = [process for process, time in heard.items() if checked - time > heartbeat]
        if jax.process_index() in silent:  # not even its own count came back
            silent = [0]
        if silent:
            _end(
                f"process {silent[0]} gave no sign for {heartbeat:.0f} s (--heartbeat): it was "
                "stopped, or its host is gone"
            )


def _end(reason: str) -> NoReturn:
    line = f"error: {reason}; run the same command to continue"
    print(f"\n{line}", file=sys.stderr, flush=True)  # below the progress bar
    os._exit(CRASHED)
