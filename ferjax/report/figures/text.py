"""Text that fits into the space that a figure has for it."""

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

POINTS = 72
"""Points in an inch."""


def fit(text: str, inches: float, size: float, weight: str = "normal") -> str:
    """Shortens each line of a text that is wider than `inches`, by cutting out its middle.

    Args:
      text: of any number of lines.
      inches: width of the space.
      size: of the font, in points.
      weight: of the font.
    """
    return "\n".join(_fit(line, inches, size, weight) for line in text.split("\n"))


def width(text: str, size: float, weight: str = "normal") -> float:
    """Returns the width of a line of text in inches."""
    font = FontProperties(weight=weight, size=size)
    return text_to_path.get_text_width_height_descent(text, font, ismath=False)[0] / POINTS


def _fit(line: str, inches: float, size: float, weight: str) -> str:
    kept, shown = len(line), line
    while kept > 2 and width(shown, size, weight) > inches:
        kept = min(kept - 1, round(kept * inches / width(shown, size, weight)))
        kept = max(kept, 2)
        shown = f"{line[: kept // 2]}…{line[len(line) - (kept - kept // 2) :]}"
    return shown
