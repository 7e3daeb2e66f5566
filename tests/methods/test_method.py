"""What methods share: targets from annotations, random streams, the rows of an epoch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.errors import UserError
from ferjax.methods import method
from tests import tiny
from tests.methods import problem

ANNOTATIONS = jnp.array([[0, 2], [1, -1], [-1, 2], [-1, -1]], jnp.int32)
VOTES = jnp.array([[5, 0, 5], [7, 2, 1], [4, 3, 3], [0, 0, 0]], jnp.int32)


INFERRED = jnp.array([[0.9, 0.1, 0], [0, 1, 0], [0.2, 0.3, 0.5], [0, 0, 0]])


def state_at(step):
    return method.start_state((), (), ()).replace(step=jnp.int32(step))


def targets(label, step=0, annotations=ANNOTATIONS, index=None):
    count = len(annotations)
    batch = {
        "annotations": annotations,
        "votes": VOTES,
        "inferred": INFERRED,
        "index": jnp.arange(count, dtype=jnp.int32) if index is None else index,
    }
    config = tiny.stage_config("teachers")
    target, labelled = method.targets(config, problem.info(label), state_at(step), batch)
    return np.asarray(target), np.asarray(labelled)


def at_epoch(epoch: int) -> method.State:
    """A state whose next step is the first of an epoch."""
    step = np.array(epoch * problem.info().steps_per_epoch, np.int32)
    return method.start_state({}, {}, ()).replace(step=step)


def test_a_coders_name_takes_that_coders_annotation():
    target, labelled = targets("ben")
    np.testing.assert_array_equal(target, [[0, 0, 1], [0, 0, 0], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(labelled, [1, 0, 1, 0])


def test_majority_takes_the_most_chosen_class_and_where_tied_one_drawn_once():
    annotations = jnp.array([[2, 2, 1], [-1, 2, -1], [-1, -1, -1]] + [[1, 0, -1]] * 200, jnp.int32)
    target, labelled = targets("majority", annotations=annotations)
    np.testing.assert_array_equal(target[:3], [[0, 0, 1], [0, 0, 1], [0, 0, 0]])
    np.testing.assert_array_equal(labelled[:4], [1, 1, 0, 1])
    assert (target[3:, 2] == 0).all()
    assert 0.4 < target[3:, 0].mean() < 0.6
    np.testing.assert_array_equal(targets("majority", 7, annotations)[0], target)


def test_soft_takes_shares_of_annotations_and_inferred_what_was_found():
    annotations = jnp.array([[2, 2, 1], [1, 0, -1], [-1, -1, -1]], jnp.int32)
    target, labelled = targets("soft", annotations=annotations)
    np.testing.assert_allclose(target, [[0, 1 / 3, 2 / 3], [0.5, 0.5, 0], [0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(labelled, [1, 1, 0])
    target, labelled = targets("inferred")
    np.testing.assert_array_equal(target, INFERRED)
    np.testing.assert_array_equal(labelled, [1, 1, 1, 0])


def test_votes_are_taken_as_shares():
    target, labelled = targets("votes")
    expected = [[0.5, 0, 0.5], [0.7, 0.2, 0.1], [0.4, 0.3, 0.3], [0, 0, 0]]
    np.testing.assert_allclose(target, expected, rtol=1e-6)
    np.testing.assert_array_equal(labelled, [1, 1, 1, 0])


def test_multi_target_allows_every_class_with_more_than_thirty_percent():
    target, labelled = targets("multi_target")
    np.testing.assert_array_equal(target, [[1, 0, 1], [1, 0, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(labelled, [1, 1, 1, 0])


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


@pytest.mark.parametrize("label", ["votes", "multi_target"])
def test_votes_need_a_dataset_that_has_them(label):
    with pytest.raises(UserError, match=f"label='{label}' needs a dataset with votes"):
        method.check_label(problem.info(label))


def test_an_unknown_label_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"'carl' is none of .*random.*anna, ben"):
        method.check_label(problem.info("carl"))


def test_agreement_counts_any_of_the_likeliest_targets():
    logits = jnp.array([[[9.0, 0, 0], [0, 9.0, 0], [0, 0, 9.0]]])
    target = jnp.array([[0.5, 0, 0.5], [1.0, 0, 0], [0.2, 0.2, 0.6]])
    np.testing.assert_array_equal(method.agrees(logits, target), [[1, 0, 1]])


def test_views_follow_the_face_and_the_step_and_not_the_place_in_the_batch():
    config, batch = tiny.stage_config("teachers"), problem.batch()
    view = jax.jit(lambda step, batch: method.augmented(config, state_at(step), batch))
    order = jnp.array([5, 2, 7, 0, 1, 6, 3, 4])
    straight = view(0, batch)
    permuted = view(0, {name: array[order] for name, array in batch.items()})
    np.testing.assert_array_equal(permuted, straight[order])
    assert not np.array_equal(view(1, batch), straight)


def test_streams_and_seeds_are_independent():
    index = jnp.arange(4, dtype=jnp.int32)
    augment, label = method.Stream.AUGMENT, method.Stream.LABEL
    keys = [
        method.face_keys(seed, jnp.int32(0), stream, index)
        for seed, stream in ((0, augment), (0, label), (1, augment))
    ]
    assert len({tuple(data) for key in keys for data in jax.random.key_data(key).tolist()}) == 12


def test_an_epoch_draws_every_face_once():
    rows = method.epoch_rows(tiny.stage_config("teachers"), problem.info())
    np.testing.assert_array_equal(rows(at_epoch(0)), np.arange(80))
    np.testing.assert_array_equal(rows(at_epoch(7)), np.arange(80))


@pytest.fixture(scope="module")
def balanced():
    """Of 600 faces, 400, 140 and 40 of the classes, and 20 without a label; and the balanced draw.

    Ben says what ann says, where he does; he alone labels the rare class.
    """
    annotations = np.full((600, 2), -1, np.int32)
    annotations[:400, 0], annotations[400:540, 0], annotations[540:580, 1] = 0, 1, 2
    annotations[:200, 1] = 0
    config = tiny.stage_config("teachers", **{"teachers.balanced": True})
    label = np.repeat([0, 1, 2, -1], [400, 140, 40, 20])
    return label, method.epoch_rows(config, problem.info("majority", annotations))


def test_the_balanced_draw_takes_every_class_about_as_often_and_as_many_rows_each_epoch(balanced):
    label, rows = balanced
    for epoch in range(3):
        drawn = rows(at_epoch(epoch))
        assert drawn.shape == (600,)
        assert drawn.dtype == np.int32
        counts = np.bincount(label[drawn] + 1, minlength=4)
        assert counts[0] == 0
        assert counts[1:].min() > 150
        assert counts[1:].max() < 250


def test_faces_without_the_label_take_nothing_from_the_first_class():
    annotations = np.full((100, 2), -1, np.int32)
    annotations[:10, 0], annotations[10:20, 0] = 0, 1
    config = tiny.stage_config("teachers", **{"teachers.balanced": True})
    drawn = method.epoch_rows(config, problem.info("anna", annotations))(at_epoch(0))
    counts = np.bincount(annotations[drawn, 0] + 1, minlength=3)
    assert counts[0] == 0
    assert counts[1:].min() > 30


def test_sets_of_a_union_are_drawn_from_as_weighted():
    config = tiny.stage_config("teachers", **{"teachers.set_weights": (1.0, 3.0, 0.0)})
    info = problem.info(annotations=np.zeros((600, 2), np.int32))._replace(sets=("a", "b", "c"))
    of_set = np.repeat(np.array([0, 1, 2], np.int32), [300, 100, 200])
    rows = method.epoch_rows(config, info._replace(labels=info.labels | {"set": of_set}))
    counts = np.bincount(of_set[rows(at_epoch(0))], minlength=3)
    assert counts[2] == 0
    assert 420 < counts[1] < 480


@pytest.mark.parametrize(
    "weights",
    [(1.0,), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, float("nan"), 1.0), ("1", "2", "3")],
)
def test_weights_that_do_not_suit_the_sets_are_named(weights):
    config = tiny.stage_config("teachers", **{"teachers.set_weights": weights})
    info = problem.info(annotations=np.zeros((6, 2), np.int32))._replace(sets=("a", "b", "c"))
    of_set = np.array([0, 0, 1, 1, 2, 2], np.int32)
    with pytest.raises(UserError, match="set_weights"):
        method.epoch_rows(config, info._replace(labels=info.labels | {"set": of_set}))


def test_the_balanced_draw_is_a_function_of_the_seed_and_the_epoch(balanced):
    _, rows = balanced
    np.testing.assert_array_equal(rows(at_epoch(1)), rows(at_epoch(1)))
    assert not np.array_equal(rows(at_epoch(1)), rows(at_epoch(2)))
