"""The interface of a method: pure functions that turn faces and labels into a state, step by step.

Everything that changes is in the state; `train_step` is pure, and the loop compiles it with jit or
pmap. README.md in this folder shows how to add a method.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Key, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from ferjax import augment, losses, parallel
from ferjax.errors import UserError
from ferjax.nn.heads import Head
from ferjax.nn.networks import Network, Weights

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]

KINDS = ("loss", "accuracy", "weight", "count")
"""Kinds of metrics.

- 'loss': a loss or a term of it.
- 'accuracy': a share of right answers in [0, 1].
- 'weight': a number in [0, 1] by which the method weighs or selects, equal on all devices.
- 'count': a number of faces.
"""


class State(flax.struct.PyTreeNode):
    """The state of training; all of it but `frozen` is checkpointed.

    Leaves are arrays on devices or on the host, or placeholders for them (shapes, shardings).

    Attributes:
      step: int32 scalar, finished steps.
      epoch: int32 scalar, epochs whose `end_epoch` has run; 0 for a method that has none.
      params: trained parameters.
      collections: other variables of the networks by the name of their collection, such as the
        running statistics of batch normalisation.
      opt_state: optimiser state.
      faces: arrays by name with one row per face, training faces first, then the pool;
        replicated on all devices.
      frozen: weights that don't train, reloaded from their stage instead of checkpointed.
    """

    step: Any
    epoch: Any
    params: Any
    collections: Any
    opt_state: Any
    faces: Any = flax.struct.field(default_factory=dict)
    frozen: Any = ()

    @property
    def weights(self) -> Weights:
        """Returns the weights: all that prediction needs."""
        return Weights(self.params, self.collections)


class Info(NamedTuple):
    """The facts about the data that a method may use.

    Attributes:
      classes: class names.
      coders: coder names, one for each column of `annotations`.
      image_shape: (height, width, channels) of the uint8 faces.
      label: what a face is trained on, see `data.targets`.
      labels: label arrays of the faces by name, training faces first, then the pool's: those of
        `data.record.Split.labels`; `target` [N, K] float32, see `data.targets`; and where known
        `va_target` [N, 2] float32.
      steps_per_epoch: training steps in an epoch.
      total_steps: training steps in the run.
      sets: names of the datasets in a union; () for a single dataset.
      faces: number of training faces.
      pool: number of faces in the pool, which nobody labelled.
    """

    classes: tuple[str, ...]
    coders: tuple[str, ...]
    image_shape: tuple[int, int, int]
    label: str
    labels: dict[str, np.ndarray]
    steps_per_epoch: int
    total_steps: int
    sets: tuple[str, ...] = ()
    faces: int = 0
    pool: int = 0

    @property
    def epochs(self) -> float:
        """Returns the length of the run in epochs."""
        return self.total_steps / self.steps_per_epoch


Sweep = Callable[[str], dict[str, np.ndarray]]
"""Predicts all faces of 'train', 'validation' or 'pool': {head: [N, ...]} in row order."""


class Method(NamedTuple):
    """One way to learn from annotations, made by `make(config, info)`.

    Attributes:
      init: (key, inputs) -> state; `inputs` holds outputs of other stages by name.
      train_step: (state, batch, axis_name) -> (state, metrics); pure. Metrics are scalars over
        the global batch.
      metrics: the kind of each metric by name, see `KINDS`.
      rows: state -> the rows that the next epoch draws from, the same number each time; None: those
        that the recipe selects.
      begin: (state, sweep) -> state, once before the first step.
      end_epoch: (state, sweep) -> (state, metrics), after every epoch but the last.
      learnt: state -> {name: array}, what a report shows besides predictions.
    """

    init: Callable[[PRNGKeyArray, dict[str, Any]], State]
    train_step: Callable[..., tuple[State, Metrics]]
    metrics: Mapping[str, str]
    rows: Callable[[State], Int32[np.ndarray, " rows"]] | None = None
    begin: Callable[[State, Sweep], State] | None = None
    end_epoch: Callable[[State, Sweep], tuple[State, dict[str, float]]] | None = None
    learnt: Callable[[State], dict[str, np.ndarray]] = lambda state: {}


class Prediction(NamedTuple):
    """The prediction of a finished model, which needs its weights alone.

    Attributes:
      heads: what is predicted, the main head first.
      predict: (weights, uint8 images) -> {head: probabilities [batch, classes], or valence and
        arousal [batch, 2]}.
    """

    heads: tuple[Head, ...]
    predict: Callable[[Weights, UInt8[Array, "batch height width channels"]], dict[str, Array]]


class Stream(enum.IntEnum):
    """Independent random streams; a draw depends on (seed, step, stream, face) alone."""

    AUGMENT = 0
    LABEL = 1
    NETWORK = 2


def step_key(seed: int, step: Int32[Array, ""], stream: Stream) -> PRNGKeyArray:
    """Returns the key of one stream at one step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), stream)


