"""Joint optimisation of the network and of the labels, which become its own past predictions.

D. Tanaka, D. Ikami, T. Yamasaki and K. Aizawa, *Joint Optimization Framework for Learning with
Noisy Labels*, CVPR 2018; the first of its two steps, with soft labels. With y_i the label of face i
and s_i the network's probabilities,

    L = L_c + α·L_p + β·L_e                                  (Eq. 3)
    L_c = mean_i KL(y_i ‖ s_i)                                (Eq. 4, 5)
    y_i ← s_i, averaged over the last epochs                  (Eq. 7)
    L_p = Σ_k prior_k·log(prior_k / mean_i s_ik)              (Eq. 8)
    L_e = −mean_i Σ_k s_ik·log s_ik                           (Eq. 10)

L_p keeps the network from giving all faces the same class; L_e makes its predictions sharp.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import xlogy
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ferjax import losses, parallel
from ferjax.errors import UserError
from ferjax.methods import stack
from ferjax.methods.method import Info, Method, State, Sweep, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS

LEAST = 1e-8
"""Mean probabilities are at least this, so that the logarithm is finite."""


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the network and the labels of its faces, `State.faces['target']`.

    `config`: `alpha` α ≥ 0, `beta` β ≥ 0, `start_epoch` ≥ 1, the first epoch (counted from 1) after
    which labels are rewritten, and `average` ≥ 1, the number of last epochs whose probabilities are
    averaged.

    Raises:
      UserError: for a field out of range.
    """
    for field, least in {"alpha": 0, "beta": 0, "start_epoch": 1, "average": 1}.items():
        if config[field] < least:
            raise UserError(f"tanaka.{field} must be at least {least}, not {config[field]}")

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        logits = outputs[CLASS]
        target = view.faces["target"][view.batch["index"]]
        known = jnp.any(target > 0, axis=1).astype(logits.dtype)
        fit = view.mean(divergence(logits, target), known)
        mean = parallel.sum(view.mean(jax.nn.softmax(logits).T, known), view.axis_name)
        prior = parallel.share(prior_loss(mean), view.axis_name)
        entropy = view.mean(losses.cross_entropy(logits, jax.nn.softmax(logits)), known)
        value = fit + config.alpha * prior + config.beta * entropy  # Eq. 3
        return Loss(value, {"fit": fit, "prior": prior, "entropy": entropy})

    def end_epoch(state: State, sweep: Sweep) -> tuple[State, dict[str, float]]:
        epoch, faces = int(state.epoch), parallel.to_host(state.faces)
        faces["past"][:, epoch % config.average] = sweep("train")[CLASS]
        before = faces["target"]
        if epoch + 1 >= config.start_epoch:
            faces["target"] = faces["past"][:, : epoch + 1].mean(axis=1)  # Eq. 7
        changed = np.mean(before.argmax(axis=1) != faces["target"].argmax(axis=1))
        return state.replace(faces=faces), {"changed": float(changed)}

    given = info.labels["target"][: info.faces]
    start = given / np.maximum(given.sum(axis=1, keepdims=True), 1)  # of 'multi_target', too
    past = np.zeros((info.faces, config.average, len(info.classes)), np.float32)
    kinds = dict.fromkeys(("fit", "prior", "entropy"), "loss")
    arrays = {"target": start, "past": past}
    made = stack.one_network(config, info, loss, metrics=kinds, faces=arrays)
    return made._replace(end_epoch=end_epoch)


def divergence(
    logits: Float[Array, "batch classes"], target: Float[Array, "batch classes"]
) -> Float[Array, " batch"]:
    """Returns KL(y ‖ s) of each face (Eq. 5)."""
    return losses.cross_entropy(logits, target) + jnp.sum(xlogy(target, target), axis=1)


def prior_loss(mean: Float[Array, " classes"]) -> Float[Array, ""]:
    """Returns KL(prior ‖ mean) for mean probabilities and a uniform prior (Eq. 8)."""
    return -jnp.mean(jnp.log(len(mean) * jnp.maximum(mean, LEAST)))
