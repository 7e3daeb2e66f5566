"""A free linear layer a coder on top of the network's probabilities, which LTNet is compared with.

Called E2E-FC in J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently
Annotated Datasets*, ECCV 2018: what coder c says is softmax(pᵀW^c + b^c). Nothing ties the places
of p to classes, so prediction by p may come out permuted.
"""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from ferjax.methods import coders
from ferjax.methods.method import Info, Method
from ferjax.optimizers import optimizer


def make(config: ConfigDict, info: Info) -> Method:
    """The network and its coders' layers, W drawn as Glorot and Bengio have it, b = 0.

    Raises:
      UserError: see `coders.make`.
    """
    shape = (len(info.coders), len(info.classes), len(info.classes))

    def init(key: jax.Array) -> dict[str, jax.Array]:
        draw = jax.nn.initializers.glorot_uniform(batch_axis=0)
        return {"kernel": draw(key, shape), "bias": jnp.zeros(shape[:2])}

    def log_said(params: dict, probs: jax.Array) -> jax.Array:
        product = jnp.einsum("bi,cij->bcj", probs, params["kernel"], precision="highest")
        return jax.nn.log_softmax(product + params["bias"][None])

    def losses(params: dict, logits: jax.Array, annotations: jax.Array) -> jax.Array:
        return coders.cost_of_annotations(log_said(params, jax.nn.softmax(logits)), annotations)

    layer = coders.Layer(
        "layers",
        info.coders,
        init,
        losses,
        said=lambda params, probs: jnp.exp(log_said(params, probs)),
    )
    transform = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    return coders.make(config, info, layer, transform, transform)
