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
    """Each row of a confusion matrix as shares of its sum in [0, 1]; nan for an empty row."""
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
    """Shares of each class, in per cent, by what it was taken for.

    Args:
      counts: row = truth.
      classes: names.
      title: of the figure.
      columns: what the columns are.
      rows: what the rows are, and what is counted.
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
    """Confusion matrices of some coders side by side, in per cent.

    Args:
      confusions: row = truth, each a distribution in [0, 1]; nan in rows that are not known.
      classes: names.
      titles: of each coder.
      columns: how many side by side; 0: as many as fit.
    """
    side = max(2.4, 0.42 * len(classes))
    columns = columns or max(1, min(len(titles), int(13 / side)))
    rows = -(-len(titles) // columns)
    names = 0.07 * max(map(len, classes))  # inches
    size = (columns * side + 0.6 + names, rows * (side + 0.5 + 0.6 * names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for place, panel in enumerate(panels.flat):
        if place >= len(titles):
            panel.set_axis_off()
            continue
        _draw_shares(panel, confusions[place], fontsize=9.0)
        _name_columns(panel, classes)
        panel.set_yticks(
            range(len(classes)), classes if place % columns == 0 else [""] * len(classes)
        )
        panel.set_title(titles[place], fontsize=10)
        if place % columns == 0:
            panel.set_ylabel("truth")
        if place >= len(titles) - columns:
            panel.set_xlabel("label")
    return figure


def share_matrix(
    shares: Float[np.ndarray, "names names"], names: Sequence[str], title: str
) -> Figure:
    """A symmetric matrix of shares in [0, 1] between things of these names; nan where unknown."""
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
    """A matrix of shares in [0, 1], written into its cells in per cent; – for nan."""
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
