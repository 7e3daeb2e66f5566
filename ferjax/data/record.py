"""One record for every dataset: what is known about a face, and from whom.

Label arrays are loaded once and never stream; only images and row numbers go through the pipeline.
What training may see (`Split.labels`) is kept apart from what it may not (`Split.truth`).
"""

import abc
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from ferjax.errors import UserError

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
"""AffectNet's order; every builder translates to it. A dataset uses a prefix of it."""

NAMES_AT_A_TIME = 1 << 16

UNREADABLE = "not a readable picture"

UNKNOWN = -1
"""An annotation that a coder did not give, or a truth that nobody knows."""


class Images(abc.ABC):
    """Random access to the faces of a split, all of one shape; picklable for pipeline workers.

    A source implements `__len__` and `read`, and sets the class attributes that hold for it.

    Attributes:
      in_memory: whether its faces lie in memory: worker processes would be sent copies of them.
      may_be_damaged: whether some pictures may be unreadable: they are not decoded before somebody
        wants them.
    """

    in_memory: bool = False
    may_be_damaged: bool = False

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """Returns the faces of some rows, black where a picture is damaged, and which are not."""

    def name_of(self, row: int) -> str:
        """Returns what error messages call a picture."""
        return f"picture {row}"

    def fault_of(self, row: int) -> str:
        """Returns what is wrong with a picture that cannot be read."""
        return UNREADABLE

    def faces(
        self, rows: Int[np.ndarray, " batch"]
    ) -> UInt8[np.ndarray, "batch height width channels"]:
        """Returns the faces of some rows.

        Raises:
          UserError: naming the first of them that is damaged.
        """
        faces, readable = self.read(rows)
        if not readable.all():
            row = int(rows[int(readable.argmin())])
            raise UserError(
                f"{self.name_of(row)} is {self.fault_of(row)}; a run that has begun goes on once a "
                "readable one is in its place"
            )
        return faces

    def __getitem__(self, row: int) -> UInt8[np.ndarray, "height width channels"]:
        return self.faces(np.array([range(len(self))[row]]))[0]

    def paths(self) -> pa.StringArray:
        """Returns the path of each picture's file in the file system, null where it has none."""
        return pa.nulls(len(self), pa.string())

    def cached(self, decode: "Callable[[Images], Images]") -> "Images":
        """Returns the faces after `decode` has read all sources that cannot be damaged."""
        return self if self.may_be_damaged else decode(self)


class InMemory(Images):
    """Faces in one array."""

    in_memory = True

    def __init__(self, array: UInt8[np.ndarray, "rows height width channels"]):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `Images.read`; all can be read."""
        return self.array[rows], np.ones(len(rows), bool)

    def cached(self, decode: Callable[[Images], Images]) -> Images:
        """See `Images.cached`."""
        return self


class Concatenated(Images):
    """Image sources one after the other; the rows of each are read from it in one call."""

    def __init__(self, sources: Sequence[Images]):
        # One stays even if all are empty: it knows the shape of its faces.
        self.sources = tuple(filter(len, sources)) or tuple(sources[:1])
        self.ends = np.cumsum([len(source) for source in self.sources])
        self.in_memory = any(source.in_memory for source in self.sources)
        self.may_be_damaged = any(source.may_be_damaged for source in self.sources)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `Images.read`."""
        if len(rows) == 0:
            return self.sources[0].read(rows)
        source_of = np.searchsorted(self.ends, rows, side="right")
        order = np.argsort(source_of, kind="stable")
        used, counts = np.unique(source_of, return_counts=True)
        parts = [
            self.sources[k].read(piece - (self.ends[k] - len(self.sources[k])))
            for k, piece in zip(used, np.split(rows[order], np.cumsum(counts)[:-1]), strict=True)
        ]
        back = np.argsort(order, kind="stable")
        faces, readable = zip(*parts, strict=True)
        return np.concatenate(faces)[back], np.concatenate(readable)[back]

    def name_of(self, row: int) -> str:
        """See `Images.name_of`."""
        source, own = self._source_of(row)
        return source.name_of(own)

    def fault_of(self, row: int) -> str:
        """See `Images.fault_of`."""
        source, own = self._source_of(row)
        return source.fault_of(own)

    def _source_of(self, row: int) -> tuple[Images, int]:
        """The source that a row is in, and its row there."""
        k = int(np.searchsorted(self.ends, row, side="right"))
        return self.sources[k], row - int(self.ends[k]) + len(self.sources[k])

    def paths(self) -> pa.StringArray:
        """See `Images.paths`."""
        parts = [source.paths() for source in self.sources]
        return pa.concat_arrays(parts) if parts else super().paths()

    def cached(self, decode: Callable[[Images], Images]) -> Images:
        """See `Images.cached`."""
        if not self.may_be_damaged:
            return decode(self)
        return Concatenated([source.cached(decode) for source in self.sources])


