"""What an epoch draws from: how many faces, and which rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from ferjax.errors import UserError


class Epoch(NamedTuple):
    """The rows that each epoch draws from.

    Attributes:
      size: number of rows, the same for every epoch.
      rows: number of the epoch, from 0 -> the rows.
    """

    size: int
    rows: Callable[[int], Int32[np.ndarray, " rows"]]


def every_face(count: int) -> Epoch:
    """Takes every face once."""
    return Epoch(count, lambda epoch: np.arange(count, dtype=np.int32))


def balanced(given: Int32[np.ndarray, " faces"], classes: int, seed: int) -> Epoch:
    """Draws faces with replacement so that every class is as likely, anew each epoch.

    Args:
      given: [N] the class that each face was labelled as, -1 for none: these are never drawn.
      classes: how many there are.
      seed: of the draws.

    Raises:
      UserError: if no face has a label.
    """
    if not (given >= 0).any():
        raise UserError("balanced: no training face has a label")
    return _weighted(_chances(given, np.ones(classes)), seed)


def in_proportion(
    sets: Int32[np.ndarray, " faces"], weights: Sequence[Any], names: Sequence[str], seed: int
) -> Epoch:
    """Draws faces with replacement from the datasets of a union, in given proportions.

    A face drawn twice into one batch has the same view twice, as views hang on faces.

    Args:
      sets: [N] index of each face's dataset.
      weights: `set_weights` of a recipe, one a dataset.
      names: of the datasets.
      seed: of the draws.

    Raises:
      UserError: for weights that don't suit the datasets.
    """
    chances = _chances(sets, check_weights("set_weights", weights, "datasets of data.sets", names))
    if chances.sum() == 0:
        raise UserError("set_weights: no face would ever be drawn")
    return _weighted(chances, seed)


def check_weights(
    field: str, given: Sequence[Any], what: str, names: Sequence[str]
) -> Float[np.ndarray, " names"]:
    """Checks the weights that a field of a recipe gives, one for each name.

    Raises:
      UserError: naming the field and `what` the names are, if the weights don't suit them.
    """
    if not all(isinstance(x, float | int) and 0 <= x < np.inf for x in given):
        raise UserError(f"{field} must be numbers from 0 on, not {given}")
    if len(given) != len(names):
        raise UserError(
            f"{field}: {len(given)} numbers for the {len(names)} {what}"
            f"{' ' if names else ''}{', '.join(names)}"
        )
    return np.array(given, np.float64)


def _weighted(chances: Float[np.ndarray, " faces"], seed: int) -> Epoch:
    count, shares = len(chances), chances / chances.sum()

    def draw(epoch: int) -> Int32[np.ndarray, " faces"]:
        generator = np.random.default_rng([seed, epoch])
        return generator.choice(count, size=count, p=shares).astype(np.int32)

    return Epoch(count, draw)


def _chances(
    kind: Int32[np.ndarray, " faces"], shares: Float[np.ndarray, " kinds"]
) -> Float[np.ndarray, " faces"]:
    """Divides the share of each kind among its faces; those of no kind get nothing."""
    sizes = np.bincount(kind[kind >= 0], minlength=len(shares))
    return np.where(kind >= 0, (shares / np.maximum(sizes, 1))[np.maximum(kind, 0)], 0.0)
