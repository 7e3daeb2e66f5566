"""Notice that the machine is about to be taken away: finish the step, save, exit 75."""

import itertools
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run was asked to stop and has saved; the same command goes on with it."""


_asked = threading.Event()
_calls = itertools.count(1)


def watch() -> None:
    """From now on SIGTERM and Ctrl-C ask the run to save and stop; a second Ctrl-C kills it.

    Of several processes it is enough that one is told. They stop where `requested` is asked.
    """
    several = jax.process_count() > 1

    def ask(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signum == signal.SIGINT:
            print(
                "\nstopping as soon as the work is saved; Ctrl-C again stops at once",
                file=sys.stderr,
            )
        if several:
            signal.raise_signal(signal.SIGTERM)
        else:
            _asked.set()

    signal.signal(signal.SIGINT, ask)
    if not several:  # else JAX's coordination service takes SIGTERM and tells the other processes
        signal.signal(signal.SIGTERM, ask)


def requested() -> bool:
    """Whether to stop after the step just run; to be asked once a step.

    All processes answer alike, and yes once and for all.
    """
    if _asked.is_set() or jax.process_count() == 1:
        return _asked.is_set()
    # The service says yes at one number only, so numbers must grow: steps of a stage start anew.
    if multihost_utils.reached_preemption_sync_point(next(_calls)):
        _asked.set()
    return _asked.is_set()
