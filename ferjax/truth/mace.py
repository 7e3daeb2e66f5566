"""MACE: workers who know the label, or else draw one from their own distribution.

D. Hovy, T. Berg-Kirkpatrick, A. Vaswani and E. Hovy, *Learning whom to trust with MACE*, NAACL-HLT
2013. Worker w copies the truth of a task with probability θ_w, and otherwise gives label l with
probability ξ_w(l), whatever the truth:

    p(l | truth) = θ_w·1[l = truth] + (1 − θ_w)·ξ_w(l)

Classes are equally likely. The M-step is that of variational Bayes with priors Beta(½, ½) of θ and
Dirichlet(10) of ξ, as in section 3 there and the authors' program: counts c become
exp ψ(c + prior) / exp ψ(Σ (c + prior)), with ψ the digamma function.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32
from scipy.special import digamma

from ferjax.truth.annotations import Annotations, OptionError, read_known
from ferjax.truth.em import check_iterations
from ferjax.truth.votes import Posteriors, Votes

KNOWING, DRAWING = 0.5, 10.0
"""Parameters of the priors of θ and of ξ."""
SPREAD = 0.5
"""Starts are drawn from [1, 1 + SPREAD] and normalised."""


class Mace(NamedTuple):
    """The result of MACE; rows in the order of `Annotations.tasks`, `.workers` and `.classes`.

    Attributes:
      labels: [T] the likeliest class of each task.
      posteriors: [T, K] probability of each class.
      competences: [W] θ, the probability that the worker copies the truth.
      log_likelihood: [iterations] of all annotations, in the best of the runs.
      iterations: number done in that run.
      converged: True if the last one changed the log-likelihood by less than the tolerance.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    competences: Float64[np.ndarray, " workers"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool


class _Cells(NamedTuple):
    """The distinct pairs of a worker and a label given by it.

    Attributes:
      worker: [C] of each pair.
      cell: [N] index of each annotation's pair.
    """

    worker: np.ndarray
    cell: np.ndarray


class _Parameters(NamedTuple):
    """Probabilities of each worker; after a variational M-step they sum to less than 1.

    Attributes:
      knows: [W] θ.
      draws: [W] 1 − θ.
      strategy: [C] ξ of the labels that the worker gave; others do not matter.
    """

    knows: Float64[np.ndarray, " workers"]
    draws: Float64[np.ndarray, " workers"]
    strategy: Float64[np.ndarray, " cells"]


def mace(
    annotations: Annotations,
    *,
    restarts: int = 10,
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    seed: int = 0,
) -> Mace:
    """Infers labels and competences from several random starts; keeps the likeliest run.

    Args:
      annotations: labels with their tasks and workers.
      restarts: number of runs, each from another random start.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      max_iterations: most iterations of a run.
      tolerance: stop a run when the log-likelihood per annotation changes by less.
      seed: of the starts.

    Raises:
      OptionError: for fewer than one iteration or restart, or more than a million iterations.
      TableError: for a mistake in `gold`.
    """
    check_iterations(max_iterations)
    check_restarts(restarts)
    votes = Votes.of(annotations, read_known(gold, annotations))
    classes = len(annotations.classes)
    pairs = annotations.worker.astype(np.int64) * classes + annotations.label
    pairs, cell = np.unique(pairs, return_inverse=True)
    cells = _Cells(pairs // classes, cell)
    rng = np.random.default_rng(seed)
    runs = (
        _run(annotations, votes, cells, _start(rng, annotations, pairs), max_iterations, tolerance)
        for _ in range(restarts)
    )
    posteriors, parameters, trace, converged = max(runs, key=lambda run: run[2][-1])
    rows = votes.dense(posteriors)
    return Mace(
        labels=rows.argmax(axis=1).astype(np.int32),
        posteriors=rows,
        competences=parameters.knows / (parameters.knows + parameters.draws),
        log_likelihood=np.array(trace),
        iterations=len(trace),
        converged=converged,
    )


def check_restarts(restarts: int) -> None:
    """Raises an `OptionError` for fewer than one restart."""
    if restarts < 1:
        raise OptionError(f"restarts must be at least 1, not {restarts}")


def _start(rng: np.random.Generator, annotations: Annotations, pairs: np.ndarray) -> _Parameters:
    """Draws a start; a worker's labels share what the start gives to all classes alike."""
    workers, classes = len(annotations.workers), len(annotations.classes)
    draws, knows = rng.uniform(1, 1 + SPREAD, (2, workers))
    strategy = rng.uniform(1, 1 + SPREAD, len(pairs)) / (classes * (1 + SPREAD / 2))
    return _Parameters(knows / (knows + draws), draws / (knows + draws), strategy)


def _run(
    annotations: Annotations,
    votes: Votes,
    cells: _Cells,
    parameters: _Parameters,
    max_iterations: int,
    tolerance: float,
) -> tuple[Posteriors, _Parameters, list[float], bool]:
    """Runs EM from one start.

    Returns:
      Posteriors, parameters, the log-likelihood of each iteration, and whether it converged.
    """
    least_change = tolerance * len(annotations.task)
    _, known = _expect(annotations, votes, cells, parameters)
    trace: list[float] = []
    converged = False
    while len(trace) < max_iterations and not converged:
        parameters = _maximise(annotations, cells, known)
        posteriors, known = _expect(annotations, votes, cells, parameters)
        trace.append(_log_likelihood(annotations, cells, parameters, posteriors))
        converged = len(trace) > 1 and abs(trace[-1] - trace[-2]) < least_change
    return posteriors, parameters, trace, converged


def _expect(
    annotations: Annotations, votes: Votes, cells: _Cells, parameters: _Parameters
) -> tuple[Posteriors, Float64[np.ndarray, " annotations"]]:
    """Returns the posteriors, and the probability that each label was copied, not drawn."""
    drawn = (parameters.draws[cells.worker] * parameters.strategy)[cells.cell]
    knows = parameters.knows[annotations.worker]
    posteriors = votes.posteriors(votes.totals(np.log1p(knows / drawn)))
    return posteriors, posteriors.seen[votes.pair] * knows / (knows + drawn)


def _log_likelihood(
    annotations: Annotations, cells: _Cells, parameters: _Parameters, posteriors: Posteriors
) -> float:
    tasks, _, classes = annotations.sizes
    drawn = (parameters.draws[cells.worker] * parameters.strategy)[cells.cell]
    likelihood = np.log(drawn).sum() + posteriors.log_evidence.sum()
    return float(likelihood - tasks * np.log(classes))


def _maximise(
    annotations: Annotations, cells: _Cells, known: Float64[np.ndarray, " annotations"]
) -> _Parameters:
    """The variational M-step."""
    _, workers, classes = annotations.sizes
    right = np.bincount(annotations.worker, known, workers)
    drawn = np.bincount(cells.cell, 1 - known)
    drawn_by_worker = np.bincount(cells.worker, drawn, workers)
    total = digamma(right + drawn_by_worker + 2 * KNOWING)
    total_drawn = digamma(drawn_by_worker + classes * DRAWING)[cells.worker]
    return _Parameters(
        knows=np.exp(digamma(right + KNOWING) - total),
        draws=np.exp(digamma(drawn_by_worker + KNOWING) - total),
        strategy=np.exp(digamma(drawn + DRAWING) - total_drawn),
    )
