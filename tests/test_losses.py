"""Losses: golden values by hand, formulas written out, finite at the edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import losses

QUARTER = jnp.log(jnp.array([1.0, 3.0]))  # logits of the probabilities 1/4 and 3/4


def written_out(logits):
    """Σ_j Σ_{k≠j} KL(p_k ‖ p_j), pair by pair."""
    probs = [jax.nn.softmax(one) for one in logits]
    total = jnp.zeros(logits.shape[1:-1])
    for j, p_j in enumerate(probs):
        for k, p_k in enumerate(probs):
            if k != j:
                total += jnp.sum(p_k * (jnp.log(p_k) - jnp.log(p_j)), axis=-1)
    return total


@pytest.fixture
def logits():
    return 2 * jax.random.normal(jax.random.key(0), (3, 5, 7))


@pytest.mark.parametrize(
    ("target", "nats"),
    [
        ([1.0, 0.0], np.log(4)),
        ([0.0, 1.0], np.log(4 / 3)),
        ([0.5, 0.5], (np.log(4) + np.log(4 / 3)) / 2),
        ([0.0, 0.0], 0.0),
    ],
)
def test_cross_entropy_of_a_quarter_by_hand(target, nats):
    np.testing.assert_allclose(losses.cross_entropy(QUARTER, jnp.array(target)), nats, rtol=1e-6)


@pytest.mark.parametrize(
    ("allowed", "nats"),
    [
        ([True, False], np.log(4)),
        ([True, True], np.log(4 / 3)),
        ([False, False], 0.0),
    ],
)
def test_multi_target_takes_the_likeliest_allowed_class(allowed, nats):
    np.testing.assert_allclose(losses.multi_target(QUARTER, jnp.array(allowed)), nats, rtol=1e-6)


def test_disagreement_of_two_networks_by_hand():
    # (1/4, 3/4) and (1/2, 1/2): Σ_c (p_c − q_c)·log(p_c / q_c) = ¼·log 2 + ¼·log 1.5 = ¼·log 3.
    pair = jnp.stack([QUARTER, jnp.zeros(2)])
    np.testing.assert_allclose(losses.disagreement(pair), np.log(3) / 4, rtol=1e-6)


def test_disagreement_is_the_double_sum_of_divergences(logits):
    np.testing.assert_allclose(losses.disagreement(logits), written_out(logits), rtol=1e-5)


def test_disagreement_sends_gradients_through_both_arguments_of_every_divergence(logits):
    gradient = jax.grad(lambda x: losses.disagreement(x).sum())(logits)
    expected = jax.grad(lambda x: written_out(x).sum())(logits)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_one_network_agrees_with_itself_exactly(logits):
    gradient = jax.grad(lambda x: losses.disagreement(x).sum())(logits[:1])
    assert not losses.disagreement(logits[:1]).any()
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_the_order_of_the_networks_does_not_matter(logits):
    turned = losses.disagreement(logits[jnp.array([2, 0, 1])])
    np.testing.assert_allclose(turned, losses.disagreement(logits), rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e4, -1e4])
def test_losses_and_gradients_stay_finite_for_extreme_logits(size):
    stack = jnp.array([[[size, -size, 0.0]], [[-size, size, 0.0]]])
    hard = jnp.array([[0.0, 1.0, 0.0]])
    for loss in (
        lambda x: losses.disagreement(x),
        lambda x: losses.cross_entropy(x[0], hard),
        lambda x: losses.multi_target(x[0], hard > 0),
        lambda x: losses.multi_target(x[0], jnp.zeros((1, 3), bool)),
    ):
        value, gradient = jax.value_and_grad(lambda x, loss=loss: loss(x).sum())(stack)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_leading_dimensions_are_kept():
    stack = jnp.zeros((4, 2, 3, 7))
    assert losses.cross_entropy(stack, stack).shape == (4, 2, 3)
    assert losses.multi_target(stack, stack > 0).shape == (4, 2, 3)
    assert losses.disagreement(stack).shape == (2, 3)
