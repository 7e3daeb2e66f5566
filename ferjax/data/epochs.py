"""The rows that each epoch draws its faces from."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int32

from ferjax.errors import UserError


class Epoch(NamedTuple):
    """The rows that each epoch draws from.

    Attributes:
      size: number of rows, the same for every epoch.
      rows: number of the epoch, counted from 0 -> its rows.
    """

    size: int
    rows: Callable[[int], Int32[np.ndarray, " rows"]]


def every_face(count: int) -> Epoch:
    """Returns epochs of every face, once each."""
    return Epoch(count, lambda epoch: np.arange(count, dtype=np.int32))


def balanced(given: Int32[np.ndarray, " faces"], classes: int, seed: int) -> Epoch:
    """Returns epochs that draw faces with replacement, every labelled class equally often.

    Args:
      given: [N] the given class of each face; faces with -1, no label, are never drawn.
      classes: number of classes.
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
    """Returns epochs that draw faces with replacement from a union's datasets, in proportion.

    A face drawn twice into one batch is augmented alike both times: its random numbers depend on
    the face, not on its position.

    Args:
      sets: [N] index of each face's dataset.
      weights: `set_weights` of a recipe, one per dataset.
      names: of the datasets.
      seed: of the draws.

    Raises:
      UserError: for weights that don't match the datasets, or that draw no face.
    """
    chances = _chances(sets, check_weights("set_weights", weights, "datasets of data.sets", names))
    if chances.sum() == 0:
        raise UserError("set_weights: no face would ever be drawn")
    return _weighted(chances, seed)


def check_weights(
    field: str, given: Sequence[Any], what: str, names: Sequence[str]
) -> Float[np.ndarray, " names"]:
    """Checks the weights in a recipe's field, one for each name, and returns them as an array.

    Raises:
      UserError: naming the field, for a weight that is not a finite number ≥ 0, or more or
        fewer weights than names; `what` says what the names are.
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
