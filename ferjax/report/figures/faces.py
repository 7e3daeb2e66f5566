"""Sheets of faces, each framed and with lines of text below."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferjax.report.figures.style import INK


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
    """Draws faces in rows, enlarged, each framed and with its lines below."""
    cell, margin, line_height = 1.8, 0.12, 0.19  # inches
    height, width, _ = faces[0].image.shape
    side = cell - margin
    image_height = side * height / width
    cell_height = image_height + line_height * len(faces[0].lines) + 2 * margin
    rows = -(-len(faces) // columns)
    sheet = (columns * cell + margin, rows * cell_height + margin)
    figure = Figure(figsize=sheet)
    panel = figure.add_axes((0, 0, 1, 1))
    for number, face in enumerate(faces):
        left = margin + cell * (number % columns)
        top = margin + cell_height * (number // columns)
        _draw_face(panel, face, (left, left + side, top + image_height, top), line_height)
    panel.set(xlim=(0, sheet[0]), ylim=(sheet[1], 0))
    panel.set_axis_off()
    return figure


def _draw_face(
    panel: Axes, face: Face, extent: tuple[float, float, float, float], line_height: float
) -> None:
    left, _, bottom, _ = extent
    image = np.broadcast_to(face.image, (*face.image.shape[:2], 3))
    panel.imshow(image, extent=extent, interpolation="bicubic", aspect="auto")
    corners = np.array(extent)[[0, 1, 1, 0, 0]], np.array(extent)[[3, 3, 2, 2, 3]]
    panel.plot(*corners, color=face.colour, lw=3, solid_joinstyle="miter")
    for number, line in enumerate(face.lines):
        last = number == len(face.lines) - 1
        panel.text(
            left,
            bottom + 0.06 + line_height * number,
            line,
            va="top",
            fontsize=9.5,
            color=face.colour if last else INK,
            fontweight="bold" if last else "normal",
        )
