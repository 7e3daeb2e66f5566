"""The report of one model on many test sets: accuracies, and a confusion matrix of each set."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from ferjax import writers
from ferjax.report import figures, page
from ferjax.report.parts import Picture, Pictures, configuration, count, origin

OVERALL = "overall"
"""Name of the mean over all test sets."""


def write(
    config: ConfigDict, folder: Path, classes: tuple[str, ...], result: dict[str, Any]
) -> None:
    """Writes `report/index.html`. Only process 0 should call it."""
    show = Pictures(folder / "report").show
    rows, shares = {}, {}
    for group, results in result["sets"].items():
        for name, x in results.items():
            accuracy, uar = f"{100 * x['accuracy']:.2f}", f"{100 * x['uar']:.2f}"
            rows[f"{name} ({group})"] = [f"{x['faces']:,}", accuracy, uar]
            shares[name] = figures.row_shares(np.array(x["confusion"]))
    for group, mean in result["means"].items():
        rows[f"mean, {group}"] = ["", f"{100 * mean:.2f}", ""]
    with matplotlib.rc_context(figures.STYLE):
        grid = figures.confusion_grid(np.stack(list(shares.values())), classes, list(shares))
        picture = Picture(
            "confusions.png",
            grid,
            "Confusion matrix of each test set.",
            "Each row is a true class and sums to 100%; the diagonal is the recall.",
        )
        sections = {
            "Results": page.table(("test set", "faces", "accuracy, %", "UAR, %"), rows),
            "Confusion": show([picture]),
            "Configuration": configuration(config, folder),
        }
    lead = f"{100 * result['means'][OVERALL]:.2f}% mean accuracy over "
    lead += f"{count(len(shares), 'test set')}, by the model of {config.trained}."
    faces = sum(x["faces"] for results in result["sets"].values() for x in results.values())
    begun = origin(folder, f"It predicted {count(faces, 'face')}.")
    text = page.document("Cross-dataset evaluation", page.paragraph(lead, "lead") + begun, sections)
    writers.write_text(folder / "report" / "index.html", text)
