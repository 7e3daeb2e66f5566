"""Trains one network, or M networks side by side, by a loss.

A method is then little more than its loss: a function of what the networks make of a batch and of
what is known about its faces (`method.View`). M networks are one stack of parameters with a leading
axis, driven by `vmap`; they see the same views.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, PRNGKeyArray
from ml_collections import ConfigDict

from ferjax import augment, losses, parallel
from ferjax.methods import method
from ferjax.methods.method import Batch, Info, Method, Metrics, Prediction, State, Stream, View
from ferjax.nn.heads import CLASS, Head
from ferjax.nn.networks import Network, Weights, network
from ferjax.optimizers import optimizer

Outputs = dict[str, Array]

MARGINS, SEEN = "margins", "seen"
"""Names in `State.faces`: [faces, classes] the sum of a face's `losses.margins` over all steps that
it was seen at, and [faces] how many these were. A report looks for wrong labels by them."""

MOST_MARGINS = 1 << 26
"""Margins are not kept of more faces × classes: they would take too much memory."""


class Loss(NamedTuple):
    """The result of a loss function.

    Attributes:
      value: this device's share of the loss over the global batch, as `View.mean` gives it.
      metrics: likewise a share of each, but for those of kind 'weight', which are equal everywhere.
      faces: new rows [batch, ...] of `State.faces` for the faces of the batch.
    """

    value: Float[Array, ""]
    metrics: Mapping[str, Array] = MappingProxyType({})
    faces: Mapping[str, Array] = MappingProxyType({})


LossFunction = Callable[[Outputs, View], Loss]
"""(outputs, view) -> loss; outputs are [batch, ...] by head, of a stack [networks, batch, ...]."""


def one_network(
    config: ConfigDict,
    info: Info,
    loss: LossFunction,
    *,
    metrics: Mapping[str, str] | None = None,
    faces: Mapping[str, np.ndarray] | None = None,
    start: Callable[[PRNGKeyArray, dict[str, Any]], tuple[Weights, Any]] | None = None,
    model: Network | None = None,
    transform: optax.GradientTransformation | None = None,
    project: Callable[[Any], Any] = lambda params: params,
) -> Method:
    """Trains one network by a loss.

    Args:
      config: of the stage: `model`, `augment`, `optimizer` and `seed` are read.
      info: of the data.
      loss: see `LossFunction`.
      metrics: kinds of the loss's own metrics, see `method.KINDS`. The metrics `loss` and, of a
        network with a class head, `accuracy` on the given labels are added.
      faces: the first values of `State.faces`, beside `MARGINS` and `SEEN`.
      start: (key, inputs) -> weights to start from, and what is frozen beside them; None: fresh.
      model: the network; None: what `config.model` describes.
      transform: the optimiser; None: what `config.optimizer` describes.
      project: parameters -> those to begin a step with.
    """
    model = model or network(config.model, len(info.classes), info.image_shape)
    fresh = model.init

    def fresh_start(key: PRNGKeyArray, inputs: dict[str, Any]) -> tuple[Weights, Any]:
        return fresh(jax.random.fold_in(key, 0)), ()

    classifies = CLASS in dict(model.heads)
    watches = classifies and 0 < info.faces * len(info.classes) <= MOST_MARGINS
    accuracy = {"accuracy": "accuracy"} if classifies else {}

    def hits(outputs: Outputs, seen: View) -> Metrics:
        if not classifies:
            return {}
        return {"accuracy": seen.mean(method.agrees(outputs[CLASS], seen.target))}

    def watched(outputs: Outputs, seen: View) -> Loss:
        result = loss(outputs, seen)
        return result._replace(faces=_with_margins(outputs, seen, result.faces))

    return _trained(
        config,
        info,
        watched if watches else loss,
        start=start or fresh_start,
        train=model.train,
        hits=hits,
        metrics={"loss": "loss"} | accuracy | dict(metrics or {}),
        faces=(_no_margins(info) if watches else {}) | dict(faces or {}),
        transform=transform or optimizer(config.optimizer, info.steps_per_epoch, info.total_steps),
        project=project,
    )


def side_by_side(
    config: ConfigDict,
    info: Info,
    loss: LossFunction,
    *,
    networks: int,
    metrics: Mapping[str, str] | None = None,
    faces: Mapping[str, np.ndarray] | None = None,
) -> Method:
    """Trains M networks of one architecture, started differently, by one loss.

    Network j starts from the key folded with j, so that the first starts as `one_network` does.

    Args:
      config: of the stage.
      info: of the data.
      loss: see `LossFunction`.
      networks: M ≥ 1.
      metrics: kinds of the loss's own metrics. Added are `loss`, `accuracy`, the mean over the
        networks, and `network_<j>/accuracy`.
      faces: the first values of `State.faces`.
    """
    model = network(config.model, len(info.classes), info.image_shape)
    names = [f"network_{j + 1}/accuracy" for j in range(networks)]

    def keys(key: PRNGKeyArray) -> jax.Array:
        return jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(networks))

    def start(key: PRNGKeyArray, inputs: dict[str, Any]) -> tuple[Weights, Any]:
        return jax.vmap(model.init)(keys(key)), ()

    def train(
        weights: Weights, images: Array, index: Array, key: PRNGKeyArray, axis_name: str | None
    ) -> tuple[Outputs, dict[str, Any]]:
        return jax.vmap(lambda one, own: model.train(one, images, index, own, axis_name))(
            weights, keys(key)
        )

    def hits(outputs: Outputs, seen: View) -> Metrics:
        each = seen.mean(method.agrees(outputs[CLASS], seen.target))
        return {"accuracy": each.mean()} | {name: each[j] for j, name in enumerate(names)}

    return _trained(
        config,
        info,
        loss,
        start=start,
        train=train,
        hits=hits,
        metrics={"loss": "loss"}
        | dict.fromkeys(("accuracy", *names), "accuracy")
        | dict(metrics or {}),
        faces=dict(faces or {}),
        transform=optimizer(config.optimizer, info.steps_per_epoch, info.total_steps),
        project=lambda params: params,
    )


def predict_one(config: ConfigDict, model: Network, coders: tuple[str, ...]) -> Prediction:
    """Returns how a single network predicts: by each of its heads."""

    def predict(weights: Weights, images: jax.Array) -> Outputs:
        faces = augment.prepare(images, config.model.input)
        return method.probabilities(model, model.predict(weights, faces))

    return Prediction(model.heads, predict)


def predict_side_by_side(config: ConfigDict, model: Network, coders: tuple[str, ...]) -> Prediction:
    """Returns how `config.networks` networks predict: on average, by vote, and each by itself."""
    names = [f"network_{j + 1}" for j in range(config.networks)]

    def predict(weights: Weights, images: jax.Array) -> Outputs:
        faces = augment.prepare(images, config.model.input)
        probs = jax.nn.softmax(logits(model, weights, faces))
        each = {name: probs[j] for j, name in enumerate(names)}
        return {"average": probs.mean(axis=0), "vote": majority_vote(probs)} | each

    return Prediction(tuple(Head(name, "class") for name in ("average", "vote", *names)), predict)


def logits(
    model: Network, weights: Weights, images: Float[Array, "batch height width 3"]
) -> Float[Array, "networks batch classes"]:
    """Returns the logits of a stack of networks in evaluation mode."""
    return jax.vmap(lambda one: model.predict(one, images)[CLASS])(weights)


def majority_vote(
    probs: Float[Array, "networks batch classes"],
) -> Float[Array, "batch classes"]:
    """Returns shares of the networks' votes; a tie goes to the larger mean probability."""
    votes = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1]).sum(axis=0)
    # Half a vote, split by mean probability, breaks ties and can never overturn a whole vote.
    return (votes + 0.5 * probs.mean(axis=0)) / (probs.shape[0] + 0.5)


