"""Networks by name, built from a config: what methods train and finished models predict with."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray
from ml_collections import ConfigDict

from ferjax.errors import UserError
from ferjax.nn.heads import HEADS, Head, WithHeads
from ferjax.nn.resnet import ARCHITECTURES, ResNet

Outputs = dict[str, jax.Array]
Collections = dict[str, Any]

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    name: partial(ResNet, architecture) for name, architecture in ARCHITECTURES.items()
}
"""Backbones by name: functions of `width`, `stem`, `stem_stride`, `dtype` and `axis_name`, see
`ResNet`, that return a module of (images, train) -> features [batch, features]."""


class Weights(NamedTuple):
    """The variables of a network.

    Attributes:
      params: trained parameters.
      collections: Linen's other collections by name, such as the running statistics `batch_stats`.
    """

    params: Any
    collections: Collections


class Network(NamedTuple):
    """A network as pure functions; `jax.vmap` over weights and key runs a stack of them.

    Attributes:
      heads: what it predicts, the main one first.
      init: key -> fresh weights.
      train: (weights, images, index, key, axis_name) -> (outputs, collections after the step), in
        training mode. `images` are normalised floats [batch, height, width, 3]; `index` int32
        [batch] are the faces' row numbers; `key` belongs to the step and the network, and is folded
        with them wherever the network draws; `axis_name` is pmap's axis, or None under jit.
      predict: (weights, images) -> outputs, in evaluation mode.

    Outputs are a dict by head: logits [batch, classes] of a class head, or [batch, 2] numbers of a
    valence–arousal head.
    """

    heads: tuple[Head, ...]
    init: Callable[[PRNGKeyArray], Weights]
    train: Callable[..., tuple[Outputs, Collections]]
    predict: Callable[[Weights, jax.Array], Outputs]


def network(config: ConfigDict, classes: int, image_shape: tuple[int, int, int]) -> Network:
    """Makes the network that a config describes.

    Args:
      config: a run's `model`: `name`, one of `NETWORKS`; `width`, channels of the first stage;
        `stem`, 'imagenet' or 'small', and `stem_stride` of the small one; `dtype` of the
        computation, 'float32', 'bfloat16' or 'float64'; `heads`, some of `HEADS`, the main one
        first; `dropout`, rate before the last layers.
      classes: number of classes.
      image_shape: (height, width, channels) of the faces.

    Raises:
      UserError: for an unknown name, stem, stride, dtype or head, or a width or rate out of range.
    """
    _check(config)
    heads = tuple(HEADS[name] for name in config.heads)
    build = partial(
        NETWORKS[config.name],
        width=config.width,
        stem=config.stem,
        stem_stride=config.stem_stride,
        dtype=jnp.dtype(config.dtype),
    )

    def module(axis_name: str | None = None) -> Any:  # a WithHeads, whose `apply` has many types
        return WithHeads(build(axis_name=axis_name), heads, classes, config.dropout)

    def init(key: PRNGKeyArray) -> Weights:
        images = jnp.zeros((1, *image_shape[:2], 3))
        collections = module().init(key, images, index=None, train=False)
        return Weights(collections.pop("params"), collections)

    def train(
        weights: Weights,
        images: Float[Array, "batch height width 3"],
        index: Int32[Array, " batch"],
        key: PRNGKeyArray,
        axis_name: str | None = None,
    ) -> tuple[Outputs, Collections]:
        return module(axis_name).apply(
            {"params": weights.params, **weights.collections},
            images,
            index,
            train=True,
            rngs={"dropout": key},
            mutable=list(weights.collections),
        )

    def predict(weights: Weights, images: Float[Array, "batch height width 3"]) -> Outputs:
        variables = {"params": weights.params, **weights.collections}
        return module().apply(variables, images, index=None, train=False)

    return Network(heads, init, train, predict)


def _check(config: ConfigDict) -> None:
    choices: dict[str, tuple] = {
        "name": tuple(NETWORKS),
        "stem": ("imagenet", "small"),
        "stem_stride": (1, 2),
        "dtype": ("float32", "bfloat16", "float64"),
    }
    for field, allowed in choices.items():
        if config[field] not in allowed:
            raise UserError(f"model.{field}={config[field]!r} is none of {_listed(allowed)}")
    unknown = [name for name in config.heads if name not in HEADS]
    if not config.heads or unknown or len(set(config.heads)) < len(config.heads):
        raise UserError(
            f"model.heads={tuple(config.heads)} must name some of {_listed(HEADS)}, each once"
        )
    if config.width < 1:
        raise UserError(f"model.width must be at least 1, not {config.width}")
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout must lie in [0, 1), not {config.dropout}")


def _listed(names: Any) -> str:
    return ", ".join(map(str, names))
