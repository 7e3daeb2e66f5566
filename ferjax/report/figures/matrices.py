"""Figures of matrices: confusions, and shares between pairs."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferjax.report.figures.style import FONT_SIZE, INK, MUTED
from ferjax.report.figures.text import fit, width

MOST_NAME, TITLE_SIZE = 1.6, 10.0
"""Inches that a name beside a matrix may be wide; points of the titles in a grid."""


def row_shares(
    counts: Int[np.ndarray, "classes classes"],
) -> Float[np.ndarray, "classes classes"]:
    """Divides each row of a confusion matrix by its sum; an empty row becomes nan."""
    totals = counts.sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def confusion_matrix(
    counts: Int[np.ndarray, "classes classes"],
    classes: Sequence[str],
    title: str,
    *,
    columns: str = "prediction",
    rows: str = "truth (faces)",
) -> Figure:
    """Draws a confusion matrix in per cent of each row.

    Args:
      counts: row = truth.
      classes: names.
      title: of the figure.
      columns: what the columns are.
      rows: what the rows are, and in brackets what is counted.
    """
    figure = Figure(figsize=(8.2, 6.8), layout="constrained")
    panel = figure.subplots()
    _draw_shares(panel, row_shares(counts))
    sizes, names = counts.sum(axis=1), _fitting(classes)
    _name_columns(panel, names)
    panel.set_yticks(
        range(len(names)), [f"{name} ({n:,})" for name, n in zip(names, sizes, strict=True)]
    )
    panel.set_xlabel(columns)
    panel.set_ylabel(rows)
    panel.set_title(title)
    return figure


def confusion_grid(
    confusions: Float[np.ndarray, "coders classes classes"],
    classes: Sequence[str],
    titles: Sequence[str],
    columns: int = 0,
) -> Figure:
    """Draws several confusion matrices side by side, in per cent.

    Args:
      confusions: row = truth, each a distribution in [0, 1]; nan where a row is unknown.
      classes: names.
      titles: one for each matrix.
      columns: number of matrices side by side; 0: as many as fit.
    """
    names = _fitting(classes)
    widest = max(width(name, FONT_SIZE) for name in names)
    side = max(2.4, 0.42 * len(classes))
    pitch = side + 0.7 * widest  # slanted names stick out to the left
    columns = columns or max(1, min(len(titles), int(15 / pitch)))
    rows = -(-len(titles) // columns)
    size = (columns * pitch + 0.8 + widest, rows * (side + 0.7 + 0.6 * widest))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, panel in enumerate(panels.flat):
        if number >= len(titles):
            panel.set_axis_off()
            continue
        _draw_shares(panel, confusions[number], fontsize=9.0)
        _name_columns(panel, names)
        panel.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
        panel.set_title(fit(titles[number], 1.0, TITLE_SIZE, "bold"), fontsize=TITLE_SIZE)
        if number % columns == 0:
            panel.set_ylabel("truth")
        if number >= len(titles) - columns:
            panel.set_xlabel("label")
    figure.draw_without_rendering()  # lays out the panels, with no regard to the width of titles
    for panel, title in zip(panels.flat, titles, strict=False):
        room = panel.get_position().width * size[0]
        panel.set_title(fit(title, room, TITLE_SIZE, "bold"), fontsize=TITLE_SIZE)
    return figure


def share_matrix(
    shares: Float[np.ndarray, "names names"], names: Sequence[str], title: str
) -> Figure:
    """Draws a symmetric matrix of shares in [0, 1] between named things; nan where unknown."""
    side = max(4.0, 0.42 * len(names) + 1.6)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    panel = figure.subplots()
    _draw_shares(panel, shares, fontsize=9.0)
    names = _fitting(names)
    _name_columns(panel, names)
    panel.set_yticks(range(len(names)), names)
    panel.set_title(title)
    return figure


def _draw_shares(
    panel: Axes, shares: Float[np.ndarray, "rows columns"], fontsize: float = 10.5
) -> None:
    """Draws a matrix of shares in [0, 1] with per cent in its cells, – for nan."""
    panel.grid(False)
    panel.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = "–" if np.isnan(share) else f"{100 * share:.0f}"
        colour = "white" if share > 0.65 else INK if share >= 0.005 else MUTED
        weight = "bold" if row == column else "normal"
        panel.text(
            column,
            row,
            text,
            ha="center",
            va="center",
            color=colour,
            fontweight=weight,
            fontsize=fontsize,
        )
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _fitting(names: Sequence[str]) -> list[str]:
    return [fit(name, MOST_NAME, FONT_SIZE) for name in names]


def _name_columns(panel: Axes, names: Sequence[str]) -> None:
    if max(map(len, names)) <= 3:
        panel.set_xticks(range(len(names)), names)
        return
    panel.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
