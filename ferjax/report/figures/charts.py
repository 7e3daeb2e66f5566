"""Charts of single numbers: stacked bars, histograms and scatter plots."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ferjax.report.figures.style import FONT_SIZE, INK, PART_COLOURS, STAGE_COLOURS
from ferjax.report.figures.text import fit

MOST_NAME = 3.0
"""Inches that the name of a bar may be wide."""


def stacked_shares(
    shares: Float[np.ndarray, "bars parts"], names: Sequence[str], parts: Sequence[str]
) -> Figure:
    """Draws bars whose parts sum to one, in per cent.

    Args:
      shares: in [0, 1].
      names: of the bars.
      parts: names of the parts.
    """
    figure = Figure(figsize=(11, 0.9 + 0.46 * len(names)), layout="constrained")
    panel = figure.subplots()
    bars = np.arange(len(names))
    starts = np.cumsum(shares, axis=1) - shares
    for part, name in enumerate(parts):
        widths, left = 100 * shares[:, part], 100 * starts[:, part]
        panel.barh(bars, widths, 0.72, left=left, color=PART_COLOURS[part], label=name, lw=0)
        for bar in bars[widths >= 4]:
            middle = left[bar] + widths[bar] / 2
            colour = "white" if part in (0, 2) else INK
            text = f"{widths[bar]:.0f}"
            panel.text(middle, bar, text, ha="center", va="center", color=colour)
    panel.set_yticks(bars, [fit(name, MOST_NAME, FONT_SIZE) for name in names])
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.grid(False)
    panel.set_xlabel("faces, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def histogram(values: Float[np.ndarray, " values"], top: float, name: str, counted: str) -> Figure:
    """Draws a histogram of values in [0, top], the counts on a logarithmic scale.

    Args:
      values: in any order.
      top: the largest possible value.
      name: of the values.
      counted: what is counted.
    """
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    panel = figure.subplots()
    counts, edges = np.histogram(np.clip(values, 0, top), bins=40, range=(0, top))
    panel.bar(edges[:-1], counts, np.diff(edges), align="edge", color=STAGE_COLOURS[1], lw=0)
    panel.set_yscale("log")
    _plain_numbers(panel.yaxis)
    panel.set_ylim(0.7, 1.5 * max(counts.max(), 1))
    panel.set_xlim(0, top)
    panel.set_xlabel(name)
    panel.set_ylabel(counted)
    return figure


def scatter(
    across: Int[np.ndarray, " points"], up: Float[np.ndarray, " points"], name: str, value: str
) -> Figure:
    """Draws a value in per cent against a positive number on a logarithmic scale."""
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.plot(across, up, "o", ms=5, mec="none", alpha=0.5, color=STAGE_COLOURS[1], clip_on=False)
    panel.set_xscale("log")
    _plain_numbers(panel.xaxis)
    panel.set_xlim(0.8, max(10.0, 1.25 * float(across.max())))
    panel.set_ylim(0, 100)
    panel.set_xlabel(name)
    panel.set_ylabel(value)
    return figure


def _plain_numbers(axis: Axis) -> None:
    """Writes 1,000 on a logarithmic axis; by default matplotlib writes formulas."""
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axis.set_minor_formatter(NullFormatter())
