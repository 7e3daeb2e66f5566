"""Plain cross-entropy on one label a face: the baseline that every method is compared with."""

import jax
from ml_collections import ConfigDict

from ferjax import parallel
from ferjax.methods import method
from ferjax.methods.method import Batch, Info, Method, Metrics, State
from ferjax.optimizers import optimizer


def make(config: ConfigDict, info: Info) -> Method:
    """One network, cross-entropy against `info.label`."""
    transform = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    loss_of = method.supervised_loss(info)

    def init(key: jax.Array, inputs: dict[str, State]) -> State:
        params, batch_stats = method.init_network(config, info, jax.random.fold_in(key, 0))
        return method.start_state(params, batch_stats, transform.init(params))

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        images = method.augmented(config, state, batch)
        target, labelled = method.targets(config, info, state, batch)

        def share_of_loss(logits: jax.Array) -> jax.Array:
            return parallel.mean_over_faces(loss_of(logits, target), labelled, axis_name)[0]

        return method.single_step(
            config, info, transform, state, images, target, labelled, share_of_loss, axis_name
        )

    predict = method.predict_single(config, info)
    rows = method.epoch_rows(config, info)
    return Method(init, train_step, (("network", "class"),), predict, rows)
