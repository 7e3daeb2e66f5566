"""Plain cross-entropy: its loss and gradient by hand, and what it may not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.errors import UserError
from ferjax.methods import supervised
from ferjax.metrics import concordance
from ferjax.nn import networks
from tests import tiny
from tests.methods import problem

LABELLED = 5


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


@pytest.fixture(scope="module")
def config():
    """SGD: a gradient can be read off the first step."""
    return tiny.stage_config("baseline", **{"teachers.optimizer.name": "sgd"})


@pytest.fixture(scope="module")
def steps(config):
    """The method, a state, and what comes of it after batches with some, all and no labels."""
    made = supervised.make(config, problem.info())
    state = jax.jit(made.init)(jax.random.key(0), {})
    step = jax.jit(made.train_step)
    after = [step(state, problem.batch(labelled=count)) for count in (LABELLED, problem.SIZE, 0)]
    return made, state, *after


@pytest.fixture(scope="module")
def logits_of(config):
    """params, state -> logits in training mode on the batch's own views, at step 0."""

    def logits_of(params, state):
        return problem.logits_of(config, state.weights._replace(params=params), state)

    return logits_of


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_faces(steps, logits_of):
    _, state, partly, fully, _ = steps
    batch = problem.batch()
    logits = jax.jit(logits_of)(state.params, state)
    each = problem.cross_entropy(logits, batch["annotations"][:, 0])
    np.testing.assert_allclose(fully[1]["loss"], each.mean(), rtol=1e-5)
    np.testing.assert_allclose(partly[1]["loss"], each[:LABELLED].mean(), rtol=1e-5)
    hits = np.argmax(logits, axis=1) == batch["annotations"][:, 0]
    np.testing.assert_allclose(partly[1]["accuracy"], hits[:LABELLED].mean(), rtol=1e-5)


def test_unlabelled_faces_add_nothing_to_the_gradient(steps, logits_of):
    """Masking equals subsetting, given that the whole batch passes through batch normalisation."""
    _, state, (after, _), *_ = steps
    batch = problem.batch()
    classes = batch["annotations"][:LABELLED, 0]

    def subset_loss(params):
        log_probs = jax.nn.log_softmax(logits_of(params, state))[:LABELLED]
        return -jnp.mean(jnp.take_along_axis(log_probs, classes[:, None], axis=1))

    gradient = jax.jit(jax.grad(subset_loss))(state.params)
    rates = {name: 1e-2 if name == "classifier" else 1e-3 for name in state.params}
    expected = {
        name: jax.tree.map(lambda p, g, rate=rates[name]: p - rate * 1.9 * g, part, gradient[name])
        for name, part in state.params.items()
    }
    problem.assert_close(after.params, expected, rtol=1e-5, atol=1e-6)


def test_a_step_moves_the_step_counter_and_the_batch_statistics(steps):
    _, state, (after, _), *_ = steps
    assert (int(state.step), int(after.step)) == (0, 1)
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), state.collections, after.collections)
    assert all(jax.tree.leaves(moved))


def test_a_batch_without_labels_changes_nothing_but_the_statistics(steps):
    _, state, *_, (after, metrics) = steps
    assert float(metrics["loss"]) == 0
    tiny.assert_same(after.params, state.params)


