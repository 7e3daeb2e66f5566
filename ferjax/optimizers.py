"""Optimisers and learning-rate schedules, from a config to optax."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ferjax.errors import UserError

CLASSIFIER = "classifier"
"""Top-level parameter name of every network's last layer, which may learn at its own rate."""

Schedule = Callable[[jax.Array], jax.Array]


def optimizer(
    config: ConfigDict, steps_per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    """An optimiser for one network's or a stack's parameters (it works value by value).

    Args:
      config: `name` ('adam', 'adamax' or 'sgd': Nesterov, momentum 0.9), `learning_rate` of the
        backbone, `classifier_rate` of the last layer, `weight_decay` (L2, added to the gradient),
        and a schedule: `epoch_decay`, a factor after every epoch, and `milestones`, fractions of
        the run at each of which the rate is multiplied by `milestone_decay`.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.

    Raises:
      UserError: for an unknown name.
    """
    rules = {"adam": optax.adam, "adamax": optax.adamax, "sgd": _nesterov}
    if config.name not in rules:
        raise UserError(f"optimizer.name {config.name!r} is none of {', '.join(rules)}")

    def rule(rate: float) -> optax.GradientTransformation:
        schedule = learning_rate(config, rate, steps_per_epoch, total_steps)
        decay = optax.add_decayed_weights(config.weight_decay) if config.weight_decay else None
        steps = (decay, rules[config.name](schedule))
        return optax.chain(*(step for step in steps if step is not None))

    transform = optax.partition(
        {"backbone": rule(config.learning_rate), CLASSIFIER: rule(config.classifier_rate)},
        lambda params: {name: CLASSIFIER if name == CLASSIFIER else "backbone" for name in params},
    )

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises decay rates to the integer step, which strict dtype promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(gradient, state, params)

    return optax.GradientTransformation(transform.init, update)


def learning_rate(
    config: ConfigDict, rate: float, steps_per_epoch: int, total_steps: int
) -> Schedule:
    """Staircase schedule: ×`epoch_decay` after every epoch, ×`milestone_decay` at milestones."""
    milestones = [round(fraction * total_steps) for fraction in config.milestones]

    def schedule(step: jax.Array) -> jax.Array:
        epochs = (step // steps_per_epoch).astype(jnp.float32)
        passed = jnp.sum(step >= jnp.array(milestones, jnp.int32)).astype(jnp.float32)
        return rate * config.epoch_decay**epochs * config.milestone_decay**passed

    return schedule


def _nesterov(schedule: Schedule) -> optax.GradientTransformation:
    return optax.sgd(schedule, momentum=0.9, nesterov=True)
