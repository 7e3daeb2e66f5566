"""Annotation: a finished run's model labels the faces of a folder; then counts and a report."""

from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ferjax import annotate, predictor, writers
from ferjax.data import sources
from ferjax.data.fingerprint import checksum_of_names, checksum_of_pictures
from ferjax.errors import UserError
from ferjax.report import annotation as annotation_report
from ferjax.stages import Plan, Stage

MAY_CHANGE = {"path", "trained", "annotate.batch_size", "annotate.workers"}
"""How it is computed; what is in the folders is checked by itself."""


def plan(config: ConfigDict, folder: Path) -> Plan:
    """Plans one stage, which labels `config.path`."""
    settings = annotate.Settings(**config.annotate)
    settings.check()
    if not config.trained or not config.path:
        raise UserError(f"{'path' if config.trained else 'trained'} is not set")
    model = predictor.load(config.trained, config.stage, config.weights)
    height, _, channels = model.image_shape
    source = sources.find(Path(config.path), height, channels, max_megapixels=config.max_megapixels)
    rows = np.arange(len(source.names), dtype=np.int32)
    faces = annotate.Faces(source.pictures, source.names, rows)
    labels = folder / "labels"
    metrics = writers.MetricsFile(folder / "metrics.jsonl")

    def work(_: dict[str, Any]) -> Path:
        annotate.annotate(
            model.prediction,
            model.weights,
            model.classes,
            faces,
            labels,
            settings,
            metrics,
            stage="annotate",
        )
        return labels

    def finish(_: Any) -> None:
        result = annotate.summarise(labels, model.classes, faces, folder)
        writers.write_json(folder / "result.json", result)
        annotation_report.write(config, folder, faces, model.classes, result)
        print(annotate.format_result(result))
        print(f"report: {folder / 'report' / 'index.html'}")

    data = {
        "classes": list(model.classes),
        "model": model.name,
        "checksums": {
            "names": checksum_of_names(source.names),
            "pictures": checksum_of_pictures(source.pictures),
            "model": model.checksum(),
        },
    }
    stage = Stage(
        "annotate",
        (),
        work,
        lambda _: labels,
        lambda: annotate.complete(labels, metrics, "annotate"),
    )
    return Plan((stage,), data, finish)
