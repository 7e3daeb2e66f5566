"""Optimisers and learning-rate schedules on top of optax."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from ferjax.errors import UserError
from ferjax.nn.heads import LAYERS

NORM = "norm"
"""Name that every batch normalisation has among the parameters."""

RULES = {
    "adam": optax.adam,
    "adamax": optax.adamax,
    "momentum": partial(optax.sgd, momentum=0.9),
    "sgd": partial(optax.sgd, momentum=0.9, nesterov=True),
}
"""Functions of a learning-rate schedule that make an optimiser, by the name in a config."""

Schedule = Callable[[Int[Array, ""]], Float[Array, ""]]


def optimizer(
    config: ConfigDict, steps_per_epoch: int, total_steps: int
) -> optax.GradientTransformation:
    """Makes an optimiser for one network or a stack: each value is updated by itself.

    Args:
      config: a recipe's `optimizer`: `name`, one of `RULES` ('momentum' is SGD with momentum 0.9,
        'sgd' with Nesterov's); `learning_rate` of the backbone and `classifier_rate` of the last
        layers; the L2 decay that is added to the gradient, `norm_decay` for the scales and shifts
        of batch normalisation, `bias_decay` for other biases and `weight_decay` for the rest; and
        a schedule, see `learning_rate`.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.

    Raises:
      UserError: for an unknown name, or an invalid rate or milestone.
    """
    _check(config)
    decay = _decay(config.weight_decay, config.norm_decay, config.bias_decay)

    def rule(rate: float) -> optax.GradientTransformation:
        schedule = learning_rate(
            rate,
            steps_per_epoch,
            total_steps,
            epoch_decay=config.epoch_decay,
            milestones=config.milestones,
            milestone_decay=config.milestone_decay,
            power=config.power,
        )
        return optax.chain(decay, RULES[config.name](schedule))

    transform = optax.partition(
        {"backbone": rule(config.learning_rate), "last": rule(config.classifier_rate)}, _parts
    )

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        # optax raises decay rates to the integer step, which strict dtype promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            return transform.update(gradient, state, params)

    return optax.GradientTransformation(transform.init, update)


def by_group(
    transforms: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Gives each top-level group of parameters the optimiser of its name."""
    return optax.partition(transforms, lambda params: {name: name for name in params})


def frozen_until(
    transform: optax.GradientTransformation, steps: int
) -> optax.GradientTransformation:
    """Makes an optimiser that changes nothing, not even its state, for the first `steps` steps."""
    if steps == 0:
        return transform
    return optax.transforms.conditionally_mask(transform, lambda step: step >= steps)


def learning_rate(
    rate: float,
    steps_per_epoch: int,
    total_steps: int,
    *,
    epoch_decay: float = 1.0,
    milestones: Sequence[float] = (),
    milestone_decay: float = 0.1,
    power: float = 0.0,
) -> Schedule:
    """Makes a schedule: `rate` times factors that change with the step.

    Args:
      rate: at the first step.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.
      epoch_decay: factor after every epoch.
      milestones: when the rate drops, as fractions of the run.
      milestone_decay: factor after each milestone.
      power: exponent of a further factor, (1 − step/total)^`power`, by the share of the run left.
    """
    milestone_steps = [round(fraction * total_steps) for fraction in milestones]

    def schedule(step: Int[Array, ""]) -> Float[Array, ""]:
        epochs = (step // steps_per_epoch).astype(jnp.float32)
        passed = jnp.sum(step >= jnp.array(milestone_steps, jnp.int32)).astype(jnp.float32)
        left = 1 - step.astype(jnp.float32) / total_steps
        stairs = epoch_decay**epochs * milestone_decay**passed
        return rate * stairs * jnp.maximum(left, 0) ** power

    return schedule


def _parts(params: Any) -> Any:
    """Labels each parameter 'last' if it belongs to a last layer, else 'backbone'."""

    def part_of(path: tuple[Any, ...], _: Any) -> str:
        return "last" if any(name in LAYERS.values() for name in _names(path)) else "backbone"

    return jax.tree_util.tree_map_with_path(part_of, params)


def _decay(weights: float, norms: float, biases: float) -> optax.GradientTransformation:
    """Adds to each gradient its parameter times the decay of its kind."""

    def decay_of(path: tuple[Any, ...]) -> float:
        module, name = ("", *_names(path))[-2:]
        if module == NORM:
            return norms
        return biases if name == "bias" else weights

    def update(gradient: Any, params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(
            lambda path, g, p: g + decay_of(path) * p if decay_of(path) else g, gradient, params
        )

    return optax.stateless(update)


def _names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(key.key for key in path)


def _check(config: ConfigDict) -> None:
    if config.name not in RULES:
        raise UserError(f"optimizer.name {config.name!r} is none of {', '.join(RULES)}")
    for field in ("learning_rate", "classifier_rate"):
        if not config[field] >= 0:
            raise UserError(f"optimizer.{field} must be at least 0, not {config[field]}")
    if not all(isinstance(x, float | int) and 0 <= x <= 1 for x in config.milestones):
        raise UserError(f"optimizer.milestones must lie in [0, 1], not {config.milestones}")
