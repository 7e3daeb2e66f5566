"""The dataset of synthetic faces: pictures drawn on demand, and labels by coders who err."""

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace

import ml_collections
import numpy as np
from jaxtyping import Bool, Float64, Int, Int32, Integer, UInt8

from ferjax.data.record import Dataset, Images, Split
from ferjax.data.synthetic.camera import photograph
from ferjax.data.synthetic.drawing import draw
from ferjax.data.synthetic.expressions import (
    EXPRESSIONS,
    UNITS,
    action_units,
    truths,
    truths_and_intensities,
    valence_arousal,
)
from ferjax.data.synthetic.looks import LOOKS, look_of
from ferjax.data.synthetic.randomness import uniforms
from ferjax.errors import UserError

MIN_SIZE, MAX_SIZE = 24, 224

AMBIGUITY = 0.25
"""Default ambiguity, at which a small network learns the faces but still confuses some."""


def annotate(
    seed: int,
    indices: Integer[np.ndarray, " rows"],
    truth: Int32[np.ndarray, " rows"],
    confusions: Float64[np.ndarray, "coders classes classes"],
) -> Int32[np.ndarray, "rows coders"]:
    """Draws each coder's label of each face from the truth's row of the coder's matrix.

    A coder's labels depend on its own matrix and column, not on the other coders.
    """
    randoms = uniforms(seed, "annotations", indices, len(confusions))
    annotations = np.empty(randoms.shape, np.int32)
    for coder, confusion in enumerate(confusions):
        cumulative = confusion.cumsum(axis=1)
        thresholds = (cumulative / cumulative[:, -1:])[:, :-1]
        annotations[:, coder] = (randoms[:, coder, None] >= thresholds[truth]).sum(axis=1)
    return annotations


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Makes a dataset of `train_size` training faces from `start` on, then `test_size` test faces.

    Args:
      config: `seed`, `start`, `train_size`, `test_size`, `image_size` (24 to 224 pixels),
        `ambiguity` (in [0, 1], see `SyntheticFaces`), `coders` (names) and `confusions`: for each
        coder the 7×7 probabilities of its label (column) given the truth (row). Without
        confusions the coders are always right.

    Returns:
      Faces of the first seven classes. Every coder labels every face and gives its true valence
      and arousal.

    Raises:
      UserError: for a field out of range.
    """
    for field in ("start", "train_size", "test_size"):
        if config[field] < 0:
            raise UserError(f"data.{field} must not be negative, but is {config[field]}")
    if not MIN_SIZE <= config.image_size <= MAX_SIZE:
        raise UserError(
            f"data.image_size must be {MIN_SIZE} to {MAX_SIZE} pixels, not {config.image_size}"
        )
    if not 0 <= config.ambiguity <= 1:
        raise UserError(f"data.ambiguity must be in [0, 1], not {config.ambiguity}")
    confusions = _confusions(config.confusions, config.coders)

    def split(start: int, size: int) -> Split:
        indices = np.arange(start, start + size)
        truth = truths(config.seed, indices)
        va = valence_arousal(config.seed, indices)
        annotations = annotate(config.seed, indices, truth, confusions)
        return Split(
            images=SyntheticFaces(
                config.seed, size, config.image_size, start=start, ambiguity=config.ambiguity
            ),
            labels={
                "annotations": annotations,
                "va": np.repeat(va[:, None], len(confusions), axis=1),
            },
            truth=truth,
            truth_va=va,
            names=_Names(range(start, start + size)),
        )

    return Dataset(
        classes=EXPRESSIONS,
        coders=tuple(config.coders),
        image_shape=(config.image_size, config.image_size, 3),
        splits={
            "train": split(config.start, config.train_size),
            "test": split(config.start + config.train_size, config.test_size),
        },
    )


def _confusions(entries: Sequence, coders: Sequence[str]) -> Float64[np.ndarray, "coders 7 7"]:
    """Checks and returns the coders' matrices; identities if none are given."""
    classes = len(EXPRESSIONS)
    if not entries:
        return np.repeat(np.eye(classes)[None], len(coders), axis=0)
    if len(entries) != len(coders):
        raise UserError(
            f"data.confusions has {len(entries)} matrices, but data.coders has {len(coders)} names"
        )
    for coder, entry in enumerate(entries):
        if [np.size(row) for row in entry] != [classes] * classes:
            raise UserError(
                f"data.confusions[{coder}] must have {classes} rows of {classes} numbers"
            )
        for name, row in zip(EXPRESSIONS, entry, strict=True):
            if min(row) < 0 or abs(sum(row) - 1) > 1e-6:
                raise UserError(
                    f"data.confusions[{coder}], row {name}: probabilities must be at least 0 and "
                    f"sum to 1, not {sum(row):g}"
                )
    return np.array(entries, np.float64)


class _Names(Sequence[str]):
    """File names of a range of faces, made on demand."""

    def __init__(self, indices: range):
        self._indices = indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, row):
        if isinstance(row, slice):
            return _Names(self._indices[row])
        return f"synthetic{self._indices[row]:08d}"


@dataclasses.dataclass(frozen=True)
class SyntheticFaces(Images):
    """Faces `start` to `start + size` of a seed, drawn on demand.

    Attributes:
      seed: any integer; another seed gives other faces.
      size: number of faces.
      image_size: height and width in pixels.
      start: index of the first face; disjoint ranges are disjoint sets of faces.
      ambiguity: how far expressions blend into their neighbours (fear and surprise, anger and
        disgust, sad and neutral) and how much each action unit varies, in [0, 1]. At 0 every face
        shows its own class's action units; at 1 some faces look like another class.
    """

    seed: int
    size: int
    image_size: int
    start: int = 0
    ambiguity: float = AMBIGUITY

    def __len__(self) -> int:
        return self.size

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width 3"], Bool[np.ndarray, " batch"]]:
        """Draws the faces of some rows; all can be read."""
        faces = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        for face, row in zip(faces, rows.tolist(), strict=True):
            units, look = parameters(self.seed, self.start + row, self.ambiguity)
            face[...] = photograph(draw(units, look), look, self.image_size)
        return faces, np.ones(len(rows), bool)


def parameters(seed: int, index: int, ambiguity: float) -> tuple[SimpleNamespace, SimpleNamespace]:
    """Returns the action units and the looks of one face."""
    indices = np.array([index])
    truth, intensity = (labels.item() for labels in truths_and_intensities(seed, indices))
    count = 2 + len(UNITS)
    randoms = uniforms(seed, "face", indices, count + len(LOOKS))[0]
    return action_units(truth, intensity, randoms[:count], ambiguity), look_of(randoms[count:])
