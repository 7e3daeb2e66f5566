"""Plain cross-entropy: its loss and gradient by hand, and what it may not see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.methods import method, supervised
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
    """params, batch -> logits in training mode on the batch's own views, at step 0."""

    def logits_of(params, state, batch):
        images = method.augmented(config, state, batch)
        return method.train_logits(config, problem.info(), None, params, state.batch_stats, images)[
            0
        ]

    return logits_of


def test_the_loss_is_the_mean_cross_entropy_of_the_labelled_faces(steps, logits_of):
    _, state, partly, fully, _ = steps
    batch = problem.batch()
    logits = jax.jit(logits_of)(state.params, state, batch)
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
        log_probs = jax.nn.log_softmax(logits_of(params, state, batch))[:LABELLED]
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
    moved = jax.tree.map(lambda x, y: bool((x != y).any()), state.batch_stats, after.batch_stats)
    assert all(jax.tree.leaves(moved))


def test_a_batch_without_labels_changes_nothing_but_the_statistics(steps):
    _, state, *_, (after, metrics) = steps
    assert float(metrics["loss"]) == 0
    tiny.assert_same(after.params, state.params)


def test_predictions_are_probabilities_under_the_one_head(steps):
    made, state, *_ = steps
    predictions = jax.jit(made.predict)(state, problem.batch()["image"])
    assert [name for name, _ in made.heads] == list(predictions) == ["network"]
    np.testing.assert_allclose(predictions["network"].sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("label", ["anna", "majority", "random", "votes", "multi_target"])
def test_a_step_reads_nothing_that_would_give_the_truth_away(config, label):
    class Watched(dict):
        def __getitem__(self, name):
            read.add(name)
            return super().__getitem__(name)

    read: set[str] = set()
    made = supervised.make(config, problem.info(label))
    state = jax.eval_shape(made.init, jax.random.key(0), {})
    votes = jnp.ones((problem.SIZE, 3), jnp.int32)
    batch = Watched(problem.batch(), votes=votes, truth=jnp.zeros(problem.SIZE, jnp.int32))
    jax.eval_shape(lambda state: made.train_step(state, batch), state)
    labels = "votes" if label in ("votes", "multi_target") else "annotations"
    assert read == {"image", "index", labels}
