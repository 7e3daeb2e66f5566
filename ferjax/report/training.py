"""The report of training runs and of sweeps over them.

Everything is drawn from what the run left behind (`metrics.jsonl`, each stage's `predictions.npz`,
`config.json`), so that a report can be written again at any time. It is analysis after training and
shows the truth wherever it is known.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from ferjax import results, sweep, writers
from ferjax.data.record import Dataset
from ferjax.report import coders, curves, figures, page, sheets
from ferjax.report.learner import read_learner
from ferjax.report.parts import Picture, Pictures, configuration, duration


def write(config: ConfigDict, folder: Path, dataset: Dataset, result: dict[str, Any]) -> None:
    """Writes the report of a finished run; for process 0 alone.

    Args:
      config: of the run, resolved; `stages` and `headline` name what is shown.
      folder: the run's workdir.
      dataset: what was learnt from and evaluated on; few faces are read from it.
      result: of `results.summarise`.
    """
    show = Pictures(folder / "report").show
    stages = _lines_by_stage(folder)
    predictions = np.load(folder / "stages" / config.headline / "predictions.npz")
    learners = {name: read_learner(folder, name, dataset) for name in stages}
    headline = learners[config.headline]
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Results": _results(result),
            "Accuracy over steps": show(curves.test_accuracy(stages)),
            "Training": show(curves.training(stages, learners)),
            "What is taken for what": show([_confusion(result, dataset)]),
            "Coders and latent truth": show(
                coders.pictures(
                    headline.learnt, predictions, dataset.of_coders(headline.dataset.coders)
                )
            ),
            "Test faces": show(sheets.test_faces(predictions, dataset, result)),
            "Labels in doubt": show(sheets.doubts(predictions, headline, dataset, result)),
            "Data and configuration": _provenance(config, folder, dataset),
        }
    title = f"{result['headline']} on {config.data.name}"
    filled = {name: text for name, text in sections.items() if text}
    text = page.document(title, _lead(result, dataset), filled)
    writers.write_text(folder / "report" / "index.html", text)


def write_sweep(config: ConfigDict, folder: Path, dataset: Dataset, table: sweep.Table) -> None:
    """Writes the report of a finished sweep; for process 0 alone.

    Args:
      config: of the run, resolved.
      folder: the run's workdir.
      dataset: what was learnt from and evaluated on.
      table: what came out.
    """
    show = Pictures(folder / "report").show
    rows = {f"{value:g}": [f"{x:.2f}" for x in cells] for value, cells in table.rows.items()}
    columns = (table.varied, *(f"{column}, %" for column in table.columns))
    with matplotlib.rc_context(figures.STYLE):
        picture = Picture(
            "sweep.png",
            figures.swept_accuracy(table.varied, table.columns, table.rows),
            f"Test accuracy by {table.varied}.",
            "Accuracy of the last weights on the test faces. To choose the best of these values "
            "is to look at the test set; and one run of each says little where they lie close.",
        )
        sections = {
            "Results": page.table(columns, rows) + show([picture]),
            "Accuracy over steps": show(curves.test_accuracy(_lines_by_stage(folder))),
            "Data and configuration": _provenance(config, folder, dataset),
        }
    title = f"Sweep over {table.varied} on {config.data.name}"
    text = page.document(title, page.paragraph(_faces(dataset), "lead"), sections)
    writers.write_text(folder / "report" / "index.html", text)


def _lead(result: dict[str, Any], dataset: Dataset) -> str:
    return page.paragraph(_faces(dataset), "lead") + page.key_figures(
        {
            "test accuracy": f"{result['test_accuracy']:.1%}",
            "mean recall (UAR)": f"{result['uar']:.1%}",
            "macro F1": f"{result['macro_f1']:.1%}",
            "training speed": f"{result['images_per_second']:,.0f} img/s",
            "time of all stages": duration(result["wall_seconds"]),
            "peak memory": f"{result['peak_memory_bytes'] / 2**30:.1f} GiB",
        }
    )


def _faces(dataset: Dataset) -> str:
    train, test = len(dataset.train.images), len(dataset.test.images)
    return f"{train:,} training and {test:,} test images."


def _lines_by_stage(folder: Path) -> dict[str, list[dict[str, Any]]]:
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in writers.MetricsFile(folder / "metrics.jsonl").read():
        if line["split"] != "annotate":
            stages.setdefault(line["stage"], []).append(line)
    return stages


def _results(result: dict[str, Any]) -> str:
    figures_of = results.table_rows(result["stages"])
    columns = results.columns_of(figures_of)
    rows = {
        name: [f"{100 * row[field]:.2f}" for field in columns] for name, row in figures_of.items()
    }
    stages = {
        name: [
            f"{100 * stage['final']['uar']:.2f}",
            f"{100 * stage['final']['macro_f1']:.2f}",
            f"{stage['images_per_second']:,.0f}",
            f"{stage['data_wait']:.1%}",
        ]
        for name, stage in result["stages"].items()
    }
    return "\n".join(
        [
            page.table(("test accuracy, %", *columns.values()), rows, marked=result["headline"]),
            page.paragraph(
                "Oracle best is the best evaluation of the run. It looks at the test set to choose "
                "its epoch, so it is no result: it shows what was lost by training to the end."
            ),
            page.table(
                ("stage, main head", "UAR, %", "macro F1, %", "images/s", "waiting for data"),
                stages,
            ),
        ]
    )


def _confusion(result: dict[str, Any], dataset: Dataset) -> Picture:
    counts = np.array(result["confusion"])
    return Picture(
        "confusion.png",
        figures.confusion_matrix(
            counts, dataset.classes, f"{result['headline']}: % of each true class"
        ),
        "Confusion matrix: " + _recalls(counts, dataset.classes),
        "Each row is a true class and sums to 100%; the diagonal is the recall.",
    )


def _recalls(counts: np.ndarray, classes: Sequence[str]) -> str:
    shares = figures.row_shares(counts)
    return "; ".join(
        f"{name} {shares[k, k]:.0%} right" for k, name in enumerate(classes) if counts[k].any()
    )


def _provenance(config: ConfigDict, folder: Path, dataset: Dataset) -> str:
    data = [
        f"classes: {', '.join(dataset.classes)}",
        f"coders: {', '.join(dataset.coders)}",
        f"trained on: {dataset.label}",
        *dataset.notes,
    ]
    return page.bullets(data) + "\n" + configuration(config, folder)
