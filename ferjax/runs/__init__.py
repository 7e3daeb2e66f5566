"""The kinds of runs by the name that a config's `run` gives; each is a module of this package.

Each has `plan(config, folder)`, which checks everything and returns the stages, and `MAY_CHANGE`,
the fields that may change when such a run is resumed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from ferjax import lock, workdir
from ferjax.errors import UserError
from ferjax.runs import annotate, evaluate, sweep, train, truth
from ferjax.stages import Plan, run_stages


class Kind(NamedTuple):
    """A kind of run: what it plans, and which fields may change when it is resumed."""

    plan: Callable[[ConfigDict, Path], Plan]
    may_change: set[str]


RUNS = {
    "train": Kind(train.plan, train.MAY_CHANGE),
    "sweep": Kind(sweep.plan, train.MAY_CHANGE),
    "truth": Kind(truth.plan, truth.MAY_CHANGE),
    "annotate": Kind(annotate.plan, annotate.MAY_CHANGE),
    "evaluate": Kind(evaluate.plan, evaluate.MAY_CHANGE),
}


def run(config: ConfigDict, folder: Path) -> None:
    """Runs a resolved config in a workdir.

    Raises:
      UserError: for a mistake in the config, the data or the workdir, before anything is written
        if it can be known before; or if another run holds the workdir.
      Preempted: when asked to stop, after saving.
    """
    kind = checked_kind(config, folder)
    with lock.hold(folder):
        plan = kind.plan(config, folder)
        workdir.claim(folder, config, plan.data, kind.may_change)
        outputs = run_stages(plan.stages, folder)
        if jax.process_index() == 0:
            plan.finish(outputs)


def check(config: ConfigDict, folder: Path) -> None:
    """Checks that the run of a resolved config is possible, without writing to the workdir.

    Raises:
      UserError: for a mistake in the config, the data or the workdir.
    """
    checked_kind(config, folder).plan(config, folder)


def checked_kind(config: ConfigDict, folder: Path) -> Kind:
    """Returns the kind of run of a resolved config, once its workdir suits it.

    Raises:
      UserError: for a kind that there is not, or a workdir of another run.
    """
    if config.get("run") not in RUNS:
        raise UserError(f"run={config.get('run')!r} is none of {', '.join(RUNS)}")
    kind = RUNS[config.run]
    workdir.check(folder, config, kind.may_change)
    return kind
