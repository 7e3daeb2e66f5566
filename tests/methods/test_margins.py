"""Margins of every class, collected while one network trains; they change nothing in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import losses, parallel, train
from ferjax.methods import stack, supervised
from tests import tiny
from tests.methods import problem


@pytest.fixture(autouse=True)
def _tiny_network(monkeypatch):
    tiny.use_tiny_network(monkeypatch)


def test_a_margin_is_over_the_largest_other_logit():
    logits = jnp.array([[3.0, 1.0, 2.0], [0.0, 0.0, -1.0]])
    np.testing.assert_array_equal(losses.margins(logits), [[1, -2, -1], [0, 0, -1]])
    np.testing.assert_array_equal(losses.margins(jnp.ones((2, 1))), [[0], [0]])


def test_margins_add_up_over_steps_and_are_averaged_over_those_with_the_face():
    made = supervised.make(tiny.stage_config("baseline"), problem.info())
    state, step = jax.jit(made.init)(jax.random.key(0), {}), jax.jit(made.train_step)
    expected, seen = np.zeros((80, 3)), np.zeros(80)
    for seed in (1, 2):
        rows = np.arange(8, dtype=np.int32) + 4 * seed
        batch = problem.batch(seed) | {"index": jnp.asarray(rows)}
        logits = problem.logits_of(tiny.stage_config("baseline"), state.weights, state, batch)
        expected[rows] += losses.margins(logits)
        seen[rows] += 1
        state, _ = step(state, batch)
    faces = parallel.to_host(state.faces)
    np.testing.assert_array_equal(faces[stack.SEEN], seen)
    mean = stack.mean_margins(faces)
    assert mean is not None
    np.testing.assert_allclose(mean, expected / np.maximum(seen, 1)[:, None], rtol=1e-4, atol=1e-5)
    assert not mean[seen == 0].any()
    assert stack.mean_margins({}) is None


def test_jit_and_pmap_collect_the_same():
    made = supervised.make(tiny.stage_config("baseline"), problem.info())
    state = jax.jit(made.init)(jax.random.key(0), {})
    one, _ = jax.jit(made.train_step)(state, problem.batch(1))
    two, _ = problem.mapped(made.train_step, devices=4)(state, problem.batch(1))
    problem.assert_close(two.faces, one.faces, rtol=1e-4, atol=1e-6)


def test_collecting_them_changes_no_bit_of_training(tmp_path, monkeypatch):
    states = []
    for most in (stack.MOST_MARGINS, 0):
        monkeypatch.setattr(stack, "MOST_MARGINS", most)
        states.append(train.train(tiny.prepare(tmp_path / str(most), "baseline"), {}))
    collected, without = map(parallel.to_host, states)
    assert set(collected.faces) == {stack.MARGINS, stack.SEEN}
    assert without.faces == {}
    tiny.assert_same(collected.replace(faces={}), without)


def test_a_resumed_run_ends_with_the_same_margins(tmp_path):
    ends = []
    for folder, stops in (("straight", ()), ("resumed", (3,))):
        for steps in (*stops, 0):
            changes = {"loop.save_steps": 1}
            training = tiny.prepare(tmp_path / folder, "baseline", **changes)
            training = training._replace(total_steps=steps or training.total_steps)
            state = train.train(training, {})
        ends.append(parallel.to_host(state.faces))
    tiny.assert_same(*ends)
    assert ends[0][stack.SEEN].max() == 2  # once an epoch
