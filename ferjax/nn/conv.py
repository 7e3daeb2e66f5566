"""A convolution that stays fast when `jax.vmap` runs it for a stack of networks."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float


class _Window(NamedTuple):
    """Everything about a convolution that is not an operand."""

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
    """2-D convolution, to be given to `nn.Conv(conv_general_dilated=stackable_conv)`.

    Under `jax.vmap` a plain convolution with mapped kernels becomes one grouped convolution: slow
    on CPU, and with a sharded batch its kernel gradient gathers every activation. Here
    mapped operands give one convolution for each network, in both gradients too; an operand shared
    by all networks gives one wider convolution.

    Only first-order reverse mode can differentiate it: no `jax.jvp`, no second derivatives.

    Args:
      lhs: images, channels last.
      rhs: kernel.
      window_strides: stride for height and width.
      padding: 'SAME', 'VALID' or (low, high) for height and width.
      lhs_dilation: as in `lax.conv_general_dilated`.
      rhs_dilation: as in `lax.conv_general_dilated`.
      dimension_numbers: Linen's, which are channels last.
      feature_group_count: 1, as there are no grouped convolutions.
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
    return _stackable(partial(_forward, window), (0, 0), (3, 3))(images, kernel)


def _conv_fwd(window: _Window, images: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    images = lax.optimization_barrier(images)
    return _conv(window, images, kernel), (images, kernel)


def _conv_bwd(window: _Window, saved: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    images, kernel = saved
    cotangent = lax.optimization_barrier(cotangent)
    size, kernel_size = images.shape[1:3], kernel.shape[:2]
    image_gradient = _stackable(partial(_image_gradient, window, size), (0, 0), (2, 3))
    kernel_gradient = _stackable(partial(_kernel_gradient, window, kernel_size), (3, 2), (3, 3))
    return image_gradient(cotangent, kernel), kernel_gradient(images, cotangent)


_conv.defvjp(_conv_fwd, _conv_bwd)


def _stackable(
    operation: Callable[[Array, Array], Array], first: tuple[int, int], second: tuple[int, int]
) -> Callable[[Array, Array], Array]:
    """Gives a bilinear operation its batching rule.

    Args:
      operation: what one network does.
      first: for a stack of first operands and one second: the axis along which the operands can be
        joined, and the axis of the result along which the results then lie.
      second: the same for a stack of second operands.
    """
    stackable = custom_vmap(operation)

    @stackable.def_vmap
    def rule(size: int, mapped: list[bool], a: Array, b: Array) -> tuple[Array, bool]:
        if all(mapped):
            return jnp.stack([stackable(a[i], b[i]) for i in range(size)]), True
        if mapped[0]:
            return _split(stackable(_join(a, first[0]), b), first[1], size), True
        return _split(stackable(a, _join(b, second[0])), second[1], size), True

    return stackable


def _join(stack: Array, axis: int) -> Array:
    """[M, .., n, ..] to [.., n * M, ..]; n leads, so that a sharded batch stays on its devices."""
    moved = jnp.moveaxis(stack, 0, axis + 1)
    return moved.reshape(*moved.shape[:axis], -1, *moved.shape[axis + 2 :])


def _split(joined: Array, axis: int, size: int) -> Array:
    """Undoes `_join`."""
    shape = (*joined.shape[:axis], -1, size, *joined.shape[axis + 1 :])
    return jnp.moveaxis(joined.reshape(shape), axis + 1, 0)


def _forward(window: _Window, images: Array, kernel: Array) -> Array:
    conv = _by_patches if _small(window, images.shape[1:3], kernel.shape[:2]) else _by_lax
    return conv(window, images, kernel)


def _image_gradient(
    window: _Window, size: tuple[int, ...], cotangent: Array, kernel: Array
) -> Array:
    conv = _by_patches if _small(window, cotangent.shape[1:3], kernel.shape[:2]) else _by_lax
    images = jax.ShapeDtypeStruct((len(cotangent), *size, kernel.shape[2]), kernel.dtype)
    return jax.linear_transpose(lambda x: conv(window, x, kernel), images)(cotangent)[0]


def _kernel_gradient(
    window: _Window, size: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    if _wide(window, images, cotangent):
        return _kernel_gradient_by_rows_and_columns(window, size, images, cotangent)
    conv = _by_patches if _small(window, size, size) else _by_lax
    kernel = jax.ShapeDtypeStruct((*size, images.shape[3], cotangent.shape[3]), images.dtype)
    return jax.linear_transpose(lambda k: conv(window, images, k), kernel)(cotangent)[0]


def _small(window: _Window, size: tuple[int, ...], kernel_size: tuple[int, ...]) -> bool:
    """Whether patches beat XLA's convolution, which on CPU has no fast code for such sizes."""
    if jax.default_backend() != "cpu" or window.lhs_dilation + window.rhs_dilation != (1, 1, 1, 1):
        return False
    return kernel_size == (1, 1) or all(n < k for n, k in zip(size, kernel_size, strict=True))


def _wide(window: _Window, images: Array, cotangent: Array) -> bool:
    """Whether copying shifted operands for a kernel gradient is cheap beside the products."""
    undilated = window.strides + window.lhs_dilation + window.rhs_dilation == (1,) * 6
    channels = min(images.shape[3], cotangent.shape[3])
    return jax.default_backend() == "cpu" and undilated and channels >= 64


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
    """The convolution as one matrix product, of the window around each output with the kernel."""
    height, width = kernel.shape[:2]
    padded = jnp.pad(images, ((0, 0), *window.padding, (0, 0)))
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
    return jnp.matmul(patches, kernel.reshape(-1, kernel.shape[3]), precision=window.precision)


def _kernel_gradient_by_rows_and_columns(
    window: _Window, size: tuple[int, ...], images: Array, cotangent: Array
) -> Array:
    """The kernel gradient of a convolution of stride 1 as one matrix product.

    Images are shifted by the rows of the kernel and cotangents, the other way, by its columns: that
    copies 3 + 3 times where the patches of a 3x3 kernel copy 9 times.
    """
    height, width = size
    rows, columns = cotangent.shape[1], images.shape[2]
    left, right = width - 1 - window.padding[1][0], width - 1 - window.padding[1][1]
    padded = jnp.pad(images, ((0, 0), window.padding[0], (0, 0), (0, 0)))
    zero = jnp.zeros((), cotangent.dtype)
    shifted = lax.pad(cotangent, zero, ((0, 0, 0), (0, 0, 0), (left, right, 0), (0, 0, 0)))
    down = jnp.concatenate([padded[:, i : i + rows] for i in range(height)], axis=-1)
    across = jnp.concatenate(
        [shifted[:, :, j : j + columns] for j in reversed(range(width))], axis=-1
    )
    product = lax.dot_general(
        down, across, (((0, 1, 2), (0, 1, 2)), ((), ())), precision=window.precision
    )
    return jnp.moveaxis(product.reshape(height, images.shape[3], width, -1), 2, 1)
