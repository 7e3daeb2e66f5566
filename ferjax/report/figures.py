"""The figures of a report: each function takes numbers and returns a matplotlib `Figure`.

Only matplotlib's object interface is used, so no display is needed. Colours are those of Okabe and
Ito, told apart by colour-blind readers too, and nothing is said by colour alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

STYLE: dict[Any, Any] = {
    "font.size": 10.5,
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
"""Settings under which the figures are meant to be drawn."""

STAGE_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
RIGHT, WRONG, UNKNOWN = "#0072B2", "#B84700", "#6b7280"
EPOCHS = "epochs of the stage"
_PARTS = ("#0072B2", "#E69F00", "#B84700", "#56B4E9", "#CC79A7")
_INK, _MUTED = "#1c2027", "#6b7280"
_DASHES = ((0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("", "s", "^", "D", "v", "x")
"""On the main curves of the first, second, ... six stages, which share six colours."""
_DROP = 0.01
"""A best evaluation is marked where the last one lies further below it than this."""


class Curve(NamedTuple):
    """One line of a figure.

    Attributes:
      name: its label.
      at: finished epochs, or steps, at each point.
      values: one a point; nan where there is none.
    """

    name: str
    at: Float[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]


class Face(NamedTuple):
    """One face on a sheet.

    Attributes:
      image: one or three channels.
      lines: what is written below it; the last in the frame's colour.
      colour: of the frame.
    """

    image: UInt8[np.ndarray, "height width channels"]
    lines: tuple[str, ...]
    colour: str


def learning_curves(
    stages: Mapping[str, tuple[Sequence[Curve], Sequence[Curve]]], right_labels: Mapping[str, float]
) -> Figure:
    """Loss with its terms, and accuracy on the given labels, a row for each stage.

    Args:
      stages: (losses, accuracies in [0, 1]) of each stage, the main ones first.
      right_labels: share of the labels given to a stage that are right, where known; a network that
        agrees with more of them than that has learnt wrong ones by heart.
    """
    figure = Figure(figsize=(11, 0.4 + 2.9 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), 2, squeeze=False)
    limits = _limits([rates for _, rates in stages.values()], right_labels)
    for row, (stage, (terms, accuracies)) in enumerate(stages.items()):
        loss, accuracy = panels[row]
        colour = _stage_colour(row)
        _plot(loss, terms, colour)
        loss.set_title(f"{stage}: training loss")
        loss.set_ylim(bottom=min(0.0, loss.get_ylim()[0]))
        _label_ends(loss, [(curve, colour) for curve in terms], gap=0.1)
        percent = [_percent(curve) for curve in accuracies]
        _plot(accuracy, percent, colour)
        accuracy.set_title(f"{stage}: accuracy on the given labels, %")
        accuracy.set_ylim(limits)
        if stage in right_labels:
            _reference(accuracy, 100 * right_labels[stage], "{:.0f}% of them are right")
        _label_ends(accuracy, [(curve, colour) for curve in percent], gap=0.1, number="{:.1f}")
        for panel in (loss, accuracy):
            _whole_axis(panel, terms[0].at[-1])
    for panel in panels[-1]:
        panel.set_xlabel(EPOCHS)
    return figure


def evaluation_curves(
    stages: Mapping[str, Sequence[Curve]], title: str = "Test accuracy, %"
) -> Figure:
    """Draws the score on the test split of every stage's heads over the steps of the stage.

    Args:
      stages: curves of each stage in [0, 1], the main head first.
      title: of the figure.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panel = figure.subplots()
    last_step = max(curve.at[-1] for curves in stages.values() for curve in curves)
    named: list[tuple[Curve, str]] = []
    for row, (stage, curves) in enumerate(stages.items()):
        colour = _stage_colour(row)
        percent = [_percent(curve) for curve in curves]
        _plot(panel, percent, colour, _MARKERS[row // len(STAGE_COLOURS) % len(_MARKERS)])
        _mark_best(panel, percent[0], colour)
        if percent[0].at[-1] < last_step:
            panel.plot(
                (percent[0].at[-1], last_step),
                (percent[0].values[-1], percent[0].values[-1]),
                color=colour,
                lw=1,
                ls=":",
            )
        for curve in percent:
            name = stage if len(percent) == 1 else f"{stage}/{curve.name}"
            named.append((curve._replace(name=name), colour))
    panel.set_title(title)
    panel.set_xlabel("training steps of the stage")
    _whole_axis(panel, last_step)
    _label_ends(panel, named, gap=0.045, number="{:.1f}")
    return figure


def weight_curves(stages: Mapping[str, Sequence[Curve]], title: str) -> Figure:
    """Numbers in [0, 1] that a method weighs with, over the epochs of each stage that has them.

    Args:
      stages: curves of every stage of the run, none for those without; all are named so that a
        stage keeps its colour. A stage's only curve goes by the stage's name.
      title: of the figure.
    """
    figure = Figure(figsize=(11, 3.0), layout="constrained")
    panel = figure.subplots()
    named = []
    for row, (stage, curves) in enumerate(stages.items()):
        _plot(panel, curves, _stage_colour(row))
        for curve in curves:
            name = stage if len(curves) == 1 else f"{stage}: {curve.name}"
            named.append((curve._replace(name=name), _stage_colour(row)))
    panel.set_title(title)
    panel.set_xlabel(EPOCHS)
    panel.set_ylim(0, 1)
    _whole_axis(panel, max(curve.at[-1] for curve, _ in named))
    _label_ends(panel, named, gap=0.08)
    return figure


def swept_accuracy(
    varied: str, columns: Sequence[str], rows: Mapping[int | float, Sequence[float]]
) -> Figure:
    """Accuracy against what was varied, a line for each column.

    Args:
      varied: name of what was varied.
      columns: name of each line.
      rows: accuracies in per cent at each value, one a column.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    panel = figure.subplots()
    values = list(rows)
    for place, column in enumerate(columns):
        accuracies = [rows[value][place] for value in values]
        colour = _stage_colour(place)
        style = _DASHES[0] if place == 0 and len(columns) > 1 else "-"
        panel.plot(values, accuracies, "o", ls=style, color=colour, lw=2, ms=7, label=column)
        for value, accuracy in zip(values, accuracies, strict=True):
            panel.annotate(
                f"{accuracy:.1f}",
                (value, accuracy),
                xytext=(0, 7),
                textcoords="offset points",
                ha="center",
                fontsize=9.5,
                color=colour,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
                zorder=5,  # above every line
            )
    panel.set_title("Test accuracy, %")
    panel.set_xlabel(varied)
    panel.set_xticks(values, [f"{value:g}" for value in values])
    panel.margins(y=0.2)
    if len(columns) > 1:
        panel.legend(frameon=False)
    return figure


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


def stacked_shares(
    shares: Float[np.ndarray, "bars parts"], names: Sequence[str], parts: Sequence[str]
) -> Figure:
    """Bars of parts that sum to one, in per cent.

    Args:
      shares: in [0, 1].
      names: of the bars.
      parts: names of the parts.
    """
    figure = Figure(figsize=(11, 0.9 + 0.42 * len(names)), layout="constrained")
    panel = figure.subplots()
    places = np.arange(len(names))
    starts = np.cumsum(shares, axis=1) - shares
    for part, name in enumerate(parts):
        widths, left = 100 * shares[:, part], 100 * starts[:, part]
        panel.barh(places, widths, 0.72, left=left, color=_PARTS[part], label=name, lw=0)
        for place in places[widths >= 4]:
            middle = left[place] + widths[place] / 2
            colour = "white" if part in (0, 2) else _INK
            text = f"{widths[place]:.0f}"
            panel.text(middle, place, text, ha="center", va="center", color=colour)
    panel.set_yticks(places, names)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.grid(False)
    panel.set_xlabel("faces, %")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def histogram(values: Float[np.ndarray, " values"], top: float, name: str, counted: str) -> Figure:
    """How many values in [0, top] lie where, the numbers on a logarithmic scale.

    Args:
      values: in any order.
      top: the largest that can be.
      name: of the values.
      counted: what each of them belongs to.
    """
    figure = Figure(figsize=(8.2, 3.4), layout="constrained")
    panel = figure.subplots()
    counts, edges = np.histogram(np.clip(values, 0, top), bins=40, range=(0, top))
    panel.bar(edges[:-1], counts, np.diff(edges), align="edge", color=STAGE_COLOURS[1], lw=0)
    panel.set_yscale("log")
    panel.set_ylim(0.7, 1.5 * max(counts.max(), 1))
    panel.set_xlim(0, top)
    panel.set_xlabel(name)
    panel.set_ylabel(counted)
    return figure


def scatter(
    across: Int[np.ndarray, " points"], up: Float[np.ndarray, " points"], name: str, value: str
) -> Figure:
    """Points of a positive number, on a logarithmic scale, and a value in per cent."""
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.plot(across, up, "o", ms=5, mec="none", alpha=0.5, color=STAGE_COLOURS[1], clip_on=False)
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    panel.set_xlim(0.8, max(10.0, 1.25 * float(across.max())))
    panel.set_ylim(0, 100)
    panel.set_xlabel(name)
    panel.set_ylabel(value)
    return figure


def _draw_shares(
    panel: Axes, shares: Float[np.ndarray, "rows columns"], fontsize: float = 10.5
) -> None:
    """A matrix of shares in [0, 1], written into its cells in per cent; – for nan."""
    panel.grid(False)
    panel.imshow(shares, cmap=matplotlib.colormaps["Blues"], vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = "–" if np.isnan(share) else f"{100 * share:.0f}"
        colour = "white" if share > 0.65 else _INK if share >= 0.005 else _MUTED
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


def face_sheet(faces: Sequence[Face], columns: int = 6) -> Figure:
    """Faces in rows, enlarged, each framed and with its lines below."""
    cell, margin, line_height = 1.8, 0.12, 0.19  # inches
    height, width, _ = faces[0].image.shape
    side = cell - margin
    image_height = side * height / width
    cell_height = image_height + line_height * len(faces[0].lines) + 2 * margin
    rows = -(-len(faces) // columns)
    sheet = (columns * cell + margin, rows * cell_height + margin)
    figure = Figure(figsize=sheet)
    panel = figure.add_axes((0, 0, 1, 1))
    for place, face in enumerate(faces):
        left = margin + cell * (place % columns)
        top = margin + cell_height * (place // columns)
        _draw_face(panel, face, (left, left + side, top + image_height, top), line_height)
    panel.set(xlim=(0, sheet[0]), ylim=(sheet[1], 0))
    panel.set_axis_off()
    return figure


def spread(values: Float[np.ndarray, " n"], gap: float) -> Float[np.ndarray, " n"]:
    """The values moved as little as can be so that any two are at least `gap` apart, in order.

    Least squares under order constraints: isotonic regression of the values less their gaps, by
    pooling adjacent violators.
    """
    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    blocks: list[list[float]] = []
    for value in values[order] - steps:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    levels = [np.mean(block) for block in blocks for _ in block]
    moved = np.empty(len(values))
    moved[order] = np.array(levels) + steps
    return moved


def _stage_colour(row: int) -> str:
    return STAGE_COLOURS[row % len(STAGE_COLOURS)]


def _plot(panel: Axes, curves: Sequence[Curve], colour: str, marker: str = "") -> None:
    """The first curve strong and with its markers, the others thin and each dashed differently."""
    for place, curve in enumerate(curves):
        main = place == 0
        panel.plot(
            curve.at,
            curve.values,
            color=colour,
            lw=2.4 if main else 1.2,
            alpha=1.0 if main else 0.8,
            ls="-" if main else _DASHES[(place - 1) % len(_DASHES)],
            marker="o" if len(curve.at) == 1 else marker if main else "",
            ms=6,
            zorder=3 if main else 2,
            clip_on=False,
        )


def _limits(
    stages: Sequence[Sequence[Curve]], right_labels: Mapping[str, float]
) -> tuple[float, float]:
    """Limits in per cent that hold the accuracies of all stages, so that they can be compared."""
    levels = [100 * value for curves in stages for curve in curves for value in curve.values]
    levels += [100 * share for share in right_labels.values()]
    low, high = np.nanmin(levels or [0.0]), np.nanmax(levels or [100.0])
    margin = max(1.0, 0.12 * (high - low))
    return max(0.0, low - margin), high + margin


def _percent(curve: Curve) -> Curve:
    return curve._replace(values=100 * curve.values)


def _whole_axis(panel: Axes, last: float) -> None:
    panel.set_xlim(0, last)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))


def _label_ends(
    panel: Axes, curves: Sequence[tuple[Curve, str]], gap: float, number: str = "{:.2f}"
) -> None:
    """Names each curve, in its colour and with its last value, beside the panel.

    Args:
      panel: its limits must be final.
      curves: with their colours.
      gap: least distance of two labels, in heights of the panel.
      number: format of the values.
    """
    low, high = panel.get_ylim()
    panel.set_ylim(low, high)
    ends = np.array([curve.values[-1] for curve, _ in curves])
    places = low + (high - low) * spread((ends - low) / (high - low), gap)
    for (curve, colour), end, place in zip(curves, ends, places, strict=True):
        panel.annotate(
            f"{curve.name} {number.format(end)}",
            xy=(1, end),
            xycoords=panel.get_yaxis_transform(),
            xytext=(1.04, place),
            textcoords=panel.get_yaxis_transform(),
            va="center",
            fontsize=9.5,
            color=colour,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 0,
            },
        )


def _reference(panel: Axes, level: float, text: str) -> None:
    """A dashed line across the panel; the text is a format of its level."""
    panel.axhline(level, color=_MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    panel.text(
        0.01,
        level,
        text.format(level),
        transform=panel.get_yaxis_transform(),
        color=_MUTED,
        fontsize=9,
        va="bottom",
    )


def _mark_best(panel: Axes, curve: Curve, colour: str) -> None:
    """Marks the best evaluation of a curve that has fallen since."""
    best = int(np.nanargmax(curve.values))
    if curve.values[best] - curve.values[-1] < 100 * _DROP:
        return
    place, value = curve.at[best], curve.values[best]
    panel.plot(place, value, "o", ms=8, mfc="white", mec=colour, mew=2, zorder=4)
    panel.annotate(
        f"best {value:.1f}, ends {value - curve.values[-1]:.1f} lower",
        xy=(place, value),
        xytext=(0, -10),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=9.5,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        zorder=5,  # above every curve
    )


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
            color=face.colour if last else _INK,
            fontweight="bold" if last else "normal",
        )
