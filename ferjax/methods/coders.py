"""One network for the latent truth, under a layer that turns it into each coder's annotations.

LTNet and the methods that it is compared with share this and differ in the layer. A face need not
have an annotation from every coder. The truth is predicted by the network alone: even for a
training face, its annotations play no part.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32, PRNGKeyArray
from ml_collections import ConfigDict

from ferjax import augment, parallel
from ferjax.data.epochs import check_weights
from ferjax.errors import UserError
from ferjax.methods import stack
from ferjax.methods.method import Info, Method, Metrics, Prediction, View
from ferjax.methods.stack import Loss
from ferjax.nn.heads import CLASS, Head
from ferjax.nn.networks import Network, Weights, network
from ferjax.optimizers import by_group

NETWORK = "network"
"""Name of the network's group of parameters; the layer's group has the layer's name."""

MOST_HEADS = 20
"""With more coders than this, there are no heads and no logged metrics for single coders."""


class Layer(NamedTuple):
    """The layer between the latent truth and the coders' annotations.

    Attributes:
      name: of its group of parameters.
      coders: names of the coders that it distinguishes.
      annotation_probs: (parameters, probabilities [batch, classes]) -> the probability of each
        annotation by each coder, [batch, coders, classes].
    """

    name: str
    coders: tuple[str, ...]
    annotation_probs: Callable[[Any, jax.Array], Float[Array, "batch coders classes"]]


def make(
    config: ConfigDict,
    info: Info,
    layer: Layer,
    *,
    init: Callable[[PRNGKeyArray, dict[str, Any]], Any],
    costs: Callable[[Any, Array, Array], Float[Array, "batch coders"]],
    network_optimizer: optax.GradientTransformation,
    layer_optimizer: optax.GradientTransformation,
    project: Callable[[Any], Any] = lambda params: params,
    penalty: Callable[[Any], jax.Array] = lambda params: jnp.zeros(()),
    layer_metrics: Callable[[Any], Metrics] = lambda params: {},
    metric_names: tuple[str, ...] = (),
    by_coder: bool = False,
) -> Method:
    """Makes a network under a layer.

    `config`: `coder_weights`, the weight of each coder's annotations, or () for ones. If its
    `needs` name a stage `network`, training starts from that stage's network.

    Args:
      config: of the stage.
      info: of the data.
      layer: the layer between the truth and the annotations.
      init: (key, inputs) -> the layer's parameters.
      costs: (layer's parameters, logits, annotations) -> the loss of each annotation, 0 for -1.
      network_optimizer: the optimiser of the network's parameters.
      layer_optimizer: the optimiser of the layer's parameters.
      project: the layer's parameters -> those that a step starts from.
      penalty: the layer's parameters -> a term of the loss.
      layer_metrics: the layer's parameters -> numbers in [0, 1] to log.
      metric_names: names of these numbers.
      by_coder: if true, the loss is the sum over coders of the weighted mean over each coder's own
        annotations in the batch, as in the program of LTNet's authors; if false, the mean over
        faces of the weighted sum over each face's annotations (Eq. 6 of the paper).

    Raises:
      UserError: for weights that don't match the coders, a coder who annotated nothing, or an
        annotation that is not one of the classes.
    """
    _check(config, info)
    model = network(config.model, len(info.classes), info.image_shape)
    coder_weights = jnp.asarray(_weights(config, info), jnp.float32)[None]

    def start(key: PRNGKeyArray, inputs: dict[str, Any]) -> tuple[Weights, tuple[()]]:
        if NETWORK in inputs:
            weights = network_of(inputs[NETWORK].weights)
        else:
            weights = model.init(jax.random.fold_in(key, 0))
        layer_params = init(jax.random.fold_in(key, 1), inputs)
        groups = {NETWORK: weights.params, layer.name: layer_params}
        return Weights(groups, weights.collections), ()

    def loss(outputs: dict[str, Any], view: View) -> Loss:
        logits, params, annotations = outputs[CLASS], outputs[layer.name], view.batch["annotations"]
        given = (annotations >= 0).astype(jnp.float32)
        annotated = jnp.max(given, axis=1)
        each = costs(params, logits, annotations) * coder_weights
        if by_coder:
            means = jax.vmap(view.mean, (1, 1))(each, given)
            value = jnp.sum(means) + parallel.share(penalty(params), view.axis_name)
        else:
            value = view.mean(jnp.sum(each, axis=1) + penalty(params), annotated)
        agrees = (jnp.argmax(logits, axis=1)[:, None] == annotations).astype(jnp.float32)
        shares = jnp.sum(agrees * given, axis=1) / jnp.maximum(jnp.sum(given, axis=1), 1)
        return Loss(value, {"accuracy": view.mean(shares, annotated)} | layer_metrics(params))

    def project_layer(params: dict[str, Any]) -> dict[str, Any]:
        return params | {layer.name: project(params[layer.name])}

    return stack.one_network(
        config,
        info,
        loss,
        metrics=dict.fromkeys(metric_names, "weight"),
        start=start,
        model=_with_layer(model, layer),
        transform=by_group({NETWORK: network_optimizer, layer.name: layer_optimizer}),
        project=project_layer,
    )._replace(learnt=lambda state: {"coders": np.array(layer.coders)})


