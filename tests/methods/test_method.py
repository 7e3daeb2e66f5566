"""What methods share: random streams, the draw of an annotation, agreement with the target."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.methods import method
from ferjax.methods.method import State
from tests import tiny
from tests.methods import problem

ANNOTATIONS = jnp.array([[0, 2], [1, -1], [-1, 2], [-1, -1]], jnp.int32)


def state_at(step):
    zero = jnp.zeros((), jnp.int32)
    return State(zero, zero, (), {}, ()).replace(step=jnp.int32(step))


def targets(label, step, annotations, index=None):
    """What a step takes faces with these annotations for."""
    count = len(annotations)
    batch = {
        "image": jnp.zeros((count, 8, 8, 1), jnp.uint8),
        "annotations": annotations,
        "target": jnp.zeros((count, 3)),
        "index": jnp.arange(count, dtype=jnp.int32) if index is None else index,
    }
    config = tiny.stage_config("teachers")
    seen = method.view(config, problem.info(label), state_at(step), batch, None)
    return np.asarray(seen.target), np.asarray(seen.labelled)


@pytest.fixture(scope="module")
def draws():
    """What 'random' makes of 64 faces like those of ANNOTATIONS, at two steps."""
    faces = jnp.tile(ANNOTATIONS, (64, 1))
    return [targets("random", step, faces) for step in (0, 1)]


def test_random_draws_only_annotations_that_were_given(draws):
    for target, labelled in draws:
        by_kind = target.reshape(64, 4, 3)
        assert (by_kind[:, 1] == [0, 1, 0]).all()
        assert (by_kind[:, 2] == [0, 0, 1]).all()
        assert not by_kind[:, 3].any()
        np.testing.assert_array_equal(labelled.reshape(64, 4), np.tile([1, 1, 1, 0], (64, 1)))


def test_random_draws_each_given_annotation_about_as_often_and_anew_each_step(draws):
    (first, _), (second, _) = draws
    anna, neither, ben = first.reshape(64, 4, 3)[:, 0].sum(axis=0)
    assert neither == 0
    assert anna + ben == 64
    assert 16 < anna < 48
    assert not np.array_equal(first, second)


def test_random_is_repeatable_and_follows_the_face_and_not_its_place():
    faces = jnp.tile(jnp.array([[0, 2]], jnp.int32), (32, 1))
    index = jnp.arange(32, dtype=jnp.int32)
    straight, _ = targets("random", 3, faces, index)
    turned, _ = targets("random", 3, faces, index[::-1])
    np.testing.assert_array_equal(straight, turned[::-1])


def test_agreement_counts_any_of_the_likeliest_targets():
    logits = jnp.array([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]])
    target = jnp.array([[0.5, 0, 0.5], [1.0, 0, 0], [0.2, 0.2, 0.6]])
    np.testing.assert_array_equal(method.agrees(logits, target), [[1, 0, 1]])


def test_views_follow_the_face_and_the_step_and_not_the_place_in_the_batch():
    config, batch = tiny.stage_config("teachers"), problem.batch()
    view = jax.jit(
        lambda step, batch: method.view(config, problem.info(), state_at(step), batch, None).images
    )
    order = jnp.array([5, 2, 7, 0, 1, 6, 3, 4])
    straight = view(0, batch)
    permuted = view(0, {name: array[order] for name, array in batch.items()})
    np.testing.assert_array_equal(permuted, straight[order])
    assert not np.array_equal(view(1, batch), straight)


def test_streams_and_seeds_are_independent():
    index = jnp.arange(4, dtype=jnp.int32)
    augment, label = method.Stream.AUGMENT, method.Stream.LABEL
    keys = [
        method.face_keys(method.step_key(seed, jnp.int32(0), stream), index)
        for seed, stream in ((0, augment), (0, label), (1, augment))
    ]
    assert len({tuple(data) for key in keys for data in jax.random.key_data(key).tolist()}) == 12
