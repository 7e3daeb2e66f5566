"""Notice that the machine is about to be taken away: finish the step, save, exit 75."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop and has saved; the same command goes on with it."""


_asked = threading.Event()


def watch() -> None:
    """From now on SIGTERM and Ctrl-C ask the run to save and stop; a second Ctrl-C kills it."""

    def ask(signum: int, frame: object) -> None:
        _asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, ask)
    if jax.process_count() == 1:  # on several hosts JAX's coordination service watches SIGTERM
        signal.signal(signal.SIGTERM, ask)


def requested(step: int) -> bool:
    """Whether to stop after this step; all processes answer alike."""
    if jax.process_count() > 1:
        return multihost_utils.reached_preemption_sync_point(step)
    return _asked.is_set()
