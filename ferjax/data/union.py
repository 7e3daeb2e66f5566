"""Several datasets as one: their faces one set after the other, their coders side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int, UInt8

from ferjax.data.record import UNKNOWN, Dataset, ImageSource, Names, Split, gather, read
from ferjax.errors import UserError

SET = "set"
"""Name of the label array that says which set a face is of."""


def join(parts: Mapping[str, Dataset]) -> Dataset:
    """All training faces and all test faces; coders of equal names are one.

    Args:
      parts: datasets by name, of one image shape; the classes of each are the first of another's.
        A config gives them in the order of their names.

    Returns:
      A dataset whose coders are the ordered union of theirs, with -1 (nan) where a coder did not
      annotate; a face's name begins with its set's. `labels["set"]` [N] int32 is the place of its
      set in `parts`. Votes are not kept.

    Raises:
      UserError: if there is no part, or they don't fit together.
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
    return Dataset(
        classes=classes,
        coders=coders,
        image_shape=next(iter(shapes.values())),
        train=_concatenated({name: (x.train, x.coders) for name, x in parts.items()}, coders),
        test=_concatenated({name: (x.test, x.coders) for name, x in parts.items()}, coders),
        label="random",
        notes=tuple(f"{name}: {note}" for name, part in parts.items() for note in part.notes),
        sets=tuple(parts),
    )


@dataclasses.dataclass(frozen=True)
class Concatenated:
    """Image sources one after the other; rows of one are read from it in one call.

    Attributes:
      sources: none of them empty.
      ends: [sources] row after the last of each.
    """

    sources: tuple[ImageSource, ...]
    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "height width channels"]:
        return gather(self, np.array([range(len(self))[row]]))[0]

    def __getitems__(self, rows: list[int]) -> list[UInt8[np.ndarray, "height width channels"]]:
        parts, back = self._parts(rows)
        return list(np.concatenate([gather(*part) for part in parts])[back])

    def read(
        self, rows: list[int]
    ) -> tuple[UInt8[np.ndarray, "rows height width channels"], Bool[np.ndarray, " rows"]]:
        """See `record.read`."""
        parts, back = self._parts(rows)
        faces, readable = zip(*(read(*part) for part in parts), strict=True)
        return np.concatenate(faces)[back], np.concatenate(readable)[back]

    def _parts(
        self, rows: list[int]
    ) -> tuple[list[tuple[ImageSource, np.ndarray]], Int[np.ndarray, " rows"]]:
        """Sources with the rows wanted of each, and what brings these back into order."""
        wanted = np.asarray(rows)
        source_of = np.searchsorted(self.ends, wanted, side="right")
        order = np.argsort(source_of, kind="stable")
        starts = np.concatenate([[0], self.ends[:-1]])
        local = (wanted - starts[source_of])[order]
        used, counts = np.unique(source_of, return_counts=True)
        pieces = np.split(local, np.cumsum(counts)[:-1])
        parts = [(self.sources[k], piece) for k, piece in zip(used, pieces, strict=True)]
        return parts, np.argsort(order, kind="stable")


def _concatenated(
    splits: Mapping[str, tuple[Split, tuple[str, ...]]], coders: tuple[str, ...]
) -> Split:
    parts = [split for split, _ in splits.values()]
    lengths = [len(part.images) for part in parts]
    annotations = np.full((sum(lengths), len(coders)), UNKNOWN, np.int32)
    va = np.full((*annotations.shape, 2), np.nan, np.float32)
    for start, (part, mine) in zip(np.cumsum([0, *lengths]), splits.values(), strict=False):
        rows = slice(start, start + len(part.images))
        columns = [coders.index(name) for name in mine]
        annotations[rows, columns] = part.labels["annotations"]
        va[rows, columns] = part.labels["va"]
    groups: Sequence[str] = ()
    if all(part.groups for part in parts):
        groups = [f"{name}/{x}" for name, (part, _) in splits.items() for x in part.groups]
    filled = [part.images for part in parts if len(part.images)]
    return Split(
        images=Concatenated(tuple(filled), np.cumsum([len(source) for source in filled])),
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
