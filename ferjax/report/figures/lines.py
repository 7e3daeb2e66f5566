"""Figures of lines: learning curves, evaluations, weights, and accuracy against what was varied."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ferjax.report.figures.style import DASHES, MARKERS, MUTED, STAGE_COLOURS, stage_colour
from ferjax.report.figures.text import fit, width

EPOCHS = "epochs of the stage"

_DROP = 0.01
"""The best evaluation is marked if the last one is lower by at least this."""

_LABEL, _LABEL_SIZE = 3.2, 9.5
"""Most inches that the label at the end of a curve is wide, and points of its font."""


class Curve(NamedTuple):
    """One line of a figure.

    Attributes:
      name: its label.
      at: finished epochs or steps at each point.
      values: one for each point; nan where unknown.
    """

    name: str
    at: Float[np.ndarray, " points"]
    values: Float[np.ndarray, " points"]


def learning_curves(
    stages: Mapping[str, tuple[Sequence[Curve], Sequence[Curve]]], right_labels: Mapping[str, float]
) -> Figure:
    """Draws, in a row per stage, the loss with its terms and the accuracy on the given labels.

    Args:
      stages: (losses, accuracies in [0, 1]) of each stage, the main ones first.
      right_labels: share of the labels given to a stage that are right, where known. A network that
        agrees with more labels than that has memorised wrong ones.
    """
    figure = Figure(figsize=(11, 0.4 + 2.9 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), 2, squeeze=False)
    limits = _limits([rates for _, rates in stages.values()], right_labels)
    for row, (stage, (terms, accuracies)) in enumerate(stages.items()):
        loss, accuracy = panels[row]
        colour = stage_colour(row)
        _plot(loss, terms, colour)
        loss.set_title(f"{stage}: training loss")
        loss.set_ylim(bottom=min(0.0, loss.get_ylim()[0]))
        _label_ends(loss, [(curve, colour) for curve in terms], gap=0.1)
        percent = [_percent(curve) for curve in accuracies]
        _plot(accuracy, percent, colour)
        accuracy.set_title(f"{stage}: accuracy on the given labels, %")
        accuracy.set_ylim(limits)
        if stage in right_labels:
            _reference(accuracy, 100 * right_labels[stage], "{:.0f}% of the labels are right")
        _label_ends(accuracy, [(curve, colour) for curve in percent], gap=0.1, number="{:.1f}")
        for panel in (loss, accuracy):
            _whole_axis(panel, terms[0].at[-1])
    for panel in panels[-1]:
        panel.set_xlabel(EPOCHS)
    return figure


def evaluation_curves(
    stages: Mapping[str, Sequence[Curve]], title: str = "Test accuracy, %"
) -> Figure:
    """Draws the test scores of every stage's heads over the steps of the stage.

    Args:
      stages: curves of each stage in [0, 1], the main head first.
      title: of the figure.
    """
    figure = Figure(figsize=(11, 5.6), layout="constrained")
    panel = figure.subplots()
    last_step = max(curve.at[-1] for curves in stages.values() for curve in curves)
    named: list[tuple[Curve, str]] = []
    best: dict[str, str] = {}
    for row, (stage, curves) in enumerate(stages.items()):
        colour = stage_colour(row)
        percent = [_percent(curve) for curve in curves]
        _plot(panel, percent, colour, MARKERS[row // len(STAGE_COLOURS) % len(MARKERS)])
        marked = _mark_best(panel, percent[0], colour)
        if percent[0].at[-1] < last_step:
            panel.plot(
                (percent[0].at[-1], last_step),
                (percent[0].values[-1], percent[0].values[-1]),
                color=colour,
                lw=1,
                ls=":",
            )
        for number, curve in enumerate(percent):
            name = stage if len(percent) == 1 else f"{stage}/{curve.name}"
            best[name] = f", best {marked:.1f}" if marked and number == 0 else ""
            named.append((curve._replace(name=name), colour))
    panel.set_title(title)
    panel.set_xlabel("training steps of the stage")
    _whole_axis(panel, last_step)
    _label_ends(panel, named, gap=0.045, number="{:.1f}", after=best)
    return figure


def weight_curves(stages: Mapping[str, Sequence[Curve]], title: str) -> Figure:
    """Draws a method's weights in [0, 1] over the epochs of each stage that has them.

    Args:
      stages: curves of every stage of the run. Stages without curves are listed too, so that each
        keeps its colour. A stage's only curve is named after the stage.
      title: of the figure.
    """
    height = max(3.0, 1.0 + 0.24 * sum(map(len, stages.values())))  # for a label a curve
    figure = Figure(figsize=(11, height), layout="constrained")
    panel = figure.subplots()
    named = []
    for row, (stage, curves) in enumerate(stages.items()):
        _plot(panel, curves, stage_colour(row))
        for curve in curves:
            name = stage if len(curves) == 1 else f"{stage}: {curve.name}"
            named.append((curve._replace(name=name), stage_colour(row)))
    panel.set_title(title)
    panel.set_xlabel(EPOCHS)
    panel.set_ylim(0, 1)
    _whole_axis(panel, max(curve.at[-1] for curve, _ in named))
    _label_ends(panel, named, gap=0.2 / (height - 0.8))
    return figure


def swept_accuracy(
    varied: str, columns: Sequence[str], rows: Mapping[int | float, Sequence[float]]
) -> Figure:
    """Draws accuracy against what was varied, a line for each column.

    Args:
      varied: name of what was varied.
      columns: name of each line.
      rows: for each value, the accuracy of each column in per cent.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    panel = figure.subplots()
    values = list(rows)
    for number, column in enumerate(columns):
        accuracies = [rows[value][number] for value in values]
        colour = stage_colour(number)
        style = DASHES[0] if number == 0 and len(columns) > 1 else "-"
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


