"""What a method is: a NamedTuple of pure functions; and what methods share.

A method turns records into a state, step by step. Everything that changes is in the state;
`train_step` is pure and is compiled by the loop with jit or pmap.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, Key, PRNGKeyArray
from ml_collections import ConfigDict

from ferjax import augment, losses, parallel
from ferjax.data.record import given_labels
from ferjax.errors import UserError
from ferjax.nn import networks
from ferjax.truth.majority import break_ties

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
MULTI_TARGET_SHARE = 0.3
"""A class counts as right in multi-target mode if it holds more than this share of the votes."""


class State(flax.struct.PyTreeNode):
    """Everything that changes during training; what is in here is checkpointed.

    Leaves are arrays on devices or on the host, or stand for them (shapes, shardings).

    Attributes:
      step: int32 scalar, finished steps.
      epoch: int32 scalar, epochs whose `end_epoch` has run; 0 for a method that has none.
      params: trained parameters.
      batch_stats: running statistics of batch normalisation.
      opt_state: optimiser state.
      frozen: networks that don't train, reloaded from their stage instead of checkpointed.
    """

    step: Any
    epoch: Any
    params: Any
    batch_stats: Any
    opt_state: Any
    frozen: Any = ()


class Info(NamedTuple):
    """What a method may know of the data before it starts.

    Attributes:
      classes: class names.
      coders: coder names, one for each column of `annotations`.
      image_shape: (height, width, channels) of the bytes that come in.
      label: what a face is trained on, see `LABELS`.
      labels: the training split's label arrays (see `data.record.Split.labels`).
      sets: names of the datasets that the data are the union of, if they are one.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.
    """

    classes: tuple[str, ...]
    coders: tuple[str, ...]
    image_shape: tuple[int, int, int]
    label: str
    labels: dict[str, np.ndarray]
    steps_per_epoch: int
    total_steps: int
    sets: tuple[str, ...] = ()


class Method(NamedTuple):
    """One way to learn from annotations, made by `make(config, info)`.

    Attributes:
      init: (key, inputs) -> state; `inputs` maps finished stages to their final states.
      train_step: (state, batch, axis_name) -> (state, metrics); pure. Metrics are scalars over
        the global batch.
      heads: (name, 'class' | 'va') of each prediction, the main one first.
      predict: (state, uint8 images) -> {head: probabilities [batch, classes] or va [batch, 2]}.
      rows: state -> the training rows that the epoch about to start draws from, always as many.
      begin: (state, sweep) -> state, once before the first step; `sweep()` gives the predictions
        of all training faces in row order.
      end_epoch: (state, sweep) -> state, likewise, after every epoch.
      learnt: state -> {name: array} of what a report shows besides predictions.
    """

    init: Callable[[PRNGKeyArray, dict[str, State]], State]
    train_step: Callable[..., tuple[State, Metrics]]
    heads: tuple[tuple[str, str], ...]
    predict: Callable[[State, jax.Array], dict[str, jax.Array]]
    rows: Callable[[State], Int32[np.ndarray, " rows"]]
    begin: Callable[[State, Callable], State] | None = None
    end_epoch: Callable[[State, Callable], State] | None = None
    learnt: Callable[[State], dict[str, np.ndarray]] = lambda state: {}


class Stream(enum.IntEnum):
    """Independent random streams; a draw depends on (seed, step, stream, face), never on place."""

    AUGMENT = 0
    LABEL = 1
    TIE = 2


def face_keys(
    seed: int, step: Int32[Array, ""], stream: Stream, index: Int32[Array, " batch"]
) -> Key[Array, " batch"]:
    """One key a face, [batch], alike wherever in whatever batch layout the face sits."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def start_state(params: Any, batch_stats: Any, opt_state: Any, frozen: Any = ()) -> State:
    """A state at step 0."""
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, params, batch_stats, opt_state, frozen)


def network(config: ConfigDict, info: Info) -> networks.Network:
    """The network that `config.model` describes, for the classes of the data."""
    return networks.network(config.model, len(info.classes), info.image_shape)


def init_network(config: ConfigDict, info: Info, key: PRNGKeyArray) -> tuple[Any, Any]:
    """Fresh (params, batch_stats) of one network."""
    weights = network(config, info).init(key)
    return weights.params, weights.collections["batch_stats"]


def train_logits(
    config: ConfigDict,
    info: Info,
    axis_name: str | None,
    params: Any,
    batch_stats: Any,
    images: Float[Array, "batch h w 3"],
) -> tuple[Float[Array, "batch classes"], Any]:
    """Logits in training mode, and the batch statistics moved on."""
    weights = networks.Weights(params, {"batch_stats": batch_stats})
    index, key = jnp.zeros(len(images), jnp.int32), jax.random.key(0)
    outputs, updates = network(config, info).train(weights, images, index, key, axis_name)
    return outputs["class"], updates["batch_stats"]


