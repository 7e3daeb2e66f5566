"""Spammers: workers whose labels do not depend on the truth.

V. C. Raykar and S. Yu, *Eliminating spammers and ranking annotators for crowdsourced labeling
tasks*, JMLR 13 (2012), section 3. With a_c the distribution of a worker's labels where the truth is
c, a row of its confusion matrix, a spammer's rows are equal, and the score is

    S = 1/(K(K − 1)) · Σ_{c<c'} ‖a_c − a_c'‖²

For a worker with n labels, shares in place of a_c would add about (K − 1)/n to it, more than many
an honest worker has. So here ‖a_c‖² is estimated without bias, by the share of equal labels in the
pairs of labels given where the truth is c; products of different rows have no bias. Classes that a
worker met less than twice are left out, and K counts the others.
"""

import numpy as np
from jaxtyping import Bool, Float64, Int32

from ferjax.truth.annotations import Annotations

NEAR_ZERO = 0.1
"""Scores below are near 0. A worker of two classes has .1 with 66 % right, of four with 49 %."""
LEAST_LABELS = 10
"""Workers with fewer labels are not called spammers."""


def spam_scores(
    annotations: Annotations, labels: Int32[np.ndarray, " tasks"]
) -> Float64[np.ndarray, " workers"]:
    """Returns each worker's score: 0 for a spammer, 1 where the labels tell the truth for certain.

    By chance it may be a little below 0. nan for a worker who met fewer than two classes twice. It
    is for finding spammers: workers who are always wrong score high too, and the estimated accuracy
    ranks workers better.

    Args:
      annotations: labels with their tasks and workers.
      labels: the class of each task, such as an algorithm infers.
    """
    _, workers, classes = annotations.sizes
    truth = labels[annotations.task]
    worker_truth = annotations.worker.astype(np.int64) * classes + truth
    cells, counts = np.unique(worker_truth * classes + annotations.label, return_counts=True)
    rows, row = np.unique(cells // classes, return_inverse=True)
    sizes = np.bincount(row, counts)
    twice = sizes[row] > 1
    cells, counts, row = cells[twice], counts[twice], row[twice]
    shares = counts / sizes[row]
    worker, label = rows[row] // classes, cells % classes
    met = np.bincount(rows[sizes > 1] // classes, minlength=workers)
    squares = np.bincount(worker, shares * (counts - 1) / (sizes[row] - 1), workers)
    pairs, pair = np.unique(worker * classes + label, return_inverse=True)
    columns = np.bincount(pair, shares)
    products = np.bincount(pairs // classes, columns**2, workers)  # of all rows with all
    products -= np.bincount(worker, shares**2, workers)  # of each with itself
    several = met > 1
    distances = (met - 1) * squares - products
    return np.divide(distances, met * (met - 1), out=np.full(workers, np.nan), where=several)


def spammers(
    annotations: Annotations, labels: Int32[np.ndarray, " tasks"]
) -> Bool[np.ndarray, " workers"]:
    """Returns True for each worker of at least `LEAST_LABELS` labels whose score is near 0."""
    scores = spam_scores(annotations, labels)
    return (scores < NEAR_ZERO) & (np.bincount(annotations.worker) >= LEAST_LABELS)
