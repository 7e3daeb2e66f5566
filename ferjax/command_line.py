"""The command line: flags and config fields, their help, and suggestions for misspelt ones.

Imports no JAX, so that a mistake is answered at once.
"""

import contextlib
import copy
import difflib
import linecache
import logging
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from ferjax.errors import UserError

USAGE = """usage: python -m ferjax.main --config=configs/<method>.py[:<dataset>] --workdir=DIR \
[--config.<field>=<value> ...]"""

HELP = ("-h", "-help", "--help", "--helpshort", "--helpfull")

MOST_SUGGESTED = 3
"""Names that may be meant by a misspelt one."""

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
flags.DEFINE_integer(
    "heartbeat", 60, "Seconds without a sign of a process until the others end.", lower_bound=5
)
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


class Command(NamedTuple):
    """A command line that was parsed.

    Attributes:
      config: of the run, with its references.
      workdir: of the run.
      distributed: whether to join other processes that the environment knows of.
      coordinator: host:port of process 0, or None.
      processes: how many there are, or None.
      process: index of this one, or None.
      heartbeat: seconds without a sign of a process until the others end.
    """

    config: ConfigDict
    workdir: Path
    distributed: bool
    coordinator: str | None
    processes: int | None
    process: int | None
    heartbeat: int


def parse(arguments: Sequence[str]) -> Command:
    """Parses a command line.

    Args:
      arguments: the program's name, then the words that were typed.

    Raises:
      flags.Error: for a mistake in the flags.
      UserError: for a mistake in the config.
    """
    named = _config_named(arguments)
    if named:
        _check_file(Path(named.partition(":")[0]))
    try:
        rest = FLAGS(arguments)
        config = FLAGS.config
        config.copy_and_resolve_references()
    except ImportError as error:
        raise UserError(f"config: {error}; run it in the folder that contains configs/") from error
    except (AttributeError, KeyError) as error:
        raise UserError(_no_field(arguments, error)) from error
    except (SyntaxError, TypeError, ValueError, OSError) as error:
        raise UserError(f"config: {_one_line(error)}") from error
    finally:
        _quieten_libraries()
    if len(rest) > 1:
        raise flags.Error(f"unknown argument {rest[1]!r}")
    if not FLAGS.workdir:
        raise UserError("workdir is empty")
    _refuse_urls("workdir", FLAGS.workdir)
    _refuse_urls("config", config)
    _replace_home(config)
    return Command(
        config,
        Path(FLAGS.workdir).expanduser(),
        FLAGS.distributed,
        FLAGS.coordinator,
        FLAGS.processes,
        FLAGS.process,
        FLAGS.heartbeat,
    )


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether a command line asks for help."""
    return bool(set(arguments) & set(HELP))


def help_text(arguments: Sequence[str]) -> str:
    """Returns the help: flags, and the fields of a config if the command line names one.

    Raises:
      UserError: for a mistake in the config.
    """
    own = ("workdir", "distributed", "coordinator", "processes", "process", "heartbeat")
    lines = [USAGE, "", *(f"  --{name:<14} {FLAGS[name].help}" for name in own), ""]
    named = _config_named(arguments)
    if named is None:
        lines += ["configs, each of whose fields --config=CONFIG --help lists:", ""]
        lines += [f"  {path}: {_docstring(path).splitlines()[0]}" for path in _configs()]
        return "\n".join(lines)
    with _comments() as comments:
        config = _load(named)
    module = Path(named.partition(":")[0])
    lines += [_docstring(module), "", "fields, as they are unless set:", ""]
    for name, part, key in _fields(config):
        setting = f"  --config.{name}={part[key]!r}"
        comment = comments.get((id(part), key)) or _comment_of_like(config, name, comments)
        lines.append(f"{setting:<56}  # {comment}" if comment else setting)
    return "\n".join(lines)


def explain(error: UserError, config: ConfigDict) -> str:
    """Returns the text of an error, with each field that follows another one replaced by that one.

    A message such as 'baseline: epochs must be positive' names a field that the user did not set:
    the baseline's epochs follow those of `teachers`.

    Args:
      error: raised when the config was run.
      config: with its references.
    """
    stage, _, rest = str(error).partition(": ")
    names = [name for name, *_ in _fields(config)]
    inside = isinstance(config.get(stage), ConfigDict)
    replaced = False

    def name_source(match: re.Match[str]) -> str:
        nonlocal replaced
        name = match[0]
        full = f"{stage}.{name}" if inside and f"{stage}.{name}" in names else name
        source = _source(config, full, names) if full in names else full
        replaced |= source != full
        return source if source != full else name

    word = r"(?<![\w./'])[a-z]\w*(?:\.\w+)*"
    text = re.sub(word, name_source, rest if inside else str(error))
    return text if replaced or not inside else str(error)


def _source(config: ConfigDict, name: str, names: Sequence[str]) -> str:
    """Returns the field that a field follows, or the field itself."""
    last = name.rpartition(".")[2]
    before = _value(config, name)
    for other in names:
        if other == name or other.rpartition(".")[2] != last:
            continue
        changed = copy.deepcopy(config)
        changed.update_from_flattened_dict({other: _different(_value(config, other))})
        if _value(changed, name) != before:
            return _source(config, other, names)
    return name


def _different(value: Any) -> Any:
    """Returns another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return value + "~" if isinstance(value, str) else (*value, "~")


