"""Augmentation: pure functions of the key with torchvision's meaning of every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import datasets
from ferjax import augment

STILL = {"flip": 0.0, "jitter_affine": 0.0, "erase": 0.0}
PLAIN = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}
PLAIN |= {"shift": 0.0, "scale": (1.0, 1.0)}
KEY = jax.random.key(1)


def config(**changes):
    """CCT's augmentation, changed as told."""
    made = datasets.base("ferplus").augment
    made.update(changes)
    return made


def face(channels=3, side=12):
    """Noise far enough from black and white that no jitter saturates."""
    draw = np.random.default_rng(0).integers(90, 160, (side, side, channels))
    return jnp.asarray(draw.astype(np.uint8))


def views(keys, image, made):
    """Views in [0, 1], one for each key."""
    normalised = jax.jit(jax.vmap(lambda key: augment.augment(key, image, made, "imagenet")))(keys)
    mean, deviation = (jnp.array(x).reshape(1, 1, 1, 3) for x in augment.SCHEMES["imagenet"])
    return normalised * deviation + mean


def unit(image):
    return np.asarray(image, np.float32) / 255


def test_the_view_is_a_function_of_the_key():
    first, again, other = views(jax.random.split(KEY, 2)[jnp.array([0, 0, 1])], face(), config())
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_with_every_probability_zero_the_view_is_the_prepared_face():
    view = jax.jit(lambda image: augment.augment(KEY, image, config(**STILL), "imagenet"))(face())
    np.testing.assert_allclose(view, augment.prepare(face(), "imagenet"), atol=1e-6)


def test_preparing_normalises_and_makes_grey_three_channels():
    grey = augment.prepare(jnp.full((2, 4, 4, 1), 255, jnp.uint8), "imagenet")
    assert grey.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(grey[1, 2, 3], [2.2489083, 2.4285715, 2.64], rtol=1e-5)


def test_a_flip_mirrors_exactly():
    flip = jax.jit(
        lambda image: augment.augment(KEY, image, config(**STILL | {"flip": 1.0}), "imagenet")
    )
    for image in (face(side=11), face(side=12)):
        np.testing.assert_allclose(
            flip(image), augment.prepare(image[:, ::-1], "imagenet"), atol=1e-6
        )


def test_flips_come_as_often_as_asked():
    keys = jax.random.split(KEY, 400)
    got = views(keys, face(), config(**STILL | {"flip": 0.5}))
    flipped = np.isclose(got, unit(face())[:, ::-1], atol=1e-5).all(axis=(1, 2, 3))
    assert np.isclose(got[~flipped], unit(face()), atol=1e-5).all()
    assert 0.42 < flipped.mean() < 0.58


@pytest.mark.parametrize("moved", [2, -1])
def test_a_shift_moves_pixels_and_leaves_black(moved):
    weights = augment._interpolation(8, jnp.float32(1), jnp.float32(moved), jnp.array(False))
    expected = np.eye(8, k=-moved)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_shifts_spread_evenly_up_to_their_limit_in_both_directions():
    spot = jnp.zeros((20, 20, 1), jnp.uint8).at[9:11, 9:11].set(255)
    made = config(**STILL | PLAIN | {"jitter_affine": 1.0, "shift": 0.2})
    got = np.asarray(views(jax.random.split(KEY, 300), spot, made)[..., 0])
    place = np.arange(20) - 9.5
    for mass in (got.sum(axis=2), got.sum(axis=1)):  # rows, columns
        centre = (mass * place).sum(axis=1) / mass.sum(axis=1)
        assert 3.8 < centre.max() <= 4.001
        assert -4.001 <= centre.min() < -3.8
        assert abs(centre.std() - 4 / np.sqrt(3)) < 0.25


def test_shifts_by_whole_pixels_are_all_as_likely():
    spot = jnp.zeros((9, 9, 1), jnp.uint8).at[4, 4].set(255)
    changes = {"jitter_affine": 1.0, "shift": 2 / 9, "whole_pixels": True}
    got = np.asarray(views(jax.random.split(KEY, 500), spot, config(**STILL | PLAIN | changes)))
    _, rows, columns = np.nonzero(got[..., 0] > 0.99)
    for places in (rows, columns):
        shares = np.bincount(places, minlength=9) / 500
        assert len(places) == 500
        assert shares[[0, 1, 7, 8]].sum() == 0
        np.testing.assert_allclose(shares[2:7], 0.2, atol=0.06)