def predict_logits(
    config: ConfigDict,
    info: Info,
    params: Any,
    batch_stats: Any,
    images: Float[Array, "batch h w 3"],
) -> Float[Array, "batch classes"]:
    """Logits in evaluation mode."""
    weights = networks.Weights(params, {"batch_stats": batch_stats})
    return network(config, info).predict(weights, images)["class"]


def predict_single(config: ConfigDict, info: Info) -> Callable[[State, jax.Array], dict]:
    """The `predict` of a method that ends with one network; its head is `network`."""

    def predict(state: State, images: jax.Array) -> dict[str, jax.Array]:
        faces = augment.prepare(images, config.model.input)
        logits = predict_logits(config, info, state.params, state.batch_stats, faces)
        return {"network": jax.nn.softmax(logits)}

    return predict


def augmented(config: ConfigDict, state: State, batch: Batch) -> Float[Array, "batch h w 3"]:
    """The batch's faces, each under its own random view, normalised."""
    keys = face_keys(config.seed, state.step, Stream.AUGMENT, batch["index"])
    scheme = config.model.input
    return jax.vmap(lambda key, image: augment.augment(key, image, config.augment, scheme))(
        keys, batch["image"]
    )


LABELS = ("majority", "random", "soft", "inferred", "votes", "multi_target")
"""What a face may be trained on, besides what one coder says of it.

- 'majority': the most chosen class; of several one that is drawn once, by the seed.
- 'random': one of the face's annotations, drawn anew at each step: the mixture of all.
- 'soft': the shares of the face's annotations.
- 'inferred': what Dawid and Skene's EM makes of the annotations, by the recipe's `inference`.
- 'votes': the shares of the votes.
- 'multi_target': 1 for every class with more than 30 % of the votes.
"""


def check_label(info: Info) -> None:
    """Whether the data has what is to be trained on: a coder's name, or one of `LABELS`.

    Raises:
      UserError: for another label, or for votes where the data has none.
    """
    known = (*LABELS, *info.coders)
    if info.label not in known:
        raise UserError(f"label={info.label!r} is none of {', '.join(known)}")
    if info.label in ("votes", "multi_target") and "votes" not in info.labels:
        raise UserError(f"label={info.label!r} needs a dataset with votes")


def targets(
    config: ConfigDict, info: Info, state: State, batch: Batch
) -> tuple[Float[Array, "batch classes"], Float[Array, " batch"]]:
    """What each face is said to be by `info.label`, and 1 for faces that are labelled, else 0."""
    target = _targets(config, info, state, batch)
    return target, jnp.any(target > 0, axis=-1).astype(jnp.float32)


def _targets(
    config: ConfigDict, info: Info, state: State, batch: Batch
) -> Float[Array, "batch classes"]:
    """See `targets`; all zero where a face is not labelled."""
    if info.label == "inferred":
        return batch["inferred"]
    if info.label in ("votes", "multi_target"):
        shares = _shares(batch["votes"].astype(jnp.float32))
        if info.label == "multi_target":
            return (shares > MULTI_TARGET_SHARE).astype(jnp.float32)
        return shares
    annotations = jax.nn.one_hot(batch["annotations"], len(info.classes))  # all zero for -1
    if info.label in info.coders:
        return annotations[:, info.coders.index(info.label)]
    if info.label == "random":
        keys = face_keys(config.seed, state.step, Stream.LABEL, batch["index"])
        coder = jax.vmap(_pick)(keys, batch["annotations"] >= 0)
        return jnp.take_along_axis(annotations, coder[:, None, None], axis=1)[:, 0]
    votes = jnp.sum(annotations, axis=1)
    if info.label == "soft":
        return _shares(votes)
    once = jnp.zeros((), jnp.int32)
    keys = face_keys(config.seed, once, Stream.TIE, batch["index"])
    draws = jax.vmap(jax.random.uniform)(keys)
    best = jax.nn.one_hot(break_ties(votes, draws), len(info.classes))
    return best * jnp.any(votes > 0, axis=-1, keepdims=True).astype(jnp.float32)


def _shares(votes: Float[Array, "batch classes"]) -> Float[Array, "batch classes"]:
    return votes / jnp.maximum(jnp.sum(votes, axis=-1, keepdims=True), 1)


def supervised_loss(info: Info) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loss against `targets`: cross-entropy, or with multiple targets the best allowed one."""
    if info.label == "multi_target":
        return lambda logits, target: losses.multi_target(logits, target > 0)
    return losses.cross_entropy


def agrees(
    logits: Float[Array, "*stack batch classes"], target: Float[Array, "batch classes"]
) -> Float[Array, "*stack batch"]:
    """1 where the prediction is (one of) the likeliest of the target, else 0."""
    best = (target == jnp.max(target, axis=-1, keepdims=True)).astype(jnp.float32)
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), target.shape[-1])
    return jnp.einsum("...bc,bc->...b", predicted, best)


def update(
    transform: optax.GradientTransformation,
    state: State,
    gradient: Any,
    batch_stats: Any,
    axis_name: str | None,
) -> State:
    """The state one optimiser step on, from this device's share of the gradient."""
    gradient = parallel.sum(gradient, axis_name)
    updates, opt_state = transform.update(gradient, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
    )


