"""Faces drawn by code: an endless data set whose truth is known and which costs no disk.

A record is a function of (seed, index). All randomness is a counter hash of the two, so a face is
the same whichever process draws it, in whatever order, and labels of a million faces are a few
vectorised operations. An expression is a set of FACS action units (Ekman & Friesen, 1978), each
between 0 and 1: those that make up its prototype (EMFACS), times the intensity, partly mixed with
those of the class it is most easily mistaken for.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from types import SimpleNamespace
from typing import NamedTuple

import cv2
import ml_collections
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Integer, UInt8, UInt64

from ferjax.data.record import CLASSES, Dataset, Images, Split
from ferjax.errors import UserError

EXPRESSIONS = CLASSES[:7]
"""The classes that are drawn."""

MIN_SIZE, MAX_SIZE = 24, 224
MIN_INTENSITY = 0.45
VA_JITTER = 0.08
"""Valence and arousal stray by at most this much from the place of class and intensity."""

AMBIGUITY = 0.25
"""Of faces that a small network can learn and yet confuses here and there."""

# The action units drawn, by FACS number.
_UNITS = {
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
      neighbour: the class it is most easily taken for.
      likeness: how far it may go towards its neighbour, as a factor of the ambiguity.
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
        [
            [extreme.get(unit, 0.0) for unit in _UNITS.values()]
            for extreme in _PROTOTYPES[name].units
        ]
        for name in EXPRESSIONS
    ]
)

# Everything else about a picture: the range of each parameter, drawn uniformly. Lengths are in
# units of half a face's height.
_LOOKS = {
    # pose and camera
    "shift_x": (-0.05, 0.05),
    "shift_y": (-0.04, 0.04),
    "scale": (0.42, 0.48),
    "tilt": (-0.10, 0.10),
    "turn": (-0.05, 0.05),
    "light": (0.72, 1.12),
    "light_x": (-0.20, 0.20),
    "light_y": (-0.20, 0.10),
    "blur": (-3.0, 0.8),  # below 0 the picture is sharp
    # what stands before the face
    "occluded": (0.0, 1.0),
    "occluder_angle": (0.0, 1.0),
    "occluder_size": (0.25, 0.45),
    "glasses": (0.0, 1.0),
    "glasses_size": (0.26, 0.30),
    # colours
    "skin": (0.0, 1.0),
    "skin_red": (-12.0, 12.0),
    "hair_shade": (0.0, 1.0),
    "hair_red": (0.0, 40.0),
    "backdrop": (50.0, 210.0),
    "backdrop_red": (-35.0, 35.0),
    "backdrop_blue": (-35.0, 35.0),
    "lip_red": (0.1, 0.5),
    "iris": (0.0, 1.0),
    # shape of the face at rest
    "width": (0.74, 0.86),
    "jaw": (0.60, 0.95),
    "hairline": (-0.72, -0.60),
    "hair_length": (-0.3, 1.1),
    "hair_volume": (1.04, 1.22),
    "parting": (-0.5, 0.5),
    "eye_apart": (0.34, 0.38),
    "eye_width": (0.18, 0.21),
    "eye_height": (0.075, 0.095),
    "gaze": (-0.035, 0.035),
    "brow_height": (0.19, 0.23),
    "brow_slope": (-0.02, 0.02),
    "brow_width": (0.065, 0.100),
    "nose_length": (0.28, 0.36),
    "nose_width": (0.09, 0.14),
    "mouth_width": (0.29, 0.35),
    "mouth_curve": (-0.02, 0.02),
    "mouth_y": (0.49, 0.55),
    "lip_fullness": (0.040, 0.075),
}
_LOOKS_LOW, _LOOKS_HIGH = np.array(list(_LOOKS.values())).T


def truths(seed: int, indices: Integer[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
    """The class of each face, all equally likely, in [0, 7)."""
    return _truths_and_intensities(seed, indices)[0]


def intensities(seed: int, indices: Integer[np.ndarray, " rows"]) -> Float64[np.ndarray, " rows"]:
    """How strong each expression is, uniform in [MIN_INTENSITY, 1)."""
    return _truths_and_intensities(seed, indices)[1]


def valence_arousal(
    seed: int, indices: Integer[np.ndarray, " rows"]
) -> Float32[np.ndarray, "rows 2"]:
    """Valence and arousal in [-1, 1]: the class's place on the circumplex, times the intensity.

    A little jitter keeps them from being a function of the class and the intensity alone.
    """
    truth, intensity = _truths_and_intensities(seed, indices)
    jitter = VA_JITTER * (2 * _uniforms(seed, "affect", indices, 2) - 1)
    centre = _AFFECT[truth] * intensity[:, None]
    return np.clip(centre + jitter, -1, 1).astype(np.float32)


def annotate(
    seed: int,
    indices: Integer[np.ndarray, " rows"],
    truth: Int32[np.ndarray, " rows"],
    confusions: Float64[np.ndarray, "coders classes classes"],
) -> Int32[np.ndarray, "rows coders"]:
    """What each coder calls each face, drawn from the row of the truth in the coder's matrix.

    A coder's labels depend on its place in the list and its matrix, not on the other coders.
    """
    uniforms = _uniforms(seed, "annotations", indices, len(confusions))
    annotations = np.empty(uniforms.shape, np.int32)
    for coder, confusion in enumerate(confusions):
        cumulative = confusion.cumsum(axis=1)
        thresholds = (cumulative / cumulative[:, -1:])[:, :-1]
        annotations[:, coder] = (uniforms[:, coder, None] >= thresholds[truth]).sum(axis=1)
    return annotations


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Training faces `start` to `start + train_size` and the `test_size` faces after them.

    Args:
      config: `seed`, `start`, `train_size`, `test_size`, `image_size` (24 to 224 pixels),
        `ambiguity` (in [0, 1], see `SyntheticFaces`), `coders`, names of those who label every
        face, and `confusions`: for each coder the 7×7 probabilities of what it says (column) given
        the truth (row); without any they are always right.

    Returns:
      Faces of the first seven classes. Every coder labels every face, and knows its true valence
      and arousal.

    Raises:
      UserError: a field is out of range.
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
    """The coders' matrices, perfect if there are none."""
    classes = len(EXPRESSIONS)
    if not entries:
        return np.repeat(np.eye(classes)[None], len(coders), axis=0)
    if len(entries) != len(coders):
        raise UserError(
            f"data.confusions has {len(entries)} matrices, but data.coders {len(coders)} names"
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
    """File names of the faces of a range, made when asked for."""

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
    """Faces `start` to `start + size` of a seed, drawn when asked for.

    Attributes:
      seed: any integer; another seed gives other people.
      size: number of faces.
      image_size: height and width in pixels.
      start: index of the first face; disjoint ranges are disjoint sets of faces.
      ambiguity: how far expressions blend into their neighbours (fear and surprise, anger and
        disgust, sad and neutral) and how much each action unit strays, in [0, 1]. At 0 every face
        shows its class's own action units; at 1 even these don't always tell the class.
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
        """See `record.Images.read`."""
        faces = np.empty((len(rows), self.image_size, self.image_size, 3), np.uint8)
        for face, row in zip(faces, rows.tolist(), strict=True):
            units, look = _parameters(self.seed, self.start + row, self.ambiguity)
            face[...] = _photograph(_shapes(units, look), look, self.image_size)
        return faces, np.ones(len(rows), bool)


def _parameters(seed: int, index: int, ambiguity: float) -> tuple[SimpleNamespace, SimpleNamespace]:
    """The action units and the looks of one face."""
    indices = np.array([index])
    truth, intensity = (labels.item() for labels in _truths_and_intensities(seed, indices))
    uniforms = _uniforms(seed, "face", indices, 2 + len(_UNITS) + len(_LOOKS))[0]
    extreme, doubt = uniforms[:2]
    strays = 2 * uniforms[2 : 2 + len(_UNITS)] - 1
    low, high = _STRENGTHS[[truth, _NEIGHBOUR[truth]]].swapaxes(0, 1)
    own, other = low + extreme * (high - low)
    mix = ambiguity * _LIKENESS[truth] * doubt**3  # mostly clear faces, a tail of doubtful ones
    units = intensity * (own + mix * (other - own))
    units = np.clip(units + 0.15 * ambiguity * strays, 0, 1)
    looks = _LOOKS_LOW + uniforms[2 + len(_UNITS) :] * (_LOOKS_HIGH - _LOOKS_LOW)
    return (
        SimpleNamespace(**dict(zip(_UNITS, units.tolist(), strict=True))),
        SimpleNamespace(**dict(zip(_LOOKS, looks.tolist(), strict=True))),
    )


# Points are complex numbers, x to the right and y down, the origin in the middle of the face, its
# crown and chin at y = ±1: a pose is then one product and one sum, and -conj mirrors. A shape is
# (points, RGB colour, width): an area where the width is 0, else a line.
_Colour = tuple[float, float, float]
_Shape = tuple[np.ndarray, _Colour, float]

_CIRCLE = np.exp(2j * np.pi * np.arange(20) / 20)
_DISC = np.exp(2j * np.pi * np.arange(12) / 12)
_ACROSS = np.linspace(-1, 1, 11)  # from one corner of an eye or a mouth to the other
_ARCH = 1 - _ACROSS**2
_ROUND = np.sqrt(_ARCH)
_SQUARE = 1 - _ACROSS**8
_DARK = (30.0, 14.0, 12.0)
_EYE_Y = -0.16


def _shapes(units: SimpleNamespace, look: SimpleNamespace) -> list[_Shape]:
    """The picture of a face, back to front."""
    skin = _mix((92.0, 60.0, 42.0), (246.0, 212.0, 184.0), look.skin, red=look.skin_red)
    hair = _mix((24.0, 18.0, 16.0), (200.0, 170.0, 110.0), look.hair_shade**2, red=look.hair_red)
    crease = _mix(skin, _DARK, 0.35)
    features = [
        *_creases(units, look, crease),
        *_eyes(units, look, crease),
        *_mouth(units, look, skin),
        *_brows(units, look, _mix(hair, _DARK, 0.5)),
    ]
    if look.glasses < 0.2:
        features += _glasses(look)
    shapes = _head(units, look, skin, hair)
    shapes += [(points + look.turn, colour, width) for points, colour, width in features]
    if look.occluded < 0.1:
        centre = 0.95 * np.exp(2j * np.pi * look.occluder_angle)
        blob = centre + look.occluder_size * _CIRCLE
        shapes.append((blob, _mix(skin, hair, look.occluded / 0.1), 0.0))
    return shapes


def _head(
    units: SimpleNamespace, look: SimpleNamespace, skin: _Colour, hair: _Colour
) -> list[_Shape]:
    x, y = _CIRCLE.real, _CIRCLE.imag
    below = np.maximum(y, 0.0)
    outline = look.width * x * (1 - (1 - look.jaw) * below**2)
    outline = outline + 1j * (y + 0.12 * units.jaw_drop * below)
    mane = look.hair_volume * ((look.width + 0.05) * x + 1j * y)
    mane.imag = np.minimum(mane.imag, look.hair_length)
    neck = 0.42 * np.array([-1 + 1.5j, 1 + 1.5j, 1.3 + 4j, -1.3 + 4j])
    ear = look.width + 0.02 + 0.02j + 0.13 * _DISC
    side = look.width * np.array([1.03, 0.98, 0.57]) + 1j * np.array([0.05, -0.55, -0.92])
    temple = 0.88 * look.width - 0.45j
    parting = look.parting * look.width + 1j * look.hairline
    fringe = np.array([temple, *side, -1.04j, *-side[::-1].conj(), -temple.conjugate(), parting])
    return [
        (mane, hair, 0.0),
        *((points, _mix(skin, _DARK, 0.12), 0.0) for points in _pair(ear)),
        (neck, _mix(skin, _DARK, 0.2), 0.0),
        (outline, skin, 0.0),
        (fringe, hair, 0.0),
    ]


def _eyes(units: SimpleNamespace, look: SimpleNamespace, crease: _Colour) -> list[_Shape]:
    squint = 0.45 * units.lid_tighten
    upper = look.eye_height * (1 + 0.9 * units.lid_raise - squint - 0.25 * units.cheek_raise)
    lower = look.eye_height * (0.75 + 0.3 * units.lid_raise - squint - 0.7 * units.cheek_raise)
    lid = look.eye_width * _ACROSS
    upper_lid, lower_lid = lid - 1j * upper * _ARCH, lid + 1j * lower * _ARCH
    iris = look.gaze + 0.09 * _DISC
    arch = 1 - (iris.real / look.eye_width) ** 2
    iris.imag = np.clip(iris.imag, -upper * arch, lower * arch)
    parts: list[_Shape] = [
        (np.concatenate([upper_lid, lower_lid[::-1]]), (245.0, 243.0, 240.0), 0.0),
        (iris, _mix((35.0, 22.0, 15.0), (70.0, 110.0, 150.0), look.iris**3), 0.0),
        (upper_lid, _mix(crease, _DARK, 0.6), 0.04),
        (lower_lid, crease, 0.02),
    ]
    centres = (-look.eye_apart + 1j * _EYE_Y, look.eye_apart + 1j * _EYE_Y)
    return [
        (centre + points, colour, width) for centre in centres for points, colour, width in parts
    ]


def _brows(units: SimpleNamespace, look: SimpleNamespace, colour: _Colour) -> list[_Shape]:
    rest = look.brow_height + 0.04 * units.lid_raise - 0.06 * units.nose_wrinkle
    inner = rest - look.brow_slope + 0.19 * (units.inner_brow_raise - units.brow_lower)
    outer = rest + 0.15 * units.outer_brow_raise - 0.06 * units.inner_brow_raise
    middle = (inner + outer) / 2 + 0.035 + 0.03 * units.outer_brow_raise
    near = look.eye_apart - 0.20 - 0.07 * units.brow_lower
    far = look.eye_apart + 0.21
    x = np.array([near, (near + far) / 2, far])
    brow = x + 1j * (_EYE_Y - np.array([inner, middle, outer]))
    return [(points, colour, look.brow_width) for points in _pair(brow)]


def _creases(units: SimpleNamespace, look: SimpleNamespace, colour: _Colour) -> list[_Shape]:
    """The nose, and the folds that pulled skin throws."""
    tip = look.nose_length - 0.10 - 0.06 * units.nose_wrinkle
    wing = look.nose_width + 0.04 * units.nose_wrinkle
    nose = np.array([-wing - 0.03j, -wing + 0.04j, 0.07j, wing + 0.04j, wing - 0.03j])
    shapes: list[_Shape] = [(0.6 * look.turn + 1j * tip + nose, colour, 0.03)]
    for line in range(3):
        if units.nose_wrinkle > 0.25 + 0.2 * line:
            wrinkle = np.array([-0.10 + 0.03j, -0.02j, 0.10 + 0.03j])
            shapes.append((1j * (_EYE_Y + 0.085 * line) + wrinkle, colour, 0.035))
    if units.brow_lower > 0.5:
        frown = np.array([0.05 - 0.38j, 0.04 - 0.24j])
        shapes += [(points, colour, 0.025) for points in _pair(frown)]
    if units.cheek_raise > 0.4:
        bag = look.eye_apart + look.eye_width * _ACROSS + 1j * (0.01 + 0.04 * _ARCH)
        shapes += [(points, colour, 0.02) for points in _pair(bag)]
    fold = max(units.corner_pull, units.upper_lip_raise, units.nose_wrinkle)
    if fold > 0.25:
        cheek = np.array(
            [wing + 0.05 + 1j * tip, 0.32 + 1j * (tip + 0.12), 0.39 + 1j * (tip + 0.27)]
        )
        shapes += [(points, colour, 0.02 + 0.02 * fold) for points in _pair(cheek)]
    return shapes


def _mouth(units: SimpleNamespace, look: SimpleNamespace, skin: _Colour) -> list[_Shape]:
    wide = min(1.0, units.lip_stretch + units.corner_pull)  # a wide mouth opens less
    drop = units.jaw_drop * (1 - 0.5 * wide)
    width = look.mouth_width * (1 + 0.4 * wide - 0.45 * units.jaw_drop * (1 - wide))
    bend = look.mouth_curve + 0.25 * units.corner_pull
    bend -= 0.22 * units.corner_depress + 0.05 * units.lip_stretch
    square = min(1.0, units.lip_stretch + 0.6 * units.upper_lip_raise)
    opening = _ROUND + square * (_SQUARE - _ROUND)
    rest = look.mouth_y + 0.04 * units.jaw_drop - 0.03 * units.upper_lip_raise
    line = width * _ACROSS + 1j * (rest - bend * (_ACROSS**2 - 0.4))
    upper = line - 1j * (0.14 * drop + 0.11 * units.upper_lip_raise) * opening
    lower = line + 1j * 0.27 * drop * opening
    full = 1j * look.lip_fullness * (1 - 0.65 * min(1.0, units.lip_press)) * _ARCH
    lips = _mix(skin, (170.0, 40.0, 50.0), look.lip_red)
    shapes: list[_Shape] = [(np.concatenate([upper - full, (lower + 1.2 * full)[::-1]]), lips, 0.0)]
    if drop + units.upper_lip_raise < 0.1:
        return [*shapes, (line, _mix(lips, _DARK, 0.6), 0.03)]
    teeth = upper.real + 1j * np.minimum(upper.imag + 0.08 * opening, lower.imag)
    return [
        *shapes,
        (np.concatenate([upper, lower[::-1]]), (60.0, 18.0, 22.0), 0.0),
        (np.concatenate([upper, teeth[::-1]]), (240.0, 236.0, 225.0), 0.0),
    ]


def _glasses(look: SimpleNamespace) -> list[_Shape]:
    rim = look.glasses_size * (_CIRCLE.real + 0.8j * _CIRCLE.imag)
    rim = look.eye_apart + 1j * (_EYE_Y + 0.01) + np.append(rim, rim[0])
    bridge = np.array([-1, 1]) * (look.eye_apart - look.glasses_size) + 1j * _EYE_Y
    return [(points, _DARK, 0.03) for points in (*_pair(rim), bridge)]


def _pair(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same on both sides of the face."""
    return points, -points.conj()


def _mix(start: _Colour, end: _Colour, share: float, red: float = 0.0) -> _Colour:
    """The colour `share` of the way from start to end, with more or less red."""
    r, g, b = (p + share * (q - p) for p, q in zip(start, end, strict=True))
    return min(r + red, 255.0), g, b


_SHIFT = 4  # bits of a pixel's fraction in OpenCV's fixed-point coordinates


def _photograph(
    shapes: list[_Shape], look: SimpleNamespace, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Pose, light and camera: draws at twice the size and averages, which smooths the edges."""
    canvas = np.empty((2 * size, 2 * size, 3), np.uint8)
    grey = look.backdrop
    canvas[:] = (grey + look.backdrop_red, grey, grey + look.backdrop_blue)
    scale = 2 * size * look.scale
    # A pixel's coordinates are those of its middle, hence the half.
    centre = 2 * size * (0.5 + look.shift_x + 1j * (0.5 + look.shift_y)) - (0.5 + 0.5j)
    pose = scale * (1 + 1j * look.tilt) / abs(1 + 1j * look.tilt)
    points = np.concatenate([points for points, _, _ in shapes]) * pose + centre
    fixed = np.rint(points.view(np.float64) * 2**_SHIFT).astype(np.int32).reshape(-1, 2)
    first = 0
    for points, colour, width in shapes:
        part = fixed[first : first + len(points)]
        first += len(points)
        if width:
            thickness = max(1, round(width * scale))
            cv2.polylines(canvas, [part], False, colour, thickness, cv2.LINE_8, _SHIFT)
        else:
            cv2.fillPoly(canvas, [part], colour, cv2.LINE_8, _SHIFT)
    image = cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA)
    if look.blur > 0:
        image = cv2.GaussianBlur(image, (0, 0), (0.2 + look.blur) * size / 60)
    across, down = look.light_x, look.light_y
    corners = look.light + np.array(
        [[-across - down, across - down], [-across + down, across + down]]
    )
    light = cv2.resize(
        (128 * corners).astype(np.uint8), (size, size), interpolation=cv2.INTER_LINEAR_EXACT
    )
    return cv2.multiply(image, cv2.merge([light, light, light]), scale=1 / 128)


def _truths_and_intensities(seed: int, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    kind, strength = _uniforms(seed, "expression", indices, 2).T
    truth = (kind * len(EXPRESSIONS)).astype(np.int32)
    return truth, MIN_INTENSITY + (1 - MIN_INTENSITY) * strength


def _uniforms(
    seed: int, stream: str, indices: Integer[np.ndarray, " rows"], count: int
) -> Float64[np.ndarray, "rows count"]:
    """Uniform numbers in [0, 1), a function of seed, stream, index and column.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) with the index, then the column, as counter: a
    generator object for each face would cost more than drawing it takes.
    """
    rows = _scramble(_key(seed, stream) + indices.astype(np.uint64) * _GOLDEN)
    columns = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    bits = _scramble(rows[:, None] + columns)
    return (bits >> np.uint64(11)) * 2.0**-53


@functools.cache
def _key(seed: int, stream: str) -> np.uint64:
    digest = hashlib.blake2b(f"{seed} {stream}".encode(), digest_size=8).digest()
    return np.uint64(int.from_bytes(digest, "little"))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _scramble(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """SplitMix64's finaliser: every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
