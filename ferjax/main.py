"""`python -m ferjax.main --config=configs/<method>.py[:<dataset>] --workdir=DIR`.

JAX takes seconds to import: it is imported once the command line is known to be right.
"""

import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

DONE, USER_ERROR, BAD_FLAGS, CRASHED, PREEMPTED = 0, 1, 2, 70, 75


def main() -> int:
    """Parses the command line, runs the config and returns the exit code."""
    from absl import flags

    from ferjax import command_line
    from ferjax.errors import UserError

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        if command_line.asks_for_help(sys.argv):
            print(command_line.help_text(sys.argv))
            return DONE
        return run(command_line.parse(sys.argv))
    except flags.Error as error:
        return _say(f"{error}\n{command_line.USAGE}\n--help lists flags and fields", BAD_FLAGS)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)


def run(command: Any) -> int:
    """Runs a `command_line.Command` and returns the exit code.

    Raises:
      UserError: if the other processes cannot be joined.
    """
    import jax

    from ferjax import memory, preemption
    from ferjax.errors import one_line

    if command.config.get("run") != "annotate":  # annotating must not let memory grow
        memory.keep_freed_memory()
    _join(command)
    preemption.watch()
    if jax.process_index() > 0:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        code = execute(command.config, command.workdir)
    except (Exception, KeyboardInterrupt) as error:
        code = CRASHED
        if not _lost_peer(error):
            traceback.print_exc()
        else:
            _say(f"error: lost another process: {one_line(str(error))}", code)
    if jax.process_count() > 1 and code not in (DONE, PREEMPTED):
        _leave_others(code)
    return code


def execute(config: Any, workdir: Path) -> int:
    """Runs a config, a `ConfigDict`, in a workdir, for each of `config.seeds` if there are any.

    Returns the exit code.
    """
    from ferjax import command_line, preemption, repeat, runs
    from ferjax.errors import UserError

    try:
        if config.get("seeds"):
            repeat.over_seeds(config, workdir)
        else:
            runs.run(config.copy_and_resolve_references(), workdir)
    except UserError as error:
        return _say(f"error: {command_line.explain(error, config)}", USER_ERROR)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _say(f"error: {error.strerror or error}{where}", USER_ERROR)
    except preemption.Preempted as notice:
        return _say(f"stopped: {notice}; run the same command to continue", PREEMPTED)
    return DONE


def _join(command: Any) -> None:
    """Joins the other processes, if there are any; call it before anything asks for devices.

    Raises:
      UserError: if the processes cannot be joined.
    """
    import jax

    from ferjax import peers
    from ferjax.errors import UserError, one_line

    if command.coordinator is None and not command.distributed:
        return
    # JAX would end the process with a stack dump, so `peers` comes before it.
    later = {"heartbeat_timeout_seconds": command.heartbeat + 60}
    others = command.coordinator, command.processes, command.process
    try:
        if command.coordinator is not None:
            jax.distributed.initialize(*others, **later)
        else:
            jax.distributed.initialize(**later)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {one_line(str(error))[:150]}; if --distributed "
            "cannot find them, pass --coordinator=host:port --processes=N --process=i"
        ) from error
    peers.watch(command.heartbeat)


def _lost_peer(error: BaseException) -> bool:
    """Returns whether an error says that another process ended in the middle of a collective."""
    import jax

    return (
        jax.process_count() > 1
        and isinstance(error, jax.errors.JaxRuntimeError | ValueError)
        and any(word in str(error) for word in ("UNAVAILABLE", "Gloo", "NCCL", "heartbeat"))
    )


def _leave_others(code: int) -> NoReturn:
    """Exits at once, so that the other processes end too.

    An orderly exit would wait for the others, which wait for this process in the middle of a step.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while importing ends without a traceback
    sys.exit(main())
