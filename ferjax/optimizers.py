"""Optimisers and learning-rate schedules, from a config to optax."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ferjax.errors import UserError

CLASSIFIER = "classifier"
"""Top-level parameter name of every network's last layer, which may learn at its own rate."""

NORM = "norm"
"""Name of every batch normalisation's parameters."""

RULES = {
    "adam": optax.adam,
    "adamax": optax.adamax,
    "momentum": partial(optax.sgd, momentum=0.9),
    "sgd": partial(optax.sgd, momentum=0.9, nesterov=True),
}
"""Optimisers of a learning-rate schedule, by the name that a config gives them."""

Schedule = Callable[[jax.Array], jax.Array]


def optimizer(
    config: ConfigDict, steps_per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    """An optimiser for one network's or a stack's parameters (it works value by value).

    Args:
      config: `name` ('adam', 'adamax', or SGD with momentum 0.9: 'momentum', and 'sgd' for
        Nesterov's), `learning_rate` of the backbone, `classifier_rate` of the last layer; L2 decay,
        added to the gradient: `weight_decay`, but `norm_decay` for the scales and shifts of batch
        normalisation and `bias_decay` for biases; and a schedule, see `learning_rate`.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.

    Raises:
      UserError: for an unknown name, or a rate or milestone that is none.
    """
    if config.name not in RULES:
        raise UserError(f"optimizer.name {config.name!r} is none of {', '.join(RULES)}")
    for field in ("learning_rate", "classifier_rate"):
        if not config[field] >= 0:
            raise UserError(f"optimizer.{field} must be at least 0, not {config[field]}")
    if not all(isinstance(x, float | int) and 0 <= x <= 1 for x in config.milestones):
        raise UserError(f"optimizer.milestones must lie in [0, 1], not {config.milestones}")

    def rule(rate: float) -> optax.GradientTransformation:
        schedule = learning_rate(config, rate, steps_per_epoch, total_steps)
        return optax.chain(_decay(config), RULES[config.name](schedule))

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
    """`rate` times factors that change with the step.

    They are `epoch_decay` after every epoch; `milestone_decay` after each of `milestones`,
    fractions of the run; and (1 − step/total)^`power`.
    """
    milestones = [round(fraction * total_steps) for fraction in config.milestones]

    def schedule(step: jax.Array) -> jax.Array:
        epochs = (step // steps_per_epoch).astype(jnp.float32)
        passed = jnp.sum(step >= jnp.array(milestones, jnp.int32)).astype(jnp.float32)
        left = 1 - step.astype(jnp.float32) / total_steps
        stairs = config.epoch_decay**epochs * config.milestone_decay**passed
        return rate * stairs * jnp.maximum(left, 0) ** config.power

    return schedule


def _decay(config: ConfigDict) -> optax.GradientTransformation:
    """Adds to each gradient its parameter times the decay of its kind."""

    def decay_of(path: tuple[Any, ...]) -> float:
        module, name = ("", *(key.key for key in path))[-2:]
        if module == NORM:
            return config.norm_decay
        return config.bias_decay if name == "bias" else config.weight_decay

    def update(gradient: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, g, p: g + decay_of(path) * p if decay_of(path) else g, gradient, params
        )

    return optax.stateless(update)


def by_group(
    transforms: dict[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Gives each group of parameters, by its name at the top level, an optimiser of its own."""

    def init(params: Any) -> Any:
        return {name: transforms[name].init(params[name]) for name in transforms}

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        done = {
            name: transforms[name].update(gradient[name], state[name], params[name])
            for name in transforms
        }
        moves, states = ({name: pair[k] for name, pair in done.items()} for k in (0, 1))
        return moves, states

    return optax.GradientTransformation(init, update)


def frozen_until(
    transform: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """Leaves parameters and optimiser as they are for the first steps."""
    if steps == 0:
        return transform

    def init(params):
        return {"step": jnp.zeros((), jnp.int32), "inner": transform.init(params)}

    def update(gradient, state, params=None):
        moves, inner = transform.update(gradient, state["inner"], params)
        begun = state["step"] >= steps
        moves = jax.tree.map(lambda x: jnp.where(begun, x, jnp.zeros_like(x)), moves)
        inner = jax.tree.map(lambda x, y: jnp.where(begun, x, y), inner, state["inner"])
        return moves, {"step": state["step"] + 1, "inner": inner}

    return optax.GradientTransformation(init, update)
