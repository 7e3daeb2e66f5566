"""The report of a training run.

Everything is drawn from what the run left behind (`metrics.jsonl`, each stage's `predictions.npz`,
`config.json`), so that a report can be written again at any time. It is analysis after training and
shows the truth wherever it is known.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ml_collections import ConfigDict

from ferjax import results, writers
from ferjax.data.record import Dataset
from ferjax.report import coders, curves, doubt, figures, page, sheets, summary
from ferjax.report.parts import Picture, Pictures, configuration, count, duration
from ferjax.report.trained import Trained, read_trained

NAMES = {
    "accuracy": "test accuracy",
    "uar": "mean recall (UAR)",
    "macro_f1": "macro F1",
    "ccc": "CCC",
    "ccc_valence": "CCC of valence",
    "ccc_arousal": "CCC of arousal",
    "rmse": "RMSE",
    "mse": "MSE",
    "sign_agreement": "sign agreement",
}
"""Measures, as the report calls them."""

SHARES = ("accuracy", "uar", "macro_f1", "sign_agreement")
"""Measures that are written in per cent."""


def write(config: ConfigDict, folder: Path, dataset: Dataset, result: dict[str, Any]) -> None:
    """Writes the report of a finished run, and `doubtful.csv`; for process 0 alone.

    Args:
      config: of the run, resolved; `headline` is the stage shown in detail.
      folder: the run's workdir.
      dataset: of the run, with the annotations of all coders; few faces are read from it.
      result: of `results.summarise`.
    """
    show = Pictures(folder / "report").show
    stages = {name: x for name, x in lines_by_stage(folder).items() if name in result["stages"]}
    trained = {name: read_trained(folder, name) for name in stages}
    with matplotlib.rc_context(figures.STYLE):
        sections = {
            "Results": _results(result),
            "Scores over steps": show(curves.test_scores(stages)),
            "Training": show(curves.training(stages, trained, dataset)),
        }
        if "confusion" in result:
            predictions = np.load(folder / "stages" / config.headline / "predictions.npz")
            headline = trained[config.headline]
            doubted = doubt.doubts(folder, config.headline, headline, dataset)
            doubt.write(folder / doubt.FILE, doubted, dataset.train.names, dataset.classes)
            sections |= {
                "Classes": _classes(result, headline, dataset)
                + show([_confusion(result, dataset)]),
                "Coders and latent truth": show(
                    coders.pictures(
                        headline.learnt, predictions, dataset.of_coders(headline.coders)
                    )
                ),
                "Labels in doubt": show(sheets.doubts(doubted, headline, dataset))
                + _table_of_doubts(),
                "Test faces": show(sheets.test_faces(predictions, dataset, result)),
            }
        sections["Use the model"] = _use(config, folder, dataset)
        sections["Data and configuration"] = provenance(config, folder, dataset)
    title = f"{result['headline']} on {summary.data_name(config, dataset)}"
    filled = {name: text for name, text in sections.items() if text}
    lead = summary.head(config, folder, dataset, result, trained) + _key_figures(result)
    text = page.document(title, lead, filled)
    writers.write_text(folder / "report" / "index.html", text)


def count_faces(dataset: Dataset) -> str:
    """Returns a sentence that says how many faces there are."""
    train, test = len(dataset.train.images), len(dataset.test.images)
    return f"{train:,} training and {count(test, 'test image')}."


def lines_by_stage(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Reads the lines of `metrics.jsonl` by stage, without those about labelling."""
    stages: dict[str, list[dict[str, Any]]] = {}
    for line in writers.MetricsFile(folder / "metrics.jsonl").read():
        if line["split"] != "annotate":
            stages.setdefault(line["stage"], []).append(line)
    return stages


def provenance(config: ConfigDict, folder: Path, dataset: Dataset) -> str:
    """Returns the HTML that says what the data and the config were."""
    data = [
        f"classes: {', '.join(dataset.classes)}",
        f"coders: {', '.join(dataset.coders)}",
        f"trained on: {dataset.label}",
        *dataset.notes,
    ]
    return page.bullets(data) + "\n" + configuration(config, folder)


def _key_figures(result: dict[str, Any]) -> str:
    final = next(x for name, x in result["stages"].items() if _is_headline(name, result))["final"]
    measures = {
        NAMES[name]: f"{final[name]:.1%}" if name in SHARES else f"{final[name]:.3f}"
        for name in NAMES
        if name in final
    }
    return page.key_figures(
        measures
        | {
            "training speed": f"{result['images_per_second']:,.0f} img/s",
            "time of all stages": duration(result["wall_seconds"]),
            "peak memory": f"{result['peak_memory_bytes'] / 2**30:.1f} GiB",
        }
    )


def _is_headline(stage: str, result: dict[str, Any]) -> bool:
    return result["headline"].split("/")[0] == stage


def _results(result: dict[str, Any]) -> str:
    parts = []
    for title, group in results.tables(result["stages"]).items():
        columns = results.figures_of(group)
        rows = {name: [f"{100 * row[x]:.2f}" for x in columns] for name, row in group.items()}
        parts.append(page.table((title, *columns.values()), rows, marked=result["headline"]))
    stages = {
        name: [
            *(
                f"{100 * stage['final'][x]:.2f}" if x in stage["final"] else "–"
                for x in ("uar", "macro_f1")
            ),
            f"{stage['images_per_second']:,.0f}",
            f"{stage['data_wait']:.1%}",
        ]
        for name, stage in result["stages"].items()
    }
    return "\n".join(
        [
            *parts,
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


def _classes(result: dict[str, Any], headline: Trained, dataset: Dataset) -> str:
    rows = summary.by_class(np.array(result["confusion"]), headline.given, dataset.classes)
    columns = ("training faces", "of these, %", "test faces", "precision, %", "recall, %", "F1, %")
    return page.table(("class", *columns), rows)


def _table_of_doubts() -> str:
    text = f"{doubt.FILE}: every labelled training face in this order, with its file name, given "
    text += "label, the label's probability, the likelier label, and the score"
    return page.links({text: f"../{doubt.FILE}"})


def _use(config: ConfigDict, folder: Path, dataset: Dataset) -> str:
    workdir = str(folder.absolute())
    lines = ["import ferjax", f"model = ferjax.load({workdir!r})"]
    if dataset.validation is not None:
        lines.append(f"model = ferjax.load({workdir!r}, weights='best')  # on the validation faces")
    lines.append("model.predict(['face.png']).probabilities")
    label = f"--config=configs/annotate.py --config.trained={shlex.quote(workdir)}"
    command = f"python -m ferjax.main {label} --config.path=FACES --workdir=LABELS"
    text = f"This loads {config.headline}; stage='NAME' loads another stage. Neither training data "
    text += "nor configs are needed. The command labels a folder of faces."
    return page.paragraph(text) + page.code("\n".join(lines)) + page.code(command)


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
