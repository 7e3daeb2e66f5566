"""Augmentation on the device: pure functions of (key, image) for one face; `vmap` for a batch.

Runs inside the training step, so hosts send uint8, and results don't depend on pipeline workers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from ml_collections import ConfigDict

from ferjax.errors import UserError

SCHEMES = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "bgr": ((128 / 255,) * 3, (128 / 255,) * 3),
    "half": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and deviation of red, green and blue, for values in [0, 1]; see `normalise`."""

LUMA = (0.299, 0.587, 0.114)

Image = Float[Array, "height width channels"]


def normalise(
    images: Float[Array, "*batch height width channels"], scheme: str
) -> Float[Array, "*batch height width 3"]:
    """Normalises images in [0, 1] for a network; grey becomes three equal channels.

    Args:
      images: grey or RGB.
      scheme: 'imagenet' makes ImageNet's mean 0 and its deviation 1; 'bgr' orders channels as blue,
        green, red and maps bytes to (byte − 128)/128, as in Caffe; 'half' maps [0, 1] to [-1, 1].
    """
    mean, deviation = SCHEMES[scheme]
    ones = (1,) * (images.ndim - 1)
    scaled = images - jnp.asarray(mean, images.dtype).reshape(*ones, 3)
    scaled = scaled / jnp.asarray(deviation, images.dtype).reshape(*ones, 3)
    return scaled[..., ::-1] if scheme == "bgr" else scaled


def prepare(
    images: UInt8[Array, "*batch height width channels"], scheme: str
) -> Float[Array, "*batch height width 3"]:
    """Converts bytes to normalised floats, as networks take them in evaluation; see `normalise`."""
    return normalise(images.astype(jnp.float32) / 255, scheme)


def check(config: ConfigDict, scheme: str) -> None:
    """Checks the settings of `augment` and `normalise`.

    Raises:
      UserError: naming the first invalid field.
    """
    if scheme not in SCHEMES:
        raise UserError(f"model.input {scheme!r} is none of {', '.join(SCHEMES)}")
    for field in ("flip", "jitter_affine", "erase"):
        if not 0 <= config[field] <= 1:
            raise UserError(f"augment.{field} must be a probability, not {config[field]}")
    for field in ("scale", "erase_area", "erase_aspect"):
        pair = config[field]
        if len(pair) != 2 or not 0 < pair[0] <= pair[1]:
            raise UserError(
                f"augment.{field} must be (smallest, largest), both positive, not {pair}"
            )


def augment(
    key: PRNGKeyArray,
    image: UInt8[Array, "height width channels"],
    config: ConfigDict,
    scheme: str,
) -> Float[Array, "height width 3"]:
    """Draws one random view of a face, normalised, [height, width, 3] float32.

    Args:
      key: the face's own random key.
      image: bytes, grey or RGB.
      config: `flip`, `jitter_affine`, `erase`: probabilities; `brightness`, `contrast`,
        `saturation`, `hue`: half-ranges of the colour jitter; `shift`: largest shift as a fraction
        of the side; `whole_pixels`: shift by whole pixels only; `scale`: (smallest, largest)
        magnification; `erase_area`, `erase_aspect`: ranges. Colour jitter and affine are applied
        together or not at all, as in CCT.
      scheme: see `normalise`.
    """
    choice, warp, colour, erased = jax.random.split(key, 4)
    chances = jnp.array([config.flip, config.jitter_affine])
    flip, changed = jax.random.uniform(choice, (2,)) < chances
    view = image.astype(jnp.float32) / 255
    if config.jitter_affine:
        view = jnp.where(changed, _colour_jitter(colour, view, config), view)
    view = _flip_and_affine(warp, view, flip, changed, config)
    view = normalise(view, scheme)
    return _erase(erased, view, config) if config.erase else view


