"""Label noise: transition matrices, exact or random corruption, published lists.

Draws depend on the seed and on file names alone, not on the order of faces or their shards.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pyarrow.compute as pc
from jaxtyping import Float64, Int32

from ferjax.data import labels
from ferjax.data.record import CLASSES, UNKNOWN, Dataset
from ferjax.errors import UserError

Transition = Float64[np.ndarray, "classes classes"]
"""Row = truth, column = observed label; rows sum to one."""


def symmetric(classes: int, rate: float, *, keep: bool = False) -> Transition:
    """Returns the matrix of symmetric noise.

    Args:
      classes: number of classes.
      rate: share of labels redrawn, in [0, 1].
      keep: whether the redrawn label may be the true one; by default only the others are drawn,
        so that `rate` is the share of wrong labels.
    """
    _check_rate(rate)
    others = np.ones((classes, classes)) - (0.0 if keep else 1.0) * np.eye(classes)
    return (1.0 - rate) * np.eye(classes) + rate * others / others.sum(axis=1, keepdims=True)


def pair_flip(classes: int, rate: float) -> Transition:
    """Returns the matrix by which each class becomes the next, the last the first, at `rate`."""
    _check_rate(rate)
    identity = np.eye(classes)
    return (1.0 - rate) * identity + rate * np.roll(identity, 1, axis=1)


def uniforms(seed: int, names: Sequence[str], purpose: str) -> Float64[np.ndarray, " names"]:
    """Returns a number in [0, 1) for each name, a function of seed, name and purpose.

    Args:
      seed: any integer from 0 to 2^64 - 1.
      names: what to draw for; equal names get equal numbers.
      purpose: up to 16 letters; draws for different purposes are independent.
    """
    key, person = seed.to_bytes(8, "little"), purpose.encode()
    draws = b"".join(
        hashlib.blake2b(name.encode(), digest_size=8, key=key, person=person).digest()
        for name in names
    )
    return (np.frombuffer(draws, "<u8") >> np.uint64(11)) * 2.0**-53


def corrupt(
    labels: Int32[np.ndarray, " rows"],
    names: Sequence[str],
    transition: Transition,
    seed: int,
    *,
    exact: bool = True,
) -> Int32[np.ndarray, " rows"]:
    """Redraws labels by a transition matrix.

    Args:
      labels: true labels; -1 stays -1.
      names: file name of each face.
      transition: row = true label, column = new label.
      seed: of the draw.
      exact: whether of the n labels of class c exactly n·T[c, k] become class k, rounded by largest
        remainder; the seed and the names of class c decide which. Otherwise each label is drawn
        independently, from the seed and the face's own name.
    """
    draws = uniforms(seed, names, "noise")
    noisy = labels.copy()
    for truth, row in enumerate(transition):
        members = np.flatnonzero(labels == truth)
        if exact:
            members = members[np.argsort(draws[members], kind="stable")]
            drawn = np.repeat(np.arange(len(row)), _counts(len(members), row, truth))
        else:
            # Rounding may leave the last edge a hair under one.
            drawn = np.searchsorted(np.cumsum(row)[:-1], draws[members], side="right")
        noisy[members] = drawn
    return noisy


def read_noise_list(
    path: str | Path,
    names: Sequence[str],
    classes: Sequence[str] = CLASSES,
    known: Sequence[str] = CLASSES,
) -> Int32[np.ndarray, " names"]:
    """Reads a published noise list, whose labels are numbers; `labels.read_list` has the format.

    Args:
      path: the list; it may hold more faces than asked for.
      names: the faces to look up.
      classes: our name for each of the list's labels 0, 1, ...; an empty name marks a number that
        the list does not use (a list that counts from 1 starts with one).
      known: all classes.

    Returns:
      The label of each face as an index into `known`.

    Raises:
      UserError: naming the line that is malformed, or a face that the list lacks.
    """
    for name in classes:
        if name and name not in known:
            raise UserError(f"noise.classes: unknown class {name!r}, expected {', '.join(known)}")
    if not Path(path).is_file():
        raise UserError(f"noise.list: cannot read {path}: no such file")
    listing = labels.read_list(path)
    used = {str(number): known.index(name) for number, name in enumerate(classes) if name}
    numbers = pc.replace_substring_regex(listing.columns[labels.LABEL], r"^0+(\d)", r"\1")
    indices = labels.index_of(numbers, list(used))
    if (indices == UNKNOWN).any():
        row = int((indices == UNKNOWN).argmax())
        label = listing.columns[labels.LABEL][row].as_py()
        raise listing.error(row, f"label {label!r} is not one of the list's classes")
    listing.first_of(labels.FILE, [labels.LABEL], "another label")
    rows = listing.rows_of(labels.FILE, names)
    missing = np.flatnonzero(rows == UNKNOWN)
    if len(missing):
        first = names[int(missing[0])]
        raise UserError(f"{path}: no label for {len(missing)} faces, the first is {first}")
    return np.array(list(used.values()), np.int32)[indices[rows]]


def apply(dataset: Dataset, config: ml_collections.ConfigDict, label: str) -> Dataset:
    """Corrupts one coder's labels in the training split; truth and test split stay.

    If there are votes, which are the first coder's, and that coder's label changes, the counts of
    the old and the new class are swapped: otherwise they would give the clean label away.

    Args:
      dataset: what to corrupt.
      config: `kind` none, symmetric, symmetric_keep, pair_flip, matrix or list; `rate` of the
        symmetric kinds and pair_flip; `matrix` (rows of the transition); `list` (path) and
        `classes` (the list's own; empty: the dataset's); `coder`, whose labels are corrupted
        (empty: the coder that is trained on); `exact`; `seed`.
      label: what the run trains on, see `data.targets`.

    Raises:
      UserError: for an invalid field, or if it is unclear whose labels to corrupt.
    """
    if config.kind == "none":
        return dataset
    column = _column(dataset.coders, config.coder, label)
    split = dataset.train
    old = split.labels["annotations"][:, column]
    if config.kind == "list":
        if not config.list:
            raise UserError("noise.list is not set: name the file that kind=list reads")
        faces = set(dataset.classes) <= set(CLASSES)
        known = CLASSES if faces else dataset.classes
        new = read_noise_list(config.list, split.names, config.classes or known, known)
        if new.max(initial=0) >= len(dataset.classes):
            raise UserError(f"noise.list: {config.list} has classes that the data lack")
        new = np.where(old == UNKNOWN, old, new)
    else:
        transition = _transition(config, len(dataset.classes))
        new = corrupt(old, split.names, transition, config.seed, exact=config.exact)
    changed = np.flatnonzero(new != old)
    arrays = dict(split.labels, annotations=split.labels["annotations"].copy())
    arrays["annotations"][:, column] = new
    if "votes" in arrays and column == 0:
        voted = changed[old[changed] != UNKNOWN]
        arrays["votes"] = _swap(arrays["votes"], voted, old[voted], new[voted])
    labelled = max(1, int(np.sum(old != UNKNOWN)))
    note = (
        f"{config.kind} noise: {len(changed) / labelled:.1%} of {labelled:,} training labels of "
        f"coder {dataset.coders[column]} changed"
    )
    dataset = dataset._replace(notes=(*dataset.notes, note))
    return dataset.with_split("train", split._replace(labels=arrays))


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"noise.rate: {rate} is not in [0, 1]")


def _column(coders: tuple[str, ...], coder: str, label: str) -> int:
    """Returns the column of the coder to corrupt: the one named, else the one trained on."""
    if coder and coder not in coders:
        raise UserError(f"noise.coder: no coder {coder!r}, there are {', '.join(coders)}")
    who = coder or label
    if who in coders:
        return coders.index(who)
    if len(coders) == 1 or label in ("votes", "multi_target"):
        return 0  # votes are the first coder's
    raise UserError(
        f"noise.coder is not set: which of {', '.join(coders)} errs? (noise.kind=none for nobody)"
    )


def _transition(config: ml_collections.ConfigDict, classes: int) -> Transition:
    """Returns the matrix that the config describes."""
    match config.kind:
        case "symmetric":
            return symmetric(classes, config.rate)
        case "symmetric_keep":
            return symmetric(classes, config.rate, keep=True)
        case "pair_flip":
            return pair_flip(classes, config.rate)
        case "matrix":
            return _check_matrix(config.matrix, classes)
    raise UserError(
        f"noise.kind: unknown kind {config.kind!r}, expected none, symmetric, symmetric_keep, "
        "pair_flip, matrix or list"
    )


def _check_matrix(rows: Sequence[Any], classes: int) -> Transition:
    """Checks that rows form a transition matrix, and returns it."""
    if len(rows) != classes or any(np.shape(row) != (classes,) for row in rows):
        raise UserError(f"noise.matrix: expected {classes} rows of {classes} numbers")
    matrix = np.array(rows, np.float64)
    if not (matrix >= 0.0).all() or not np.allclose(matrix.sum(axis=1), 1.0, atol=1e-6):
        raise UserError("noise.matrix: every row must be probabilities that sum to one")
    return matrix / matrix.sum(axis=1, keepdims=True)


def _counts(
    total: int, shares: Float64[np.ndarray, " classes"], truth: int
) -> Int32[np.ndarray, " classes"]:
    """Splits a total by shares, rounded by largest remainder.

    Ties go to the class that comes soonest after `truth`, so that no class is favoured overall.
    """
    quotas = np.round(total * shares, 9)  # equal remainders must compare equal
    counts = np.floor(quotas)
    turn = np.roll(np.arange(len(shares)), truth + 1)
    order = np.lexsort((turn, counts - quotas))
    counts[order[: total - int(counts.sum())]] += 1
    return counts.astype(np.int32)


def _swap(
    votes: Int32[np.ndarray, "rows classes"],
    rows: np.ndarray,
    old: Int32[np.ndarray, " changed"],
    new: Int32[np.ndarray, " changed"],
) -> Int32[np.ndarray, "rows classes"]:
    """Returns the votes with the counts of two classes swapped in the given rows."""
    swapped = votes.copy()
    swapped[rows, old], swapped[rows, new] = votes[rows, new], votes[rows, old]
    return swapped
