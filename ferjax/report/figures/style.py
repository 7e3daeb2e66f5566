"""The style of all figures: settings of matplotlib, colours, dashes and markers.

Colours are those of Okabe and Ito, which colour-blind readers can tell apart, and nothing is shown
by colour alone.
"""

from typing import Any

FONT_SIZE = 10.5

STYLE: dict[Any, Any] = {
    "font.size": FONT_SIZE,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3a3f47",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e8eb",
    "xtick.color": "#3a3f47",
    "ytick.color": "#3a3f47",
    "savefig.dpi": 140,
    "text.parse_math": False,  # names may have a dollar sign
}
"""Settings of matplotlib for drawing the figures."""

STAGE_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RIGHT, WRONG, UNKNOWN = "#0072B2", "#B84700", "#6b7280"
PART_COLOURS = ("#0072B2", "#E69F00", "#B84700", "#56B4E9", "#CC79A7")
INK, MUTED = "#1c2027", "#6b7280"
DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("", "s", "^", "D", "v", "x")
"""Markers of main curves: one for the first six stages, another for the next six, and so on,
because the six colours repeat."""


def stage_colour(row: int) -> str:
    """Returns the colour of stage number `row` of a run; the six colours repeat."""
    return STAGE_COLOURS[row % len(STAGE_COLOURS)]