def face_keys(key: PRNGKeyArray, index: Int32[Array, " batch"]) -> Key[Array, " batch"]:
    """Derives a key for each face that does not depend on the face's position in the batch."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


class View(NamedTuple):
    """A batch as a loss sees it, in addition to the outputs of the networks.

    Attributes:
      images: the augmented faces that the networks see.
      target: what each face is trained on, see `data.targets`; all zero without a label.
      labelled: 1 for faces with a label, else 0.
      batch: label arrays of the batch, see `Info.labels`, and `index`: rows of the faces.
      faces: `State.faces` before the step; `faces[name][batch["index"]]` are the batch's rows.
      step: finished steps.
      epoch: finished epochs, counted by steps.
      frozen: `State.frozen`.
      axis_name: pmap's axis, or None under jit.
    """

    images: Float[Array, "batch height width 3"]
    target: Float[Array, "batch classes"]
    labelled: Float[Array, " batch"]
    batch: Batch
    faces: dict[str, jax.Array]
    step: Int32[Array, ""]
    epoch: Int32[Array, ""]
    frozen: Any
    axis_name: str | None

    def mean(
        self, values: Float[Array, "*terms batch"], weights: Float[Array, " batch"] | None = None
    ) -> Float[Array, "*terms"]:
        """Returns this device's share of the mean over the global batch.

        Args:
          values: one or several numbers per face.
          weights: of the faces; None: 1 for labelled faces, 0 for others.
        """
        weights = self.labelled if weights is None else weights
        return parallel.mean_over_faces(values, weights, self.axis_name)[0]


def view(config: ConfigDict, info: Info, state: State, batch: Batch, axis_name: str | None) -> View:
    """Augments the faces of a batch and attaches their training targets."""
    keys = face_keys(step_key(config.seed, state.step, Stream.AUGMENT), batch["index"])
    scheme = config.model.input
    images = jax.vmap(lambda key, image: augment.augment(key, image, config.augment, scheme))(
        keys, batch["image"]
    )
    target = batch["target"]
    if info.label == "random":
        keys = face_keys(step_key(config.seed, state.step, Stream.LABEL), batch["index"])
        target = jax.vmap(_draw_annotation, (0, 0, None))(keys, batch["annotations"], target[:1])
    return View(
        images=images,
        target=target,
        labelled=jnp.any(target > 0, axis=-1).astype(jnp.float32),
        batch=batch,
        faces=state.faces,
        step=state.step,
        epoch=state.step // info.steps_per_epoch,
        frozen=state.frozen,
        axis_name=axis_name,
    )


def class_loss(label: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns `losses.multi_target` for the label 'multi_target', else cross-entropy."""
    if label == "multi_target":
        return lambda logits, target: losses.multi_target(logits, target > 0)
    return losses.cross_entropy


def agrees(
    logits: Float[Array, "*stack batch classes"], target: Float[Array, "batch classes"]
) -> Float[Array, "*stack batch"]:
    """Returns 1 where the predicted class is among the likeliest of the target, else 0."""
    best = (target == jnp.max(target, axis=-1, keepdims=True)).astype(jnp.float32)
    predicted = jax.nn.one_hot(jnp.argmax(logits, axis=-1), target.shape[-1])
    return jnp.einsum("...bc,bc->...b", predicted, best)


def probabilities(network: Network, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """Turns the logits of class heads into probabilities and leaves other heads unchanged."""
    kinds = dict(network.heads)
    return {
        name: jax.nn.softmax(value) if kinds[name] == "class" else value
        for name, value in outputs.items()
    }


def check_choice(field: str, value: str, allowed: tuple[str, ...]) -> None:
    """Checks that a recipe's field has an allowed value.

    Raises:
      UserError: naming the field and the allowed values, if it does not.
    """
    if value not in allowed:
        raise UserError(f"{field}={value!r} is none of {', '.join(filter(None, allowed))}")


def _draw_annotation(
    key: PRNGKeyArray,
    annotations: Int32[Array, " coders"],
    like: Float[Array, "1 classes"],
) -> Float[Array, " classes"]:
    """Draws a one-hot target from a face's annotations, all equally likely; zeros without any."""
    given: Bool[Array, " coders"] = annotations >= 0
    noise = jax.random.uniform(key, given.shape)
    coder = jnp.argmax(jnp.where(given, noise, -1.0))
    return jax.nn.one_hot(annotations[coder], like.shape[-1])
