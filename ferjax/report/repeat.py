"""The report of a run that was repeated over seeds: mean ± deviation, and each seed's report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from ferjax import results, writers
from ferjax.report import page
from ferjax.report.parts import count, origin

ABOUT = """Mean ± deviation over the seeds, of the sample (n − 1). The drop is by how much the last
evaluation lies below the oracle best, which looks at the test set."""


class Table(NamedTuple):
    """Mean ± deviation in per cent: titles of the columns, and the cells of each row."""

    columns: tuple[str, ...]
    rows: dict[str, list[str]]


def tables(result: Mapping[str, Any]) -> dict[str, Table]:
    """Returns, by its title, a table for each score that heads are judged by."""
    made = {}
    for score, title in results.SCORES.items():
        group = {name: row for name, row in result["rows"].items() if row["score"] == score}
        if group:
            columns = results.figures_of(group) | {"drop": "drop"}
            rows = {name: [_cell(*row[x]) for x in columns] for name, row in group.items()}
            seeds = count(len(result["seeds"]), "seed")
            made[f"{title}, {seeds}"] = Table(tuple(columns.values()), rows)
    return made


def write(config: ConfigDict, folder: Path, result: Mapping[str, Any]) -> None:
    """Writes `report/index.html`; for process 0 alone.

    Args:
      config: of the run.
      folder: that holds a workdir for each seed.
      result: the contents of `result.json`.
    """
    seeds = result["seeds"]
    shown = (page.table((title, *x.columns), x.rows) for title, x in tables(result).items())
    each = {name: [f"{100 * x:.2f}" for x in row["each"]] for name, row in result["rows"].items()}
    reports = {f"report of seed {seed}": f"../seed-{seed}/report/index.html" for seed in seeds}
    sections = {"Results": page.paragraph(ABOUT) + "".join(shown)}
    if latent := {name: [_cell(*x)] for name, x in result["latent_truth"].items()}:
        sections["Latent truth"] = page.table(("stage", "training faces right, %"), latent)
    columns = ("last, %", *(f"seed {seed}" for seed in seeds))
    sections["Each seed"] = page.table(columns, each) + page.links(reports)
    lead = page.paragraph(f"Seeds {', '.join(map(str, seeds))}.", "lead")
    lead += origin(folder / f"seed-{seeds[0]}", "Each seed has a report of its own.")
    text = page.document(f"{result['headline']} on {config.data.name}", lead, sections)
    writers.write_text(folder / "report" / "index.html", text)


def _cell(mean: float, deviation: float) -> str:
    return f"{100 * mean:.2f} ± {100 * deviation:.2f}"
