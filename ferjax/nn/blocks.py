"""Residual blocks, with the activation after the sum or before each convolution.

K. He, X. Zhang, S. Ren and J. Sun: "Deep Residual Learning for Image Recognition", CVPR 2016
(`BasicBlock`, `Bottleneck`), and "Identity Mappings in Deep Residual Networks", ECCV 2016
(`PreactivatedBottleneck`). Blocks take and return maps [batch, height, width, channels].
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ferjax.errors import UserError
from ferjax.nn.batchnorm import BatchNorm
from ferjax.nn.conv import stackable_conv


class Layers(NamedTuple):
    """The settings that a network's layers share; each method adds a layer to the calling module.

    Attributes:
      train: whether batch normalisation uses the batch's statistics and updates the running ones.
      dtype: of the computation.
      axis_name: axis of `pmap` over which batch normalisation takes its statistics.
      bias: whether convolutions have biases.
    """

    train: bool
    dtype: Any
    axis_name: str | None
    bias: bool = False

    def conv(
        self, name: str, features: int, size: int, stride: int = 1, padding: int | None = None
    ) -> nn.Conv:
        """Adds a square convolution, padded by half its size unless `padding` is given."""
        return nn.Conv(
            features,
            (size, size),
            strides=stride,
            padding=size // 2 if padding is None else padding,
            use_bias=self.bias,
            kernel_init=he_normal,
            dtype=self.dtype,
            conv_general_dilated=stackable_conv,
            name=name,
        )

    def norm(self) -> Callable[[Array], Array]:
        """Adds batch normalisation, one per module, by the name that optimisers look for."""
        return partial(BatchNorm(axis_name=self.axis_name, name="norm"), train=self.train)


class ConvNorm(nn.Module):
    """A square convolution and batch normalisation."""

    layers: Layers
    features: int
    size: int
    stride: int = 1
    padding: int | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns normalised maps, not activated."""
        y = self.layers.conv("conv", self.features, self.size, self.stride, self.padding)(x)
        return self.layers.norm()(y)


class NormRelu(nn.Module):
    """Batch normalisation and ReLU."""

    layers: Layers

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns activated maps or features."""
        return nn.relu(self.layers.norm()(x))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
      layers: see `Layers`.
      features: channels.
      stride: of the first convolution.
      linear: leaves out the ReLU after the sum; where the shape changes, the shortcut is a 2x2
        convolution instead of a 1x1 one.
    """

    layers: Layers
    features: int
    stride: int
    linear: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns `features` channels.

        Raises:
          UserError: if a linear block has to halve maps of odd size.
        """
        conv = partial(ConvNorm, self.layers, self.features)
        y = nn.relu(conv(3, self.stride, name="conv1")(x))
        y = conv(3, name="conv2")(y)
        if x.shape != y.shape:
            height, width = x.shape[1:3]
            x = conv(2 if self.linear else 1, self.stride, padding=0, name="shortcut")(x)
            if x.shape != y.shape:
                raise UserError(
                    f"this network halves its maps, but {height}x{width} is odd: choose faces of "
                    "another size, or another model.name"
                )
        return x + y if self.linear else nn.relu(x + y)


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, the last with four times the channels, and a shortcut.

    Attributes:
      layers: see `Layers`.
      features: channels of the first two.
      stride: of the 3x3 convolution.
    """

    layers: Layers
    features: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns 4·`features` channels."""
        conv = partial(ConvNorm, self.layers)
        y = nn.relu(conv(self.features, 1, name="conv1")(x))
        y = nn.relu(conv(self.features, 3, self.stride, name="conv2")(y))
        y = conv(4 * self.features, 1, name="conv3")(y)
        if x.shape != y.shape:
            x = conv(4 * self.features, 1, self.stride, name="shortcut")(x)
        return nn.relu(x + y)


class PreactivatedBottleneck(nn.Module):
    """A bottleneck with batch normalisation and ReLU before each convolution, none after the sum.

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input; elsewhere it
    is the input itself, so that the signal passes from block to block unchanged.

    Attributes:
      layers: see `Layers`.
      features: channels of the first two convolutions.
      stride: of the 3x3 convolution.
      activated: whether the input is activated already, as a stem's output is.
    """

    layers: Layers
    features: int
    stride: int
    activated: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Returns 4·`features` channels, not activated."""
        conv = self.layers.conv
        y = x if self.activated else NormRelu(self.layers, name="activation1")(x)
        if self.stride > 1 or x.shape[-1] != 4 * self.features:
            x = conv("shortcut", 4 * self.features, 1, self.stride)(y)
        y = conv("conv1", self.features, 1)(y)
        y = NormRelu(self.layers, name="activation2")(y)
        y = conv("conv2", self.features, 3, self.stride)(y)
        y = NormRelu(self.layers, name="activation3")(y)
        return x + conv("conv3", 4 * self.features, 1)(y)


def he_normal(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Draws a kernel from a normal distribution with variance 2 / fan-out.

    K. He et al., "Delving Deep into Rectifiers", ICCV 2015. The draw is flat, because XLA takes
    several times as long to compile one of four dimensions, and a network has dozens.
    """
    fan_out = math.prod(shape) // shape[-2]
    draw = jax.random.normal(key, (math.prod(shape),), dtype)
    return jnp.sqrt(2 / fan_out).astype(dtype) * draw.reshape(shape)
