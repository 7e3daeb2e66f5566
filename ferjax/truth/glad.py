"""GLAD: the ability of each worker and the difficulty of each task.

J. Whitehill, P. Ruvolo, T. Wu, J. Bergsma and J. Movellan, *Whose vote should count more: optimal
integration of labels from labelers of unknown expertise*, NIPS 2009. Worker w gives the true label
to task t with probability σ(α_w·β_t), (1) there, and each of the other K − 1 labels equally often.
Classes are equally likely, and the priors of α and log β are normal, of mean and deviation 1, as in
the authors' program.

The paper alternates posteriors and ascent of the expected log-likelihood, whose gradient is that of
the marginal likelihood. So L-BFGS climbs the latter directly, with fresh posteriors at every step,
to the same stationary points:

    ∂/∂x = p(t = label) − σ(x)  for each label, with x = α_w·β_t
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int32
from scipy.optimize import minimize
from scipy.special import expit

from ferjax.truth.annotations import Annotations, read_known
from ferjax.truth.em import check_iterations
from ferjax.truth.votes import Posteriors, Votes

MAXED = 1
"""Status of L-BFGS where the limit on iterations ended it."""

Vector = Float64[np.ndarray, " parameters"]


class Glad(NamedTuple):
    """The result of GLAD; rows in the order of `Annotations.tasks`, `.workers` and `.classes`.

    Attributes:
      labels: [T] the likeliest class of each task.
      posteriors: [T, K] probability of each class.
      abilities: [W] α; 0 is chance, and negative is worse than chance.
      easiness: [T] β > 0: 1 over the difficulty.
      log_likelihood: [iterations] of all annotations plus the log-density of the priors, up to a
        constant; it never falls.
      iterations: number done.
      converged: True if the last one changed the log-likelihood by less than the tolerance.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    abilities: Float64[np.ndarray, " workers"]
    easiness: Float64[np.ndarray, " tasks"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool


def glad(
    annotations: Annotations,
    *,
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
) -> Glad:
    """Infers labels, abilities and difficulties, starting from α = log β = 1.

    Args:
      annotations: labels with their tasks and workers.
      gold: known truths, see `annotations.read_known`; these tasks keep them.
      max_iterations: most steps of L-BFGS.
      tolerance: stop when the log-likelihood per annotation changes by less.

    Raises:
      OptionError: for fewer than one iteration, or more than a million.
      TableError: for a mistake in `gold`.
    """
    check_iterations(max_iterations)
    tasks, workers, _ = annotations.sizes
    votes = Votes.of(annotations, read_known(gold, annotations))
    count = len(annotations.task)
    trace: list[float] = []

    def loss(parameters: Vector) -> tuple[float, Vector]:
        value, gradient, _ = _ascent(annotations, votes, parameters)
        return -value / count, -gradient / count

    def watch(intermediate_result: Any) -> None:
        trace.append(-count * float(intermediate_result.fun))
        if len(trace) > 1 and abs(trace[-1] - trace[-2]) < tolerance * count:
            raise StopIteration

    options = {"maxiter": max_iterations, "maxfun": 10**9, "ftol": 0, "gtol": 0}
    optimum = minimize(
        loss, np.ones(workers + tasks), jac=True, method="L-BFGS-B", callback=watch, options=options
    )
    _, _, posteriors = _ascent(annotations, votes, optimum.x)
    rows = votes.dense(posteriors)
    return Glad(
        labels=rows.argmax(axis=1).astype(np.int32),
        posteriors=rows,
        abilities=optimum.x[:workers],
        easiness=np.exp(optimum.x[workers:]),
        log_likelihood=np.array(trace),
        iterations=len(trace),
        converged=optimum.status != MAXED,
    )


def _ascent(
    annotations: Annotations, votes: Votes, parameters: Vector
) -> tuple[float, Vector, Posteriors]:
    """Returns the penalised log-likelihood, its gradient and the posteriors.

    Args:
      annotations: labels with their tasks and workers.
      votes: of the annotations.
      parameters: α of all workers, then log β of all tasks.
    """
    tasks, workers, classes = annotations.sizes
    ability, ease = parameters[annotations.worker], np.exp(parameters[workers:])[annotations.task]
    x = ability * ease
    right = expit(x)
    wrong = -np.logaddexp(0, x) - np.log(classes - 1)  # log p(label | another class is true)
    posteriors = votes.posteriors(votes.totals(x + np.log(classes - 1)))  # log σ(x) − wrong
    likelihood = wrong.sum() + posteriors.log_evidence.sum() - tasks * np.log(classes)
    slope = posteriors.seen[votes.pair] - right
    gradient = np.concatenate(
        [
            np.bincount(annotations.worker, slope * ease, workers),
            np.bincount(annotations.task, slope * x, tasks),
        ]
    )
    distance = parameters - 1
    return float(likelihood - distance @ distance / 2), gradient - distance, posteriors
