"""Figures of matrices: confusions, and shares between pairs."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ferjax.report.figures.style import INK, MUTED


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
    sizes = counts.sum(axis=1)
    _name_columns(panel, classes)
    panel.set_yticks(
        range(len(classes)), [f"{name} ({n:,})" for name, n in zip(classes, sizes, strict=True)]
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
    side = max(2.4, 0.42 * len(classes))
    columns = columns or max(1, min(len(titles), int(13 / side)))
    rows = -(-len(titles) // columns)
    names = 0.07 * max(map(len, classes))  # inches
    size = (columns * side + 0.6 + names, rows * (side + 0.5 + 0.6 * names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for number, panel in enumerate(panels.flat):
        if number >= len(titles):
            panel.set_axis_off()
            continue
        _draw_shares(panel, confusions[number], fontsize=9.0)
        _name_columns(panel, classes)
        panel.set_yticks(
            range(len(classes)), classes if number % columns == 0 else [""] * len(classes)
        )
        panel.set_title(titles[number], fontsize=10)
        if number % columns == 0:
            panel.set_ylabel("truth")
        if number >= len(titles) - columns:
            panel.set_xlabel("label")
    return figure


def share_matrix(
    shares: Float[np.ndarray, "names names"], names: Sequence[str], title: str
) -> Figure:
    """Draws a symmetric matrix of shares in [0, 1] between named things; nan where unknown."""
    side = max(4.0, 0.42 * len(names) + 1.6)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    panel = figure.subplots()
    _draw_shares(panel, shares, fontsize=9.0)
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


def _name_columns(panel: Axes, names: Sequence[str]) -> None:
    if max(map(len, names)) <= 3:
        panel.set_xticks(range(len(names)), names)
        return
    panel.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor")