def single_step(
    config: ConfigDict,
    info: Info,
    transform: optax.GradientTransformation,
    state: State,
    images: Float[Array, "batch h w 3"],
    target: Float[Array, "batch classes"],
    labelled: Float[Array, " batch"],
    share_of_loss: Callable[[jax.Array], jax.Array],
    axis_name: str | None,
) -> tuple[State, Metrics]:
    """One optimiser step of one network.

    Args:
      config: of the stage.
      info: of the data.
      transform: the optimiser.
      state: before the step.
      images: what the network sees.
      target: what each face is said to be, see `targets`.
      labelled: 1 for faces that are labelled, else 0.
      share_of_loss: logits -> this device's share of the global batch's loss.
      axis_name: pmap's axis, or None under jit.

    Returns:
      The state after the step, and loss and accuracy on the given labels before it.
    """

    def loss_fn(params):
        logits, batch_stats = train_logits(
            config, info, axis_name, params, state.batch_stats, images
        )
        return share_of_loss(logits), (logits, batch_stats)

    (loss, (logits, batch_stats)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
        state.params
    )
    state = update(transform, state, gradient, batch_stats, axis_name)
    hits, _ = parallel.mean_over_faces(agrees(logits, target), labelled, axis_name)
    return state, parallel.sum({"loss": loss, "accuracy": hits}, axis_name)


def _pick(key: PRNGKeyArray, given: Bool[Array, " coders"]) -> Int32[Array, ""]:
    """One of the coders who labelled the face, each as likely; coder 0 if nobody did."""
    noise = jax.random.uniform(key, given.shape)
    return jnp.argmax(jnp.where(given, noise, -1.0)).astype(jnp.int32)


def epoch_rows(config: ConfigDict, info: Info) -> Callable[[State], Int32[np.ndarray, " rows"]]:
    """The rows of an epoch: every face once, or a weighted draw of N with replacement, anew each.

    With `config.balanced` every class of `given_labels` is as likely; with `config.set_weights`,
    one for each dataset of a union, the datasets are drawn from in these proportions. A face drawn
    twice into one batch has the same view twice, as views hang on faces.

    Raises:
      UserError: if nobody labelled anything that could be balanced, for weights that don't suit
        the datasets, or for both at once.
    """
    count = len(info.labels["annotations"])
    if not config.balanced and not config.set_weights:
        return lambda state: np.arange(count, dtype=np.int32)
    if config.balanced and config.set_weights:
        raise UserError("balanced and set_weights exclude each other")
    shares = _set_weights(config, info) if config.set_weights else _class_weights(info)
    chances = shares / shares.sum()

    def draw(state: State) -> Int32[np.ndarray, " rows"]:
        epoch = int(state.step) // info.steps_per_epoch
        generator = np.random.default_rng([config.seed, epoch])
        return generator.choice(count, size=count, p=chances).astype(np.int32)

    return draw


def weights(
    field: str, given: Sequence[Any], what: str, names: Sequence[str]
) -> Float[np.ndarray, " names"]:
    """The weights that a field of a recipe gives, one for each name.

    Raises:
      UserError: naming the field and `what` the names are, if the weights don't suit them.
    """
    if not all(isinstance(x, float | int) and 0 <= x < np.inf for x in given):
        raise UserError(f"{field} must be numbers from 0 on, not {given}")
    if len(given) != len(names):
        raise UserError(
            f"{field}: {len(given)} numbers for the {len(names)} {what}"
            f"{' ' if names else ''}{', '.join(names)}"
        )
    return np.array(given, np.float64)


def _class_weights(info: Info) -> Float[np.ndarray, " faces"]:
    label = given_labels(info.labels, info.coders, info.label)
    if not (label >= 0).any():
        raise UserError(f"balanced: no training face has a label ({info.label})")
    return _shared_out(label, np.ones(len(info.classes)))


def _set_weights(config: ConfigDict, info: Info) -> Float[np.ndarray, " faces"]:
    given = weights("set_weights", config.set_weights, "datasets of data.sets", info.sets)
    chances = _shared_out(info.labels["set"], given)
    if chances.sum() == 0:
        raise UserError("set_weights: no face would ever be drawn")
    return chances


def _shared_out(
    kind: Int32[np.ndarray, " faces"], shares: Float[np.ndarray, " kinds"]
) -> Float[np.ndarray, " faces"]:
    """What each face gets if faces of a kind share a number; nothing for those of none (-1)."""
    sizes = np.bincount(kind[kind >= 0], minlength=len(shares))
    return np.where(kind >= 0, (shares / np.maximum(sizes, 1))[np.maximum(kind, 0)], 0.0)
