"""LTNet: one network for the latent truth, and a transition matrix for every coder.

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018. The network gives p(y|x), the coder's matrix T^c turns it into
what that coder would say, p̂^c = pᵀT^c, and both learn from what coders did say:

    L = −Σ_c w_c·1[c annotated x]·log p̂^c(y^c)

Coders may be missing for a face. Prediction is p; the latent truth of a training face is argmax p,
its annotations not used.

`loss='released'` is what the authors' program minimises: there p̂ goes where logits belong, so that
the loss is −log softmax(p̂)[y], which lies between 1.461 and 2.461 for ten classes and bounds what a
wrong label can cost.
"""

from collections.abc import Sequence

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
from ferjax.nn import transition
from ferjax.optimizers import optimizer

LOSSES = ("paper", "released")


def make(config: ConfigDict, info: Info) -> Method:
    """The network and its coders' matrices.

    `config`: `loss` 'paper' or 'released'; `coder_weights` w_c, one a coder, or () for ones; and
    `transition` with `constraint` and `epsilon` (see `nn.transition`), `delta` of the start,
    `rate`, a factor of the backbone's learning rate, `weight_decay`, `trace` β (R. Tanno et al.,
    *Learning from noisy labels by regularized estimation of annotator confusion*, CVPR 2019: adds
    β·Σ_c tr T^c to the loss) and `freeze_epochs`, in which T stays as it is. With the stage
    `network` among its needs it starts from that stage's network.

    Raises:
      UserError: for an option out of its range, or a coder who annotated nothing.
    """
    _check(config, info)
    chosen = config.transition
    networks = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    matrices = optimizer(_slower(config), info.steps_per_epoch, info.total_steps)
    transform = _each(network=networks, transition=_frozen_first(matrices, config, info))
    coder_weights = jnp.array(config.coder_weights or [1.0] * len(info.coders))[None]

    def init(key: jax.Array, inputs: dict[str, State]) -> State:
        if "network" in inputs:
            params, batch_stats = inputs["network"].params, inputs["network"].batch_stats
        else:
            params, batch_stats = method.init_network(config, info, jax.random.fold_in(key, 0))
        start = transition.near_identity(
            jax.random.fold_in(key, 1), len(info.coders), len(info.classes), chosen.delta
        )
        raw = transition.parameters(start, chosen.constraint)
        both = {"network": params, "transition": {"matrices": raw}}
        return method.start_state(both, batch_stats, transform.init(both))

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        images = method.augmented(config, state, batch)
        annotations = batch["annotations"]
        said = (annotations >= 0).astype(jnp.float32)
        labelled = jnp.max(said, axis=1)
        raw = state.params["transition"]["matrices"]
        raw = transition.project(raw, chosen.constraint, chosen.epsilon)
        state = state.replace(params=state.params | {"transition": {"matrices": raw}})

        def loss_fn(params):
            logits, batch_stats = method.train_logits(
                config, info, axis_name, params["network"], state.batch_stats, images
            )
            coders = transition.matrices(params["transition"]["matrices"], chosen.constraint)
            each = annotation_losses(config.loss, logits, coders, annotations)
            face = jnp.sum(each * coder_weights, axis=1)
            face += chosen.trace * jnp.trace(coders, axis1=1, axis2=2).sum()  # once, in the mean
            loss = parallel.mean_over_faces(face, labelled, axis_name)[0]
            return loss, (logits, coders, batch_stats)

        (loss, (logits, coders, batch_stats)), gradient = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params
        )
        state = method.update(transform, state, gradient, batch_stats, axis_name)
        agrees = (jnp.argmax(logits, axis=1)[:, None] == annotations).astype(jnp.float32)
        share = jnp.sum(agrees * said, axis=1) / jnp.maximum(jnp.sum(said, axis=1), 1)
        hits, _ = parallel.mean_over_faces(share, labelled, axis_name)
        metrics = parallel.sum({"loss": loss, "accuracy": hits}, axis_name)
        diagonal = jnp.diagonal(coders, axis1=1, axis2=2).mean(axis=1)
        return state, metrics | {
            f"diagonal_of_{name}": diagonal[c] for c, name in enumerate(info.coders)
        }

    def predict(state: State, images: jax.Array) -> dict[str, jax.Array]:
        logits = method.predict_logits(
            config, info, state.params["network"], state.batch_stats, augment.prepare(images)
        )
        probs = jax.nn.softmax(logits)
        said = transition.annotation_probs(probs, learnt_matrices(config, state))
        return {"truth": probs} | {_head(name): said[:, c] for c, name in enumerate(info.coders)}

    heads = ("truth", *map(_head, info.coders))
    rows = method.epoch_rows(config, info)
    return Method(init, train_step, tuple((name, "class") for name in heads), predict, rows)


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
    place = jnp.maximum(annotations, 0)[..., None]
    cost = -jnp.take_along_axis(jax.nn.log_softmax(said), place, axis=2)[..., 0]
    return jnp.where(annotations >= 0, cost, 0.0)


