"""Files that a run writes: `metrics.jsonl`, one strict JSON object per line, and whole files."""

import contextlib
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np


class MetricsFile:
    """The `metrics.jsonl` of a workdir; only process 0 writes it."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, *, stage: str, split: str, step: int, epoch: float, **values: Any) -> None:
        """Appends a line; nan and infinity become null."""
        if jax.process_index() == 0:
            line = {"step": step, "epoch": epoch, "split": split, "stage": stage} | values
            with naming(self.path), self.path.open("a") as file:
                file.write(json.dumps(_finite(line), allow_nan=False) + "\n")
                if split != "train":  # what results are computed from outlasts a power cut
                    _sync(file)

    def read(self) -> list[dict[str, Any]]:
        """Reads all lines, except a last one that a kill cut short, and damaged ones.

        The latter are counted in a warning; whether an evaluation is among them is for `results`
        to say.
        """
        if not self.path.exists():
            return []
        written = self.path.read_bytes()
        lines = [_parse(line) for line in written[: written.rfind(b"\n") + 1].splitlines()]
        damaged = [number for number, line in enumerate(lines, start=1) if line is None]
        if damaged:
            logging.warning(
                "%s: line %d is damaged and left out (%d in all)",
                self.path,
                damaged[0],
                len(damaged),
            )
        return [line for line in lines if line is not None]

    def begun(self) -> bool:
        """Returns whether anything was written."""
        return self.path.exists() and self.path.stat().st_size > 0

    def replace(self, stage: str, lines: Sequence[dict[str, Any]]) -> None:
        """Replaces all lines of a stage."""
        if jax.process_index() == 0:
            others = [line for line in self.read() if line["stage"] != stage]
            self._rewrite([*others, *lines])

    def forget(self, stage: str, after_step: int, after_epoch: int | None = None) -> None:
        """Drops a stage's lines of later steps and epochs, which a resumed run writes again.

        Args:
          stage: its name.
          after_step: the step that the run resumes at.
          after_epoch: the last epoch whose end was worked on; lines of the split 'epoch' about
            later ones are dropped.
        """

        def stays(line: dict[str, Any]) -> bool:
            ended = after_epoch is None or line["split"] != "epoch" or line["epoch"] <= after_epoch
            return line["stage"] != stage or (line["step"] <= after_step and ended)

        if jax.process_index() == 0 and self.begun():
            self._rewrite([line for line in self.read() if stays(line)])

    def _rewrite(self, lines: Sequence[dict[str, Any]]) -> None:
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON so that the file is complete or absent; only process 0 writes."""
    if jax.process_index() == 0:
        write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is complete or absent."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Writes an `.npz` file so that it is complete or absent; only process 0 writes."""
    if jax.process_index() == 0:
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` on success and is removed on failure.

    What was written is on the disk before it replaces anything. An `OSError` names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with naming(path):
        try:
            yield temporary
            with temporary.open("rb") as file:
                _sync(file)
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Names the file in errors of the system that don't, as when the disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        reason = error.strerror or str(error).split("Detail: ")[-1]
        raise OSError(error.errno, reason, str(path)) from error


def _sync(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Returns what a line of `metrics.jsonl` says, None if it is damaged."""
    try:
        values = json.loads(line)
        return values if {"step", "epoch", "split", "stage"} <= values.keys() else None
    except (AttributeError, ValueError):
        return None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