def _trained(
    config: ConfigDict,
    info: Info,
    loss: LossFunction,
    *,
    start: Callable[[PRNGKeyArray, dict[str, Any]], tuple[Weights, Any]],
    train: Callable[..., tuple[Outputs, dict[str, Any]]],
    hits: Callable[[Outputs, View], Metrics],
    metrics: dict[str, str],
    faces: dict[str, np.ndarray],
    transform: optax.GradientTransformation,
    project: Callable[[Any], Any],
) -> Method:
    """Makes the method: one optimiser step on whatever `train` makes of a batch."""

    def init(key: PRNGKeyArray, inputs: dict[str, Any]) -> State:
        weights, frozen = start(key, inputs)
        return State(
            step=jnp.zeros((), jnp.int32),
            epoch=jnp.zeros((), jnp.int32),
            params=weights.params,
            collections=weights.collections,
            opt_state=transform.init(weights.params),
            faces={name: jnp.asarray(value) for name, value in faces.items()},
            frozen=frozen,
        )

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        seen = method.view(config, info, state, batch, axis_name)
        key = method.step_key(config.seed, state.step, Stream.NETWORK)
        before = project(state.params)

        def loss_of(params: Any) -> tuple[Array, Any]:
            weights = Weights(params, state.collections)
            outputs, collections = train(weights, seen.images, batch["index"], key, axis_name)
            result = loss(outputs, seen)
            return result.value, (result, hits(outputs, seen), collections)

        gradient, (result, shares, collections) = jax.grad(loss_of, has_aux=True)(before)
        gradient = parallel.sum(gradient, axis_name)
        updates, opt_state = transform.update(gradient, state.opt_state, before)
        state = state.replace(
            step=state.step + 1,
            params=optax.apply_updates(before, updates),
            collections=collections,
            opt_state=opt_state,
            faces=_with_rows(state.faces, batch["index"], result.faces, axis_name),
        )
        return state, _summed(
            {"loss": result.value, **shares, **result.metrics}, metrics, axis_name
        )

    return Method(init, train_step, metrics)


