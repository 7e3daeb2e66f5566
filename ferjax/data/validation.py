"""Faces held out of training, so that epochs can be compared without looking at the test split."""

from collections.abc import Sequence

import numpy as np

from ferjax.data import noise
from ferjax.data.record import UNKNOWN, Dataset, given_labels
from ferjax.errors import UserError


def hold_out(
    dataset: Dataset, share: float, *, label: str, seed: int, coders: Sequence[str] = ()
) -> Dataset:
    """Moves a share of the labelled training faces into `dataset.validation`.

    Their truth there is the label that they were given, right or wrong: who trains on labels that
    cannot be trusted has no better ones to validate on.

    Args:
      dataset: with its label noise applied.
      share: of the labelled training faces, in [0, 1); 0 holds none out.
      label: what the run trains on, see `data.record.given_labels`.
      coders: whose annotations those labels are made of; (): everybody's.
      seed: of the draw, which hangs on file names and not on their order. Where groups are known
        the draw hangs on them instead, and one is held out as a whole or not at all.

    Raises:
      UserError: for a share outside [0, 1), one that leaves either side no face, or a coder that
        there is not.
    """
    if not 0 <= share < 1:
        raise UserError(f"data.validation must lie in [0, 1), not {share}")
    if share == 0:
        return dataset
    split = dataset.train
    said = dataset.of_coders(coders or dataset.coders)
    given = given_labels(said.train.labels, said.coders, label)
    labelled = given != UNKNOWN
    count = round(share * int(labelled.sum()))
    if not 0 < count < labelled.sum():
        raise UserError(
            f"data.validation={share} holds {count} of {labelled.sum():,} labelled faces out"
        )
    draws = noise.uniforms(seed, split.groups or split.names, "validation")
    held = labelled & (draws <= np.sort(draws[labelled])[count - 1])
    rows = [np.flatnonzero(which).astype(np.int32) for which in (~held, held)]
    train, validation = map(split.take, rows)
    note = f"{held.sum():,} training faces held out for validation, with the labels they were given"
    return dataset._replace(
        train=train,
        validation=validation._replace(truth=given[rows[1]]),
        notes=(*dataset.notes, note),
    )
