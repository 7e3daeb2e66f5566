"""Faces drawn by code: an endless dataset whose truth is known and which needs no disk.

A record is a function of (seed, index). All randomness is a hash of the two, so a face is
the same whichever process draws it, in whatever order, and the labels of a million faces take a few
vectorised operations.
"""

from ferjax.data.synthetic.dataset import (
    AMBIGUITY,
    MAX_SIZE,
    MIN_SIZE,
    SyntheticFaces,
    annotate,
    load,
)
from ferjax.data.synthetic.expressions import (
    EXPRESSIONS,
    MIN_INTENSITY,
    VA_JITTER,
    intensities,
    truths,
    valence_arousal,
)

__all__ = [
    "AMBIGUITY",
    "EXPRESSIONS",
    "MAX_SIZE",
    "MIN_INTENSITY",
    "MIN_SIZE",
    "VA_JITTER",
    "SyntheticFaces",
    "annotate",
    "intensities",
    "load",
    "truths",
    "valence_arousal",
]