def _no_margins(info: Info) -> dict[str, np.ndarray]:
    shape = info.faces, len(info.classes)
    return {MARGINS: np.zeros(shape, np.float32), SEEN: np.zeros(info.faces, np.int32)}


def _with_margins(outputs: Outputs, seen: View, rows: Mapping[str, Array]) -> Mapping[str, Array]:
    """Adds to the new rows of a batch's faces the sums of margins that this step leaves."""
    index, logits = seen.batch["index"], jax.lax.stop_gradient(outputs[CLASS])
    margins = seen.faces[MARGINS][index] + losses.margins(logits.astype(jnp.float32))
    return {MARGINS: margins, SEEN: seen.faces[SEEN][index] + 1, **rows}


def mean_margins(faces: Mapping[str, np.ndarray]) -> Float32[np.ndarray, "faces classes"] | None:
    """Returns the margin of each class of each face, averaged over the steps that it was seen at.

    Args:
      faces: `State.faces`, on the host.

    Returns:
      Differences of logits, 0 for faces never seen; None where the method keeps none.
    """
    if MARGINS not in faces:
        return None
    return faces[MARGINS] / np.maximum(faces[SEEN], 1).astype(np.float32)[:, None]


def _with_rows(
    faces: dict[str, Array], index: Array, rows: Mapping[str, Array], axis_name: str | None
) -> dict[str, Array]:
    """Writes the rows of the global batch, so that every device holds the same arrays."""
    if not rows:
        return faces
    index, rows = parallel.gather((index, jax.lax.stop_gradient(dict(rows))), axis_name)
    return faces | {name: faces[name].at[index].set(value) for name, value in rows.items()}


def _summed(shares: Metrics, kinds: Mapping[str, str], axis_name: str | None) -> Metrics:
    """Sums the devices' shares; metrics of kind 'weight' are whole already."""
    parts = {name: share for name, share in shares.items() if kinds[name] != "weight"}
    return shares | parallel.sum(parts, axis_name)
