"""Co-teaching: each network learns from the faces that the other one finds easiest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.errors import UserError
from ferjax.methods import co_teaching
from tests import tiny
from tests.methods import problem

STEP = 20  # epoch 2 of a ramp of five: a share of 0.4·2/5 is left out


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def config(**changes):
    made = tiny.stage_config("teachers", **{"teachers.optimizer.name": "sgd"})
    made.method = "co_teaching"
    made.update({"forget_rate": 0.4, "ramp_epochs": 5.0, "exponent": 1.0} | changes)
    return made


@pytest.fixture(scope="module")
def pair():
    """The method, and a state at `STEP`."""
    made = co_teaching.make(config(), problem.info())
    return made, jax.jit(made.init)(jax.random.key(0), {}).replace(step=jnp.int32(STEP))


@pytest.mark.parametrize("labelled", [problem.SIZE, 6])
def test_each_network_learns_from_what_the_other_finds_easiest(pair, labelled):
    """R = 1 − 0.4·2/5 = 0.84: six of eight labelled faces, or five of six."""
    made, state = pair
    batch = problem.batch(labelled=labelled)
    _, metrics = jax.jit(made.train_step)(state, batch)
    given = np.asarray(batch["annotations"][:, 0])
    costs = []
    for j in range(2):
        weights = jax.tree.map(lambda x, j=j: x[j], state.weights)
        logits = problem.logits_of(config(), weights, state, batch)
        costs.append(np.where(given >= 0, problem.cross_entropy(logits, given), np.inf))
    easiest = [np.argsort(cost)[: int(0.84 * labelled)] for cost in costs]
    expected = costs[0][easiest[1]].mean() + costs[1][easiest[0]].mean()
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["kept"], 0.84, rtol=1e-6)


def test_the_share_that_is_kept_falls_to_one_minus_the_forget_rate_and_stays(pair):
    made, state = pair
    step = jax.jit(made.train_step)
    steps = (0, 25, 50, 90)
    kept = [
        float(step(state.replace(step=jnp.int32(at)), problem.batch())[1]["kept"]) for at in steps
    ]
    np.testing.assert_allclose(kept, [1.0, 0.84, 0.6, 0.6], rtol=1e-6)


def test_faces_are_picked_from_the_global_batch_whatever_the_devices_hold(pair):
    """The first device's faces are the easy ones: picked by each device alone they would differ."""
    made, state = pair
    order = np.argsort(np.asarray(problem.batch()["annotations"][:, 0]), kind="stable")
    batch = jax.tree.map(lambda x: x[order], problem.batch())
    one, metrics = jax.jit(made.train_step)(state, batch)
    two, mapped = problem.mapped(made.train_step)(state, batch)
    problem.assert_close(two.params, one.params, rtol=1e-4, atol=1e-6)
    problem.assert_close(mapped, metrics, rtol=1e-5)


def test_at_least_one_of_very_few_faces_is_kept(pair):
    made, state = pair
    _, metrics = jax.jit(made.train_step)(state, problem.batch(labelled=1))
    assert float(metrics["loss"]) > 0
    _, nothing = jax.jit(made.train_step)(state, problem.batch(labelled=0))
    assert float(nothing["loss"]) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("forget_rate", 1.0), ("forget_rate", -0.1), ("ramp_epochs", 0.0), ("exponent", 0.0)],
)
def test_a_wrong_setting_is_named(field, value):
    with pytest.raises(UserError, match=f"co_teaching.{field}"):
        co_teaching.make(config(**{field: value}), problem.info())


def test_a_number_of_networks_other_than_two_is_refused():
    with pytest.raises(UserError, match=r"co_teaching\.networks must be 2, not 3"):
        co_teaching.make(config(networks=3), problem.info())


def test_it_resists_wrong_labels_that_a_network_alone_learns_by_heart():
    rates = {f"teachers.optimizer.{rate}": 1e-2 for rate in ("learning_rate", "classifier_rate")}
    plain = {f"augment.{chance}": 0.0 for chance in ("flip", "jitter_affine", "erase")}
    made = tiny.stage_config("teachers", **rates | plain | {"model.width": 8})
    made.method = "co_teaching"
    made.update({"forget_rate": 0.4, "ramp_epochs": 10.0, "exponent": 1.0})
    alone = tiny.stage_config("baseline", **rates | plain | {"model.width": 8})
    memorised = problem.accuracy_after_wrong_labels(alone)["class"]
    assert problem.accuracy_after_wrong_labels(made)["average"] > max(0.9, memorised + 0.05)
