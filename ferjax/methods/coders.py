"""One network for the latent truth, and a layer that turns it into what each coder would say.

What LTNet and the methods it is compared with have in common; they differ in the layer. Coders may
be missing for a face. Prediction is the network's; the latent truth of a training face is its
likeliest class, the face's annotations not used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from ferjax import augment, parallel
from ferjax.errors import UserError
from ferjax.methods import method
from ferjax.methods.method import Batch, Info, Method, Metrics, State
from ferjax.optimizers import by_group

Probs = Float[Array, "batch classes"]


MOST_HEADS = 20
"""Of more coders than this it is neither predicted what each would say nor logged how right
each is."""


class Layer(NamedTuple):
    """What stands between truth and annotations.

    Attributes:
      name: of its parameters.
      coders: names of those whom it tells apart.
      init: key -> its parameters.
      project: parameters -> those to begin a step with.
      losses: (parameters, logits, annotations) -> [batch, coders] what each annotation costs, 0
        where there is none (-1).
      said: (parameters, probabilities) -> [batch, coders, classes] what each would say.
      penalty: parameters -> what is added to the loss.
      watched: parameters -> scalars for the metrics.
    """

    name: str
    coders: tuple[str, ...]
    init: Callable[[jax.Array], Any]
    losses: Callable[[Any, jax.Array, jax.Array], Float[Array, "batch coders"]]
    said: Callable[[Any, jax.Array], Float[Array, "batch coders classes"]]
    project: Callable[[Any], Any] = lambda params: params
    penalty: Callable[[Any], jax.Array] = lambda params: jnp.zeros(())
    watched: Callable[[Any], Metrics] = lambda params: {}


def make(
    config: ConfigDict,
    info: Info,
    layer: Layer,
    networks: optax.GradientTransformation,
    layers: optax.GradientTransformation,
) -> Method:
    """A network under a layer.

    `config`: `coder_weights`, what an annotation of each coder counts, or () for ones. With the
    stage `network` among its needs it starts from that stage's network. The heads are `truth`, and
    `as_<coder>` for each coder of the layer, unless there are more than `MOST_HEADS`.

    Args:
      config: of the stage.
      info: of the data.
      layer: what stands between truth and annotations.
      networks: the network's optimiser.
      layers: the layer's optimiser.

    Raises:
      UserError: for weights that don't suit the coders, a coder who annotated nothing, or one who
        says a class that there is not.
    """
    _check(config, info)
    transform = by_group({"network": networks, layer.name: layers})
    coder_weights = jnp.asarray(_weights(config, info), jnp.float32)[None]
    shown = layer.coders if len(layer.coders) <= MOST_HEADS else ()
    heads = ("truth", *(f"as_{name}" for name in shown))

    def init(key: jax.Array, inputs: dict[str, State]) -> State:
        if "network" in inputs:
            params, batch_stats = network_of(inputs["network"])
        else:
            params, batch_stats = method.init_network(config, info, jax.random.fold_in(key, 0))
        both = {"network": params, layer.name: layer.init(jax.random.fold_in(key, 1))}
        return method.start_state(both, batch_stats, transform.init(both))

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        images = method.augmented(config, state, batch)
        annotations = batch["annotations"]
        said = (annotations >= 0).astype(jnp.float32)
        labelled = jnp.max(said, axis=1)
        before = layer.project(state.params[layer.name])
        state = state.replace(params=state.params | {layer.name: before})

        def loss_fn(params):
            logits, batch_stats = method.train_logits(
                config, info, axis_name, params["network"], state.batch_stats, images
            )
            each = layer.losses(params[layer.name], logits, annotations)
            face = jnp.sum(each * coder_weights, axis=1)
            face += layer.penalty(params[layer.name])  # once, in the mean
            loss = parallel.mean_over_faces(face, labelled, axis_name)[0]
            return loss, (logits, batch_stats)

        (loss, (logits, batch_stats)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        state = method.update(transform, state, gradient, batch_stats, axis_name)
        agrees = (jnp.argmax(logits, axis=1)[:, None] == annotations).astype(jnp.float32)
        share = jnp.sum(agrees * said, axis=1) / jnp.maximum(jnp.sum(said, axis=1), 1)
        hits, _ = parallel.mean_over_faces(share, labelled, axis_name)
        metrics = parallel.sum({"loss": loss, "accuracy": hits}, axis_name)
        return state, metrics | layer.watched(before)

    def predict(state: State, images: jax.Array) -> dict[str, jax.Array]:
        faces = augment.prepare(images, config.model.input)
        logits = method.predict_logits(
            config, info, state.params["network"], state.batch_stats, faces
        )
        probs = jax.nn.softmax(logits)
        said = layer.said(layer.project(state.params[layer.name]), probs)
        return {"truth": probs} | {head: said[:, c] for c, head in enumerate(heads[1:])}

    def learnt(state: State) -> dict[str, np.ndarray]:
        return {"coders": np.array(layer.coders)}

    rows = method.epoch_rows(config, info)
    classes = tuple((name, "class") for name in heads)
    return Method(init, train_step, classes, predict, rows, learnt=learnt)


def network_of(state: State) -> tuple[Any, Any]:
    """(params, batch_stats) of the one network of a finished stage, with or without a layer."""
    return state.params.get("network", state.params), state.batch_stats


def cost_of_annotations(
    log_said: Float[Array, "batch coders classes"], annotations: Int32[Array, "batch coders"]
) -> Float[Array, "batch coders"]:
    """−log of the probability of what was said; 0 where nothing was (-1)."""
    place = jnp.maximum(annotations, 0)[..., None]
    cost = -jnp.take_along_axis(log_said, place, axis=2)[..., 0]
    return jnp.where(annotations >= 0, cost, 0.0)


def _check(config: ConfigDict, info: Info) -> None:
    annotations = info.labels["annotations"]
    if annotations.max(initial=-1) >= len(info.classes):
        coder = int(np.argmax(annotations.max(axis=0)))
        raise UserError(
            f"coder {info.coders[coder]} says class {annotations.max()}, but there are only "
            f"{len(info.classes)}"
        )
    silent = [name for c, name in enumerate(info.coders) if not (annotations[:, c] >= 0).any()]
    if silent:
        raise UserError(f"no training face was annotated by coder {', '.join(silent)}")


def _weights(config: ConfigDict, info: Info) -> Float[np.ndarray, " coders"]:
    given = config.coder_weights or (1.0,) * len(info.coders)
    return method.weights("coder_weights", given, "coders", info.coders)
