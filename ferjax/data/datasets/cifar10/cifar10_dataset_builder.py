"""TFDS builder: CIFAR-10's pictures with their own labels, as ArrayRecord.

What others say about them is read on loading, so that the prepared data serves all lists.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ferjax.data.datasets.cifar10 import files


class Builder(tfds.core.GeneratorBasedBuilder):
    """Splits `train` and `test`, in the official order."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = files.INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(files.SIDE, files.SIDE, 3)),
                    "name": tfds.features.Text(),
                    "label": np.int32,
                }
            ),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            disable_shuffling=True,  # so that a position is an index
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        folder = Path(dl_manager.manual_dir)
        return {split: self._generate_examples(folder, split) for split in files.BINARY}

    def _generate_examples(self, folder: Path, split: str) -> Iterator[tuple[int, dict]]:
        for row, picture in enumerate(files.read(folder, split)):
            yield (
                row,
                {"image": picture.encoded, "name": picture.name, "label": picture.label},
            )
