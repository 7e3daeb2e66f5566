"""Transition matrices: by hand, in log space, at zeros, and kept distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.nn import transition


def random_matrices(seed=0, coders=3, classes=4):
    rows = np.random.default_rng(seed).dirichlet(np.ones(classes), (coders, classes))
    return jnp.asarray(rows, jnp.float32)


def random_log_probs(seed=0, batch=5, classes=4):
    logits = np.random.default_rng(seed).normal(size=(batch, classes)) * 3
    return jax.nn.log_softmax(jnp.asarray(logits, jnp.float32))


def test_probabilities_of_annotations_by_hand():
    """p = (0.8, 0.2), T = [[0.9, 0.1], [0.3, 0.7]]: p̂ = (0.78, 0.22)."""
    log_probs = jnp.log(jnp.array([[0.8, 0.2]]))
    matrices = jnp.array([[[0.9, 0.1], [0.3, 0.7]]])
    for choice, expected in ((0, 0.78), (1, 0.22)):
        actual = transition.log_annotation(log_probs, matrices, jnp.array([[choice]], jnp.int32))
        np.testing.assert_allclose(actual, [[np.log(expected)]], rtol=1e-6)
    probs = transition.annotation_probs(jnp.exp(log_probs), matrices)
    np.testing.assert_allclose(probs, [[[0.78, 0.22]]], rtol=1e-6)


def test_it_is_the_logarithm_of_the_product_and_zero_without_an_annotation():
    matrices, log_probs = random_matrices(), random_log_probs()
    annotations = jnp.asarray(np.random.default_rng(1).integers(-1, 4, (5, 3)), jnp.int32)
    actual = transition.log_annotation(log_probs, matrices, annotations)
    product = np.log(np.einsum("bi,cij->bcj", np.exp(log_probs), matrices))
    choice = np.asarray(annotations)
    expected = np.take_along_axis(product, np.maximum(choice, 0)[..., None], axis=2)[..., 0]
    np.testing.assert_allclose(actual, np.where(choice < 0, 0, expected), rtol=1e-5)
    assert (choice < 0).any()


def test_coders_in_another_order_give_the_same_in_that_order():
    matrices, log_probs = random_matrices(), random_log_probs()
    annotations = jnp.asarray(np.random.default_rng(1).integers(-1, 4, (5, 3)), jnp.int32)
    order = np.array([2, 0, 1])
    actual = transition.log_annotation(log_probs, matrices[order], annotations[:, order])
    straight = transition.log_annotation(log_probs, matrices, annotations)
    np.testing.assert_array_equal(actual, straight[:, order])


@pytest.mark.parametrize("constraint", ["project", "normalise"])
def test_zeros_of_an_identity_start_move(constraint):
    """∂(−log p̂_j)/∂τ_ij = −p_i/p̂_j for the label j that was given, and 0 elsewhere: with T = I and
    p = (0.5, 0.3, 0.2), label 1: p̂_1 = 0.3, so (−5/3, −1, −2/3) down column 1. If rows are divided
    by their sums, here 1, τ_ij gets the row's −Σ_k T_ik·∂L/∂T_ik besides: 1 for the row of 1."""
    log_probs = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    label = jnp.array([[1]], jnp.int32)

    def loss(raw):
        actual = transition.matrices(raw, constraint)
        return -transition.log_annotation(log_probs, actual, label)[0, 0]

    raw = transition.parameters(jnp.eye(3)[None], constraint)
    gradient = jax.grad(loss)(transition.project(raw, constraint, 1e-5))[0]
    expected = np.array([[0, -5 / 3, 0], [0, -1, 0], [0, -2 / 3, 0]])
    if constraint == "normalise":
        expected[1] += 1
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("matrices", [jnp.eye(3)[None], jnp.zeros((1, 3, 3)), jnp.ones((1, 3, 3))])
def test_value_and_gradients_are_finite_however_sure_the_network_is(matrices):
    log_probs = jax.nn.log_softmax(jnp.array([[300.0, 0.0, -300.0]]))
    for choice in (-1, 0, 1, 2):
        label = jnp.array([[choice]], jnp.int32)

        def loss(log_probs, matrices, label=label):
            return -transition.log_annotation(log_probs, matrices, label).sum()

        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(log_probs, matrices)
        assert np.isfinite(value)
        assert all(np.isfinite(x).all() for x in gradients)