def test_predictions_are_probabilities_under_the_one_head(config, steps):
    _, state, *_ = steps
    predictions = problem.predict(config, state, problem.batch()["image"])
    assert list(predictions) == ["class"]
    np.testing.assert_allclose(predictions["class"].sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("label", ["anna", "majority", "random", "votes", "multi_target"])
def test_a_step_reads_nothing_that_would_give_the_truth_away(config, label):
    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    read: set[str] = set()
    made = supervised.make(config, problem.info(label))
    state = jax.eval_shape(made.init, jax.random.key(0), {})
    batch = Watched(problem.batch(), truth=jnp.zeros(problem.SIZE, jnp.int32))
    jax.eval_shape(lambda state: made.train_step(state, batch), state)
    assert read == {"image", "index", "target"} | ({"annotations"} if label == "random" else set())


# --- valence and arousal ---


def two_heads(config, **changes):
    """The recipe for a network with a head of classes and one of valence and arousal."""
    made = config.copy_and_resolve_references()
    made.model.heads = ("class", "va")
    made.update(changes)
    return made


def with_va(known=6):
    """A batch and what it is said to show in valence and arousal, unknown for the last faces."""
    va = np.random.default_rng(1).uniform(-1, 1, (problem.SIZE, 2)).astype(np.float32)
    va[known:] = np.nan
    return problem.batch() | {"va_target": jnp.asarray(va)}, va


def info_with_va():
    info = problem.info()
    return info._replace(labels=info.labels | {"va_target": np.zeros((80, 2), np.float32)})


def loss_and_outputs(made):
    """The losses of a step on `with_va`, and what the network made of it in training mode."""
    method = supervised.make(made, info_with_va())
    state = jax.jit(method.init)(jax.random.key(0), {})
    batch, va = with_va()
    _, metrics = jax.jit(method.train_step)(state, batch)
    model = networks.network(made.model, 3, (8, 8, 1))
    images = problem.view_of(made, state, batch).images
    outputs, _ = model.train(state.weights, images, batch["index"], jax.random.key(0), None)
    return metrics, outputs, va, np.asarray(batch["annotations"][:, 0])


def test_both_heads_learn_and_unknown_valence_is_left_out(config):
    """1 − the mean of both concordances of the six known faces, half of it beside cross-entropy."""
    metrics, outputs, va, given = loss_and_outputs(two_heads(config, va_weight=0.5))
    ccc = concordance(np.asarray(outputs["va"], np.float64)[:6], va[:6].astype(np.float64))
    np.testing.assert_allclose(metrics["va_loss"], 1 - ccc.mean(), rtol=1e-4)
    expected = problem.cross_entropy(outputs["class"], given).mean() + 0.5 * metrics["va_loss"]
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_the_squared_error_may_take_the_place_of_concordance(config):
    metrics, outputs, va, _ = loss_and_outputs(two_heads(config, va_loss="mse"))
    expected = np.mean((np.asarray(outputs["va"])[:6] - va[:6]) ** 2)
    np.testing.assert_allclose(metrics["va_loss"], expected, rtol=1e-5)


def test_valence_and_arousal_alone_can_be_learnt(config):
    made = two_heads(config)
    made.model.heads = ("va",)
    made.optimizer.learning_rate = made.optimizer.classifier_rate = 0.05
    method = supervised.make(made, info_with_va())
    assert method.metrics == {"loss": "loss", "va_loss": "loss"}
    state = jax.jit(method.init)(jax.random.key(0), {})
    step, (batch, _) = jax.jit(method.train_step), with_va()
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.5 * losses[0]


def test_a_head_without_labels_to_learn_from_is_named(config):
    with pytest.raises(UserError, match=r"model\.heads: no training face has valence"):
        supervised.make(two_heads(config), problem.info())
    with pytest.raises(UserError, match="va_loss='mae' is none of ccc, mse"):
        supervised.make(two_heads(config, va_loss="mae"), info_with_va())


def test_dropout_and_concordance_are_the_same_on_one_device_and_on_several(config):
    made = two_heads(config)
    made.model.dropout = 0.5
    method = supervised.make(made, info_with_va())
    state, (batch, _) = jax.jit(method.init)(jax.random.key(0), {}), with_va()
    one, metrics = jax.jit(method.train_step)(state, batch)
    two, mapped = problem.mapped(method.train_step)(state, batch)
    problem.assert_close(two.params, one.params, rtol=1e-4, atol=1e-6)
    for name, value in metrics.items():
        np.testing.assert_allclose(mapped[name], value, rtol=1e-5)
