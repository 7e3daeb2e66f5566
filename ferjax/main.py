"""`python -m ferjax.main --config=configs/<method>.py[:<dataset>] --workdir=DIR`."""

import logging
import os
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from ferjax import memory, preemption, repeat, runs
from ferjax.errors import UserError

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config", None, "configs/<method>.py[:<dataset>].", lock_config=True
)
flags.DEFINE_string("workdir", None, "Folder that the run writes to and resumes from.")
flags.DEFINE_bool(
    "distributed", False, "Joins the other processes of a Cloud TPU pod, Kubernetes, SLURM or MPI."
)
flags.DEFINE_string("coordinator", None, "host:port of process 0, if --distributed cannot find it.")
flags.DEFINE_integer("processes", None, "With --coordinator: number of processes.", lower_bound=1)
flags.DEFINE_integer("process", None, "With --coordinator: index of this process.", lower_bound=0)
flags.mark_flags_as_required(["config", "workdir"])


@flags.multi_flags_validator(
    ["coordinator", "processes", "process"],
    "--coordinator=host:port, --processes and a smaller --process must be given together",
)
def _together(given: dict[str, Any]) -> bool:
    if all(value is None for value in given.values()):
        return True
    if None in given.values():
        return False
    host, _, port = given["coordinator"].rpartition(":")
    return bool(host) and port.isdigit() and given["process"] < given["processes"]


DONE, USER_ERROR, BAD_FLAGS, CRASHED, PREEMPTED = 0, 1, 2, 70, 75


def main() -> int:
    """Parses the command line, runs the config and returns the exit code."""
    app.define_help_flags()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        config, workdir = _parse()
        if config.get("run") != "annotate":  # annotating must not let memory grow
            memory.keep_freed_memory()
        _join()
    except flags.Error as error:
        return _say(f"{error}\nusage: {__doc__}", BAD_FLAGS)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    preemption.watch()
    if jax.process_index() > 0:
        logging.getLogger().setLevel(logging.WARNING)
    try:
        code = execute(config, workdir)
    except (Exception, KeyboardInterrupt):
        traceback.print_exc()
        code = CRASHED
    if jax.process_count() > 1 and code not in (DONE, PREEMPTED):
        _leave_others(code)
    return code


def execute(config: ConfigDict, workdir: Path) -> int:
    """Runs a config in a workdir, for each of `config.seeds` if there are any.

    Returns the exit code.
    """
    try:
        if config.get("seeds"):
            repeat.over_seeds(config, workdir)
        else:
            runs.run(config.copy_and_resolve_references(), workdir)
    except UserError as error:
        return _say(f"error: {error}", USER_ERROR)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        return _say(f"error: {error.strerror or error}{where}", USER_ERROR)
    except preemption.Preempted as notice:
        return _say(f"stopped: {notice}; run the same command to continue", PREEMPTED)
    return DONE


def _join() -> None:
    """Joins the other processes, if there are any; call it before anything asks for devices.

    Raises:
      UserError: if the processes cannot be joined.
    """
    try:
        if FLAGS.coordinator is not None:
            jax.distributed.initialize(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
        elif FLAGS.distributed:
            jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes: {_one_line(error)}; if --distributed cannot "
            "find them, pass --coordinator=host:port --processes=N --process=i"
        ) from error


def _leave_others(code: int) -> NoReturn:
    """Exits at once, so that the other processes end too.

    An orderly exit would wait for the others, which wait for this process in the middle of a step.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _parse() -> tuple[ConfigDict, Path]:
    try:
        rest = FLAGS(sys.argv)
        config = FLAGS.config
        config.copy_and_resolve_references()
    except ImportError as error:
        raise UserError(f"config: {error}; run it in the folder that contains configs/") from error
    except (AttributeError, KeyError) as error:
        named: Exception = error
        while isinstance(named.args[0], Exception):  # an error that wraps another
            named = named.args[0]
        raise UserError(f"config: no field {' '.join(named.args[0].split())}") from error
    except (SyntaxError, TypeError, ValueError, OSError) as error:
        raise UserError(f"config: {_one_line(error)}") from error
    _quieten_libraries()
    if len(rest) > 1:
        raise flags.Error(f"unknown argument {rest[1]!r}")
    if not FLAGS.workdir:
        raise UserError("workdir is empty")
    _replace_home(config)
    return config, Path(FLAGS.workdir).expanduser()


def _replace_home(config: ConfigDict) -> None:
    """Replaces `~/` at the beginning of paths in a config, which shells leave in flags."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            _replace_home(value)
        elif (replaced := _at_home(value)) != value:
            config[name] = replaced


def _at_home(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("~/"):
        return str(Path(value).expanduser())
    if isinstance(value, tuple | list):
        return type(value)(map(_at_home, value))
    return value


def _quieten_libraries() -> None:
    """Hides tracebacks that only repeat the error raised in the end.

    A failure to write a checkpoint is raised again at the next one; Orbax also logs it from each of
    its threads, and may leave behind an event loop that Python then complains about.
    """
    log = logging.getLogger("absl")
    log.setLevel(logging.ERROR)
    log.addFilter(lambda record: "orbax" not in record.pathname)

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