def spread(values: Float[np.ndarray, " n"], gap: float) -> Float[np.ndarray, " n"]:
    """Moves values as little as possible until any two are at least `gap` apart, in the same order.

    This is least squares under order constraints: isotonic regression of the values minus their
    gaps, by pooling adjacent violators.
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


def _plot(panel: Axes, curves: Sequence[Curve], colour: str, marker: str = "") -> None:
    """Draws the first curve bold and with markers, the others thin and dashed differently."""
    for number, curve in enumerate(curves):
        main = number == 0
        panel.plot(
            curve.at,
            curve.values,
            color=colour,
            lw=2.4 if main else 1.2,
            alpha=1.0 if main else 0.8,
            ls="-" if main else DASHES[(number - 1) % len(DASHES)],
            marker="o" if len(curve.at) == 1 else marker if main else "",
            ms=6,
            zorder=3 if main else 2,
            clip_on=False,
        )


def _limits(
    stages: Sequence[Sequence[Curve]], right_labels: Mapping[str, float]
) -> tuple[float, float]:
    """Returns limits in per cent that fit all stages, so that their panels can be compared."""
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
    panel: Axes,
    curves: Sequence[tuple[Curve, str]],
    gap: float,
    number: str = "{:.2f}",
    after: Mapping[str, str] | None = None,
) -> None:
    """Writes each curve's name and last value beside the panel, in the curve's colour.

    Args:
      panel: its limits must be final.
      curves: with their colours.
      gap: least distance between two labels, as a share of the panel's height.
      number: format of the values.
      after: what follows the value, by the name of the curve.
    """
    low, high = panel.get_ylim()
    panel.set_ylim(low, high)
    ends = np.array([curve.values[-1] for curve, _ in curves])
    heights = low + (high - low) * spread((ends - low) / (high - low), gap)
    heights -= max(0.0, heights.max() - high)  # labels rather end below the panel than above it
    for (curve, colour), end, height in zip(curves, ends, heights, strict=True):
        panel.annotate(
            _end_label(curve.name, f" {number.format(end)}{(after or {}).get(curve.name, '')}"),
            xy=(1, end),
            xycoords=panel.get_yaxis_transform(),
            xytext=(1.04, height),
            textcoords=panel.get_yaxis_transform(),
            va="center",
            fontsize=_LABEL_SIZE,
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


def _end_label(name: str, value: str) -> str:
    return fit(name, _LABEL - width(value, _LABEL_SIZE), _LABEL_SIZE) + value


def _reference(panel: Axes, level: float, text: str) -> None:
    """Draws a dashed line across the panel; `text` is a format for its level."""
    panel.axhline(level, color=MUTED, lw=1, ls=(0, (4, 3)), zorder=1)
    panel.text(
        0.01,
        level,
        text.format(level),
        transform=panel.get_yaxis_transform(),
        color=MUTED,
        fontsize=9,
        va="bottom",
    )


def _mark_best(panel: Axes, curve: Curve, colour: str) -> float | None:
    """Marks and returns the best evaluation of a curve if it has fallen since."""
    best = int(np.nanargmax(curve.values))
    if curve.values[best] - curve.values[-1] < 100 * _DROP:
        return None
    panel.plot(
        curve.at[best], curve.values[best], "o", ms=8, mfc="white", mec=colour, mew=2, zorder=4
    )
    return float(curve.values[best])