def test_whole_shifts_reach_the_nearest_whole_limit():
    made = config(shift=0.1, whole_pixels=True)
    draws = jnp.linspace(-1, 1, 1100, endpoint=False).reshape(-1, 2)
    shifts = jax.vmap(lambda draw: augment._shift(draw, (48, 52), made))(draws)
    for column in range(2):  # 4.8 and 5.2 pixels
        values, counts = np.unique(np.asarray(shifts[:, column]), return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-5, 6))
        np.testing.assert_allclose(counts, 50, atol=1)


def test_bgr_turns_channels_round_and_counts_from_the_middle_in_units_of_128():
    image = jnp.array([0, 128, 255], jnp.uint8).reshape(1, 1, 3)
    expected = [[[127 / 128, 0, -1]]]
    np.testing.assert_allclose(augment.prepare(image, "bgr"), expected, atol=1e-6)
    still = jax.jit(lambda x: augment.augment(KEY, x, config(**STILL), "bgr"))
    np.testing.assert_allclose(still(image), expected, atol=1e-6)


def test_magnifying_twice_spreads_the_middle_over_the_whole():
    halves = jnp.zeros((8, 8, 1), jnp.uint8).at[:, 2:6].set(200)  # the middle half
    made = config(**STILL | PLAIN | {"jitter_affine": 1.0, "scale": (2.0, 2.0)})
    view = views(jax.random.split(KEY, 1), halves, made)[0]
    np.testing.assert_allclose(view[:, 1:-1], 200 / 255, atol=1e-5)


def jittered(name, image):
    """Forty views under one kind of colour jitter with half-range 0.25."""
    made = config(**STILL | PLAIN | {"jitter_affine": 1.0, name: 0.25})
    return np.asarray(views(jax.random.split(KEY, 40), image, made))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_jitter_scales_the_distance_from_black_mean_grey_or_own_grey(name):
    original = unit(face())
    grey = (original @ np.array(augment.LUMA, np.float32))[..., None]
    still = {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey}[name]
    distance = original - still
    factors = (jittered(name, face()) - still)[:, abs(distance) > 0.02] / distance[
        abs(distance) > 0.02
    ]
    np.testing.assert_allclose(factors, factors[:, :1].repeat(factors.shape[1], 1), atol=1e-3)
    assert 0.75 <= factors.min() < 0.8
    assert 1.2 < factors.max() <= 1.2501


def test_jitter_and_affine_come_together_as_often_as_asked():
    grey = jnp.full((12, 12, 1), 100, jnp.uint8)
    made = config(**STILL | {"jitter_affine": 0.5})
    got = np.asarray(views(jax.random.split(KEY, 400), grey, made))
    recoloured = abs(got[:, 6, 6, 0] - 100 / 255) > 1e-5  # the middle never leaves the face
    moved = abs(got - got[:, 6:7, 6:7]).max(axis=(1, 2, 3)) > 1e-5  # black comes in at an edge
    assert 0.42 < recoloured.mean() < 0.58
    assert (recoloured | ~moved).all()
    assert moved.any()


def test_the_hue_turns_by_a_fraction_of_the_circle():
    colours = jnp.array([[[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0.5, 0.5, 0.5]]])
    third = augment._rotate_hue(colours, jnp.float32(1 / 3))
    np.testing.assert_allclose(third[0], colours[0, [1, 2, 0, 3]], atol=1e-5)
    np.testing.assert_allclose(
        augment._rotate_hue(colours, jnp.float32(1 / 6))[0, 0], [1, 1, 0], atol=1e-5
    )


@pytest.mark.parametrize("turns", [0, 1, -1])
def test_a_full_turn_of_the_hue_is_no_turn(turns):
    image = jnp.asarray(unit(face()))
    np.testing.assert_allclose(augment._rotate_hue(image, jnp.float32(turns)), image, atol=1e-5)


def test_turning_the_hue_keeps_value_and_chroma():
    image = jnp.asarray(unit(face()))
    turned = augment._rotate_hue(image, jnp.float32(0.2))
    np.testing.assert_allclose(turned.max(axis=-1), image.max(axis=-1), atol=1e-5)
    np.testing.assert_allclose(turned.min(axis=-1), image.min(axis=-1), atol=1e-5)
    assert abs(turned - image).max() > 0.05


