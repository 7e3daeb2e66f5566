"""LTNet: one network for the latent truth, and a transition matrix for every coder.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018. The network gives p(y|x), the coder's matrix T^c turns it into
what that coder would say, p̂^c = pᵀT^c, and both learn from what coders did say:

    L = −Σ_c w_c·1[c annotated x]·log p̂^c(y^c)

`loss='released'` is what the authors' program minimises: there p̂ goes where logits belong, so that
the loss is −log softmax(p̂)[y], which lies between 1.461 and 2.461 for ten classes and bounds what a
wrong label can cost. T stays near the identity under it: in the weights that they published its
diagonals are 0.994 to 0.997, though the coders are right on 60, 70 and 80 %.

The noise adaptation layer (J. Goldberger and E. Ben-Reuven, *Training deep neural-networks using a
noise adaptation layer*, ICLR 2017, "simple" model), which knows one source of labels, is LTNet with
a single matrix for all coders, rows that are softmax, and `start='confusion'`, its (8).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int32
from ml_collections import ConfigDict

from ferjax.data import crowd
from ferjax.errors import UserError
from ferjax.methods import coders
from ferjax.methods.method import Info, Method, State
from ferjax.nn import transition
from ferjax.optimizers import RULES, frozen_until, optimizer

LOSSES = ("paper", "released")
STARTS = ("identity", "dawid_skene", "confusion", "given")
EVERYBODY = "everybody"
"""Name of the one coder that all are taken for."""


def make(config: ConfigDict, info: Info) -> Method:
    """The network and its coders' matrices.

    `config`: `loss` 'paper' or 'released'; `coder_weights` w_c, one a coder, or () for ones; and
    `transition` with

    - `constraint` and `epsilon`, see `nn.transition`;
    - `shared`: whether all coders have one matrix;
    - `start`: 'identity', rows of I + `delta`·U, normalised; 'dawid_skene', what EM finds in the
      annotations, itself started as `inference.start` says; 'confusion', what the network that it
      starts from says on the training faces (row) against the annotations (column); 'given',
      `matrices`, one a coder;
    - `optimizer`, see `optimizers.optimizer`, or empty for the network's; `rate`, a factor of the
      network's learning rate; and `weight_decay`;
    - `clip`, the most that an entry of T's gradient counts, 0 for no such bound: of B faces, one
      that the network is sure of adds 1/(B·T_ij) to it, which without a bound lets a single
      contradiction fill a row of T; with it, mistakes rarer than 1/(B·clip) are learnt as rarer;
    - `trace` β (R. Tanno et al., *Learning from noisy labels by regularized estimation of annotator
      confusion*, CVPR 2019: adds β·Σ_c tr T^c to the loss);
    - `freeze_epochs`, in which T stays as it is; its learning rate's schedule is of the rest.

    With the stage `network` among its needs it starts from that stage's network.

    Raises:
      UserError: for an option out of its range, or a coder who annotated nothing.
    """
    _check(config, info)
    chosen = config.transition
    names = (EVERYBODY,) if chosen.shared else info.coders
    start = _start(config, info, len(names))

    def init(key: jax.Array) -> dict[str, jax.Array]:
        return {"matrices": transition.parameters(start(key), chosen.constraint)}

    def project(params: dict) -> dict:
        raw = params["matrices"]
        return {"matrices": transition.project(raw, chosen.constraint, chosen.epsilon)}

    def matrices(params: dict) -> transition.Matrices:
        return transition.matrices(params["matrices"], chosen.constraint)

    def losses(params: dict, logits: jax.Array, annotations: jax.Array) -> jax.Array:
        mine = jnp.broadcast_to(matrices(params), (annotations.shape[1], *logits.shape[1:] * 2))
        return annotation_losses(config.loss, logits, mine, annotations)

    def penalty(params: dict) -> jax.Array:
        return chosen.trace * jnp.trace(matrices(params), axis1=1, axis2=2).sum()

    def watched(params: dict) -> dict[str, jax.Array]:
        if len(names) > coders.MOST_HEADS:
            return {}
        diagonal = jnp.diagonal(matrices(params), axis1=1, axis2=2).mean(axis=1)
        return {f"diagonal_of_{name}": diagonal[c] for c, name in enumerate(names)}

    layer = coders.Layer(
        "transition",
        names,
        init,
        losses,
        said=lambda params, probs: transition.annotation_probs(probs, matrices(params)),
        project=project,
        penalty=penalty,
        watched=watched,
    )
    networks = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    frozen = round(chosen.freeze_epochs * info.steps_per_epoch)
    rest = max(info.total_steps - frozen, 1)
    layers = optimizer(_for_matrices(config), info.steps_per_epoch, rest)
    if chosen.clip > 0:
        layers = optax.chain(optax.clip(chosen.clip), layers)
    made = coders.make(config, info, layer, networks, frozen_until(layers, frozen))

    def learnt(state: State) -> dict[str, np.ndarray]:
        both = learnt_matrices(config, state)
        return {"coders": np.array(names), "transitions": np.asarray(both)}

    begin = _begin(config, info) if chosen.start == "confusion" else None
    return made._replace(begin=begin, learnt=learnt)


def annotation_losses(
    loss: str,
    logits: Float[Array, "batch classes"],
    matrices: Float[Array, "coders classes classes"],
    annotations: Int32[Array, "batch coders"],
) -> Float[Array, "batch coders"]:
    """What each annotation costs, see above; 0 where there is none (-1)."""
    if loss == "paper":
        return -transition.log_annotation(jax.nn.log_softmax(logits), matrices, annotations)
    said = transition.annotation_probs(jax.nn.softmax(logits), matrices)
    return coders.cost_of_annotations(jax.nn.log_softmax(said), annotations)


def learnt_matrices(config: ConfigDict, state: State) -> Float[Array, "coders classes classes"]:
    """T of a state, as the next step would use it."""
    chosen = config.transition
    raw = jnp.asarray(state.params["transition"]["matrices"])
    raw = transition.project(raw, chosen.constraint, chosen.epsilon)
    return transition.matrices(raw, chosen.constraint)


def confusions(
    probs: Float[np.ndarray, "faces classes"], annotations: Int32[np.ndarray, "faces coders"]
) -> Float[np.ndarray, "coders classes classes"]:
    """What coders say of faces that are of a class as likely as `probs` has it; rows sum to one.

    Goldberger & Ben-Reuven's (8): Σ_x p(i|x)·1[c said j] / Σ_x p(i|x), over faces that c annotated.
    Uniform where no such face may be of the class.
    """
    classes = probs.shape[1]
    said = annotations[..., None] == np.arange(classes)
    counts = np.einsum("fi,fcj->cij", probs, said.astype(probs.dtype))
    sizes = counts.sum(axis=2, keepdims=True)
    return np.divide(counts, sizes, out=np.full_like(counts, 1 / classes), where=sizes > 0)


def _start(config: ConfigDict, info: Info, count: int) -> Callable[[jax.Array], jax.Array]:
    """Key -> T⁰ of so many coders."""
    chosen = config.transition
    classes = len(info.classes)
    if chosen.start == "given":
        given = _given(chosen.matrices, count, classes)
        _check_possible(given, info)
        return lambda key: jnp.asarray(given)
    if chosen.start == "dawid_skene":
        said = info.labels["annotations"]
        found = crowd.dawid_skene(said, classes, start=config.inference.start, seed=config.seed)
        mean = found.confusions.mean(axis=0, keepdims=True)
        learnt = jnp.asarray(mean if chosen.shared else found.confusions, jnp.float32)
        return lambda key: learnt
    return lambda key: transition.near_identity(key, count, classes, chosen.delta)


def _begin(config: ConfigDict, info: Info) -> Callable[[State, Callable], State]:
    """Sets T to what the network says on the training faces against the annotations."""

    def begin(state: State, sweep: Callable[[], dict[str, np.ndarray]]) -> State:
        probs, annotations = sweep()["truth"], info.labels["annotations"]
        if config.transition.shared:  # each face once for every coder
            probs = np.repeat(probs, annotations.shape[1], axis=0)
            annotations = annotations.reshape(-1, 1)
        found = confusions(probs, annotations)
        raw = transition.parameters(jnp.asarray(found), config.transition.constraint)
        layer = {"matrices": np.asarray(raw)}
        return state.replace(params=state.params | {"transition": layer})

    return begin


def _for_matrices(config: ConfigDict) -> ConfigDict:
    """The optimiser's config for the matrices."""
    chosen = config.optimizer.copy_and_resolve_references()
    chosen.name = config.transition.optimizer or config.optimizer.name
    chosen.learning_rate = config.transition.rate * config.optimizer.learning_rate
    chosen.weight_decay = config.transition.weight_decay
    return chosen


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
    """Whether coders said nothing that their matrices rule out: that teaches nothing."""
    annotations = info.labels["annotations"].T
    matrices = np.broadcast_to(given, (len(info.coders), *given.shape[1:]))
    for name, said, matrix in zip(info.coders, annotations, matrices, strict=True):
        impossible = np.intersect1d(said, np.flatnonzero((matrix == 0).all(axis=0)))
        if len(impossible):
            raise UserError(
                f"transition.matrices: {name}'s has nothing but zeros in the column of "
                f"{info.classes[impossible[0]]}, which {name} did say"
            )


def _check(config: ConfigDict, info: Info) -> None:
    chosen = config.transition
    choices: dict[str, tuple[str, tuple[str, ...]]] = {
        "loss": (config.loss, LOSSES),
        "transition.constraint": (chosen.constraint, transition.CONSTRAINTS),
        "transition.start": (chosen.start, STARTS),
        "transition.optimizer": (chosen.optimizer, ("", *RULES)),
    }
    for field, (value, allowed) in choices.items():
        if value not in allowed:
            raise UserError(f"{field}={value!r} is none of {', '.join(filter(None, allowed))}")
    if chosen.start == "confusion" and "network" not in config.needs:
        raise UserError(
            "transition.start='confusion' needs a stage to start from: give the config one as "
            "needs.network, see configs/ltnet.py"
        )
    if not chosen.epsilon > 0:
        raise UserError(f"transition.epsilon must be positive, not {chosen.epsilon}")
    for field in ("delta", "rate", "clip", "weight_decay", "freeze_epochs"):
        if not chosen[field] >= 0:
            raise UserError(f"transition.{field} must not be negative, but is {chosen[field]}")
