"""Methods that train one network, or M networks side by side, by a loss.

Such a method is little more than its loss: a function of the networks' outputs for a batch and of
what is known about the faces of the batch (`method.View`). M networks are one stack of parameters
with a leading axis, run by `vmap`; they see the same augmented faces.
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
      metrics: this device's share of each metric; those of kind 'weight' are not shares but equal
        on all devices.
      faces: new rows [batch, ...] of `State.faces` for the faces of the batch.
    """

    value: Float[Array, ""]
    metrics: Mapping[str, Array] = MappingProxyType({})
    faces: Mapping[str, Array] = MappingProxyType({})


LossFunction = Callable[[Outputs, View], Loss]
"""(outputs, view) -> loss; outputs by head are [batch, ...], of a stack [networks, batch, ...]."""


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
    """Makes a method that trains one network by a loss.

    Args:
      config: of the stage; `model`, `augment`, `optimizer` and `seed` are read.
      info: of the data.
      loss: see `LossFunction`.
      metrics: kinds of the loss's own metrics, see `method.KINDS`. The metrics `loss` and, for a
        network with a class head, `accuracy` on the given labels are added.
      faces: initial values of `State.faces`, beside `MARGINS` and `SEEN`.
      start: (key, inputs) -> (initial weights, frozen weights); None: fresh weights, none frozen.
      model: the network; None: what `config.model` describes.
      transform: the optimiser; None: what `config.optimizer` describes.
      project: parameters -> those that a step starts from.
    """
    model = model or network(config.model, len(info.classes), info.image_shape)
    fresh = model.init

    def fresh_start(key: PRNGKeyArray, inputs: dict[str, Any]) -> tuple[Weights, Any]:
        return fresh(jax.random.fold_in(key, 0)), ()

    classifies = CLASS in dict(model.heads)
    watches = classifies and 0 < info.faces * len(info.classes) <= MOST_MARGINS
    accuracy = {"accuracy": "accuracy"} if classifies else {}

    def hits(outputs: Outputs, view: View) -> Metrics:
        if not classifies:
            return {}
        return {"accuracy": view.mean(method.agrees(outputs[CLASS], view.target))}

    def watched(outputs: Outputs, view: View) -> Loss:
        result = loss(outputs, view)
        return result._replace(faces=_with_margins(outputs, view, result.faces))

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
    """Makes a method that trains M networks of one architecture by one loss.

    Network j, counted from 0, is initialised by the key folded with j: each differs, and the first
    starts as `one_network` does.

    Args:
      config: of the stage.
      info: of the data.
      loss: see `LossFunction`.
      networks: M ≥ 1.
      metrics: kinds of the loss's own metrics. The metrics `loss`, `accuracy` (the mean over the
        networks) and `network_<j>/accuracy`, j from 1, are added.
      faces: initial values of `State.faces`.
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

    def hits(outputs: Outputs, view: View) -> Metrics:
        each = view.mean(method.agrees(outputs[CLASS], view.target))
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
    """Returns the prediction of a single network, with all of its heads."""

    def predict(weights: Weights, images: jax.Array) -> Outputs:
        faces = augment.prepare(images, config.model.input)
        return method.probabilities(model, model.predict(weights, faces))

    return Prediction(model.heads, predict)


def predict_side_by_side(config: ConfigDict, model: Network, coders: tuple[str, ...]) -> Prediction:
    """Returns the prediction of M networks: their average, their vote, and each one's own."""
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
    """Returns each class's share of the networks' votes; mean probabilities break ties."""
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
    """Makes the method, whose step is one optimiser step on the loss of `train`'s outputs."""

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
        view = method.view(config, info, state, batch, axis_name)
        key = method.step_key(config.seed, state.step, Stream.NETWORK)
        before = project(state.params)

        def loss_of(params: Any) -> tuple[Array, Any]:
            weights = Weights(params, state.collections)
            outputs, collections = train(weights, view.images, batch["index"], key, axis_name)
            result = loss(outputs, view)
            return result.value, (result, hits(outputs, view), collections)

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


def _with_margins(outputs: Outputs, view: View, rows: Mapping[str, Array]) -> Mapping[str, Array]:
    """Adds to the new rows of a batch's faces the sums of margins that this step leaves."""
    index, logits = view.batch["index"], jax.lax.stop_gradient(outputs[CLASS])
    margins = view.faces[MARGINS][index] + losses.margins(logits.astype(jnp.float32))
    return {MARGINS: margins, SEEN: view.faces[SEEN][index] + 1, **rows}


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
    """Returns `faces` with the rows of the global batch written, the same on every device."""
    if not rows:
        return faces
    index, rows = parallel.gather((index, jax.lax.stop_gradient(dict(rows))), axis_name)
    return faces | {name: faces[name].at[index].set(value) for name, value in rows.items()}


def _summed(shares: Metrics, kinds: Mapping[str, str], axis_name: str | None) -> Metrics:
    """Sums the devices' shares of metrics; those of kind 'weight' stay as they are."""
    parts = {name: share for name, share in shares.items() if kinds[name] != "weight"}
    return shares | parallel.sum(parts, axis_name)
