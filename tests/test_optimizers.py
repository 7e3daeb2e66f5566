"""Optimisers against updates worked by hand, and schedules at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import recipes
from ferjax.errors import UserError
from ferjax.optimizers import by_group, frozen_until, learning_rate, optimizer


def recipe(**changes):
    """Returns a config: 0.01 for the backbone, 0.1 for the classifier, no schedule."""
    config = recipes.supervised().optimizer
    config.learning_rate, config.classifier_rate, config.epoch_decay = 0.01, 0.1, 1.0
    config.update(changes)
    return config


def params(*shape):
    return {
        "stem": {"kernel": jnp.full(shape, 2.0)},
        "classifier": {"kernel": jnp.full(shape, 2.0), "bias": jnp.full(shape, 2.0)},
    }


def first_update(config, gradient, value):
    transform = optimizer(config, 10, 100)
    updates, _ = transform.update(gradient, transform.init(value), value)
    return updates


def test_the_first_adam_step_is_the_rate_against_the_sign_and_the_classifier_has_its_own():
    gradient = jax.tree.map(lambda x: jnp.array([3.0, -0.5]), params(2))
    updates = first_update(recipe(), gradient, params(2))
    np.testing.assert_allclose(updates["stem"]["kernel"], [-0.01, 0.01], rtol=1e-5)
    np.testing.assert_allclose(updates["classifier"]["kernel"], [-0.1, 0.1], rtol=1e-5)
    np.testing.assert_allclose(updates["classifier"]["bias"], [-0.1, 0.1], rtol=1e-5)


def test_the_second_adam_step_by_hand():
    transform = optimizer(recipe(), 10, 100)
    value = params(1)
    state = transform.init(value)
    for gradient in (1.0, -2.0):
        gradients = jax.tree.map(lambda x, g=gradient: jnp.full_like(x, g), value)
        updates, state = transform.update(gradients, state, value)
    mean = (0.9 * 0.1 * 1.0 + 0.1 * -2.0) / (1 - 0.9**2)
    square = (0.999 * 0.001 * 1.0 + 0.001 * 4.0) / (1 - 0.999**2)
    expected = -0.01 * mean / np.sqrt(square)
    np.testing.assert_allclose(updates["stem"]["kernel"], [expected], rtol=1e-4)


@pytest.mark.parametrize(("name", "step"), [("momentum", 1.0), ("sgd", 1 + 0.9)])
def test_the_first_step_with_momentum_by_hand(name, step):
    gradient = jax.tree.map(jnp.ones_like, params(1))
    updates = first_update(recipe(name=name), gradient, params(1))
    np.testing.assert_allclose(updates["stem"]["kernel"], [-0.01 * step], rtol=1e-5)


def test_weight_decay_is_added_to_the_gradient_before_adamax():
    """Adamax's first step sees only signs: −1 + 0.4·2 stays negative, −1 + 0.6·2 does not."""
    gradient = jax.tree.map(lambda x: -jnp.ones_like(x), params(1))
    for decay, sign in ((0.4, 1), (0.6, -1)):
        config = recipe(name="adamax", weight_decay=decay)
        updates = first_update(config, gradient, params(1))
        np.testing.assert_allclose(updates["stem"]["kernel"], [sign * 0.01], rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamax", "momentum", "sgd"])
def test_a_stack_learns_as_each_network_does_alone(name):
    transform = optimizer(recipe(name=name, weight_decay=1e-2, epoch_decay=0.5), 1, 10)
    draw = jax.random.normal(jax.random.key(0), (3, 2, 4))  # step, network, parameter
    stack = jax.tree.map(jnp.zeros_like, params(2, 4))
    alone = [jax.tree.map(lambda x, j=j: x[j], stack) for j in range(2)]
    state, states = transform.init(stack), [transform.init(one) for one in alone]
    for gradient in draw:
        updates, state = transform.update(
            jax.tree.map(lambda x, g=gradient: g, stack), state, stack
        )
        for j in range(2):
            update, states[j] = transform.update(
                jax.tree.map(lambda x, g=gradient[j]: g, alone[j]), states[j], alone[j]
            )
            jax.tree.map(lambda x, y, j=j: np.testing.assert_array_equal(x[j], y), updates, update)


def rates(steps, **changes):
    schedule = learning_rate(1.0, steps_per_epoch=10, total_steps=100, **changes)
    return [float(schedule(jnp.int32(step))) for step in steps]


def test_the_rate_falls_at_the_first_step_of_each_epoch():
    steps = (0, 9, 10, 19, 20, 99)
    expected = (1, 1, 0.95, 0.95, 0.95**2, 0.95**9)
    np.testing.assert_allclose(rates(steps, epoch_decay=0.95), expected, rtol=1e-5)


def test_the_rate_falls_at_milestones_given_as_fractions_of_the_run():
    steps = (0, 19, 20, 49, 50, 99)
    expected = (1, 1, 0.1, 0.1, 0.01, 0.01)
    actual = rates(steps, milestones=(0.2, 0.5), milestone_decay=0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_milestones_that_fall_on_one_step_count_each():
    actual = rates((49, 50), milestones=(0.5, 0.501), milestone_decay=0.1)
    np.testing.assert_allclose(actual, (1, 0.01), rtol=1e-5)


def test_the_schedule_reaches_the_updates():
    transform = optimizer(recipe(name="sgd", epoch_decay=0.5), 1, 10)
    value = params(1)
    gradient, state = jax.tree.map(jnp.ones_like, value), transform.init(value)
    sizes = []
    for _ in range(2):
        updates, state = transform.update(gradient, state, value)
        sizes.append(float(updates["stem"]["kernel"][0]))
    # Nesterov on a gradient of 1: 1 + 0.9, then 1 + 0.9·(1 + 0.9), at half the rate.
    np.testing.assert_allclose(sizes, [-0.019, -0.005 * (1 + 0.9 * 1.9)], rtol=1e-5)


def test_an_unknown_optimizer_is_named_with_the_known_ones():
    with pytest.raises(UserError, match="'lion' is none of adam, adamax, momentum, sgd"):
        optimizer(recipe(name="lion"), 1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", -1e-3), ("classifier_rate", float("nan")), ("milestones", (0.5, 1.5))],
)
def test_invalid_rates_and_milestones_are_named(field, value):
    with pytest.raises(UserError, match=f"optimizer.{field} must"):
        optimizer(recipe(**{field: value}), 1, 1)


def test_the_rate_falls_by_a_power_of_what_is_left():
    steps = (0, 50, 99)
    expected = [(1 - step / 100) ** 1.5 for step in steps]
    np.testing.assert_allclose(rates(steps, power=1.5), expected, rtol=1e-5)


def test_weights_norms_and_biases_decay_at_their_own_rates():
    one = jnp.ones(1)
    value = {
        "stem": {"conv": {"kernel": one, "bias": one}, "norm": {"scale": one, "bias": one}},
        "classifier": {"kernel": one, "bias": one},
    }
    config = recipe(name="sgd", weight_decay=0.3, norm_decay=0.2, bias_decay=0.0)
    updates = first_update(config, jax.tree.map(jnp.zeros_like, value), value)
    nesterov = -0.01 * 1.9
    np.testing.assert_allclose(updates["stem"]["conv"]["kernel"], nesterov * 0.3, rtol=1e-5)
    np.testing.assert_allclose(updates["stem"]["norm"]["scale"], nesterov * 0.2, rtol=1e-5)
    np.testing.assert_allclose(updates["stem"]["norm"]["bias"], nesterov * 0.2, rtol=1e-5)
    np.testing.assert_allclose(updates["stem"]["conv"]["bias"], 0.0, atol=1e-9)
    np.testing.assert_allclose(updates["classifier"]["kernel"], 10 * nesterov * 0.3, rtol=1e-5)
    np.testing.assert_allclose(updates["classifier"]["bias"], 0.0, atol=1e-9)


def test_the_layer_of_valence_and_arousal_learns_at_the_rate_of_the_last_layers():
    value = {"stem": {"kernel": jnp.ones(1)}, "va": {"kernel": jnp.ones(1)}}
    updates = first_update(recipe(), jax.tree.map(jnp.ones_like, value), value)
    np.testing.assert_allclose(updates["stem"]["kernel"], -0.01, rtol=1e-5)
    np.testing.assert_allclose(updates["va"]["kernel"], -0.1, rtol=1e-5)


def grouped():
    return {"network": params(2), "layer": {"matrices": jnp.full(2, 3.0)}}


def steps_of(transform, value, count):
    """Parameters and optimiser state before and after each of some steps with gradients of one."""
    state = transform.init(value)
    history = [(value, state)]
    for _ in range(count):
        gradient = jax.tree.map(jnp.ones_like, value)
        updates, state = jax.jit(transform.update)(gradient, state, value)
        value = jax.tree.map(jnp.add, value, updates)
        history.append((value, state))
    return history


def test_each_group_of_parameters_learns_as_it_would_alone():
    """With the rate of the classifier still that of the classifier."""
    rules = {
        "network": optimizer(recipe(weight_decay=0.1), 1, 10),
        "layer": optimizer(recipe(name="sgd", learning_rate=0.5), 1, 10),
    }
    together, _ = steps_of(by_group(rules), grouped(), 3)[-1]
    for name, rule in rules.items():
        alone, _ = steps_of(rule, grouped()[name], 3)[-1]
        jax.tree.map(np.testing.assert_array_equal, together[name], alone)


def test_frozen_parameters_and_their_optimiser_rest_and_then_start_afresh():
    rule = optimizer(recipe(power=1.0), 1, 10)
    frozen = steps_of(frozen_until(rule, 2), params(2), 4)
    (start, state), (still, later) = frozen[0], frozen[2]
    jax.tree.map(np.testing.assert_array_equal, still, start)
    jax.tree.map(np.testing.assert_array_equal, later.inner_state, state.inner_state)
    awake = steps_of(rule, params(2), 2)[-1]
    jax.tree.map(np.testing.assert_array_equal, frozen[4][0], awake[0])
    jax.tree.map(np.testing.assert_array_equal, frozen[4][1].inner_state, awake[1])


def test_a_group_can_be_frozen_while_another_learns():
    rules = {
        "network": optimizer(recipe(), 1, 10),
        "layer": frozen_until(optimizer(recipe(), 1, 10), 1),
    }
    (start, _), (first, _), (second, _) = steps_of(by_group(rules), grouped(), 2)
    np.testing.assert_array_equal(first["layer"]["matrices"], start["layer"]["matrices"])
    assert (first["network"]["stem"]["kernel"] != start["network"]["stem"]["kernel"]).all()
    assert (second["layer"]["matrices"] != first["layer"]["matrices"]).all()
