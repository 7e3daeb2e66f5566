"""Requests to stop, as by a preemption: the run finishes its step, saves and exits with 75."""

import itertools
import signal
import sys
import threading

import jax
from jax.experimental import multihost_utils

from ferjax import parallel


class Preempted(Exception):
    """Raised when the run was asked to stop and has saved; the same command continues it."""


NOTICE = "RECEIVED_PREEMPTION_NOTICE"
"""The key under which JAX's coordination service records that a process got SIGTERM."""

_asked = threading.Event()
_calls = itertools.count(1)


def watch() -> None:
    """Makes SIGTERM and Ctrl-C ask the run to save and stop, and a second Ctrl-C kill it.

    Of several processes, it is enough to signal one. All stop after the same step, see `requested`.
    """
    several = jax.process_count() > 1

    def ask(signum: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if signum == signal.SIGINT:
            print(
                "\nstopping once the work is saved; press Ctrl-C again to stop at once",
                file=sys.stderr,
            )
        if several:
            signal.raise_signal(signal.SIGTERM)
        else:
            _asked.set()

    signal.signal(signal.SIGINT, ask)
    if not several:  # with several, JAX's coordination service handles SIGTERM and tells the others
        signal.signal(signal.SIGTERM, ask)


def requested() -> bool:
    """Returns whether to stop after the step just run; call it once a step.

    All processes get the same answer, and once it is True it stays True.
    """
    if _asked.is_set() or jax.process_count() == 1:
        return _asked.is_set()
    # The service answers True for a single number, so numbers must keep growing across stages,
    # whose steps start again at 0.
    if multihost_utils.reached_preemption_sync_point(next(_calls)):
        _asked.set()
    return _asked.is_set()


def noticed() -> bool:
    """Returns whether any process was asked to stop; they may get to know at different times.

    For work of unequal length, where processes cannot stop after the same step.
    """
    if jax.process_count() == 1:
        return requested()
    try:
        parallel.coordination().key_value_try_get(NOTICE)
    except jax.errors.JaxRuntimeError:  # there is no notice
        return False
    return True
