"""The last layers of every network, which turn features into the outputs of its heads."""

from typing import NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int32

from ferjax.nn.dropout import Dropout


class Head(NamedTuple):
    """One prediction.

    Attributes:
      name: what outputs and metrics call it.
      kind: 'class', logits of the classes; or 'va', valence and arousal.
    """

    name: str
    kind: str


CLASS, VA = "class", "va"
"""Names of the heads that a network can have."""

HEADS = {CLASS: Head(CLASS, "class"), VA: Head(VA, "va")}
"""The heads that a network can have, by the name that a config gives them."""

LAYERS = {"class": "classifier", "va": "va"}
"""Top-level parameter name of each kind of head."""


class WithHeads(nn.Module):
    """A backbone, dropout, and a linear layer for each head.

    The parameters of the last layers lie beside the backbone's.

    Attributes:
      backbone: module of (images, train) that returns features [batch, features].
      heads: what to predict.
      classes: number of logits of a class head.
      dropout: rate before the last layers.
    """

    backbone: nn.Module
    heads: tuple[Head, ...]
    classes: int
    dropout: float = 0.0

    def setup(self) -> None:
        """Puts the backbone's parameters at the top level."""
        nn.share_scope(self, self.backbone)

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        index: Int32[Array, " batch"] | None,
        train: bool,
    ) -> dict[str, jax.Array]:
        """Returns each head's output: logits [batch, classes], or [batch, 2] valence and arousal.

        `index`, the faces' row numbers, is needed in training with dropout.
        """
        features = self.backbone(images, train)
        features = Dropout(self.dropout, name="dropout")(features, index, train)
        sizes = {"class": self.classes, "va": 2}
        layers = {
            head.name: nn.Dense(sizes[head.kind], dtype=features.dtype, name=LAYERS[head.kind])
            for head in self.heads
        }
        return {name: layer(features) for name, layer in layers.items()}