def test_grey_is_augmented_as_the_same_face_in_three_channels():
    keys = jax.random.split(KEY, 8)
    colour = jnp.repeat(face(channels=1), 3, axis=-1)
    from_grey, from_colour = (views(keys, image, config()) for image in (face(1), colour))
    np.testing.assert_allclose(from_grey, from_colour, atol=1e-5)


@pytest.fixture(scope="module")
def holes():
    """Where 300 white faces are erased, always asked for: [300, 48, 48]."""
    white = jnp.full((48, 48, 1), 255, jnp.uint8)
    made = config(**STILL | {"erase": 1.0})
    return np.asarray(
        jax.jit(jax.vmap(lambda key: augment.augment(key, white, made, "imagenet")))(
            jax.random.split(KEY, 300)
        )
        == 0
    )


def test_erasing_sets_a_rectangle_of_all_channels_to_zero_after_normalisation(holes):
    assert (holes.all(axis=-1) == holes.any(axis=-1)).all()
    hole = holes[..., 0]
    rows, columns = hole.any(axis=2), hole.any(axis=1)
    np.testing.assert_array_equal(hole, rows[:, :, None] & columns[:, None, :])
    for line in (rows, columns):  # one run of pixels
        starts = np.diff(line.astype(int), prepend=0, axis=1) == 1
        assert (starts.sum(axis=1) == 1).all()


def test_the_erased_area_and_aspect_cover_their_ranges(holes):
    tall, wide = holes[..., 0].any(axis=2).sum(axis=1), holes[..., 0].any(axis=1).sum(axis=1)
    area, aspect = tall * wide / 48**2, tall / wide
    assert 0.01 < area.min() < 0.05
    assert 0.22 < area.max() < 0.28
    assert 0.25 < aspect.min() < 0.4
    assert 2.5 < aspect.max() < 4.2
    assert abs(np.log(aspect).mean()) < 0.15  # as often tall as wide


def test_holes_lie_anywhere(holes):
    rows, columns = holes[..., 0].any(axis=2).mean(axis=0), holes[..., 0].any(axis=1).mean(axis=0)
    for covered in (rows, columns):  # the middle most often, the edges sometimes
        assert covered.min() > 0
        np.testing.assert_allclose(covered[:24].mean(), covered[24:].mean(), rtol=0.2)


def torchvisions_coverage(side, made, draws=20_000):
    """How often each pixel is erased by torchvision's rule, [side, side]."""
    draw = np.random.default_rng(0)
    area = draw.uniform(*made.erase_area, draws) * side**2
    aspect = np.exp(draw.uniform(*np.log(made.erase_aspect), draws))
    pixel, covered = np.arange(side)[None], []
    for length in (np.round(np.sqrt(area * aspect)), np.round(np.sqrt(area / aspect))):
        length = length[:, None]
        assert (length < side).all()  # else torchvision would draw again
        starts = np.minimum(pixel, side - length) - np.maximum(pixel - length + 1, 0) + 1
        covered.append(starts / (side - length + 1))
    return covered[0].T @ covered[1] / draws


def test_every_pixel_is_erased_as_often_as_by_torchvision():
    made = config(**STILL | {"erase": 1.0})
    side, draws = 48, 12_000
    white = jnp.ones((side, side, 1))

    @jax.jit
    def coverage(keys):
        erased = jax.vmap(lambda key: augment._erase(key, white, made)[..., 0] == 0)(keys)
        return erased.mean(axis=0, dtype=jnp.float32)

    got = np.asarray(coverage(jax.random.split(KEY, draws)))
    expected = torchvisions_coverage(side, made)
    corners, edges = np.s_[[0, 0, -1, -1], [0, -1, 0, -1]], np.s_[[0, -1], 1:-1]
    assert expected[corners].mean() == pytest.approx(0.00124, rel=0.03)
    for part in (corners, edges, edges[::-1], np.s_[1:-1, 1:-1]):
        share = expected[part].mean()
        count = 4 if part is corners else 2  # sets of draws that hardly depend on each other
        deviation = np.sqrt(share / draws / count)
        assert abs(got[part].mean() - share) < 4 * deviation


def test_erasing_comes_as_often_as_asked():
    white = jnp.full((16, 16, 1), 255, jnp.uint8)
    got = views(jax.random.split(KEY, 400), white, config(**STILL | {"erase": 0.5}))
    erased = (got < 0.9).any(axis=(1, 2, 3))
    assert 0.42 < erased.mean() < 0.58
