"""Consensual Collaborative Training, and the distillation of its networks into one.

D. Gera and S. Balasubramanian, *Consensual Collaborative Training and Knowledge Distillation based
Facial Expression Recognition under Noisy Annotations* (2021, arXiv:2107.04746). M networks of one
architecture, each with its own initial weights, see the same augmented faces and learn from the
given label and from each other:

    L = (1 − λ)·Σ_j CE(p_j, y) + λ·Σ_j Σ_{k≠j} KL(p_k ‖ p_j)

λ rises over the epochs, so that the networks first fit the labels and then agree with each other.
They rarely agree on a wrong label, so what they agree on tends to be right.

`variant='released'` follows the authors' program where it departs from the paper's intent: λ falls
again after the ramp, both sums carry a factor 0.33, and distillation counts the hard term once for
each teacher.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray
from ml_collections import ConfigDict

from ferjax import losses
from ferjax.errors import UserError
from ferjax.methods import method, stack
from ferjax.methods.method import Info, Method, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS
from ferjax.nn.networks import Weights, network

RELEASED_FACTOR = 0.33
VARIANTS = ("paper", "released")


def make_teachers(config: ConfigDict, info: Info) -> Method:
    """Makes M networks that learn from the labels and from each other.

    `config`: `networks` M ≥ 1, `lambda_max`, `beta`, `ramp` (e_r as a fraction of the run) and
    `variant`, 'paper' or 'released'. One network with λ_max = 0 trains as `supervised` does.

    Raises:
      UserError: for fewer than one network, λ_max outside [0, 1], a ramp that is not positive or an
        unknown variant.
    """
    _check_teachers(config)
    class_loss = method.class_loss(info.label)
    released = config.variant == "released"
    factor = RELEASED_FACTOR if released else 1.0

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        logits = outputs[CLASS]
        fit = view.mean(factor * jax.vmap(class_loss, (0, None))(logits, view.target).sum(axis=0))
        consistency = view.mean(factor * losses.disagreement(logits))
        weight = consensus_weight(
            view.epoch,
            info.epochs,
            peak=config.lambda_max,
            beta=config.beta,
            ramp=config.ramp,
            falls=released,
        )
        return Loss(
            (1 - weight) * fit + weight * consistency,
            {"supervised": fit, "consistency": consistency, "lambda": weight},
        )

    kinds = {"supervised": "loss", "consistency": "loss", "lambda": "weight"}
    return stack.side_by_side(config, info, loss, networks=config.networks, metrics=kinds)


def make_student(config: ConfigDict, info: Info) -> Method:
    """Makes one network that is distilled from the stage `teachers`.

        L = ½·Σ_j CE(softmax(u_j/U), softmax(v/U)) + ½·CE(y, softmax(v))

    CE takes the target first; u_j are the teachers' logits, v the student's, y is the given label
    and U = `config.temperature`. There is no factor U². The teachers are frozen, in evaluation
    mode, and see the student's augmented batch. A face that nobody labelled has no second term but
    counts in the mean.

    Raises:
      UserError: for a temperature that is not positive or an unknown variant.
    """
    if config.temperature <= 0:
        raise UserError(f"student.temperature must be positive, not {config.temperature}")
    method.check_choice("student.variant", config.variant, VARIANTS)
    class_loss = method.class_loss(info.label)
    model = network(config.model, len(info.classes), info.image_shape)

    def start(key: PRNGKeyArray, inputs: dict[str, Any]) -> tuple[Weights, Weights]:
        teachers = inputs["teachers"].weights
        # The teachers' keys are fold_in(key, 0 … M − 1): the student needs another.
        count = len(jax.tree.leaves(teachers.params)[0])
        return model.init(jax.random.fold_in(key, count)), teachers

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        logits = outputs[CLASS]
        teacher_logits = stack.logits(model, view.frozen, view.images)
        soft = jax.nn.softmax(teacher_logits / config.temperature)
        hard_terms = len(soft) if config.variant == "released" else 1
        distilled = jax.vmap(losses.cross_entropy, (None, 0))(logits / config.temperature, soft)
        hard = hard_terms * class_loss(logits, view.target) * view.labelled
        everyone = jnp.ones_like(view.labelled)  # an unlabelled face still has teachers
        return Loss(view.mean(0.5 * distilled.sum(axis=0) + 0.5 * hard, everyone))

    return stack.one_network(config, info, loss, start=start, model=model)


def consensus_weight(
    epoch: Int[Array, ""],
    total_epochs: float,
    *,
    peak: float,
    beta: float,
    ramp: float,
    falls: bool = False,
) -> Float[Array, ""]:
    """Returns λ(e) = peak·exp(−β·(1 − e/e_r)²), held at its peak from e_r on.

    Args:
      epoch: e, the current epoch, counted from 0.
      total_epochs: length of the run.
      peak: λ_max, in [0, 1].
      beta: β; the larger, the later λ rises.
      ramp: e_r as a fraction of the run.
      falls: lets λ fall again after e_r, as the paper's printed formula does.
    """
    left = 1 - epoch.astype(jnp.float32) / (ramp * total_epochs)
    if not falls:
        left = jnp.maximum(left, 0.0)
    return peak * jnp.exp(-beta * left**2)


def _check_teachers(config: ConfigDict) -> None:
    if config.networks < 1:
        raise UserError(f"teachers.networks must be at least 1, not {config.networks}")
    if not 0 <= config.lambda_max <= 1:
        raise UserError(f"teachers.lambda_max must lie in [0, 1], not {config.lambda_max}")
    if config.ramp <= 0:
        raise UserError(f"teachers.ramp must be positive, not {config.ramp}")
    method.check_choice("teachers.variant", config.variant, VARIANTS)
