"""Sheets of faces, each framed and with lines of text below."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferjax.report.figures.style import INK
from ferjax.report.figures.text import fit

CELL, MARGIN, LINE_HEIGHT, LINE_SIZE = 1.8, 0.12, 0.19, 9.5
"""Inches of a face's cell, of the space around it and of a line of text; points of its font."""


class Face(NamedTuple):
    """One face on a sheet.

    Attributes:
      image: one or three channels.
      lines: text below it; the last line has the frame's colour.
      colour: of the frame.
    """

    image: UInt8[np.ndarray, "height width channels"]
    lines: tuple[str, ...]
    colour: str


def face_sheet(faces: Sequence[Face], columns: int = 6) -> Figure:
    """Draws faces in rows, enlarged, each framed and with its lines below.

    Pictures may be of different sizes; each is drawn as wide and as high as the first.
    """
    height, width, _ = faces[0].image.shape
    side = CELL - MARGIN
    image_height = side * height / width
    cell_height = image_height + LINE_HEIGHT * len(faces[0].lines) + 2 * MARGIN
    rows = -(-len(faces) // columns)
    sheet = (columns * CELL + MARGIN, rows * cell_height + MARGIN)
    figure = Figure(figsize=sheet)
    panel = figure.add_axes((0, 0, 1, 1))
    for number, face in enumerate(faces):
        left = MARGIN + CELL * (number % columns)
        top = MARGIN + cell_height * (number // columns)
        _draw_face(panel, face, (left, left + side, top + image_height, top))
    panel.set(xlim=(0, sheet[0]), ylim=(sheet[1], 0))
    panel.set_axis_off()
    return figure


def _draw_face(panel: Axes, face: Face, extent: tuple[float, float, float, float]) -> None:
    left, right, bottom, _ = extent
    image = np.broadcast_to(face.image, (*face.image.shape[:2], 3))
    panel.imshow(image, extent=extent, interpolation="bicubic", aspect="auto")
    corners = np.array(extent)[[0, 1, 1, 0, 0]], np.array(extent)[[3, 3, 2, 2, 3]]
    panel.plot(*corners, color=face.colour, lw=3, solid_joinstyle="miter")
    for number, line in enumerate(face.lines):
        last = number == len(face.lines) - 1
        weight = "bold" if last else "normal"
        panel.text(
            left,
            bottom + 0.06 + LINE_HEIGHT * number,
            fit(line, right - left, LINE_SIZE, weight),
            va="top",
            fontsize=LINE_SIZE,
            color=face.colour if last else INK,
            fontweight=weight,
        )
