"""The one-coin model: EM with one accuracy for each worker, for workers with few labels.

Y. Zhang, X. Chen, D. Zhou and M. I. Jordan, *Spectral methods meet EM*, JMLR 17 (2016), section 2:
a worker gives the true label with probability p_w, else one of the others, all equally likely.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float32, Float64, Int32

from ferjax.truth import em
from ferjax.truth.annotations import Annotations, read_known


class OneCoin(NamedTuple):
    """The result of the one-coin model; other fields are those of `em.Inferred`.

    Attributes:
      accuracies: [W] p_w.
    """

    labels: Int32[np.ndarray, " tasks"]
    posteriors: Float32[np.ndarray, "tasks classes"]
    accuracies: Float64[np.ndarray, " workers"]
    prior: Float64[np.ndarray, " classes"]
    log_likelihood: Float64[np.ndarray, " iterations"]
    iterations: int
    converged: bool

    @property
    def confusions(self) -> Float64[np.ndarray, "workers classes classes"]:
        """[W, K, K] p_w on the diagonal and (1 − p_w)/(K − 1) elsewhere."""
        classes = len(self.prior)
        right = self.accuracies[:, None, None]
        return np.where(np.eye(classes, dtype=bool), right, (1 - right) / (classes - 1))


def one_coin(
    annotations: Annotations,
    *,
    prior: str = "none",
    diagonal: float = em.DIAGONAL,
    off_diagonal: float = em.OFF_DIAGONAL,
    class_prior: str = "estimate",
    gold: Any = None,
    max_iterations: int = 100,
    tolerance: float = 1e-5,
    mesh: Mesh | None = None,
) -> OneCoin:
    """Infers labels, accuracies and class prior by EM, starting from the shares of labels.

    Arguments and errors are those of `dawid_skene`. With `prior='diagonal'`, `diagonal` is added to
    each worker's count of right labels and (K − 1)·`off_diagonal` to that of wrong ones.
    """
    em.check_options(
        prior=prior,
        diagonal=diagonal,
        off_diagonal=off_diagonal,
        class_prior=class_prior,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    _, workers, classes = annotations.sizes
    fitted = em.infer(
        annotations,
        _maximise,
        {
            "given": np.bincount(annotations.worker, minlength=workers).astype(np.float64),
            "pseudo_right": diagonal if prior == "diagonal" else 0.0,
            "pseudo_wrong": (classes - 1) * off_diagonal if prior == "diagonal" else 0.0,
            "estimate_classes": class_prior == "estimate",
        },
        cells=None,
        gold=read_known(gold, annotations),
        max_iterations=max_iterations,
        tolerance=tolerance,
        mesh=mesh,
    )
    return OneCoin(
        labels=fitted.labels,
        posteriors=fitted.posteriors,
        accuracies=fitted.parameters.workers,
        prior=np.asarray(fitted.parameters.prior),
        log_likelihood=fitted.log_likelihood,
        iterations=len(fitted.log_likelihood),
        converged=fitted.converged,
    )


def _maximise(
    right: Float64[Array, "workers 1"],
    mass: Float64[Array, " truth"],
    *,
    given: Float64[Array, " workers"],
    pseudo_right: Float64[Array, ""],
    pseudo_wrong: Float64[Array, ""],
    estimate_classes: Bool[Array, ""],
) -> em.Parameters:
    """Divides the expected number of right labels by that of all labels."""
    right = right[:, 0]
    wrong = jnp.maximum(given - right + pseudo_wrong, em.FLOOR)
    right = jnp.maximum(right + pseudo_right, em.FLOOR)
    accuracies = right / (right + wrong)
    log_right, log_wrong = jnp.log(accuracies), jnp.log(wrong / (right + wrong))
    each_wrong = log_wrong - jnp.log(len(mass) - 1.0)
    # A worker's labels add `each_wrong` to all classes but their own, hence to the evidence.
    offset = jnp.sum(given * each_wrong + pseudo_right * log_right + pseudo_wrong * log_wrong)
    logs = (log_right - each_wrong).astype(jnp.float32)[:, None]
    return em.Parameters(accuracies, logs, *em.class_prior(mass, estimate_classes), offset)