def _value(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, ConfigDict, str]]:
    """Yields the dotted name of each field, the part of the config that it is in, and its key."""
    for key, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config, key


def _config_named(arguments: Sequence[str]) -> str | None:
    """Returns the value of --config."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if match := re.fullmatch(r"--?config(?:=(.*))?", word):
            return match[1] if match[1] is not None else following
    return None


def _no_field(arguments: Sequence[str], error: Exception) -> str:
    """Returns which field of a command line does not exist, and which may be meant."""
    try:
        known = [name for name, *_ in _fields(_load(_config_named(arguments) or ""))]
    except (AttributeError, KeyError):  # a mistake in the config file itself
        while isinstance(error.args[0], Exception):  # an error that wraps another
            error = error.args[0]
        return f"config: no field {_one_line(error)[:200]}"
    typed = [match[1] for word in arguments if (match := re.match(r"--?config\.([\w.]+)", word))]
    parts = {name.rsplit(".", n)[0] for name in known for n in range(name.count(".") + 1)}
    unknown = next((name for name in typed if name not in {*known, *parts}), "")
    near = difflib.get_close_matches(unknown, known, n=1, cutoff=0.8)
    near = near or [x for x in known if x.rpartition(".")[2] == unknown.rpartition(".")[2]]
    meant = f"; did you mean {', '.join(near[:MOST_SUGGESTED])}?" if near else "; see --help"
    return f"config: no field {unknown!r}{meant}"


def _load(named: str) -> ConfigDict:
    """Returns a config as its file has it; `named` is the value of --config.

    Raises:
      UserError: if there is no such file, or what the config raises.
    """
    path, *dataset = named.split(":", 1)
    _check_file(Path(path))
    return runpy.run_path(path)["get_config"](*dataset)


def _check_file(path: Path) -> None:
    """Checks that a config file exists, and says which one may be meant if it does not."""
    if path.exists():
        return
    near = difflib.get_close_matches(path.name, [x.name for x in path.parent.glob("*.py")], n=1)
    meant = f"; did you mean {path.with_name(near[0])}?" if near else ""
    here = "" if path.parent.exists() else "; run it in the folder that contains configs/"
    raise UserError(f"config: there is no file {path}{meant or here}")


def _configs() -> list[Path]:
    """Returns the config files in `configs/`, but not what they have in common."""
    return [x for x in sorted(Path("configs").glob("*.py")) if "def get_config(" in x.read_text()]


@contextlib.contextmanager
def _comments() -> Iterator[dict[tuple[int, str], str]]:
    """Collects the comments on the lines that set fields, by id of the part of a config and key."""
    comments: dict[tuple[int, str], str] = {}
    set_field = ConfigDict.__setattr__

    def noting(part: ConfigDict, key: str, value: Any) -> None:
        caller = sys._getframe(1)
        if comment := _comment_at(caller.f_code.co_filename, caller.f_lineno):
            comments[id(part), key] = comment
        set_field(part, key, value)

    ConfigDict.__setattr__ = noting
    try:
        yield comments
    finally:
        ConfigDict.__setattr__ = set_field


def _comment_at(file: str, line: int) -> str:
    """Returns the comment at the end of a line of Python, else those on the lines above it."""
    _, mark, comment = linecache.getline(file, line).partition("  # ")
    if mark:
        return "" if comment.startswith("noqa") else comment.strip()
    above: list[str] = []
    while (text := linecache.getline(file, line - 1 - len(above)).strip()).startswith("# "):
        above.insert(0, text[2:])
    return " ".join(above)


def _comment_of_like(
    config: ConfigDict, name: str, comments: dict[tuple[int, str], str]
) -> str | None:
    """Returns the comment on the same field of another stage, for one that follows it."""
    stage, _, field = name.partition(".")
    if not field or "method" not in config[stage]:
        return None
    for other, part, key in _fields(config):
        recipe, _, same = other.partition(".")
        if same == field and "method" in config[recipe] and (id(part), key) in comments:
            return comments[id(part), key]
    return None


def _docstring(path: Path) -> str:
    return path.read_text().split('"""')[1].strip()


def _refuse_urls(name: str, value: Any) -> None:
    """Refuses the address of a bucket, which `Path` would take for a folder here."""
    if isinstance(value, ConfigDict):
        for field in value:
            _refuse_urls(f"{name}.{field}", value[field])
    elif isinstance(value, tuple | list):
        for item in value:
            _refuse_urls(name, item)
    elif isinstance(value, str) and re.match(r"[A-Za-z][\w+.-]*:/", value):
        raise UserError(
            f"{name}: {value[:100]} is no folder of this machine: mount it (gcsfuse, mount-s3, "
            "sshfs, ...), and give the folder that it is mounted on"
        )


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
    logging.getLogger("jax").setLevel(logging.WARNING)  # it tells which backends there are not

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hook


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
