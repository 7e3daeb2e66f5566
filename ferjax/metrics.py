"""Measures of classification, from exact counts, and of valence and arousal."""

import numpy as np
from jaxtyping import Bool, Float, Int


def confusion_matrix(
    truth: Int[np.ndarray, " faces"], predicted: Int[np.ndarray, " faces"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Counts faces by (truth, prediction); faces of unknown truth (-1) are left out."""
    known = truth >= 0
    flat = truth[known] * classes + predicted[known]
    return np.bincount(flat, minlength=classes**2).reshape(classes, classes)


def accuracy(
    predicted: Int[np.ndarray, " faces"], right: Bool[np.ndarray, "faces classes"]
) -> float:
    """Returns the share of right predictions; faces with no right class are left out.

    Args:
      predicted: predicted class of each face.
      right: which classes count as right for each face.
    """
    known = right.any(axis=1)
    hits = right[np.arange(len(predicted)), predicted]
    return float(hits[known].mean()) if known.any() else 0.0


def recall(confusion: Int[np.ndarray, "classes classes"]) -> Float[np.ndarray, " classes"]:
    """Returns the recall of each class in [0, 1]; nan for a class without faces."""
    counts = confusion.sum(axis=1)
    return np.where(counts > 0, np.diag(confusion) / np.maximum(counts, 1), np.nan)


def uar(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Returns the unweighted average recall over the classes that occur, in [0, 1]."""
    return float(np.nanmean(recall(confusion))) if confusion.any() else 0.0


def macro_f1(confusion: Int[np.ndarray, "classes classes"]) -> float:
    """Returns the mean F1 over the classes that occur as truth or prediction, in [0, 1]."""
    hits = np.diag(confusion)
    seen = confusion.sum(axis=0) + confusion.sum(axis=1)
    f1 = 2 * hits[seen > 0] / seen[seen > 0]
    return float(f1.mean()) if f1.size else 0.0


def affect(
    predicted: Float[np.ndarray, "faces 2"], truth: Float[np.ndarray, "faces 2"]
) -> dict[str, float]:
    """Compares predicted valence and arousal with the truth; faces without it (nan) are left out.

    Returns:
      `ccc`, the mean of `ccc_valence` and `ccc_arousal`, Lin's concordance correlation in [-1, 1];
      `mse` and `rmse`, over both; `sign_agreement`, the share of values with the right sign. Zeros
      if no truth is known.
    """
    known = np.isfinite(truth).all(axis=1)
    predicted, truth = predicted[known].astype(np.float64), truth[known].astype(np.float64)
    if not len(truth):
        names = ("ccc", "ccc_valence", "ccc_arousal", "mse", "rmse", "sign_agreement")
        return dict.fromkeys(names, 0.0)
    ccc = concordance(predicted, truth)
    mse = float(np.mean((predicted - truth) ** 2))
    return {
        "ccc": float(ccc.mean()),
        "ccc_valence": float(ccc[0]),
        "ccc_arousal": float(ccc[1]),
        "mse": mse,
        "rmse": mse**0.5,
        "sign_agreement": float(np.mean(np.sign(predicted) == np.sign(truth))),
    }


def concordance(
    predicted: Float[np.ndarray, "faces values"], truth: Float[np.ndarray, "faces values"]
) -> Float[np.ndarray, " values"]:
    """Returns Lin's concordance correlation coefficient of each column; 0 where nothing varies."""
    covariance = np.mean((predicted - predicted.mean(0)) * (truth - truth.mean(0)), axis=0)
    apart = predicted.var(0) + truth.var(0) + (predicted.mean(0) - truth.mean(0)) ** 2
    return np.divide(2 * covariance, apart, out=np.zeros_like(apart), where=apart > 0)
