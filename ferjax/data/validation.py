"""Faces held out of training, so that epochs can be compared without looking at the test split."""

import numpy as np
from jaxtyping import Int32

from ferjax.data import noise
from ferjax.data.record import UNKNOWN, Dataset
from ferjax.data.targets import valence_arousal
from ferjax.errors import UserError


def hold_out(
    dataset: Dataset, share: float, *, given: Int32[np.ndarray, " faces"], seed: int
) -> Dataset:
    """Moves a share of the labelled training faces into the split `validation`.

    There, their truth is the label that they were given, right or wrong: if the labels cannot be
    trusted, there are no better ones to validate on.

    Args:
      dataset: with its label noise applied.
      share: of the labelled training faces, in (0, 1).
      given: the given class of each training face, -1 without a label; see `data.targets`.
      seed: of the draw, which depends on file names and not on their order. Where groups are known
        it depends on them instead, and each is held out as a whole or not at all.

    Raises:
      UserError: for a share outside (0, 1), or one that leaves either split without labelled faces.
    """
    if not 0 < share < 1:
        raise UserError(f"data.validation must lie in [0, 1), not {share}")
    split = dataset.train
    labelled = given != UNKNOWN
    count = round(share * int(labelled.sum()))
    if not 0 < count < labelled.sum():
        raise UserError(
            f"data.validation={share} holds out {count} of {labelled.sum():,} labelled faces: both "
            "splits need some"
        )
    draws = noise.uniforms(seed, split.groups or split.names, "validation")
    held = labelled & (draws <= np.sort(draws[labelled])[count - 1])
    rows = [np.flatnonzero(which).astype(np.int32) for which in (~held, held)]
    train, held_out = map(split.take, rows)
    held_out = held_out._replace(
        truth=given[rows[1]], truth_va=valence_arousal(held_out.labels["va"])
    )
    note = f"{held.sum():,} training faces held out for validation, with the labels they were given"
    return dataset._replace(
        splits=dataset.splits | {"train": train, "validation": held_out},
        notes=(*dataset.notes, note),
    )