def test_sure_networks_keep_their_logarithms():
    """−log p̂ with T = I is −log p, though p itself is no number but zero in float32."""
    log_probs = jax.nn.log_softmax(jnp.array([[300.0, 0.0, -300.0]]))
    for choice, expected in ((0, 0.0), (1, -300.0), (2, -600.0)):
        label = jnp.array([[choice]], jnp.int32)
        actual = transition.log_annotation(log_probs, jnp.eye(3)[None], label)
        np.testing.assert_allclose(actual, [[expected]], rtol=1e-6)


@pytest.mark.parametrize("constraint", transition.CONSTRAINTS)
def test_parameters_give_back_the_matrices_they_were_made_of(constraint):
    matrices = random_matrices()
    raw = transition.parameters(matrices, constraint)
    atol = transition.LEAST_SOFTMAX if constraint == "softmax" else 0
    np.testing.assert_allclose(transition.matrices(raw, constraint), matrices, rtol=1e-5, atol=atol)


def test_a_softmax_that_starts_from_certainty_can_still_learn():
    raw = transition.parameters(jnp.eye(3)[None], "softmax")

    def loss(raw):
        choice = jnp.array([[1]], jnp.int32)
        log_probs = jnp.log(jnp.array([[0.9, 0.05, 0.05]]))
        matrices = transition.matrices(raw, "softmax")
        return -transition.log_annotation(log_probs, matrices, choice)[0, 0]

    assert jax.grad(loss)(raw)[0, 0, 1] < -1e-2  # that the first is called the second


@pytest.mark.parametrize("constraint", transition.CONSTRAINTS)
def test_rows_sum_to_one_whatever_a_step_did(constraint):
    raw = random_matrices() + jax.random.normal(jax.random.key(0), (3, 4, 4))
    actual = transition.matrices(transition.project(raw, constraint, 0.01), constraint)
    assert (actual >= 0).all()
    np.testing.assert_allclose(actual.sum(axis=-1), 1, rtol=1e-5)


def test_projection_lifts_what_is_negative_and_leaves_what_is_small():
    raw = jnp.array([[[1.0, -0.5, 0.001], [0.2, 0.2, 0.6], [0.0, 0.0, 2.0]]])
    actual = transition.project(raw, "project", 0.01)[0]
    np.testing.assert_allclose(actual[0], np.array([1.0, 0.01, 0.001]) / 1.011, rtol=1e-6)
    np.testing.assert_allclose(actual[1:], [[0.2, 0.2, 0.6], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(transition.project(raw, "softmax", 0.01), raw)


@pytest.mark.parametrize("constraint", transition.CONSTRAINTS)
def test_only_a_gradient_that_sees_the_constraint_ends_at_the_coders_matrix(constraint):
    """Where truth is known, −∂L/∂τ_ij is t_ij/τ_ij, and of 'project' T_ij ∝ t_ij/T_ij at rest."""
    coder = np.array([[0.6, 0.3, 0.1], [0.0, 1.0, 0.0], [0.2, 0.1, 0.7]], np.float32)
    log_probs = jnp.log(jnp.repeat(jnp.eye(3), 3, axis=0))  # every class with every annotation
    choice = jnp.tile(jnp.arange(3), 3)[:, None]

    def loss(raw):
        actual = transition.log_annotation(log_probs, transition.matrices(raw, constraint), choice)
        return -(coder.ravel() * actual[:, 0]).sum()

    def step(_, raw):
        raw = transition.project(raw, constraint, 1e-5)
        return raw - 0.05 * jax.grad(loss)(raw)

    raw = transition.parameters(
        transition.near_identity(jax.random.key(0), coders=1, classes=3, delta=0.1), constraint
    )
    raw = jax.lax.fori_loop(0, 5000, step, raw)
    actual = transition.matrices(transition.project(raw, constraint, 1e-5), constraint)[0]
    root = np.sqrt(coder) / np.sqrt(coder).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(actual, root if constraint == "project" else coder, atol=0.02)
    assert abs(root - coder).max() > 0.1


def test_the_start_is_near_the_identity():
    actual = transition.near_identity(jax.random.key(0), coders=2, classes=7, delta=0.01)
    np.testing.assert_allclose(actual.sum(axis=-1), 1, rtol=1e-6)
    assert (actual > 0).all()
    assert (jnp.diagonal(actual, axis1=1, axis2=2) > 0.93).all()
    assert not np.array_equal(actual[0], actual[1])
