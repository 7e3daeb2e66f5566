"""A convolution that stays fast when `jax.vmap` runs it for a stack of networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jax.experimental.xla_metadata import set_xla_metadata
from jaxtyping import Array, Float

_Conv = Callable[["_Window", Array, Array], Array]


class _Window(NamedTuple):
    """The settings of a convolution."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    lhs_dilation: tuple[int, ...]
    rhs_dilation: tuple[int, ...]
    precision: Any


def stackable_conv(
    lhs: Float[Array, "batch height width inputs"],
    rhs: Float[Array, "kernel_height kernel_width inputs outputs"],
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    precision: Any = None,
) -> Float[Array, "batch out_height out_width outputs"]:
    """Convolves in 2-D, for `nn.Conv(conv_general_dilated=stackable_conv)`.

    Under `jax.vmap` a plain convolution with mapped kernels becomes one grouped convolution: slow
    on CPU, and with a sharded batch its kernel gradient gathers every activation. Here each network
    is convolved by itself, also in both gradients. Only in the forward pass, where all networks
    share the images, are narrow kernels joined into one wide kernel.

    A step lowered for CPU avoids what XLA does badly there: see `_by_patches`, `_by_shifts` and
    `_materialised`. For other platforms it is `lax.conv_general_dilated`. The choice is made when
    the step is lowered, so any machine can lower it for any platform.

    Only first-order reverse-mode derivatives work: no `jax.jvp`, no second derivatives.

    Args:
      lhs: images, channels last.
      rhs: kernel.
      window_strides: stride for height and width.
      padding: 'SAME', 'VALID' or (low, high) for height and width.
      lhs_dilation: as in `lax.conv_general_dilated`.
      rhs_dilation: as in `lax.conv_general_dilated`.
      dimension_numbers: those that Linen passes, NHWC and HWIO.
      feature_group_count: must be 1: grouped convolutions are not supported.
      precision: as in `lax.conv_general_dilated`.

    Raises:
      NotImplementedError: for another layout or for groups.
    """
    if feature_group_count != 1 or dimension_numbers not in (None, _CHANNELS_LAST):
        raise NotImplementedError("stackable_conv takes NHWC images, HWIO kernels and no groups")
    lhs_dilation = tuple(lhs_dilation or (1, 1))
    rhs_dilation = tuple(rhs_dilation or (1, 1))
    if isinstance(padding, str):
        sizes = [(n - 1) * d + 1 for n, d in zip(lhs.shape[1:3], lhs_dilation, strict=True)]
        kernel = [(n - 1) * d + 1 for n, d in zip(rhs.shape[:2], rhs_dilation, strict=True)]
        padding = lax.padtype_to_pads(sizes, kernel, window_strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _conv(
        _Window(tuple(window_strides), pads, lhs_dilation, rhs_dilation, precision), lhs, rhs
    )


_CHANNELS_LAST = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _conv(window: _Window, images: Array, kernel: Array) -> Array:
    return _stackable(partial(_forward, window), joinable=True)(images, kernel)


def _conv_fwd(window: _Window, images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _conv(window, images, kernel), (images, kernel)


def _conv_bwd(window: _Window, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    images, kernel = saved
    image_gradient = _stackable(partial(_image_gradient, window, images.shape[1:3]))
    kernel_gradient = _stackable(partial(_kernel_gradient, window, kernel.shape[:2]))
    return image_gradient(cotangent, kernel), kernel_gradient(images, cotangent)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _stackable(
    operation: Callable[[Array, Array], Array], joinable: bool = False
) -> Callable[[Array, Array], Array]:
    """Gives an operation of two arrays a batching rule that runs it once for each network.

    If it is `joinable` and only its second operand is stacked, narrow second operands are joined
    along their last axis instead, and the operation runs once.
    """
    stackable = custom_vmap(operation)

    @stackable.def_vmap
    def rule(size: int, mapped: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
        if joinable and not mapped[0] and b.shape[-1] < 32:
            joined = stackable(a, jnp.moveaxis(b, 0, -2).reshape(*b.shape[1:-1], -1))
            return jnp.moveaxis(joined.reshape(*joined.shape[:-1], size, -1), -2, 0), True
        each = [(a[i] if mapped[0] else a, b[i] if mapped[1] else b) for i in range(size)]
        return jnp.stack([stackable(*operands) for operands in each]), True

    return stackable


def _forward(window: _Window, images: Array, kernel: Array) -> Array:
    plain, by_patches = partial(_by_lax, window), partial(_by_patches, window)
    if not _tiny(window, images.shape[1:3], kernel.shape[:2]):
        return plain(images, kernel)
    return lax.platform_dependent(images, kernel, cpu=by_patches, default=plain)


def _image_gradient(
    window: _Window, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    plain = partial(_image_gradient_by, _by_lax, window, size)
    if not _tiny(window, cotangent.shape[1:3], kernel.shape[:2]):
        return plain(cotangent, kernel)
    by_patches = partial(_image_gradient_by, _by_patches, window, size)
    return lax.platform_dependent(cotangent, kernel, cpu=by_patches, default=plain)


def _image_gradient_by(
    conv: _Conv, window: _Window, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    images = jax.ShapeDtypeStruct((len(cotangent), *size, kernel.shape[2]), kernel.dtype)
    return jax.linear_transpose(lambda x: conv(window, x, kernel), images)(cotangent)[0]


def _kernel_gradient(
    window: _Window, size: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    on_cpu = partial(_kernel_gradient_on_cpu, window, size)
    plain = partial(_kernel_gradient_by, _by_lax, window, size)
    return lax.platform_dependent(images, cotangent, cpu=on_cpu, default=plain)


def _kernel_gradient_on_cpu(
    window: _Window, size: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    images, cotangent = _materialised(images), _materialised(cotangent)
    wide = _undilated(window) and min(images.shape[3], cotangent.shape[3]) >= 32
    if wide and window.strides == (1, 1) and size != (1, 1):
        return _by_shifts(window, size, images, cotangent)
    conv = _by_patches if wide or _tiny(window, size, size) else _by_lax
    return _kernel_gradient_by(conv, window, size, images, cotangent)


def _kernel_gradient_by(
    conv: _Conv, window: _Window, size: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    kernel = jax.ShapeDtypeStruct((*size, images.shape[3], cotangent.shape[3]), images.dtype)
    return jax.linear_transpose(lambda k: conv(window, images, k), kernel)(cotangent)[0]


def _tiny(window: _Window, size: tuple[int, ...], kernel_size: tuple[int, ...]) -> bool:
    """Returns whether patches are faster on CPU: for 1x1 kernels, and maps smaller than the kernel.

    XLA:CPU convolves such maps up to 100 times as slowly (3x3, 512 to 512 channels, 2x2 maps).
    """
    if not _undilated(window):
        return False
    return kernel_size == (1, 1) or all(n < k for n, k in zip(size, kernel_size, strict=True))


def _undilated(window: _Window) -> bool:
    return window.lhs_dilation + window.rhs_dilation == (1, 1, 1, 1)


def _by_lax(window: _Window, images: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        images,
        kernel,
        window.strides,
        window.padding,
        lhs_dilation=window.lhs_dilation,
        rhs_dilation=window.rhs_dilation,
        dimension_numbers=_CHANNELS_LAST,
        precision=window.precision,
    )


def _by_patches(window: _Window, images: Array, kernel: Array) -> Array:
    """Convolves by one matrix product of the patch around each output with the kernel."""
    height, width = kernel.shape[:2]
    padded = _pad(images, window.padding)
    down, right = window.strides
    last_row, last_column = padded.shape[1] - height, padded.shape[2] - width
    patches = jnp.concatenate(
        [
            padded[:, i : i + last_row + 1 : down, j : j + last_column + 1 : right]
            for i in range(height)
            for j in range(width)
        ],
        axis=-1,
    )
    matrix = kernel.reshape(-1, kernel.shape[3])
    # Two dimensions, or XLA would transpose the patches before it multiplies the gradients.
    flat = jnp.matmul(patches.reshape(-1, len(matrix)), matrix, precision=window.precision)
    return flat.reshape(*patches.shape[:3], -1)


def _by_shifts(window: _Window, size: tuple[int, ...], images: Array, cotangent: Array) -> Array:
    """Computes the kernel gradient of a convolution of stride 1 by one matrix product.

    Images are shifted by each row of the kernel, and cotangents, the other way, by each column. For
    a 3x3 kernel this takes 3 + 3 copies, where patches would take 9.
    """
    height, width = size
    rows, columns = cotangent.shape[1], images.shape[2]
    padded_images = _pad(images, (window.padding[0], (0, 0)))
    left, right = window.padding[1]
    padded_cotangent = _pad(cotangent, ((0, 0), (width - 1 - left, width - 1 - right)))
    down = [padded_images[:, i : i + rows] for i in range(height)]
    across = [padded_cotangent[:, :, j : j + columns] for j in reversed(range(width))]
    # Two dimensions, as in `_by_patches`.
    by_row = jnp.concatenate(down, axis=-1).reshape(-1, height * images.shape[3])
    by_column = jnp.concatenate(across, axis=-1).reshape(-1, width * cotangent.shape[3])
    product = lax.dot_general(
        by_row, by_column, (((0,), (0,)), ((), ())), precision=window.precision
    )
    return jnp.moveaxis(product.reshape(height, images.shape[3], width, -1), 2, 1)


def _pad(x: Array, edges: tuple[tuple[int, int], ...]) -> Array:
    """Pads height and width with zeros, or crops them where an edge is negative."""
    config = ((0, 0, 0), *((low, high, 0) for low, high in edges), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def _materialised(x: Array) -> Array:
    """Makes XLA:CPU compute `x` once, in order, rather than inside the gradient's transpositions.

    Otherwise XLA fuses the element-wise operations before a transposition into its strided loop and
    recomputes them there, back to the network's input if nothing else comes between. XLA removes
    optimisation barriers before it fuses, but keeps a call that may not be inlined.
    """
    with set_xla_metadata(inlineable="false"):
        return _times_one(x)


@jax.jit
def _times_one(x: Array) -> Array:
    return x * 1  # `jit` sees through a function that returns its argument
