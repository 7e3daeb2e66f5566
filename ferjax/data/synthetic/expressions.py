"""Expressions as sets of FACS action units, and each face's class, intensity, valence and arousal.

The strength of each action unit (Ekman & Friesen, 1978) lies between 0 and 1. It is that of the
class's prototype (EMFACS), partly mixed with that of the class that it is most easily mistaken for,
times the intensity, with a small random deviation.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32, Integer

from ferjax.data.record import CLASSES
from ferjax.data.synthetic.randomness import uniforms

EXPRESSIONS = CLASSES[:7]
"""The classes that are drawn."""

MIN_INTENSITY = 0.45
VA_JITTER = 0.08
"""Largest random deviation of valence and arousal from the class's values times the intensity."""


# The action units drawn, by FACS number.
UNITS = {
    "inner_brow_raise": 1,
    "outer_brow_raise": 2,
    "brow_lower": 4,
    "lid_raise": 5,
    "cheek_raise": 6,
    "lid_tighten": 7,
    "nose_wrinkle": 9,
    "upper_lip_raise": 10,
    "corner_pull": 12,
    "corner_depress": 15,
    "lip_stretch": 20,
    "lip_press": 24,
    "jaw_drop": 26,
}


class _Prototype(NamedTuple):
    """An expression at full intensity.

    Attributes:
      affect: valence and arousal on the circumplex (Russell, 1980).
      neighbour: the class that it is most easily mistaken for.
      likeness: how far it may blend into its neighbour, as a factor of the ambiguity.
      units: strengths of the action units, by FACS number, in the two extremes between which the
        expression varies.
    """

    affect: tuple[float, float]
    neighbour: str
    likeness: float
    units: tuple[dict[int, float], dict[int, float]]


_PROTOTYPES = {
    "neutral": _Prototype((0.0, 0.0), "sad", 0.5, ({}, {})),
    "happy": _Prototype(
        (0.85, 0.30), "neutral", 0.6, ({6: 0.8, 12: 0.9}, {6: 0.9, 12: 1.0, 26: 0.7})
    ),
    "sad": _Prototype(
        (-0.70, -0.45),
        "neutral",
        0.7,
        ({1: 1.0, 4: 0.3, 15: 1.0}, {1: 0.8, 4: 0.5, 7: 0.3, 15: 0.9, 24: 0.3}),
    ),
    "surprise": _Prototype(
        (0.15, 0.80),
        "fear",
        1.0,
        ({1: 1.0, 2: 1.0, 5: 0.9, 26: 0.8}, {1: 0.9, 2: 1.0, 5: 1.0, 26: 1.0}),
    ),
    "fear": _Prototype(
        (-0.55, 0.75),
        "surprise",
        1.0,
        (
            {1: 1.0, 2: 0.4, 4: 0.7, 5: 0.9, 20: 0.8, 26: 0.3},
            {1: 1.0, 2: 0.3, 4: 0.8, 5: 1.0, 20: 1.0, 26: 0.6},
        ),
    ),
    "disgust": _Prototype(
        (-0.75, 0.35),
        "anger",
        1.0,
        (
            {4: 0.3, 7: 0.6, 9: 1.0, 10: 0.8, 15: 0.4},
            {4: 0.4, 7: 0.7, 9: 1.0, 10: 1.0, 15: 0.5, 26: 0.3},
        ),
    ),
    "anger": _Prototype(
        (-0.60, 0.65),
        "disgust",
        1.0,
        (
            {4: 1.0, 5: 0.1, 7: 0.7, 15: 0.2, 24: 1.0},
            {4: 1.0, 7: 0.6, 15: 0.3, 20: 0.4, 26: 0.4},
        ),
    ),
}

_AFFECT = np.array([_PROTOTYPES[name].affect for name in EXPRESSIONS])
_NEIGHBOUR = [EXPRESSIONS.index(_PROTOTYPES[name].neighbour) for name in EXPRESSIONS]
_LIKENESS = [_PROTOTYPES[name].likeness for name in EXPRESSIONS]
_STRENGTHS = np.array(
    [
        [[extreme.get(unit, 0.0) for unit in UNITS.values()] for extreme in _PROTOTYPES[name].units]
        for name in EXPRESSIONS
    ]
)


def truths(seed: int, indices: Integer[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
    """Returns the class of each face in [0, 7), all equally likely."""
    return truths_and_intensities(seed, indices)[0]


def intensities(seed: int, indices: Integer[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """Returns the strength of each expression, uniform in [MIN_INTENSITY, 1)."""
    return truths_and_intensities(seed, indices)[1]


def valence_arousal(
    seed: int, indices: Integer[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows 2"]:
    """Returns valence and arousal in [-1, 1] of each face.

    They are the class's point on the circumplex times the intensity, plus a little jitter, so that
    class and intensity alone don't determine them.
    """
    truth, intensity = truths_and_intensities(seed, indices)
    jitter = VA_JITTER * (2 * uniforms(seed, "affect", indices, 2) - 1)
    centre = _AFFECT[truth] * intensity[:, None]
    return np.clip(centre + jitter, -1, 1).astype(np.float32)


def truths_and_intensities(
    seed: int, indices: Integer[np.ndarray, " rows"]
) -> tuple[Int32[np.ndarray, " rows"], Float64[np.ndarray, " rows"]]:
    """Returns `truths` and `intensities`, which share one draw."""
    kind, strength = uniforms(seed, "expression", indices, 2).T
    truth = (kind * len(EXPRESSIONS)).astype(np.int32)
    return truth, MIN_INTENSITY + (1 - MIN_INTENSITY) * strength


def action_units(
    truth: int, intensity: float, randoms: Float64[np.ndarray, " numbers"], ambiguity: float
) -> SimpleNamespace:
    """Returns the strength in [0, 1] of each of `UNITS` in one face.

    Args:
      truth: the class.
      intensity: of the expression, in [0, 1].
      randoms: two uniform numbers in [0, 1), and one for each unit.
      ambiguity: in [0, 1], see `SyntheticFaces`.
    """
    extreme, doubt = randoms[:2]
    deviations = 2 * randoms[2:] - 1
    low, high = _STRENGTHS[[truth, _NEIGHBOUR[truth]]].swapaxes(0, 1)
    own, other = low + extreme * (high - low)
    mix = ambiguity * _LIKENESS[truth] * doubt**3  # mostly clear faces, a tail of doubtful ones
    units = intensity * (own + mix * (other - own))
    units = np.clip(units + 0.15 * ambiguity * deviations, 0, 1)
    return SimpleNamespace(**dict(zip(UNITS, units.tolist(), strict=True)))
