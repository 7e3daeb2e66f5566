"""Consensual Collaborative Training, and the distillation of its networks into one.

D. Gera and S. Balasubramanian, *Consensual Collaborative Training and Knowledge Distillation based
Facial Expression Recognition under Noisy Annotations* (2021, arXiv:2107.04746). M networks of one
architecture, started differently, see the same views and learn from the given label and from each
other:

    L = (1 − λ)·Σ_j CE(p_j, y) + λ·Σ_j Σ_{k≠j} KL(p_k ‖ p_j)

λ rises over the epochs: first fit, then agree. Networks rarely agree on a wrong label, so what they
agree on tends to be right.

The networks are one stack of parameters with a leading axis M, driven by `vmap`.
`variant='released'` follows the authors' program where it differs from what the paper means to say:
λ falls again after the ramp, both sums carry a factor 0.33, and distillation counts the hard term
once for each teacher.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from ferjax import augment, losses, parallel
from ferjax.errors import UserError
from ferjax.methods import method
from ferjax.methods.method import Batch, Info, Method, Metrics, State
from ferjax.optimizers import optimizer

RELEASED_FACTOR = 0.33


def make_teachers(config: ConfigDict, info: Info) -> Method:
    """The M networks in consensus.

    `config`: `networks` M ≥ 1, `lambda_max`, `beta`, `ramp` (e_r as a fraction of the run),
    `variant` 'paper' or 'released'; and everything that `supervised` takes. With one network and
    λ_max = 0 it is `supervised`.

    Raises:
      UserError: for fewer than one network, λ_max outside [0, 1], a ramp that is not positive or an
        unknown variant.
    """
    _check_teachers(config)
    transform = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    loss_of = method.supervised_loss(info)
    factor = RELEASED_FACTOR if config.variant == "released" else 1.0

    def init(key: jax.Array, inputs: dict[str, State]) -> State:
        keys = jax.vmap(lambda j: jax.random.fold_in(key, j))(jnp.arange(config.networks))
        params, batch_stats = jax.vmap(lambda k: method.init_network(config, info, k))(keys)
        return method.start_state(params, batch_stats, transform.init(params))

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        images = method.augmented(config, state, batch)
        target, labelled = method.targets(config, info, state, batch)
        weight = consensus_weight(state.step // info.steps_per_epoch, config, info)

        def apply(params, batch_stats):
            return method.train_logits(config, info, axis_name, params, batch_stats, images)

        def loss_fn(params):
            logits, batch_stats = jax.vmap(apply)(params, state.batch_stats)
            fit = jnp.sum(jax.vmap(loss_of, (0, None))(logits, target), axis=0)
            apart = losses.disagreement(logits)
            terms = jnp.stack([factor * fit, factor * apart])
            (fit, apart), _ = parallel.mean_over_faces(terms, labelled, axis_name)
            loss = (1 - weight) * fit + weight * apart
            return loss, (fit, apart, logits, batch_stats)

        (loss, (fit, apart, logits, batch_stats)), gradient = jax.value_and_grad(
            loss_fn, has_aux=True
        )(state.params)
        state = method.update(transform, state, gradient, batch_stats, axis_name)
        hits, _ = parallel.mean_over_faces(method.agrees(logits, target), labelled, axis_name)
        metrics = {"loss": loss, "supervised": fit, "consistency": apart, "accuracy": hits.mean()}
        metrics |= {f"network_{j + 1}/accuracy": hits[j] for j in range(config.networks)}
        return state, parallel.sum(metrics, axis_name) | {"lambda": weight}

    def predict(state: State, images: jax.Array) -> dict[str, jax.Array]:
        probs = jax.nn.softmax(
            _stack_logits(config, info, state, augment.prepare(images, config.model.input))
        )
        each = {f"network_{j + 1}": probs[j] for j in range(config.networks)}
        return {"average": probs.mean(axis=0), "vote": majority_vote(probs)} | each

    names = ["average", "vote", *(f"network_{j + 1}" for j in range(config.networks))]
    heads = tuple((name, "class") for name in names)
    return Method(init, train_step, heads, predict, method.epoch_rows(config, info))


def make_student(config: ConfigDict, info: Info) -> Method:
    """One network distilled from the stage `teachers`.

    L = ½·Σ_j CE(softmax(u_j/U), softmax(v/U)) + ½·CE(y, softmax(v)), CE(target, prediction), u_j
    the teachers' and v the student's logits, U = `config.temperature`; no factor U². The teachers
    are frozen, in evaluation mode, and see the student's augmented batch; y is the same noisy
    label. A face that nobody labelled has no second term but counts in the mean.

    Raises:
      UserError: for a temperature that is not positive or an unknown variant.
    """
    if config.temperature <= 0:
        raise UserError(f"student.temperature must be positive, not {config.temperature}")
    _check_variant("student", config)
    transform = optimizer(config.optimizer, info.steps_per_epoch, info.total_steps)
    loss_of = method.supervised_loss(info)

    def init(key: jax.Array, inputs: dict[str, State]) -> State:
        teachers = inputs["teachers"]
        # A start of its own: the teachers' starts are fold_in(key, 0 … M − 1).
        start = jax.random.fold_in(key, len(jax.tree.leaves(teachers.params)[0]))
        params, batch_stats = method.init_network(config, info, start)
        frozen = {"params": teachers.params, "batch_stats": teachers.batch_stats}
        return method.start_state(params, batch_stats, transform.init(params), frozen)

    def train_step(
        state: State, batch: Batch, axis_name: str | None = None
    ) -> tuple[State, Metrics]:
        images = method.augmented(config, state, batch)
        target, labelled = method.targets(config, info, state, batch)
        taught = _stack_logits(config, info, state.replace(**state.frozen), images)
        soft = jax.nn.softmax(taught / config.temperature)
        hard_terms = len(soft) if config.variant == "released" else 1

        def share_of_loss(logits: jax.Array) -> jax.Array:
            copied = jax.vmap(losses.cross_entropy, (None, 0))(logits / config.temperature, soft)
            hard = hard_terms * loss_of(logits, target) * labelled
            everyone = jnp.ones_like(labelled)  # an unlabelled face still has teachers
            loss = 0.5 * copied.sum(axis=0) + 0.5 * hard
            return parallel.mean_over_faces(loss, everyone, axis_name)[0]

        return method.single_step(
            config, info, transform, state, images, target, labelled, share_of_loss, axis_name
        )

    predict = method.predict_single(config, info)
    rows = method.epoch_rows(config, info)
    return Method(init, train_step, (("network", "class"),), predict, rows)


def consensus_weight(epoch: Array, config: ConfigDict, info: Info) -> Float[Array, ""]:
    """λ(e) = λ_max·exp(−β·(1 − e/e_r)²), held at λ_max from e_r on.

    Args:
      epoch: e, the current epoch, counted from 0.
      config: `lambda_max`, `beta`, `ramp` (e_r as a fraction of the run's epochs) and `variant`;
        'released' lets λ fall again after e_r, as the formula does as printed.
      info: gives the run's length in epochs.
    """
    ramp_epochs = config.ramp * info.total_steps / info.steps_per_epoch
    left = 1 - epoch.astype(jnp.float32) / ramp_epochs
    if config.variant == "paper":
        left = jnp.maximum(left, 0.0)
    return config.lambda_max * jnp.exp(-config.beta * left**2)


def majority_vote(
    probs: Float[Array, "networks batch classes"],
) -> Float[Array, "batch classes"]:
    """Shares of the networks' votes; a tie goes to the class with the larger mean probability."""
    votes = jax.nn.one_hot(jnp.argmax(probs, axis=-1), probs.shape[-1]).sum(axis=0)
    # Half a vote, split by mean probability, breaks ties and can never overturn a whole vote.
    return (votes + 0.5 * probs.mean(axis=0)) / (probs.shape[0] + 0.5)


def _stack_logits(
    config: ConfigDict, info: Info, state: State, images: Float[Array, "batch h w 3"]
) -> Float[Array, "networks batch classes"]:
    return jax.vmap(
        lambda params, batch_stats: method.predict_logits(config, info, params, batch_stats, images)
    )(state.params, state.batch_stats)


def _check_teachers(config: ConfigDict) -> None:
    if config.networks < 1:
        raise UserError(f"teachers.networks must be at least 1, not {config.networks}")
    if not 0 <= config.lambda_max <= 1:
        raise UserError(f"teachers.lambda_max must lie in [0, 1], not {config.lambda_max}")
    if config.ramp <= 0:
        raise UserError(f"teachers.ramp must be positive, not {config.ramp}")
    _check_variant("teachers", config)


def _check_variant(stage: str, config: ConfigDict) -> None:
    if config.variant not in ("paper", "released"):
        raise UserError(f"{stage}.variant {config.variant!r} is neither 'paper' nor 'released'")
