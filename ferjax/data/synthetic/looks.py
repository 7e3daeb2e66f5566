"""The looks of a face apart from its expression: pose, light, colours, hair, shape, occluders."""

from types import SimpleNamespace

import numpy as np
from jaxtyping import Float64

# The range of each parameter, drawn uniformly. Lengths are in units of half a face's height.
LOOKS = {
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
    # what covers the face
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
_LOW, _HIGH = np.array(list(LOOKS.values())).T


def look_of(randoms: Float64[np.ndarray, " numbers"]) -> SimpleNamespace:
    """Returns the value of each of `LOOKS`, given a uniform number in [0, 1) for each."""
    values = _LOW + randoms * (_HIGH - _LOW)
    return SimpleNamespace(**dict(zip(LOOKS, values.tolist(), strict=True)))
