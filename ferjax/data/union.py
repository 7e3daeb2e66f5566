"""Several datasets joined into one: faces set after set, coders side by side."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ferjax.data.record import UNKNOWN, Concatenated, Dataset, Names, Split
from ferjax.errors import UserError

SET = "set"
"""Name of the label array that says which set a face is of."""


def join(parts: Mapping[str, Dataset]) -> Dataset:
    """Joins the training faces and the test faces of datasets; coders of the same name are one.

    Each further test split stays separate, named `<set>_<split>`.

    Args:
      parts: datasets by name, all of one image shape; the classes of each must be the first classes
        of the dataset with the most. A config lists datasets sorted by name.

    Returns:
      A dataset whose coders are the ordered union of theirs, with -1 (nan) where a coder did not
      annotate; a face's name begins with its set's. `labels["set"]` [N] int32 is the index of its
      set in `parts`. Votes are not kept.

    Raises:
      UserError: if there is no dataset, or their shapes or classes don't match.
    """
    if not parts:
        raise UserError("data.sets is empty")
    shapes = {name: part.image_shape for name, part in parts.items()}
    classes = max((part.classes for part in parts.values()), key=len)
    for (one, shape), (other, differs) in pairwise(shapes.items()):
        if shape != differs:
            raise UserError(
                f"data.sets: faces of {one} are {'×'.join(map(str, shape))}, those of {other} "
                f"{'×'.join(map(str, differs))}"
            )
    for name, part in parts.items():
        if part.classes != classes[: len(part.classes)]:
            raise UserError(f"data.sets: the classes of {name} are not the first of the others'")
    coders = tuple(dict.fromkeys(coder for part in parts.values() for coder in part.coders))
    joined = {
        split: {name: (part.splits[split], part.coders) for name, part in parts.items()}
        for split in ("train", "test")
    }
    further = {
        f"{name}_{test}": {name: (split, part.coders)}
        for name, part in parts.items()
        for test, split in part.tests.items()
        if test not in joined
    }
    return Dataset(
        classes=classes,
        coders=coders,
        image_shape=next(iter(shapes.values())),
        splits={split: _concatenated(x, coders) for split, x in (joined | further).items()},
        label="random",
        notes=tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes),
        sets=tuple(parts),
    )


def _concatenated(
    splits: Mapping[str, tuple[Split, tuple[str, ...]]], coders: tuple[str, ...]
) -> Split:
    parts = [split for split, _ in splits.values()]
    lengths = [len(part.images) for part in parts]
    annotations = np.full((sum(lengths), len(coders)), UNKNOWN, np.int32)
    va = np.full((*annotations.shape, 2), np.nan, np.float32)
    for start, (part, own) in zip(np.cumsum([0, *lengths]), splits.values(), strict=False):
        rows = slice(start, start + len(part.images))
        columns = [coders.index(name) for name in own]
        annotations[rows, columns] = part.labels["annotations"]
        va[rows, columns] = part.labels["va"]
    groups: Sequence[str] = ()
    if all(part.groups for part in parts):
        groups = [f"{name}/{x}" for name, (part, _) in splits.items() for x in part.groups]
    return Split(
        images=Concatenated([part.images for part in parts]),
        labels={
            "annotations": annotations,
            "va": va,
            SET: np.repeat(np.arange(len(parts), dtype=np.int32), lengths),
        },
        truth=np.concatenate([part.truth for part in parts]),
        truth_va=np.concatenate([part.truth_va for part in parts]),
        names=Names.of(f"{name}/{x}" for name, (part, _) in splits.items() for x in part.names),
        groups=groups,
    )
