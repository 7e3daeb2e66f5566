"""The camera that turns the shapes of a face into a picture: pose, rasterising, blur, light."""

from types import SimpleNamespace

import cv2
import numpy as np
from jaxtyping import UInt8

from ferjax.data.synthetic.drawing import Shape

_SHIFT = 4  # bits of a pixel's fraction in OpenCV's fixed-point coordinates


def photograph(
    shapes: list[Shape], look: SimpleNamespace, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Renders shapes as an RGB picture.

    Draws at twice the size and averages, which smooths the edges.
    """
    canvas = np.empty((2 * size, 2 * size, 3), np.uint8)
    grey = look.backdrop
    canvas[:] = (grey + look.backdrop_red, grey, grey + look.backdrop_blue)
    scale = 2 * size * look.scale
    # OpenCV's whole coordinates are the centres of pixels, hence the half.
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
