"""Reductions over faces are a sum over a sum, whatever the layout."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax import parallel


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    weights = np.array([1, 1, 1, 1, 0, 0, 0, 1], np.float32)  # uneven over four devices
    return {"values": rng.normal(size=(8, 3)).astype(np.float32), "weights": weights}


def step(state, batch, axis_name=None):
    values = batch["values"].T
    share, total = parallel.mean_over_faces(values, batch["weights"], axis_name)
    gathered = parallel.gather(batch["weights"], axis_name)
    return state + 1, {
        "mean": parallel.sum(share, axis_name),
        "total": total,
        "plain": parallel.mean(jnp.mean(values, axis=-1), axis_name),
        "gathered": gathered,
    }


@pytest.mark.parametrize("mode", parallel.MODES)
@pytest.mark.parametrize("count", [1, 4, 8])
def test_means_over_uneven_devices_are_means_over_faces(mode, count, batch):
    devices = parallel.find_devices(mode, jax.devices()[:count])
    state = parallel.replicate(devices, np.zeros((), np.float32))
    compiled = parallel.compile_step(devices, step)
    state, out = compiled(state, parallel.shard(devices, batch))
    out = parallel.to_host(out)
    expected = (batch["values"] * batch["weights"][:, None]).sum(axis=0) / batch["weights"].sum()
    np.testing.assert_allclose(out["mean"], expected, rtol=1e-6)
    np.testing.assert_allclose(out["plain"], batch["values"].mean(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(out["gathered"], batch["weights"])
    assert out["total"] == 5
    assert parallel.to_host(state).shape == ()  # no device axis in either mode


@pytest.mark.parametrize("mode", parallel.MODES)
def test_the_gradient_of_a_mean_over_uneven_devices_is_the_global_one(mode, batch):
    def gradient_step(scale, batch, axis_name=None):
        def loss(scale):
            squares = jnp.sum(batch["values"] ** 2, axis=-1) * scale
            return parallel.mean_over_faces(squares, batch["weights"], axis_name)[0]

        return scale, parallel.sum(jax.grad(loss)(scale), axis_name)

    devices = parallel.find_devices(mode, jax.devices()[:4])
    scale = parallel.replicate(devices, np.ones((), np.float32))
    _, gradient = parallel.compile_step(devices, gradient_step)(
        scale, parallel.shard(devices, batch)
    )
    squares = (batch["values"] ** 2).sum(axis=1) * batch["weights"]
    expected = squares.sum() / batch["weights"].sum()
    np.testing.assert_allclose(parallel.to_host(gradient), expected, rtol=1e-6)


def test_no_labelled_face_at_all_gives_zero_not_nan():
    mean, total = partial(parallel.mean_over_faces, axis_name=None)(jnp.ones(4), jnp.zeros(4))
    assert mean == 0
    assert total == 0
