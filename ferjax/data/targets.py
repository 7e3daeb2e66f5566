"""The training target of each face, computed on the host before training.

Balancing, validation, training and reports all use it. Only for the label 'random' does training
draw a target anew at each step; the others then use the majority's class.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from ferjax.data import noise
from ferjax.data.record import UNKNOWN, Split
from ferjax.errors import UserError

LABELS = ("majority", "random", "soft", "inferred", "posterior", "votes", "multi_target")
"""What a face may be trained on, besides the annotation of one coder.

- 'majority': the class that most coders chose; seed and file name decide ties.
- 'random': one of the face's annotations, drawn anew at each step: the mixture of all.
- 'soft': the shares of the face's annotations.
- 'inferred': the likeliest class by truth inference (a stage of kind 'infer').
- 'posterior': the probabilities of truth inference.
- 'votes': the shares of the votes.
- 'multi_target': 1 for every class with more than 30 % of the votes.
"""

VOTED = ("votes", "multi_target")
INFERRED = ("inferred", "posterior")

MULTI_TARGET_SHARE = 0.3
"""A class counts as right in multi-target mode if it holds more than this share of the votes."""


class Targets(NamedTuple):
    """Training targets of the faces of a split.

    Attributes:
      probs: [N, K] the target of each face: probabilities, or for 'multi_target' ones and zeros;
        all zero for a face without a label.
      given: [N] the single label of each face: its likeliest class, -1 without a label.
    """

    probs: Float32[np.ndarray, "rows classes"]
    given: Int32[np.ndarray, " rows"]


def check_label(label: str, coders: Sequence[str], labels: Mapping[str, np.ndarray]) -> None:
    """Checks that the data can be trained on `label`: a coder's name, or one of `LABELS`.

    Raises:
      UserError: for another label, or for votes where the data has none.
    """
    known = (*LABELS, *coders)
    if label not in known:
        raise UserError(f"label={label!r} is none of {', '.join(known)}")
    if label in VOTED and "votes" not in labels:
        raise UserError(f"label={label!r} needs a dataset with votes")


def targets(
    split: Split,
    label: str,
    *,
    coders: Sequence[str],
    classes: int,
    seed: int,
    posteriors: Float[np.ndarray, "rows classes"] | None = None,
) -> Targets:
    """Computes what each face of a split is trained on.

    Args:
      split: the faces.
      label: a coder's name or one of `LABELS`.
      coders: names of the columns of `annotations`.
      classes: number of classes.
      seed: of the draw among tied classes, which depends on the file name alone.
      posteriors: of truth inference, for 'inferred' and 'posterior'; None if not known yet: the
        annotations stand in for them.

    Raises:
      UserError: see `check_label`.
    """
    check_label(label, coders, split.labels)
    identity = np.eye(classes + 1, classes, dtype=np.float32)  # its last row, -1, is all zero
    if label in coders:
        given = split.labels["annotations"][:, coders.index(label)]
        return Targets(identity[given], given.astype(np.int32))
    if label in INFERRED and posteriors is not None:
        weights = posteriors
    elif label in VOTED:
        weights = split.labels["votes"]
    else:
        weights = count_annotations(split.labels["annotations"], classes)
    given = _likeliest(weights, split.names, seed)
    if label in ("majority", "random", "inferred"):
        return Targets(identity[given], given)
    if label == "multi_target":
        return Targets(allowed_classes(weights).astype(np.float32), given)
    return Targets(_shares(weights), given)


def valence_arousal(
    va: Float32[np.ndarray, "rows coders 2"],
) -> Float32[np.ndarray, "rows 2"]:
    """Averages valence and arousal over the coders who gave both; nan where nobody did."""
    known = np.isfinite(va).all(axis=2, keepdims=True)
    total = np.where(known, va, 0).sum(axis=1)
    count = known.sum(axis=1)
    mean = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return mean.astype(np.float32)


def allowed_classes(votes: Int[np.ndarray, "rows classes"]) -> Bool[np.ndarray, "rows classes"]:
    """Returns which classes hold more than 30 % of a face's votes, see `MULTI_TARGET_SHARE`."""
    return votes > MULTI_TARGET_SHARE * votes.sum(axis=1, keepdims=True)


def count_annotations(
    annotations: Int32[np.ndarray, "rows coders"], classes: int
) -> Int32[np.ndarray, "rows classes"]:
    """Counts how many coders chose each class."""
    counts = [(annotations == k).sum(axis=1, dtype=np.int32) for k in range(classes)]
    return np.stack(counts, axis=1)


def _shares(weights: np.ndarray) -> Float32[np.ndarray, "rows classes"]:
    total = weights.sum(axis=1, keepdims=True)
    return (weights / np.where(total > 0, total, 1)).astype(np.float32)


def _likeliest(weights: np.ndarray, names: Sequence[str], seed: int) -> Int32[np.ndarray, " rows"]:
    """Returns the class of the largest weight, ties broken by seed and name; -1 if all are 0."""
    best = (weights == weights.max(axis=1, keepdims=True)) & (weights > 0)
    count = best.sum(axis=1)
    given = np.where(count > 0, best.argmax(axis=1), UNKNOWN).astype(np.int32)
    tied = np.flatnonzero(count > 1)
    if len(tied):
        draws = noise.uniforms(seed, [names[row] for row in tied.tolist()], "tie")
        drawn = (draws * count[tied]).astype(np.int32)  # which of the tied classes
        order = best[tied].cumsum(axis=1) - 1
        given[tied] = (best[tied] & (order == drawn[:, None])).argmax(axis=1)
    return given
