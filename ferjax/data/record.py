"""One record for every dataset: what is known about a face, and who said it.

Label arrays are loaded once and never stream; only images and row numbers go through the pipeline.
What training may see (`Split.labels`) is kept apart from what it may not (`Split.truth`).
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from ferjax.errors import UserError

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's order; every builder translates to it. A dataset uses a prefix of it."""

NAMES_AT_A_TIME = 1 << 16

UNKNOWN = -1
"""An annotation that a coder did not give, or a truth that nobody knows."""


@runtime_checkable
class ImageSource(Protocol):
    """Random access to the faces of a split; must be picklable for pipeline workers.

    A source that reads several rows faster at once may also have `__getitems__(rows)`, as PyTorch's
    datasets do; the pipeline uses it where it is there. One whose pictures may be damaged has
    `read(rows)`, see `read`.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "height width channels"]: ...


@dataclasses.dataclass(frozen=True)
class Names(Sequence[str]):
    """Strings without a Python object for each: a million file names in some tens of megabytes."""

    array: pa.StringArray

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Names":
        """Holds only some of them as Python objects at a time."""
        chunks = []
        rest = iter(strings)
        while chunk := list(itertools.islice(rest, NAMES_AT_A_TIME)):
            chunks.append(pa.array(chunk, pa.string()))
        return cls(pa.concat_arrays(chunks) if chunks else pa.array([], pa.string()))

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return [self[k] for k in range(*row.indices(len(self)))]
        return self.array[int(row)].as_py()

    def take(self, rows: Int[np.ndarray, " chosen"]) -> "Names":
        """The given rows, in the given order."""
        return Names(self.array.take(pa.array(rows)))


class Split(NamedTuple):
    """The faces of one split and everything known about them, row by row.

    Attributes:
      images: random access to uint8 faces, all of one shape.
      labels: the arrays that training may see, each with one row a face:
        `annotations` [N, coders] int32, -1 where a coder did not label the face;
        `va` [N, coders, 2] float32, valence and arousal in [-1, 1], nan where not annotated;
        `votes` [N, classes] int32, how many taggers chose each class (only where known);
        `set` [N] int32, which dataset of a union (see `union`);
        `inferred` [N, classes] float32, probabilities that truth inference found (see `crowd`).
      truth: [N] int32, the known class or -1; for evaluation and analysis only.
      truth_va: [N, 2] float32, the known valence and arousal or nan; likewise.
      names: file name of each face, for error messages, noise lists and annotation.
      groups: equal for faces known to show one person; empty where nothing is known.
    """

    images: ImageSource
    labels: dict[str, np.ndarray]
    truth: Int32[np.ndarray, " rows"]
    truth_va: Float32[np.ndarray, "rows 2"]
    names: Sequence[str]
    groups: Sequence[str] = ()

    def take(self, rows: Int32[np.ndarray, " chosen"]) -> "Split":
        """The given rows, in the given order."""
        images = self.images
        return Split(
            images=images[rows] if isinstance(images, np.ndarray) else Subset(images, rows),
            labels={name: array[rows] for name, array in self.labels.items()},
            truth=self.truth[rows],
            truth_va=self.truth_va[rows],
            names=_taken(self.names, rows),
            groups=[self.groups[row] for row in rows] if self.groups else (),
        )


def _taken(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    return names.take(rows) if isinstance(names, Names) else [names[row] for row in rows]


@dataclasses.dataclass(frozen=True)
class Subset:
    """Chosen rows of an image source."""

    images: ImageSource
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "height width channels"]:
        return self.images[int(self.rows[row])]


def gather(
    images: ImageSource, rows: Int[np.ndarray, " batch"]
) -> UInt8[np.ndarray, "batch height width channels"]:
    """The given rows of a source."""
    if isinstance(images, Subset):
        return gather(images.images, images.rows[rows])
    if isinstance(images, np.ndarray):
        return images[rows]
    # Files read several times faster many records at once: a source may offer it.
    if hasattr(images, "__getitems__"):
        return np.stack(images.__getitems__(rows.tolist()))
    return np.stack([images[row] for row in rows.tolist()])


def read(
    images: ImageSource, rows: Int[np.ndarray, " batch"]
) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
    """The given rows, black where a picture is damaged, and which of them are not."""
    if isinstance(images, Subset):
        return read(images.images, images.rows[rows])
    if hasattr(images, "read"):
        return images.read(rows.tolist())
    return gather(images, rows), np.ones(len(rows), bool)


class Dataset(NamedTuple):
    """A training and a test split with the same classes and image shape.

    Attributes:
      classes: class names; of faces the first of `CLASSES`.
      coders: names of the coders, one for each column of `annotations`.
      image_shape: (height, width, channels).
      train: the split to learn from.
      test: the split to evaluate on.
      label: what a face is trained on unless the config says otherwise, see `methods.method`.
      notes: one line for each thing the user should know about how the splits came about.
      sets: names of the datasets that this one is the union of, if it is one (see `union`).
      validation: faces held out of training to judge epochs by; their truth is the label given.
    """

    classes: tuple[str, ...]
    coders: tuple[str, ...]
    image_shape: tuple[int, int, int]
    train: Split
    test: Split
    label: str = "majority"
    notes: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    validation: Split | None = None

    def of_coders(self, names: Sequence[str]) -> "Dataset":
        """What is left if only some coders had annotated the training faces; votes are the first's.

        Raises:
          UserError: for a name that no coder has.
        """
        if len(set(names)) < len(names):
            raise UserError(f"coders: one is named twice in {', '.join(names)}")
        missing = [name for name in names if name not in self.coders]
        if missing:
            known = ", ".join(self.coders)
            raise UserError(f"coders: no coder {missing[0]!r}, there are {known}")
        columns = [self.coders.index(name) for name in names]
        labels = dict(self.train.labels)
        for name in ("annotations", "va"):
            labels[name] = labels[name][:, columns]
        if 0 not in columns:
            labels.pop("votes", None)
        return self._replace(coders=tuple(names), train=self.train._replace(labels=labels))


def given_labels(
    labels: Mapping[str, np.ndarray], coders: Sequence[str], label: str
) -> Int32[np.ndarray, " rows"]:
    """The one class that each face was most said to be, [N] int32, -1 where nobody said.

    Args:
      labels: of the split, see `data.record.Split`.
      coders: names of the columns of `annotations`.
      label: what a run trains on: a coder's name; 'votes' or 'multi_target' (the class with the
        most votes); 'inferred' (the likeliest); others (the class with the most annotations, one
        of several at random).
    """
    if label in coders:
        return labels["annotations"][:, coders.index(label)]
    if label in ("votes", "multi_target"):
        votes = labels["votes"]
    elif label == "inferred" and "inferred" in labels:
        votes = labels["inferred"]
    else:
        annotations = labels["annotations"]
        classes = max(1, int(annotations.max(initial=0)) + 1)
        said = (annotations[:, :, None] == np.arange(classes)).sum(axis=1)
        votes = np.where(said > 0, said + np.random.default_rng(0).random(said.shape), 0)
    return np.where(votes.any(axis=1), votes.argmax(axis=1), UNKNOWN).astype(np.int32)
