"""Early-learning regularisation: its loss by hand, and targets that follow the network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import parallel, train
from ferjax.errors import UserError
from ferjax.methods import elr
from tests import tiny
from tests.methods import problem


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def config(**changes):
    made = tiny.stage_config("baseline", **{"teachers.optimizer.name": "sgd"})
    made.method = "elr"
    made.update({"momentum": 0.7, "regularisation": 3.0} | changes)
    return made


@pytest.fixture(scope="module")
def started():
    """The method, and a state whose targets are not zero any more."""
    made = elr.make(config(), problem.info())
    state = jax.jit(made.init)(jax.random.key(0), {})
    return made, jax.jit(made.train_step)(state, problem.batch())[0]


def test_the_loss_and_the_new_targets_are_the_papers(started):
    made, state = started
    batch = problem.batch(1, labelled=6)
    after, metrics = jax.jit(made.train_step)(state, batch)
    logits = problem.logits_of(config(), state.weights, state, batch)
    probs = np.exp(problem.log_softmax(logits))
    index, given = np.asarray(batch["index"]), np.asarray(batch["annotations"][:, 0])
    target = 0.7 * np.asarray(state.faces["target"])[index] + 0.3 * probs
    fit = problem.cross_entropy(logits, given)[:6].mean()
    pull = np.log(1 - (target * probs).sum(axis=1))[:6].mean()
    np.testing.assert_allclose(metrics["loss"], fit + 3.0 * pull, rtol=1e-4)
    np.testing.assert_allclose(metrics["regulariser"], pull, rtol=1e-4)
    np.testing.assert_allclose(after.faces["target"][index], target, rtol=1e-4)
    others = np.setdiff1d(np.arange(80), index)
    np.testing.assert_array_equal(after.faces["target"][others], state.faces["target"][others])


def test_no_gradient_flows_through_the_targets():
    def loss(logits):
        probs = jax.nn.softmax(logits)
        return jnp.sum(elr.updated(jnp.zeros((1, 3)), probs, 0.5))

    np.testing.assert_array_equal(jax.grad(loss)(jnp.array([[1.0, 2.0, 3.0]])), 0)


def test_jit_and_pmap_agree_and_every_device_holds_all_targets(started):
    made, state = started
    batch = problem.batch(2)
    one, metrics = jax.jit(made.train_step)(state, batch)
    two, mapped = problem.mapped(made.train_step, devices=4)(state, batch)
    problem.assert_close(two.params, one.params, rtol=1e-4, atol=1e-6)
    problem.assert_close(two.faces, one.faces, rtol=1e-5, atol=1e-7)
    problem.assert_close(mapped, metrics, rtol=1e-5)


def test_a_resumed_run_ends_as_a_straight_one(tmp_path):
    """The targets are in the checkpoint."""
    states = []
    for folder, stops in (("straight", ()), ("resumed", (3,))):
        for steps in (*stops, 0):
            recipe = tiny.stage_config("baseline", **{"loop.save_steps": 1})
            recipe.update({"method": "elr", "momentum": 0.7, "regularisation": 3.0})
            training = tiny.prepare(tmp_path / folder, "baseline", recipe=recipe)
            training = training._replace(total_steps=steps or training.total_steps)
            state = train.train(training, {})
        states.append(parallel.to_host(state))
    tiny.assert_same(*states)
    assert states[0].faces["target"].any()


@pytest.mark.parametrize(
    ("field", "value"), [("momentum", 1.0), ("momentum", -0.1), ("regularisation", -1.0)]
)
def test_a_wrong_setting_is_named(field, value):
    with pytest.raises(UserError, match=f"elr.{field}"):
        elr.make(config(**{field: value}), problem.info())


def test_it_resists_wrong_labels_that_a_network_alone_learns_by_heart():
    rates = {f"teachers.optimizer.{rate}": 1e-2 for rate in ("learning_rate", "classifier_rate")}
    plain = {f"augment.{chance}": 0.0 for chance in ("flip", "jitter_affine", "erase")}
    made = tiny.stage_config("baseline", **rates | plain | {"model.width": 8})
    assert problem.accuracy_after_wrong_labels(made)["class"] < 0.9
    made.method = "elr"
    made.update({"momentum": 0.7, "regularisation": 3.0})
    assert problem.accuracy_after_wrong_labels(made)["class"] > 0.95
