"""Checkpoints of a stage: asynchronous and atomic (Orbax), checked leaf by leaf when read.

A checkpoint is the state without its frozen networks, as a flat table of arrays on the host, so
that it doesn't know the device layout that wrote it. A checksum of every leaf is stored beside it:
Orbax survives a kill while saving, but it restores flipped bits as wrong numbers without a word.
"""

import contextlib
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization, traverse_util

from ferjax import parallel
from ferjax.errors import UserError
from ferjax.methods.method import State

Leaves = dict[str, np.ndarray]


class Checkpoints:
    """The checkpoints in one folder, the newest `keep` of them.

    Every process holds the whole state: process 0 alone writes and deletes, all read. Make, restore
    and close them on all processes. With `read_only` none does, and the folder must be there.
    """

    def __init__(self, folder: Path, keep: int, *, read_only: bool = False):
        self._folder = folder
        self._writes = jax.process_index() == 0 and not read_only
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
        parallel.barrier("folder of checkpoints")
        # Each process stands alone, or Orbax would wait for the others wherever one of them saves.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=jax.process_index(),
            active_processes={jax.process_index()},
            barrier_sync_key_prefix=str(jax.process_index()),
        )
        with _quiet():
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=False,
                read_only=not self._writes,
                cleanup_tmp_directories=self._writes,  # left behind by a kill
                multiprocessing_options=alone,
            )
            self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, state: State) -> None:
        """Starts to save in the background; an error shows at the next save, or at `close`.

        Raises:
          UserError: if the disk doesn't take it, or a number in it is not finite; earlier
            checkpoints stay usable.
        """
        if not self._writes:
            return
        leaves = _leaves(parallel.to_host(state.replace(frozen=())))
        step = int(leaves["step"])
        broken = [name for name, value in leaves.items() if not _finite(value)]
        if broken:
            good = self.latest() or "none yet"
            raise UserError(
                f"step {step} left {broken[0]} not finite; last good checkpoint: {good}"
            )
        sums = {name: _checksum(value) for name, value in leaves.items()}
        try:
            if step in self._manager.all_steps():
                return
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves), checksums=ocp.args.JsonSave(sums)
                ),
            )
        except Exception as error:
            raise self._unwritable(error) from error

    def restore(self, template: State) -> State | None:
        """The newest checkpoint that can be read, in the template's structure, or None.

        Newer unreadable ones are named and deleted: Orbax would refuse to write their steps again.

        Raises:
          UserError: if what was saved has other arrays than the template, or none can be read.
        """
        newest = self._newest_readable() if jax.process_index() == 0 else None
        step = parallel.of_first_process(newest[0] if newest else -1)
        if step < 0:
            return None
        leaves = newest[1] if newest else self._read(step)
        return _state(template, leaves, self._folder / str(step))

    def restore_parts(self, *parts: str) -> tuple[int, dict[str, Any]] | None:
        """Restores named parts of the newest checkpoint that can be read, whatever else it holds.

        Needs no template, so that a finished model can be loaded without what it was trained with.

        Args:
          *parts: names of attributes of the state.

        Returns:
          The step, and each part as nested dicts of arrays ({} for an empty one); None if there is
          no checkpoint.

        Raises:
          UserError: if none can be read.
        """
        newest = self._newest_readable()
        if newest is None:
            return None
        step, leaves = newest
        tree = traverse_util.unflatten_dict(leaves, sep="/")
        return step, {part: tree.get(part, {}) for part in parts}

    def latest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none."""
        return self._manager.latest_step()

    def latest(self) -> Path | None:
        """Returns the folder of the newest checkpoint, None if there is none."""
        step = self.latest_step()
        return None if step is None else self._folder / str(step)

    def close(self) -> None:
        """Waits for what is being saved.

        Raises:
          UserError: as `save`.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._unwritable(error) from error
        finally:
            self._manager.close()

    def _newest_readable(self) -> tuple[int, Leaves] | None:
        """The newest step that can be read; newer ones are deleted, unless read only."""
        unreadable: dict[int, Exception] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                leaves = self._read(step)
            except Exception as error:  # a damaged checkpoint raises nearly anything
                unreadable[step] = error
                continue
            for damaged, reason in unreadable.items():
                where = self._folder / str(damaged)
                words = " ".join(str(reason).split())[:200]
                logging.warning("checkpoint %s is damaged: %s", where, words)
                if self._writes:
                    self._manager.delete(damaged)
            return step, leaves
        if unreadable:
            why = " ".join(str(next(iter(unreadable.values()))).split())
            raise UserError(
                f"no checkpoint in {self._folder} can be read ({why[:80]}): delete "
                f"{self._folder.parent}, and the run's command trains the stage again"
            )
        return None

    def _read(self, step: int) -> Leaves:
        saved = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), checksums=ocp.args.JsonRestore()
            ),
        )
        leaves = {name: np.asarray(value) for name, value in saved.state.items()}
        wrong = [name for name, sum in saved.checksums.items() if _checksum(leaves[name]) != sum]
        if wrong:
            raise ValueError(f"checksum of {', '.join(wrong)} differs")
        return leaves

    def _unwritable(self, error: Exception) -> UserError:
        self._manager.reload()  # it may have forgotten an old checkpoint for one that failed
        latest = self.latest()
        kept = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        # TensorStore puts its own path to the error before what went wrong.
        reason = str(error).split("\n")[0].rsplit(": ", 1)[-1] or type(error).__name__
        return UserError(f"cannot save a checkpoint in {self._folder}: {reason}; {kept}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Orbax from warning of what a read-only manager doesn't do."""
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _leaves(state: State) -> Leaves:
    return {name: np.asarray(x) for name, x in _flat(state).items() if not _is_empty(x)}


def _state(template: State, leaves: Leaves, where: Path) -> State:
    bare = template.replace(frozen=())
    flat = _flat(bare)
    expected = {name: (x.shape, x.dtype) for name, x in flat.items() if not _is_empty(x)}
    saved = {name: (x.shape, x.dtype) for name, x in leaves.items()}
    for name in sorted(expected.keys() | saved.keys()):
        if expected.get(name) != saved.get(name):
            raise UserError(
                f"{where} was saved by another model: {name} is {saved.get(name)} there and "
                f"{expected.get(name)} here"
            )
    tree = traverse_util.unflatten_dict(flat | leaves, sep="/")
    return serialization.from_state_dict(bare, tree).replace(frozen=template.frozen)


def _flat(state: State) -> dict[str, Any]:
    tree = serialization.to_state_dict(state)
    return traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")


def _is_empty(leaf: Any) -> bool:
    return leaf is traverse_util.empty_node


def _checksum(value: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(value).data)


def _finite(value: np.ndarray) -> bool:
    return not np.issubdtype(value.dtype, np.floating) or bool(np.isfinite(value).all())
