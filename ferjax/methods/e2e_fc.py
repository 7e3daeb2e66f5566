"""E2E-FC: an unconstrained linear layer for each coder on top of the network's probabilities.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018, compare LTNet with it. Coder c's annotation has the probabilities
softmax(pᵀW^c + b^c). Nothing ties the positions of p to classes, so the classes that p predicts may
be permuted.
"""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ferjax.methods import coders
from ferjax.methods.method import Info, Method, Prediction
from ferjax.nn.networks import Network
from ferjax.optimizers import optimizer


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the network and a layer for each coder: W drawn by Glorot and Bengio's rule, b = 0.

    Raises:
      UserError: see `coders.make`.
    """
    shape = (len(info.coders), len(info.classes), len(info.classes))

    def init(key: jax.Array, inputs: dict[str, Any]) -> dict[str, jax.Array]:
        draw = jax.nn.initializers.glorot_uniform(batch_axis=0)
        return {"kernel": draw(key, shape), "bias": jnp.zeros(shape[:2])}

    def costs(params: dict, logits: jax.Array, annotations: jax.Array) -> jax.Array:
        return coders.cost_of_annotations(_log_probs(params, jax.nn.softmax(logits)), annotations)

    transform = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    return coders.make(
        config,
        info,
        _layer(info.coders),
        init=init,
        costs=costs,
        network_optimizer=transform,
        layer_optimizer=transform,
    )


def prediction(config: ConfigDict, model: Network, names: tuple[str, ...]) -> Prediction:
    """Returns the prediction of the model, see `coders.prediction`."""
    return coders.prediction(config, model, _layer(names))


def _layer(names: tuple[str, ...]) -> coders.Layer:
    return coders.Layer("layers", names, lambda params, probs: jnp.exp(_log_probs(params, probs)))


def _log_probs(params: dict, probs: jax.Array) -> jax.Array:
    product = jnp.einsum("bi,cij->bcj", probs, params["kernel"], precision="highest")
    return jax.nn.log_softmax(product + params["bias"][None])
