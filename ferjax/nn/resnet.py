"""Residual networks: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", 2016.

ResNet-18, -34 and -50 have torchvision's shape: explicit padding, projection shortcuts, and in the
bottleneck the stride on its 3x3 convolution. ResNet-20 is the paper's network for 32x32 images. Two
more are those of Zeng, Shan & Chen, "Facial Expression Recognition with Inconsistently Annotated
Datasets", 2018: `resnet20_ltnet` for CIFAR-10 and `resnet80` for faces.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferjax.errors import UserError
from ferjax.nn.batchnorm import BatchNorm
from ferjax.nn.conv import stackable_conv
from ferjax.nn.pooling import max_pool


class Architecture(NamedTuple):
    """What tells one residual network from others.

    Attributes:
      blocks: number of blocks in each stage.
      block: 'basic', two 3x3 convolutions; 'bottleneck', 1x1, 3x3 and 1x1; or 'linear', a basic
        one without ReLU after its sum, whose convolutions have biases and whose shortcut, where
        the size changes, is a 2x2 convolution of stride 2.
      widths: channels of each stage, and of the stem before them, in units of the width.
      hidden: units of a layer with ReLU before the classifier; 0: none.
    """

    blocks: tuple[int, ...]
    block: str = "basic"
    widths: tuple[int, ...] = (1, 2, 4, 8)
    stem: int = 1
    hidden: int = 0


ARCHITECTURES = {
    "resnet18": Architecture((2, 2, 2, 2)),
    "resnet20": Architecture((3, 3, 3)),
    "resnet20_ltnet": Architecture((3, 3, 3), "linear"),
    "resnet34": Architecture((3, 4, 6, 3)),
    "resnet50": Architecture((3, 4, 6, 3), "bottleneck"),
    "resnet80": Architecture((3, 4, 16, 3), "bottleneck", (1, 2, 4, 6), stem=2, hidden=1024),
}


class ResNet(nn.Module):
    """Stem, stages of residual blocks and global average pooling; the last layers are `heads`'.

    Every stage but the first halves the resolution. The paper's network for CIFAR-10 is 'resnet20'
    with width 16, the small stem and stem stride 1, but for its shortcuts, which are projections
    here. LTNet's networks have width 16 too, 'resnet80' with the large stem.

    Attributes:
      architecture: blocks and their widths.
      width: channels of the first stage (of its 3x3 convolutions).
      stem: 'imagenet', a 7x7 convolution of stride 2 and max pooling of stride 2; or 'small', a 3x3
        convolution alone.
      stem_stride: stride of the small stem.
      dtype: of the computation; parameters and batch statistics are float32.
      axis_name: axis of `pmap` over which batch normalisation takes its statistics.
    """

    architecture: Architecture
    width: int = 64
    stem: str = "imagenet"
    stem_stride: int = 2
    dtype: Any = jnp.dtype("float32")
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "batch height width channels"], train: bool
    ) -> Float[Array, "batch features"]:
        """Computes features, float32 or wider, of normalised images.

        With `train`, batch normalisation uses the statistics of the batch and updates the running
        ones, the collection `batch_stats`.
        """
        chosen = self.architecture
        linear = chosen.block == "linear"
        conv = partial(
            _ConvNorm, train=train, bias=linear, dtype=self.dtype, axis_name=self.axis_name
        )
        x = images.astype(self.dtype)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, self.stem_stride)
        x = nn.relu(conv(self.width * chosen.stem, size, stride, name="stem")(x))
        if self.stem == "imagenet":
            x = max_pool(x, size=3, stride=2, padding=1)
        block = _Bottleneck if chosen.block == "bottleneck" else partial(_BasicBlock, linear=linear)
        for stage, count in enumerate(chosen.blocks):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                width = self.width * chosen.widths[stage]
                name = f"stage{stage + 1}_block{index + 1}"
                x = block(width, stride, conv, name=name)(x)
        dtype = np.promote_types(self.dtype, jnp.float32)
        features = x.astype(dtype).mean(axis=(1, 2))
        if chosen.hidden:
            features = nn.relu(nn.Dense(chosen.hidden, dtype=dtype, name="hidden")(features))
        return features


class _BasicBlock(nn.Module):
    features: int
    stride: int
    conv: partial["_ConvNorm"]
    linear: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.conv(self.features, 3, self.stride, name="conv1")(x))
        y = self.conv(self.features, 3, name="conv2")(y)
        if x.shape != y.shape:
            size = 2 if self.linear else 1
            height, width = x.shape[1:3]
            x = self.conv(self.features, size, self.stride, padding=0, name="shortcut")(x)
            if x.shape != y.shape:
                raise UserError(
                    f"this network halves its maps, but {height}x{width} is odd: choose another "
                    "size of the faces, or another network"
                )
        return x + y if self.linear else nn.relu(x + y)


class _Bottleneck(nn.Module):
    features: int
    stride: int
    conv: partial["_ConvNorm"]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.relu(self.conv(self.features, 1, name="conv1")(x))
        y = nn.relu(self.conv(self.features, 3, self.stride, name="conv2")(y))
        y = self.conv(4 * self.features, 1, name="conv3")(y)
        if x.shape != y.shape:
            x = self.conv(4 * self.features, 1, self.stride, name="shortcut")(x)
        return nn.relu(x + y)


class _ConvNorm(nn.Module):
    """A square convolution, padded by half its size unless said otherwise, and batch norm."""

    features: int
    size: int
    stride: int = 1
    padding: int | None = None
    bias: bool = False
    train: bool = False
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = nn.Conv(
            self.features,
            (self.size, self.size),
            strides=self.stride,
            padding=self.size // 2 if self.padding is None else self.padding,
            use_bias=self.bias,
            kernel_init=_he_normal,
            dtype=self.dtype,
            conv_general_dilated=stackable_conv,
            name="conv",
        )(x)
        return BatchNorm(axis_name=self.axis_name, name="norm")(y, self.train)


def _he_normal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """He et al., "Delving Deep into Rectifiers", 2015: normal with variance 2 / fan-out.

    Drawn flat, because XLA compiles a draw of four dimensions several times as long, and a network
    has dozens.
    """
    fan_out = math.prod(shape) // shape[-2]
    draw = jax.random.normal(key, (math.prod(shape),), dtype)
    return jnp.sqrt(2 / fan_out).astype(dtype) * draw.reshape(shape)
