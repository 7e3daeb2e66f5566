"""Dropout: one mask a face, wherever it sits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.nn.dropout import Dropout

FEATURES = 64


def dropped(index, key=0, rate=0.5, train=True):
    """What becomes of ones, for faces with these row numbers."""
    key = key if isinstance(key, jax.Array) else jax.random.key(key)
    x = jnp.ones((len(index), FEATURES))
    return Dropout(rate).apply({}, x, jnp.asarray(index), train, rngs={"dropout": key})


def rows(*numbers):
    return np.array(numbers, np.int32)


def test_the_mask_of_a_face_does_not_depend_on_its_position_in_the_batch():
    together = dropped(rows(4, 9, 2))
    np.testing.assert_array_equal(together[::-1], dropped(rows(2, 9, 4)))
    np.testing.assert_array_equal(together[1:2], dropped(rows(9)))


def test_faces_steps_and_networks_have_masks_of_their_own():
    first, second = dropped(rows(0, 1))
    later = dropped(rows(0), key=1)[0]
    stack = jax.vmap(partial(dropped, rows(0)))(jax.random.split(jax.random.key(0), 2))
    for one, other in ((first, second), (first, later), (stack[0, 0], stack[1, 0])):
        assert (one != other).any()


def test_the_rate_is_dropped_and_the_rest_is_scaled_up():
    values = dropped(np.arange(200, dtype=np.int32), rate=0.2)
    assert set(np.unique(values)) == {0.0, np.float32(1.25)}
    assert (values == 0).mean() == pytest.approx(0.2, abs=0.02)


def test_pmap_drops_what_jit_drops_on_one_device():
    index = np.arange(16, dtype=np.int32)
    spread = jax.pmap(dropped)(index.reshape(8, 2))
    np.testing.assert_array_equal(spread.reshape(16, FEATURES), jax.jit(dropped)(index))


def test_evaluation_and_a_rate_of_zero_change_nothing_and_draw_nothing():
    x = jnp.ones((2, FEATURES))
    np.testing.assert_array_equal(Dropout(0.5).apply({}, x, None, False), x)
    np.testing.assert_array_equal(Dropout(0.0).apply({}, x, None, True), x)
