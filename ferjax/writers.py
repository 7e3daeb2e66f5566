"""Files that a run writes: `metrics.jsonl`, one strict JSON object per line, and whole files."""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax


class MetricsFile:
    """The `metrics.jsonl` of a workdir; only process 0 writes it."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, *, stage: str, split: str, step: int, epoch: float, **values: Any) -> None:
        """Appends a line; nan and infinity become null."""
        if jax.process_index() == 0:
            line = {"step": step, "epoch": epoch, "split": split, "stage": stage} | values
            with self.path.open("a") as file:
                file.write(json.dumps(_finite(line), allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Reads all lines, except a last one that a kill cut short."""
        if not self.path.exists():
            return []
        text = self.path.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def begun(self) -> bool:
        """Returns whether anything was written."""
        return self.path.exists() and self.path.stat().st_size > 0

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
            kept = [line for line in self.read() if stays(line)]
            write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def write_json(path: Path, value: Any) -> None:
    """Writes strict JSON so that the file is complete or absent; only process 0 writes."""
    if jax.process_index() == 0:
        write_text(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file so that it is complete or absent."""
    with replacing(path) as temporary:
        temporary.write_text(text)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` on success and is removed on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
