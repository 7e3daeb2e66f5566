"""The shapes that make up the picture of a face, from its action units and looks.

Points are complex numbers, x to the right and y down. The origin is the middle of the face, its
crown is at y = -1 and its chin at y = 1. So a pose is one product and one sum, and -conj mirrors. A
shape is (points, RGB colour, width): an area if the width is 0, else a line.
"""

from types import SimpleNamespace

import numpy as np

Colour = tuple[float, float, float]
Shape = tuple[np.ndarray, Colour, float]

_CIRCLE = np.exp(2j * np.pi * np.arange(20) / 20)
_DISC = np.exp(2j * np.pi * np.arange(12) / 12)
_ACROSS = np.linspace(-1, 1, 11)  # from one corner of an eye or a mouth to the other
_ARCH = 1 - _ACROSS**2
_ROUND = np.sqrt(_ARCH)
_SQUARE = 1 - _ACROSS**8
_DARK = (30.0, 14.0, 12.0)
_EYE_Y = -0.16


def draw(units: SimpleNamespace, look: SimpleNamespace) -> list[Shape]:
    """Returns the shapes of a face, from back to front."""
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


def _head(units: SimpleNamespace, look: SimpleNamespace, skin: Colour, hair: Colour) -> list[Shape]:
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


def _eyes(units: SimpleNamespace, look: SimpleNamespace, crease: Colour) -> list[Shape]:
    squint = 0.45 * units.lid_tighten
    upper = look.eye_height * (1 + 0.9 * units.lid_raise - squint - 0.25 * units.cheek_raise)
    lower = look.eye_height * (0.75 + 0.3 * units.lid_raise - squint - 0.7 * units.cheek_raise)
    lid = look.eye_width * _ACROSS
    upper_lid, lower_lid = lid - 1j * upper * _ARCH, lid + 1j * lower * _ARCH
    iris = look.gaze + 0.09 * _DISC
    arch = 1 - (iris.real / look.eye_width) ** 2
    iris.imag = np.clip(iris.imag, -upper * arch, lower * arch)
    parts: list[Shape] = [
        (np.concatenate([upper_lid, lower_lid[::-1]]), (245.0, 243.0, 240.0), 0.0),
        (iris, _mix((35.0, 22.0, 15.0), (70.0, 110.0, 150.0), look.iris**3), 0.0),
        (upper_lid, _mix(crease, _DARK, 0.6), 0.04),
        (lower_lid, crease, 0.02),
    ]
    centres = (-look.eye_apart + 1j * _EYE_Y, look.eye_apart + 1j * _EYE_Y)
    return [
        (centre + points, colour, width) for centre in centres for points, colour, width in parts
    ]


def _brows(units: SimpleNamespace, look: SimpleNamespace, colour: Colour) -> list[Shape]:
    rest = look.brow_height + 0.04 * units.lid_raise - 0.06 * units.nose_wrinkle
    inner = rest - look.brow_slope + 0.19 * (units.inner_brow_raise - units.brow_lower)
    outer = rest + 0.15 * units.outer_brow_raise - 0.06 * units.inner_brow_raise
    middle = (inner + outer) / 2 + 0.035 + 0.03 * units.outer_brow_raise
    near = look.eye_apart - 0.20 - 0.07 * units.brow_lower
    far = look.eye_apart + 0.21
    x = np.array([near, (near + far) / 2, far])
    brow = x + 1j * (_EYE_Y - np.array([inner, middle, outer]))
    return [(points, colour, look.brow_width) for points in _pair(brow)]


def _creases(units: SimpleNamespace, look: SimpleNamespace, colour: Colour) -> list[Shape]:
    """Returns the nose and the folds of the skin."""
    tip = look.nose_length - 0.10 - 0.06 * units.nose_wrinkle
    wing = look.nose_width + 0.04 * units.nose_wrinkle
    nose = np.array([-wing - 0.03j, -wing + 0.04j, 0.07j, wing + 0.04j, wing - 0.03j])
    shapes: list[Shape] = [(0.6 * look.turn + 1j * tip + nose, colour, 0.03)]
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


def _mouth(units: SimpleNamespace, look: SimpleNamespace, skin: Colour) -> list[Shape]:
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
    shapes: list[Shape] = [(np.concatenate([upper - full, (lower + 1.2 * full)[::-1]]), lips, 0.0)]
    if drop + units.upper_lip_raise < 0.1:
        return [*shapes, (line, _mix(lips, _DARK, 0.6), 0.03)]
    teeth = upper.real + 1j * np.minimum(upper.imag + 0.08 * opening, lower.imag)
    return [
        *shapes,
        (np.concatenate([upper, lower[::-1]]), (60.0, 18.0, 22.0), 0.0),
        (np.concatenate([upper, teeth[::-1]]), (240.0, 236.0, 225.0), 0.0),
    ]


def _glasses(look: SimpleNamespace) -> list[Shape]:
    rim = look.glasses_size * (_CIRCLE.real + 0.8j * _CIRCLE.imag)
    rim = look.eye_apart + 1j * (_EYE_Y + 0.01) + np.append(rim, rim[0])
    bridge = np.array([-1, 1]) * (look.eye_apart - look.glasses_size) + 1j * _EYE_Y
    return [(points, _DARK, 0.03) for points in (*_pair(rim), bridge)]


def _pair(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns points and their mirror images on the other side of the face."""
    return points, -points.conj()


def _mix(start: Colour, end: Colour, share: float, red: float = 0.0) -> Colour:
    """Returns the colour `share` of the way from start to end, with `red` added."""
    r, g, b = (p + share * (q - p) for p, q in zip(start, end, strict=True))
    return min(r + red, 255.0), g, b
