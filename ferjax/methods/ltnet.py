"""LTNet: one network for the latent truth, and a transition matrix for every coder.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018. The network gives p(y|x), the coder's matrix T^c turns it into the
probabilities of that coder's annotation, p̂^c = pᵀT^c, and both learn from the annotations:

    L = −Σ_c w_c·1[c annotated x]·log p̂^c(y^c)                    (Eq. 6, w_c = 1)

`loss='released'` is what the authors' program minimises. It uses p̂ in place of logits, so the loss
is −log softmax(p̂)[y]. For ten classes that lies between 1.461 and 2.461, which bounds what a wrong
label can cost. In the weights that the authors published for CIFAR-10, T was never trained: up to
the scale of each row, the diagonal is 999 and the 270 other entries are uniform draws from (0, 1)
(Kolmogorov–Smirnov p = .86), which is how T starts. In training, those entries would have reached
.0098 within five steps. So the published accuracy of 87.23 is that of the control with T = I.

The noise adaptation layer (J. Goldberger and E. Ben-Reuven, *Training deep neural-networks using a
noise adaptation layer*, ICLR 2017, "simple" model) assumes a single source of labels. It is LTNet
with one matrix for all coders, rows given by softmax, and `start='confusion'`, its Eq. 8.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from ferjax.errors import UserError
from ferjax.methods import coders
from ferjax.methods.method import Info, Method, Prediction, State, Sweep, check_choice
from ferjax.nn import transition
from ferjax.nn.networks import Network
from ferjax.optimizers import RULES, frozen_until, optimizer

LAYER = "transition"
LOSSES = ("paper", "released")
REDUCTIONS = ("", "faces", "coder_mean")
STARTS = ("identity", "dawid_skene", "confusion", "given")
DELTAS = {"paper": 0.01, "released": 0.001}
"""δ of the start near the identity where `transition.delta` is negative."""
EVERYBODY = "everybody"
"""Name of the matrix that all coders share."""


def make(config: ConfigDict, info: Info) -> Method:
    """Makes the network and the coders' matrices.

    `config`: `loss` 'paper' or 'released'; `coder_weights` w_c, one per coder, or () for ones;
    `reduction`, 'faces' (the paper's mean over faces), 'coder_mean' (the authors' mean over each
    coder's own annotations) or '' (the one that belongs to `loss`); and `transition` with

    - `constraint` and `epsilon`, see `nn.transition`;
    - `shared`: whether all coders share one matrix;
    - `start`: 'identity', I + `delta`·U with U uniform in (0, 1), rows normalised, where a negative
      `delta` stands for 0.01 with the paper's loss and 0.001 with the released one; 'dawid_skene',
      the matrices inferred by the stage `needs.truth`; 'confusion', the confusions of the network
      that training starts from: its predictions (row) against the annotations (column); 'given',
      the field `matrices`, one per coder;
    - `optimizer`, a name as in `optimizers.optimizer`, or '' for the network's; `rate`, T's
      learning rate as a multiple of the network's; and `weight_decay`;
    - `clip`, the bound on the size of each entry of T's gradient, 0 for none. In a batch of B
      faces, one that the network is sure of adds 1/(B·T_ij) to an entry, so that without a bound a
      single contradiction can fill a row of T. With it, the rates of mistakes rarer than
      1/(B·clip) are underestimated;
    - `trace` β, which adds β·Σ_c tr T^c to the loss (R. Tanno et al., *Learning from noisy labels
      by regularized estimation of annotator confusion*, CVPR 2019);
    - `freeze_epochs`, the first epochs, in which T stays as it is; the schedule of its learning
      rate spans the rest.

    If its `needs` name a stage `network`, training starts from that stage's network.

    Raises:
      UserError: for an option out of its range, or a coder who annotated nothing.
    """
    _check(config, info)
    options = config.transition
    names = coder_names(config, info.coders)
    start = _start(config, info, len(names))

    def init(key: jax.Array, inputs: dict[str, Any]) -> dict[str, jax.Array]:
        return {"matrices": transition.parameters(start(key, inputs), options.constraint)}

    def matrices(params: dict) -> transition.Matrices:
        return transition.matrices(params["matrices"], options.constraint)

    def costs(params: dict, logits: jax.Array, annotations: jax.Array) -> jax.Array:
        each = jnp.broadcast_to(matrices(params), (annotations.shape[1], *logits.shape[1:] * 2))
        return annotation_losses(config.loss, logits, each, annotations)

    def penalty(params: dict) -> jax.Array:
        return options.trace * jnp.trace(matrices(params), axis1=1, axis2=2).sum()

    metric_names = tuple(f"diagonal/{name}" for name in names)
    metric_names = metric_names if len(names) <= coders.MOST_HEADS else ()

    def diagonals(params: dict) -> dict[str, jax.Array]:
        diagonal = jnp.diagonal(matrices(params), axis1=1, axis2=2).mean(axis=1)
        return {name: diagonal[c] for c, name in enumerate(metric_names)}

    made = coders.make(
        config,
        info,
        _layer(config, names),
        init=init,
        costs=costs,
        network_optimizer=optimizer(config.optimizer, info.steps_per_epoch, info.total_steps),
        layer_optimizer=_matrix_optimizer(config, info),
        project=_project(config),
        penalty=penalty,
        layer_metrics=diagonals,
        metric_names=metric_names,
        by_coder=(config.reduction or _reduction_of(config.loss)) == "coder_mean",
    )

    def learnt(state: State) -> dict[str, np.ndarray]:
        return {
            "coders": np.array(names),
            "transitions": np.asarray(learnt_matrices(config, state)),
        }

    begin = _begin(config, info) if options.start == "confusion" else None
    return made._replace(begin=begin, learnt=learnt)


def prediction(config: ConfigDict, model: Network, names: tuple[str, ...]) -> Prediction:
    """Returns the prediction of the model, see `coders.prediction`."""
    layer = _layer(config, coder_names(config, names))
    return coders.prediction(config, model, layer, _project(config))


def inputs(config: ConfigDict) -> tuple[str, ...]:
    """Returns the names of the needs that the recipe uses: `truth` only if T starts from it."""
    truth = ("truth",) if config.transition.start == "dawid_skene" else ()
    return (*(name for name in config.needs if name != "truth"), *truth)


def coder_names(config: ConfigDict, names: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the names of the matrices: the coders' names, or `EVERYBODY` for a shared matrix."""
    return (EVERYBODY,) if config.transition.shared else names


def annotation_losses(
    loss: str,
    logits: Float[Array, "batch classes"],
    matrices: Float[Array, "coders classes classes"],
    annotations: Int32[Array, "batch coders"],
) -> Float[Array, "batch coders"]:
    """Returns the loss of each annotation by one of `LOSSES`; 0 where there is none (-1)."""
    if loss == "paper":
        return -transition.log_annotation(jax.nn.log_softmax(logits), matrices, annotations)
    probs = transition.annotation_probs(jax.nn.softmax(logits), matrices)
    return coders.cost_of_annotations(jax.nn.log_softmax(probs), annotations)


def learnt_matrices(config: ConfigDict, state: State) -> Float[Array, "coders classes classes"]:
    """Returns T in a state, as the next step would use it."""
    params = _project(config)(jax.tree.map(jnp.asarray, state.params[LAYER]))
    return transition.matrices(params["matrices"], config.transition.constraint)


def confusions(
    probs: Float[np.ndarray, "faces classes"], annotations: Int32[np.ndarray, "faces coders"]
) -> Float[np.ndarray, "coders classes classes"]:
    """Estimates coders' matrices from class probabilities of the faces; rows sum to one.

    T^c_ij = Σ_x p(i|x)·1[c chose j] / Σ_x p(i|x), over the faces x that c annotated (Goldberger &
    Ben-Reuven, Eq. 8). Row i is uniform where those faces give class i no probability.
    """
    classes = probs.shape[1]
    one_hot = annotations[..., None] == np.arange(classes)
    counts = np.einsum("fi,fcj->cij", probs, one_hot.astype(probs.dtype))
    sizes = counts.sum(axis=2, keepdims=True)
    return np.divide(counts, sizes, out=np.full_like(counts, 1 / classes), where=sizes > 0)


def _layer(config: ConfigDict, names: tuple[str, ...]) -> coders.Layer:
    def annotation_probs(params: dict, probs: jax.Array) -> jax.Array:
        matrices = transition.matrices(params["matrices"], config.transition.constraint)
        return transition.annotation_probs(probs, matrices)

    return coders.Layer(LAYER, names, annotation_probs)


def _project(config: ConfigDict) -> Callable[[dict], dict]:
    options = config.transition
    return lambda params: {
        "matrices": transition.project(params["matrices"], options.constraint, options.epsilon)
    }


def _reduction_of(loss: str) -> str:
    return "faces" if loss == "paper" else "coder_mean"


def _start(
    config: ConfigDict, info: Info, count: int
) -> Callable[[jax.Array, dict[str, Any]], jax.Array]:
    """Returns a function of (key, inputs) that makes the initial T of `count` coders."""
    options = config.transition
    classes = len(info.classes)
    if options.start == "given":
        given = _given(options.matrices, count, classes)
        _check_possible(given, info)
        return lambda key, inputs: jnp.asarray(given)
    if options.start == "dawid_skene":
        return lambda key, inputs: _from_truth_inference(inputs["truth"].confusions, options.shared)
    delta = options.delta if options.delta >= 0 else DELTAS[config.loss]
    return lambda key, inputs: transition.near_identity(key, count, classes, delta)


def _from_truth_inference(
    confusions: Float[Array, "coders classes classes"], shared: bool
) -> jax.Array:
    matrices = confusions.mean(axis=0, keepdims=True) if shared else confusions
    return jnp.asarray(matrices, jnp.float32)


def _begin(config: ConfigDict, info: Info) -> Callable[[State, Sweep], State]:
    """Returns a `Method.begin` that sets T to `confusions` of predictions and annotations."""

    def begin(state: State, sweep: Sweep) -> State:
        probs, annotations = sweep("train")["truth"], info.labels["annotations"][: info.faces]
        if config.transition.shared:  # each face counts once for every coder
            probs = np.repeat(probs, annotations.shape[1], axis=0)
            annotations = annotations.reshape(-1, 1)
        matrices = jnp.asarray(confusions(probs, annotations))
        raw = transition.parameters(matrices, config.transition.constraint)
        return state.replace(params=state.params | {LAYER: {"matrices": np.asarray(raw)}})

    return begin


def _matrix_optimizer(config: ConfigDict, info: Info) -> optax.GradientTransformation:
    options = config.transition
    recipe = config.optimizer.copy_and_resolve_references()
    recipe.name = options.optimizer or config.optimizer.name
    recipe.learning_rate = options.rate * config.optimizer.learning_rate
    recipe.weight_decay = options.weight_decay
    frozen = round(options.freeze_epochs * info.steps_per_epoch)
    rest = max(info.total_steps - frozen, 1)
    transform = optimizer(recipe, info.steps_per_epoch, rest)
    if options.clip > 0:
        transform = optax.chain(optax.clip(options.clip), transform)
    return frozen_until(transform, frozen)


def _given(matrices: Any, count: int, classes: int) -> Float[np.ndarray, "coders classes classes"]:
    try:
        given = np.array(matrices, np.float32)
    except ValueError:  # ragged
        given = np.empty(0, np.float32)
    if given.shape != (count, classes, classes):
        raise UserError(
            f"transition.matrices must hold, for each of {count} coders, {classes} rows of "
            f"{classes} numbers"
        )
    if not (given >= 0).all() or not np.allclose(given.sum(axis=2), 1, atol=1e-4):
        raise UserError("transition.matrices: every row must be probabilities that sum to one")
    return given


def _check_possible(given: Float[np.ndarray, "coders classes classes"], info: Info) -> None:
    """Checks that no coder gave an annotation that its matrix rules out; it would teach nothing."""
    annotations = info.labels["annotations"].T
    matrices = np.broadcast_to(given, (len(info.coders), *given.shape[1:]))
    for name, column, matrix in zip(info.coders, annotations, matrices, strict=True):
        impossible = np.intersect1d(column, np.flatnonzero((matrix == 0).all(axis=0)))
        if len(impossible):
            raise UserError(
                f"transition.matrices: the matrix of coder {name} has nothing but zeros in the "
                f"column of {info.classes[impossible[0]]}, an annotation that {name} gave"
            )


def _check(config: ConfigDict, info: Info) -> None:
    options = config.transition
    check_choice("loss", config.loss, LOSSES)
    check_choice("reduction", config.reduction, REDUCTIONS)
    check_choice("transition.constraint", options.constraint, transition.CONSTRAINTS)
    check_choice("transition.start", options.start, STARTS)
    check_choice("transition.optimizer", options.optimizer, ("", *RULES))
    if options.start == "confusion" and "network" not in config.needs:
        raise UserError(
            "transition.start='confusion' needs a stage to start from: give the config one as "
            "needs.network, see configs/ipa2lt.py"
        )
    if options.start == "dawid_skene" and "truth" not in config.needs:
        raise UserError(
            "transition.start='dawid_skene' needs a stage of kind 'infer': name it in needs.truth"
        )
    if not options.epsilon > 0:
        raise UserError(f"transition.epsilon must be positive, not {options.epsilon}")
    for field in ("rate", "clip", "weight_decay", "freeze_epochs"):
        if not options[field] >= 0:
            raise UserError(f"transition.{field} must not be negative, but is {options[field]}")
    if not np.isfinite(options.delta):
        raise UserError(f"transition.delta must be finite, not {options.delta}")
