"""The report of an annotation run: faces and mean probability of each class, and some faces."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from ferjax import annotate, writers
from ferjax.report import figures, page
from ferjax.report.figures import Face
from ferjax.report.parts import Picture, Pictures, configuration, count, origin, percent

SHEET_FACES = 24


def write(
    config: ConfigDict,
    folder: Path,
    faces: annotate.Faces,
    classes: tuple[str, ...],
    result: dict[str, Any],
) -> None:
    """Writes `report/index.html`. Only process 0 should call it."""
    show = Pictures(folder / "report").show
    table = annotate.read(folder / "labels")
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Labels": _labels(table, classes),
            "Sample faces": show([_sheet(table, faces)]) if len(table) else "",
            "Configuration": configuration(config, folder),
        }
    skipped = result["skipped"]
    lead = f"{count(len(table), 'face')} labelled by the model of {config.trained}; "
    lead += f"{count(skipped, 'picture')} unreadable"
    lead += f", listed in labels/{annotate.SKIPPED}." if skipped else "."
    lead = page.paragraph(lead, "lead") + origin(folder, f"The faces are those of {config.path}.")
    text = page.document("Annotated faces", lead, sections)
    writers.write_text(folder / "report" / "index.html", text)


def _labels(table: pa.Table, classes: tuple[str, ...]) -> str:
    labels = np.asarray(table["label"].combine_chunks().indices)
    probs = np.max([table[f"p_{name}"].to_numpy() for name in classes], axis=0)
    rows = {}
    for k, name in enumerate(classes):
        of_class = labels == k
        mean = f"{probs[of_class].mean():.1%}" if of_class.any() else "–"
        share = f"{of_class.mean():.1%}" if len(labels) else "–"
        rows[name] = [f"{of_class.sum():,}", share, mean]
    return page.table(("class", "faces", "share", "mean probability"), rows)


def _sheet(table: pa.Table, faces: annotate.Faces) -> Picture:
    """Draws random faces with their labels."""
    rows = np.sort(np.random.default_rng(0).permutation(len(table))[:SHEET_FACES])
    labels = table.take(pa.array(rows)).to_pylist()
    images, _ = faces.images.read(np.array([x["index"] for x in labels]))
    drawn = []
    for image, x in zip(images, labels, strict=True):
        lines = f"{x['label']} {percent(x['p_' + x['label']])}", Path(x["file"]).name
        drawn.append(Face(image, lines, figures.UNKNOWN))
    return Picture(
        "labelled.png",
        figures.face_sheet(drawn),
        "Faces with their label, its probability and their file.",
        "Faces drawn at random.",
    )
