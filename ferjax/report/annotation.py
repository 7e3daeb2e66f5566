"""The report of an annotation run: how many faces of each class, how sure, and some to look at."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
from ml_collections import ConfigDict

from ferjax import annotate, writers
from ferjax.report import figures, page
from ferjax.report.figures import Face
from ferjax.report.parts import Picture, Pictures, configuration, percent

SHEET_FACES = 24


def write(
    config: ConfigDict,
    folder: Path,
    faces: annotate.Faces,
    classes: tuple[str, ...],
    result: dict[str, Any],
) -> None:
    """Writes the report; for process 0 alone."""
    show = Pictures(folder / "report").show
    table = annotate.read(folder / "labels")
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Labels": _labels(table, classes),
            "Some faces": show([_sheet(table, faces)]) if len(table) else "",
            "Configuration": configuration(config, folder),
        }
    skipped = result["skipped"]
    lead = f"{len(table):,} faces were labelled; {skipped:,} pictures could not be read"
    lead += f" and are listed in labels/{annotate.SKIPPED}." if skipped else "."
    text = page.document("Annotated faces", page.paragraph(lead, "lead"), sections)
    writers.write_text(folder / "report" / "index.html", text)


def _labels(table: pa.Table, classes: tuple[str, ...]) -> str:
    words = table["label"].combine_chunks()
    places = np.asarray(words.indices)
    sure = np.max([table[f"p_{name}"].to_numpy() for name in classes], axis=0)
    rows = {}
    for k, name in enumerate(classes):
        mine = places == k
        mean = f"{sure[mine].mean():.1%}" if mine.any() else "–"
        rows[name] = [f"{mine.sum():,}", f"{mine.mean():.1%}" if len(mine) else "–", mean]
    return page.table(("class", "faces", "share", "mean probability"), rows)


def _sheet(table: pa.Table, faces: annotate.Faces) -> Picture:
    """Faces drawn at random, with what was said of them."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(table))[:SHEET_FACES])
    said = table.take(pa.array(chosen)).to_pylist()
    images, _ = faces.images.read(np.array([line["index"] for line in said]))
    drawn = []
    for image, x in zip(images, said, strict=True):
        lines = f"{x['label']} {percent(x['p_' + x['label']])}", Path(x["file"]).name[-22:]
        drawn.append(Face(image, lines, figures.UNKNOWN))
    return Picture(
        "labelled.png",
        figures.face_sheet(drawn),
        "Faces with their label, its probability and their file.",
        "Some of the faces, drawn at random.",
    )