def prediction(
    config: ConfigDict, model: Network, layer: Layer, project: Callable[[Any], Any] = lambda x: x
) -> Prediction:
    """Returns the prediction of a network under a layer: the truth and each coder's annotation.

    The heads are `truth` and, unless there are more than `MOST_HEADS` coders, `as_<coder>`.
    """
    shown = layer.coders if len(layer.coders) <= MOST_HEADS else ()
    heads = tuple(Head(name, "class") for name in ("truth", *(f"as_{name}" for name in shown)))

    def predict(weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
        faces = augment.prepare(images, config.model.input)
        outputs = model.predict(network_of(weights), faces)
        probs = jax.nn.softmax(outputs[CLASS])
        annotations = layer.annotation_probs(project(weights.params[layer.name]), probs)
        each = {head.name: annotations[:, c] for c, head in enumerate(heads[1:])}
        return {"truth": probs} | each

    return Prediction(heads, predict)


def network_of(weights: Weights) -> Weights:
    """Returns the weights of the network alone, of a model with or without a layer."""
    return weights._replace(params=weights.params.get(NETWORK, weights.params))


def cost_of_annotations(
    log_probs: Float[Array, "batch coders classes"], annotations: Int32[Array, "batch coders"]
) -> Float[Array, "batch coders"]:
    """Returns −log of the probability of each annotation; 0 where there is none (-1)."""
    index = jnp.maximum(annotations, 0)[..., None]
    cost = -jnp.take_along_axis(log_probs, index, axis=2)[..., 0]
    return jnp.where(annotations >= 0, cost, 0.0)


def _with_layer(model: Network, layer: Layer) -> Network:
    """Adds the layer's parameters to the network's outputs in training, for the loss to use."""

    def train(weights: Weights, *view: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        outputs, collections = model.train(network_of(weights), *view)
        return outputs | {layer.name: weights.params[layer.name]}, collections

    return model._replace(train=train)


def _check(config: ConfigDict, info: Info) -> None:
    annotations = info.labels["annotations"]
    if annotations.max(initial=-1) >= len(info.classes):
        coder = int(np.argmax(annotations.max(axis=0)))
        raise UserError(
            f"coder {info.coders[coder]} gives class {annotations.max()}, but there are only "
            f"{len(info.classes)} classes, counted from 0"
        )
    silent = [name for c, name in enumerate(info.coders) if not (annotations[:, c] >= 0).any()]
    if silent:
        raise UserError(f"no training face was annotated by coder {', '.join(silent)}")


def _weights(config: ConfigDict, info: Info) -> Float[np.ndarray, " coders"]:
    given = config.coder_weights or (1.0,) * len(info.coders)
    return check_weights("coder_weights", given, "coders", info.coders)
