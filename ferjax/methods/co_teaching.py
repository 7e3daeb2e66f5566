"""Co-teaching: two networks, each of which picks the faces that the other one learns from.

B. Han, Q. Yao, X. Yu, G. Niu, M. Xu, W. Hu, I. Tsang and M. Sugiyama, *Co-teaching: Robust Training
of Deep Neural Networks with Extremely Noisy Labels*, NeurIPS 2018, Algorithm 1. Networks fit clean
labels first, so a label with a small loss is probably right. In each batch, each network picks the
share R(T) of the faces on which its own loss is smallest, and the other network learns from those.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import ConfigDict

from ferjax import parallel
from ferjax.errors import UserError
from ferjax.methods import method, stack
from ferjax.methods.method import Info, Method, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the pair of networks.

    `config`: `forget_rate` τ, the estimated share of wrong labels; `ramp_epochs` T_k, the epochs
    over which the share of faces left out rises to τ; `exponent` c of that rise; `networks`, which
    must be 2.

    Raises:
      UserError: for τ outside [0, 1), a ramp or exponent that is not positive, or a number of
        networks other than 2.
    """
    if not 0 <= config.forget_rate < 1:
        raise UserError(f"co_teaching.forget_rate must lie in [0, 1), not {config.forget_rate}")
    if config.ramp_epochs <= 0 or config.exponent <= 0:
        raise UserError("co_teaching.ramp_epochs and co_teaching.exponent must be positive")
    if config.networks != 2:
        raise UserError(f"co_teaching.networks must be 2, not {config.networks}")
    class_loss = method.class_loss(info.label)

    def loss(outputs: dict[str, Array], view: View) -> Loss:
        costs = jax.vmap(class_loss, (0, None))(outputs[CLASS], view.target)
        risen = (view.epoch.astype(jnp.float32) / config.ramp_epochs) ** config.exponent
        kept = 1 - config.forget_rate * jnp.minimum(risen, 1.0)
        easiest = jax.vmap(lambda cost: smallest(cost, kept, view))(jax.lax.stop_gradient(costs))
        value = jax.vmap(view.mean)(costs, easiest[::-1].astype(jnp.float32)).sum()
        return Loss(value, {"kept": kept})

    return stack.side_by_side(config, info, loss, networks=2, metrics={"kept": "weight"})


def smallest(
    costs: Float[Array, " batch"], share: Float[Array, ""], view: View
) -> Bool[Array, " batch"]:
    """Selects the `share` of the global batch's labelled faces that cost least, at least one."""
    costs = jnp.where(view.labelled > 0, costs, jnp.inf)
    ascending = jnp.sort(parallel.gather(costs, view.axis_name))
    labelled = jnp.isfinite(ascending).sum().astype(jnp.float32)
    count = jnp.floor(share * labelled + 1e-4).astype(jnp.int32)  # rounding must not lose a face
    return jnp.isfinite(costs) & (costs <= ascending[jnp.maximum(count - 1, 0)])
