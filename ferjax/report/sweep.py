"""The report of a sweep over one setting: its table, a figure of it, and curves of all stages."""

from pathlib import Path
from typing import NamedTuple

import matplotlib
from ml_collections import ConfigDict

from ferjax import writers
from ferjax.data.record import Dataset
from ferjax.report import curves, figures, page
from ferjax.report.parts import Picture, Pictures, origin
from ferjax.report.training import count_faces, lines_by_stage, provenance


class Table(NamedTuple):
    """Test accuracies of the last epoch in per cent.

    Attributes:
      varied: the setting that has several values.
      columns: what was tried with each value.
      rows: the accuracies of each value, one a column.
    """

    varied: str
    columns: tuple[str, ...]
    rows: dict[int | float, list[float]]


def format_table(table: Table) -> str:
    """Formats the table that a sweep prints."""
    lines = ["  ".join([f"{table.varied:>11}", *table.columns])]
    for value, accuracies in table.rows.items():
        cells = [
            f"{accuracy:{len(column)}.2f}"
            for column, accuracy in zip(table.columns, accuracies, strict=True)
        ]
        lines.append("  ".join([f"{value:>11}", *cells]))
    return "\n".join(lines)


def write(config: ConfigDict, folder: Path, dataset: Dataset, table: Table) -> None:
    """Writes the report of a finished sweep; for process 0 alone.

    Args:
      config: of the run, resolved.
      folder: the run's workdir.
      dataset: that the stages learnt from and were evaluated on.
      table: the results.
    """
    show = Pictures(folder / "report").show
    rows = {f"{value:g}": [f"{x:.2f}" for x in cells] for value, cells in table.rows.items()}
    columns = (table.varied, *(f"{column}, %" for column in table.columns))
    with matplotlib.rc_context(figures.STYLE):
        picture = Picture(
            "sweep.png",
            figures.swept_accuracy(table.varied, table.columns, table.rows),
            f"Test accuracy by {table.varied}.",
            "Accuracy of the last weights on the test faces. Choosing the best of these values "
            "would mean choosing on the test set, and one run of each says little where they are "
            "close.",
        )
        sections = {
            "Results": page.table(columns, rows) + show([picture]),
            "Accuracy over steps": show(curves.test_scores(lines_by_stage(folder))),
            "Data and configuration": provenance(config, folder, dataset),
        }
    title = f"Sweep over {table.varied} on {config.data.name}"
    sizes = ", ".join(f"{value:g}" for value in table.rows)
    lead = page.paragraph(f"{table.varied.capitalize()}: {sizes}.", "lead")
    text = page.document(title, lead + origin(folder, count_faces(dataset)), sections)
    writers.write_text(folder / "report" / "index.html", text)
