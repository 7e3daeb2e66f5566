"""Residual networks, see `blocks` for the papers.

ResNet-18, -34 and -50 are built as torchvision's: explicit padding, projection shortcuts, and in a
bottleneck the stride is that of its 3x3 convolution. ResNet-20 is He et al.'s network for 32x32
images, except that its shortcuts are projections. `resnet20_ltnet`, for CIFAR-10, and `resnet80`,
for faces, are those of J. Zeng, S. Shan and X. Chen, "Facial Expression Recognition with
Inconsistently Annotated Datasets", ECCV 2018.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ferjax.nn.blocks import (
    BasicBlock,
    Bottleneck,
    ConvNorm,
    Layers,
    NormRelu,
    PreactivatedBottleneck,
)
from ferjax.nn.pooling import max_pool


class Architecture(NamedTuple):
    """The shape of a residual network.

    Attributes:
      blocks: number of blocks in each stage.
      block: kind of block, see `blocks`: 'basic', 'bottleneck', 'preactivated' for a pre-activated
        bottleneck, or 'linear' for a basic block without ReLU after its sum, whose convolutions
        have biases and whose shortcut, where the size changes, is a 2x2 convolution of stride 2.
      widths: channels of each stage, as multiples of the network's width.
      stem: channels of the stem, as a multiple of the network's width.
      hidden: units of a linear layer with batch normalisation and ReLU after the pooling; 0: none.
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
    "resnet80": Architecture((3, 4, 16, 3), "preactivated", (1, 2, 4, 6), stem=2, hidden=1024),
}
"""Architectures by name.

The papers' widths are 16 for the networks of 20 and 80 layers and 64 for the others. The 80 layers
are the three in each of 26 bottlenecks, the stem and the hidden layer.
"""

_BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "basic": BasicBlock,
    "linear": partial(BasicBlock, linear=True),
    "bottleneck": Bottleneck,
    "preactivated": PreactivatedBottleneck,
}


class ResNet(nn.Module):
    """A stem, stages of residual blocks and global average pooling.

    Every stage but the first halves the resolution. With pre-activated blocks, whose sums are not
    activated, batch normalisation and ReLU follow the last block, and the first block does not
    activate the stem's output again.

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
        kind = self.architecture.block
        layers = Layers(train, self.dtype, self.axis_name, bias=kind == "linear")
        x = self._stem(layers, images.astype(self.dtype))
        for stage, count in enumerate(self.architecture.blocks):
            for index in range(count):
                block = _BLOCKS[kind]
                if kind == "preactivated" and stage == index == 0:
                    block = partial(block, activated=True)
                width = self.width * self.architecture.widths[stage]
                stride = 2 if stage > 0 and index == 0 else 1
                x = block(layers, width, stride, name=f"stage{stage + 1}_block{index + 1}")(x)
        if kind == "preactivated":
            x = NormRelu(layers, name="activation")(x)
        features = x.astype(np.promote_types(self.dtype, jnp.float32)).mean(axis=(1, 2))
        if self.architecture.hidden:
            features = Hidden(layers, self.architecture.hidden, name="hidden")(features)
        return features

    def _stem(self, layers: Layers, x: Array) -> Array:
        large = self.stem == "imagenet"
        size, stride = (7, 2) if large else (3, self.stem_stride)
        width = self.width * self.architecture.stem
        x = nn.relu(ConvNorm(layers, width, size, stride, name="stem")(x))
        return max_pool(x, size=3, stride=2, padding=1) if large else x


class Hidden(nn.Module):
    """A linear layer, batch normalisation and ReLU."""

    layers: Layers
    units: int

    @nn.compact
    def __call__(self, features: Float[Array, "batch features"]) -> Float[Array, "batch units"]:
        """Returns activated features."""
        dense = nn.Dense(self.units, use_bias=False, dtype=features.dtype, name="dense")
        return nn.relu(self.layers.norm()(dense(features)))