class Subset(Images):
    """Some rows of an image source."""

    def __init__(self, images: Images, rows: Int[np.ndarray, " rows"]):
        self.images, self.rows = images, rows
        self.in_memory, self.may_be_damaged = images.in_memory, images.may_be_damaged

    def __len__(self) -> int:
        return len(self.rows)

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `Images.read`."""
        return self.images.read(self.rows[rows])

    def name_of(self, row: int) -> str:
        """See `Images.name_of`."""
        return self.images.name_of(int(self.rows[row]))

    def fault_of(self, row: int) -> str:
        """See `Images.fault_of`."""
        return self.images.fault_of(int(self.rows[row]))

    def paths(self) -> pa.StringArray:
        """See `Images.paths`."""
        return self.images.paths().take(pa.array(self.rows))

    def cached(self, decode: Callable[[Images], Images]) -> Images:
        """See `Images.cached`."""
        if not self.may_be_damaged:
            return decode(self)
        return Subset(self.images.cached(decode), self.rows)


@dataclasses.dataclass(frozen=True)
class Names(Sequence[str]):
    """Strings without a Python object for each: a million file names in some tens of megabytes."""

    array: pa.StringArray

    @classmethod
    def of(cls, strings: Iterable[str]) -> "Names":
        """Holds only some of them as Python objects at a time."""
        if isinstance(strings, Names):
            return strings
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

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), NAMES_AT_A_TIME):
            yield from self.array.slice(start, NAMES_AT_A_TIME).to_pylist()

    def take(self, rows: Int[np.ndarray, " taken"]) -> "Names":
        """Returns some rows, in the order given."""
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

    images: Images
    labels: dict[str, np.ndarray]
    truth: Int32[np.ndarray, " rows"]
    truth_va: Float32[np.ndarray, "rows 2"]
    names: Sequence[str]
    groups: Sequence[str] = ()

    def take(self, rows: Int32[np.ndarray, " taken"]) -> "Split":
        """Returns some rows, in the order given."""
        return Split(
            images=Subset(self.images, rows),
            labels={name: array[rows] for name, array in self.labels.items()},
            truth=self.truth[rows],
            truth_va=self.truth_va[rows],
            names=_taken(self.names, rows),
            groups=_taken(self.groups, rows) if self.groups else (),
        )


def _taken(names: Sequence[str], rows: np.ndarray) -> Sequence[str]:
    return names.take(rows) if isinstance(names, Names) else [names[row] for row in rows]


class Dataset(NamedTuple):
    """Splits with the same classes and image shape.

    Attributes:
      classes: class names; of faces the first of `CLASSES`.
      coders: names of the coders, one for each column of `annotations`.
      image_shape: (height, width, channels).
      splits: `train`, to learn from; `test`, to evaluate on, and any number of further test splits;
        where there are any, `validation`, training faces held out to judge epochs by (their truth
        is the label given), and `pool`, faces that nobody labelled.
      label: what a face is trained on unless the config says otherwise, see `data.targets`.
      notes: one line for each thing the user should know about how the splits came about.
      sets: names of the datasets that this one is the union of, if it is one (see `union`).
    """

    classes: tuple[str, ...]
    coders: tuple[str, ...]
    image_shape: tuple[int, int, int]
    splits: dict[str, Split]
    label: str = "majority"
    notes: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()

    @property
    def train(self) -> Split:
        """The split to learn from."""
        return self.splits["train"]

    @property
    def test(self) -> Split:
        """The main split to evaluate on."""
        return self.splits["test"]

    @property
    def validation(self) -> Split | None:
        """The training faces held out, if any were."""
        return self.splits.get("validation")

    @property
    def tests(self) -> dict[str, Split]:
        """All test splits by name."""
        others = ("train", "validation", "pool")
        return {name: split for name, split in self.splits.items() if name not in others}

    def with_split(self, name: str, split: Split) -> "Dataset":
        """Returns the dataset with a split added or replaced."""
        return self._replace(splits=self.splits | {name: split})

    def of_coders(self, names: Sequence[str]) -> "Dataset":
        """Keeps the annotations of some coders of the training faces; votes are the first coder's.

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
        return self._replace(coders=tuple(names)).with_split(
            "train", self.train._replace(labels=labels)
        )