def learnt_matrices(config: ConfigDict, state: State) -> Float[Array, "coders classes classes"]:
    """T of a state, as the next step would use it."""
    chosen = config.transition
    raw = transition.project(
        state.params["transition"]["matrices"], chosen.constraint, chosen.epsilon
    )
    return transition.matrices(raw, chosen.constraint)


def _head(coder: str) -> str:
    return f"as_{coder}"


def _slower(config: ConfigDict) -> ConfigDict:
    """The optimiser's config with the matrices' rate and decay."""
    slower = config.optimizer.copy_and_resolve_references()
    slower.learning_rate = config.transition.rate * config.optimizer.learning_rate
    slower.weight_decay = config.transition.weight_decay
    return slower


def _frozen_first(
    transform: optax.GradientTransformation, config: ConfigDict, info: Info
) -> optax.GradientTransformation:
    """Leaves parameters and optimiser as they are for the first epochs."""
    steps = round(config.transition.freeze_epochs * info.steps_per_epoch)
    if steps == 0:
        return transform

    def init(params):
        return {"step": jnp.zeros((), jnp.int32), "inner": transform.init(params)}

    def update(gradient, state, params=None):
        moves, inner = transform.update(gradient, state["inner"], params)
        begun = state["step"] >= steps
        moves = jax.tree.map(lambda x: jnp.where(begun, x, jnp.zeros_like(x)), moves)
        inner = jax.tree.map(lambda x, y: jnp.where(begun, x, y), inner, state["inner"])
        return moves, {"step": state["step"] + 1, "inner": inner}

    return optax.GradientTransformation(init, update)


def _each(**transforms: optax.GradientTransformation) -> optax.GradientTransformation:
    """An optimiser for each of some groups of parameters."""

    def init(params):
        return {name: transforms[name].init(params[name]) for name in transforms}

    def update(gradient, state, params):
        done = {
            name: transforms[name].update(gradient[name], state[name], params[name])
            for name in transforms
        }
        moves, states = ({name: pair[k] for name, pair in done.items()} for k in (0, 1))
        return moves, states

    return optax.GradientTransformation(init, update)


def _check(config: ConfigDict, info: Info) -> None:
    chosen = config.transition
    _one_of("loss", config.loss, LOSSES)
    _one_of("transition.constraint", chosen.constraint, transition.CONSTRAINTS)
    if config.coder_weights and len(config.coder_weights) != len(info.coders):
        raise UserError(
            f"coder_weights: {len(config.coder_weights)} for the {len(info.coders)} coders "
            f"{', '.join(info.coders)}"
        )
    if any(weight < 0 for weight in config.coder_weights):
        raise UserError(f"coder_weights must not be negative, as in {config.coder_weights}")
    for field in ("epsilon", "delta"):
        if not chosen[field] > 0:
            raise UserError(f"transition.{field} must be positive, not {chosen[field]}")
    for field in ("rate", "weight_decay", "freeze_epochs"):
        if chosen[field] < 0:
            raise UserError(f"transition.{field} must not be negative, but is {chosen[field]}")
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


def _one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise UserError(f"{field}={value!r} is none of {', '.join(allowed)}")
