"""TFDS builder: every listed face of FERPlus with all votes, as ArrayRecord.

Which faces count, and with what label, is decided on loading: the prepared data serves all modes.
"""

import csv
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from ferjax.data.datasets.ferplus import files
from ferjax.data.record import CLASSES

SKIPPED = "skipped.csv"
"""Lists the images that cannot be read, in the folder of the prepared data."""


class Builder(tfds.core.GeneratorBasedBuilder):
    """One split for each part that is there, in the order of the file names."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = files.INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    "name": tfds.features.Text(),
                    "votes": tfds.features.Tensor(shape=(len(CLASSES) + 2,), dtype=np.int32),
                    "rows": np.int32,
                    "fer2013": np.int32,
                    "digest": tfds.features.Text(),
                }
            ),
            homepage="https://github.com/microsoft/FERPlus",
            disable_shuffling=True,  # so that a position is an index
            metadata=tfds.core.MetadataDict({}),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        release = files.read(Path(dl_manager.manual_dir))
        self.info.metadata.update(
            parts=list(release.faces),
            nameless=release.nameless,
            unlisted=release.unlisted,
        )
        with (Path(self.data_dir) / SKIPPED).open("w", newline="") as file:
            csv.writer(file).writerows([("file", "reason"), *release.skipped])
        return {
            part: self._generate_examples(faces) for part, faces in release.faces.items() if faces
        }

    def _generate_examples(self, faces: list[files.Face]) -> Iterator[tuple[int, dict]]:
        for row, face in enumerate(faces):
            yield (
                row,
                {
                    "image": face.png,
                    "name": face.name,
                    "votes": np.array(face.votes, np.int32),
                    "rows": face.rows,
                    "fer2013": face.fer2013,
                    "digest": hashlib.blake2b(face.png, digest_size=16).hexdigest(),
                },
            )
