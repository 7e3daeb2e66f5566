"""Datasets by name, all giving the same record; README.md says how to add one."""

import re
from collections.abc import Callable

from ml_collections import ConfigDict

from ferjax.data import synthetic, union
from ferjax.data.datasets import cifar10, ferplus, folder, tfds
from ferjax.data.record import Dataset
from ferjax.errors import UserError

DATASETS: dict[str, Callable[[ConfigDict], Dataset]] = {
    "synthetic": synthetic.load,
    "ferplus": ferplus.load,
    "cifar10": cifar10.load,
    "folder": folder.load,
    "tfds": tfds.load,
}

UNION = "union"
"""The name of several datasets as one, `config.sets`."""


def load(config: ConfigDict) -> Dataset:
    """Loads the dataset `config.name`, by the other fields of `config`.

    Raises:
      UserError: for an unknown name, or a mistake in the data.
    """
    if config.name == UNION:
        parts = {name: part for name in config.sets if (part := _part(config, name))}
        if not parts:
            paths = ", ".join(f"data.sets.{name}.path" for name in config.sets)
            raise UserError(f"no faces: none of {paths} is set" if paths else "data.sets is empty")
        tests = {f"data.sets.{name}.test_path": part.test for name, part in parts.items()}
        for name, part in parts.items():
            folder.check_apart(part.train, f"data.sets.{name}.path", tests)
            others = [other.test for key, other in parts.items() if key != name]
            if others:
                parts[name] = folder.without_copies(part, others)
        joined = union.join(parts)
        if len(joined.test.images) == 0:
            raise UserError(f"no test faces; set {next(iter(tests))}, or that of another set")
        return joined
    if config.name not in DATASETS:
        raise UserError(f"data.name {config.name!r} is none of {', '.join((*DATASETS, UNION))}")
    return DATASETS[config.name](config)


def _part(config: ConfigDict, name: str) -> Dataset | None:
    """A set of a union; None for a folder whose paths are both empty."""
    part = config.sets[name]
    if part.name == "folder" and not part.path and not part.test_path:
        return None
    try:
        return load(part)
    except UserError as error:
        fields = "|".join(part)
        text = re.sub(rf"(?<![\w./])data\.(?=({fields})\b)", f"data.sets.{name}.", str(error))
        inside = "" if f"data.sets.{name}." in text else f"data.sets.{name}: "
        raise UserError(f"{inside}{text}") from error
