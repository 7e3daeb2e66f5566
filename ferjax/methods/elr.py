"""Early-Learning Regularisation: a running target for each face that keeps early predictions.

S. Liu, J. Niles-Weed, N. Razavian and C. Fernandez-Granda, *Early-Learning Regularization Prevents
Memorization of Noisy Labels*, NeurIPS 2020. A network learns from right labels before it learns
wrong ones by heart. Each face i has a running mean t_i of the network's probabilities p_i, and

    L = CE(p, y) + λ·mean_i log(1 − ⟨p_i, t_i⟩)        (Eq. 6)
    t_i ← β·t_i + (1 − β)·p_i                            (Eq. 9)

The second term pulls p towards t, and so away from labels that contradict t.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ferjax.errors import UserError
from ferjax.methods import method, stack
from ferjax.methods.method import Info, Method, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS

LEAST = 1e-4
"""Probabilities are kept this far from 0 and 1, so that the logarithm is finite."""


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the network and the running targets of its faces, `State.faces['target']`.

    `config`: `momentum` β in [0, 1) and `regularisation` λ ≥ 0.

    Raises:
      UserError: for β or λ out of range.
    """
    if not 0 <= config.momentum < 1:
        raise UserError(f"elr.momentum must lie in [0, 1), not {config.momentum}")
    if config.regularisation < 0:
        raise UserError(f"elr.regularisation must not be negative, not {config.regularisation}")
    class_loss = method.class_loss(info.label)

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        logits = outputs[CLASS]
        probs = jnp.clip(jax.nn.softmax(logits), LEAST, 1 - LEAST)
        target = updated(view.faces["target"][view.batch["index"]], probs, config.momentum)
        pull = jnp.log(1 - jnp.sum(target * probs, axis=1))
        fit, pull = view.mean(class_loss(logits, view.target)), view.mean(pull)
        terms = {"supervised": fit, "regulariser": pull}
        return Loss(fit + config.regularisation * pull, terms, {"target": target})

    start = np.zeros((info.faces, len(info.classes)), np.float32)
    kinds = {"supervised": "loss", "regulariser": "loss"}
    return stack.one_network(config, info, loss, metrics=kinds, faces={"target": start})


def updated(
    target: Float[Array, "batch classes"], probs: Float[Array, "batch classes"], momentum: float
) -> Float[Array, "batch classes"]:
    """Moves targets towards the network's probabilities (Eq. 9), without passing gradients on."""
    probs = jax.lax.stop_gradient(probs)
    return momentum * target + (1 - momentum) * probs / jnp.sum(probs, axis=1, keepdims=True)
