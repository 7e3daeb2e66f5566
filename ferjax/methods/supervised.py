"""One network trained on one target per face: the baseline that every method is compared with.

A class head learns by cross-entropy on the given label; a head of valence and arousal by 1 − CCC
over the global batch, or by the mean squared error. With both heads the losses are added.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ferjax import losses, parallel
from ferjax.errors import UserError
from ferjax.methods import method, stack
from ferjax.methods.method import Info, Method, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS, VA

VA_LOSSES = ("ccc", "mse")


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the method.

    `config`: `va_loss`, 'ccc' or 'mse', and `va_weight`, its factor, for a network with a head of
    valence and arousal.

    Raises:
      UserError: for an unknown `va_loss`, or a head of valence and arousal where no training face
        has them.
    """
    class_loss = method.class_loss(info.label)
    learns_va = VA in config.model.heads
    if learns_va:
        method.check_choice("va_loss", config.va_loss, VA_LOSSES)
        if "va_target" not in info.labels:
            raise UserError("model.heads: no training face has valence and arousal to learn from")

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        value, terms = jnp.zeros(()), {}
        if CLASS in outputs:
            value += view.mean(class_loss(outputs[CLASS], view.target))
        if learns_va:
            terms["va_loss"] = _va_loss(config.va_loss, outputs[VA], view)
            value += config.va_weight * terms["va_loss"]
        return Loss(value, terms)

    return stack.one_network(config, info, loss, metrics={"va_loss": "loss"} if learns_va else None)


def _va_loss(kind: str, predicted: Float[Array, "batch 2"], view: View) -> Float[Array, ""]:
    """Returns this device's share of the loss over the faces with known valence and arousal."""
    target = view.batch["va_target"].astype(predicted.dtype)
    known = jnp.isfinite(target).all(axis=1)
    target = jnp.where(known[:, None], target, 0.0)
    weights = known.astype(predicted.dtype)
    if kind == "mse":
        return view.mean(jnp.mean((predicted - target) ** 2, axis=1), weights)
    ccc = losses.concordance(predicted, target, weights, view.axis_name)
    return parallel.share(1 - jnp.mean(ccc), view.axis_name)
