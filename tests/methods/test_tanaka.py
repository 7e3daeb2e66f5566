"""Joint optimisation: its loss by hand, and labels that become the network's past answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import parallel, train
from ferjax.errors import UserError
from ferjax.methods import tanaka
from tests import tiny
from tests.methods import problem

OWN = {"alpha": 1.2, "beta": 0.8, "start_epoch": 2, "average": 2}


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def config(**changes):
    made = tiny.stage_config("baseline", **{"teachers.optimizer.name": "sgd"})
    made.method = "tanaka"
    made.update(OWN | changes)
    return made


def info():
    """Soft labels for all faces but the last two of the batch, which have none."""
    target = np.random.default_rng(3).dirichlet(np.ones(3), 80).astype(np.float32)
    target[6:8] = 0
    about = problem.info()
    return about._replace(labels=about.labels | {"target": target})


@pytest.fixture(scope="module")
def started():
    made = tanaka.make(config(), info())
    return made, jax.jit(made.init)(jax.random.key(0), {})


def test_the_terms_by_hand():
    """KL of (½, ½) from (¼, ¾) is ½ log 2 + ½ log ⅔ = ½ log 4/3; so is that of the prior."""
    probs, half = jnp.array([0.25, 0.75]), jnp.array([0.5, 0.5])
    by_hand = 0.5 * np.log(4 / 3)
    divergence = tanaka.divergence(jnp.log(probs)[None], half[None])
    np.testing.assert_allclose(divergence, by_hand, rtol=1e-6)
    np.testing.assert_allclose(tanaka.prior_loss(probs), by_hand, rtol=1e-6)


def test_the_loss_is_the_papers(started):
    made, state = started
    batch = problem.batch(1)
    _, metrics = jax.jit(made.train_step)(state, batch)
    log_probs = problem.log_softmax(problem.logits_of(config(), state.weights, state, batch))
    target = info().labels["target"][np.asarray(batch["index"])]
    log_probs, target = log_probs[target.any(axis=1)], target[target.any(axis=1)]
    assert len(target) == 6
    probs = np.exp(log_probs)
    fit = (target * (np.log(target) - log_probs)).sum(axis=1).mean()
    prior = (np.log(1 / 3 / probs.mean(axis=0)) / 3).sum()
    entropy = -(probs * log_probs).sum(axis=1).mean()
    np.testing.assert_allclose(metrics["loss"], fit + 1.2 * prior + 0.8 * entropy, rtol=1e-4)
    np.testing.assert_allclose(metrics["prior"], prior, rtol=1e-3)


def test_jit_and_pmap_agree(started):
    made, state = started
    batch = problem.batch(2)
    one, metrics = jax.jit(made.train_step)(state, batch)
    two, mapped = problem.mapped(made.train_step, devices=4)(state, batch)
    problem.assert_close(two.params, one.params, rtol=1e-4, atol=1e-6)
    problem.assert_close(mapped, metrics, rtol=1e-5)


def test_labels_become_the_mean_of_the_last_epochs_answers(started):
    made, state = started
    answers = np.random.default_rng(4).dirichlet(np.ones(3), (3, 80)).astype(np.float32)
    targets = []
    for probs in answers:
        state, _ = made.end_epoch(state, lambda split, probs=probs: {"class": probs})
        state = jax.device_put(state.replace(epoch=state.epoch + 1))
        targets.append(np.asarray(state.faces["target"]))
    np.testing.assert_array_equal(targets[0], info().labels["target"])
    np.testing.assert_allclose(targets[1], answers[:2].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(targets[2], answers[1:].mean(axis=0), rtol=1e-5)


def test_a_run_rewrites_its_labels(tmp_path):
    recipe = config(start_epoch=1)
    training = tiny.prepare(tmp_path, "tanaka", recipe=recipe)
    faces = parallel.to_host(train.train(training, {})).faces
    np.testing.assert_allclose(faces["target"], faces["past"][:, 0], rtol=1e-6)
    np.testing.assert_allclose(faces["target"].sum(axis=1), 1, rtol=1e-5)
    assert [line["epoch"] for line in tiny.lines(tmp_path, "epoch")] == [1.0]


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", -1.0), ("beta", -1.0), ("start_epoch", 0), ("average", 0)]
)
def test_a_wrong_setting_is_named(field, value):
    with pytest.raises(UserError, match=f"tanaka.{field}"):
        tanaka.make(config(**{field: value}), info())
