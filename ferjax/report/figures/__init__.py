"""The figures of a report: each function takes numbers and returns a matplotlib `Figure`.

They use only matplotlib's object interface, which needs no display.
"""

from ferjax.report.figures.charts import histogram, scatter, stacked_shares
from ferjax.report.figures.faces import Face, face_sheet
from ferjax.report.figures.lines import (
    EPOCHS,
    Curve,
    evaluation_curves,
    learning_curves,
    spread,
    swept_accuracy,
    weight_curves,
)
from ferjax.report.figures.matrices import (
    confusion_grid,
    confusion_matrix,
    row_shares,
    share_matrix,
)
from ferjax.report.figures.style import RIGHT, STAGE_COLOURS, STYLE, UNKNOWN, WRONG
from ferjax.report.figures.text import fit

__all__ = [
    "EPOCHS",
    "RIGHT",
    "STAGE_COLOURS",
    "STYLE",
    "UNKNOWN",
    "WRONG",
    "Curve",
    "Face",
    "confusion_grid",
    "confusion_matrix",
    "evaluation_curves",
    "face_sheet",
    "fit",
    "histogram",
    "learning_curves",
    "row_shares",
    "scatter",
    "share_matrix",
    "spread",
    "stacked_shares",
    "swept_accuracy",
    "weight_curves",
]