def _flip_and_affine(key: PRNGKeyArray, image: Image, flip, changed, config: ConfigDict) -> Image:
    """Mirrors, shifts and magnifies about the centre: bilinear, black outside.

    The warp is separable, so it is two small interpolation-matrix products, much faster on CPU than
    a gather.
    """
    draws = jax.random.uniform(key, (3,), minval=-1.0)
    low, high = config.scale
    scale = jnp.where(changed, (low + high) / 2 + draws[2] * (high - low) / 2, 1.0)
    pixels = jnp.where(changed, _shift(draws[:2], image.shape[:2], config), 0.0)
    rows = _interpolation(image.shape[0], scale, pixels[0], jnp.array(False))
    columns = _interpolation(image.shape[1], scale, pixels[1], flip)
    # At full precision: accelerators would round the factors and change pixels that do not move.
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def _shift(draws: Float[Array, "2"], sides: tuple[int, ...], config: ConfigDict):
    """Maps draws from [-1, 1) to a uniform shift, in pixels down and to the right."""
    most = config.shift * jnp.array(sides, jnp.float32)
    if not config.whole_pixels:
        return draws * most
    most = jnp.round(most)
    return jnp.floor((draws + 1) / 2 * (2 * most + 1)) - most


def _interpolation(side: int, scale, shift, mirror) -> Float[Array, "side side"]:
    """Returns bilinear weights [output, input] of one axis; `shift` in pixels."""
    centre = (side - 1) / 2
    position = jnp.arange(side, dtype=jnp.float32) - centre
    position = (jnp.where(mirror, -position, position) - shift) / scale + centre
    distance = jnp.abs(position[:, None] - jnp.arange(side, dtype=jnp.float32)[None, :])
    return jnp.maximum(1 - distance, 0)


def _colour_jitter(key: PRNGKeyArray, image: Image, config: ConfigDict) -> Image:
    """Jitters brightness, contrast, saturation, hue, in that order; grey has the first two only."""
    draw = jax.random.uniform(key, (4,), minval=-1.0)
    image = jnp.clip(image * (1 + config.brightness * draw[0]), 0, 1)
    image = _blend(image, jnp.mean(_grey(image)), 1 + config.contrast * draw[1])
    if image.shape[-1] == 1:
        return image
    image = _blend(image, _grey(image), 1 + config.saturation * draw[2])
    return _rotate_hue(image, config.hue * draw[3])


def _grey(image: Image) -> Float[Array, "height width 1"]:
    weights = jnp.array(LUMA) if image.shape[-1] == 3 else jnp.ones(1)
    return jnp.sum(image * weights[None, None], axis=-1, keepdims=True)


def _blend(image: Image, other, factor) -> Image:
    return jnp.clip(other + factor * (image - other), 0, 1)


def _rotate_hue(image: Image, turns) -> Image:
    """Rotates the hue of the HSV hexagon by a fraction of a turn, keeping value and chroma."""
    value, low = jnp.max(image, axis=-1), jnp.min(image, axis=-1)
    chroma = value - low
    safe = jnp.where(chroma > 0, chroma, 1.0)
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    sector = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    # Channel n of the hexagon falls by chroma · clip(min(k, 4 − k), 0, 1) with k = (n + hue) mod 6.
    offset = (jnp.array([5.0, 3.0, 1.0])[None, None] + (sector + 6 * turns)[..., None]) % 6
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(offset, 4 - offset), 0, 1)


def _erase(key: PRNGKeyArray, image: Image, config: ConfigDict) -> Image:
    """Sets a random rectangle of a normalised image to 0 (Zhong et al., Random Erasing, 2017).

    Sides and corner are whole pixels, as in torchvision: else the first and last pixels would be
    covered too rarely. A side longer than the image's is cut, where torchvision draws again.
    """
    height, width, _ = image.shape
    draw = jax.random.uniform(key, (5,))
    area = _between(draw[0], *config.erase_area) * height * width
    aspect = jnp.exp(_between(draw[1], *(jnp.log(jnp.float32(a)) for a in config.erase_aspect)))
    rows = _run(height, jnp.sqrt(area * aspect), draw[2])
    columns = _run(width, jnp.sqrt(area / aspect), draw[3])
    hole = rows[:, None] & columns[None, :] & (draw[4] < config.erase)
    return jnp.where(hole[..., None], 0.0, image)


def _between(fraction, low, high):
    return low + fraction * (high - low)


def _run(side: int, length, draw):
    """Returns which pixels of one axis a run of this length covers, any start being as likely."""
    length = jnp.minimum(jnp.round(length), side)
    start = jnp.floor(draw * (side - length + 1))
    pixel = jnp.arange(side, dtype=jnp.float32)
    return (pixel >= start) & (pixel < start + length)
