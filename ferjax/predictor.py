"""A finished model without its data or its training: classes, heads, and faces in, answers out."""

import json
import zlib
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32, UInt8
from ml_collections import ConfigDict

from ferjax import parallel, stages
from ferjax.checkpoints import Checkpoints
from ferjax.data.images import MAX_MEGAPIXELS, decode, fault_of, read_file, resize, to_grey
from ferjax.errors import UserError
from ferjax.methods import METHODS
from ferjax.methods.method import Prediction
from ferjax.nn.heads import Head
from ferjax.nn.networks import Weights, network
from ferjax.stages import STAGE

WEIGHTS = {"last": "checkpoints", "best": "best"}
"""Folders of a stage's checkpoints: when it ended, and when it did best on validation faces."""

BATCH = 64
"""Faces predicted at a time."""

Picture = str | Path | np.ndarray


class Predictions(NamedTuple):
    """A model's predictions of N faces.

    Attributes:
      labels: the class name of each face by the main head of classes; empty without such a head.
      probabilities: {head: [N, classes]} of each head of classes.
      valence_arousal: {head: [N, 2]} of each head of valence and arousal, in about [-1, 1].
    """

    labels: tuple[str, ...]
    probabilities: dict[str, Float32[np.ndarray, "faces classes"]]
    valence_arousal: dict[str, Float32[np.ndarray, "faces 2"]]


class Predictor:
    """A finished model.

    Attributes:
      name: of the stage that trained it.
      classes: class names.
      image_shape: (height, width, channels) that faces are brought to.
      heads: what it predicts, the main head first.
      prediction: how it predicts, as a pure function of its weights and uint8 faces.
      weights: of its networks, on the host.
    """

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        image_shape: tuple[int, int, int],
        prediction: Prediction,
        weights: Weights,
    ):
        self.name = name
        self.classes = tuple(classes)
        self.image_shape = image_shape
        self.heads: tuple[Head, ...] = prediction.heads
        self.prediction = prediction
        self.weights = weights

    def predict(
        self, images: Picture | Sequence[Picture], *, max_megapixels: float = MAX_MEGAPIXELS
    ) -> Predictions:
        """Predicts faces.

        Args:
          images: one picture or several: paths, or uint8 arrays [height, width],
            [height, width, channels] or [faces, height, width, channels], grey (1 channel) or RGB
            (3), of any size. They become squares of the size that the model was trained on, grey or
            RGB as it was; faces should be cropped as its training faces were.
          max_megapixels: millions of pixels that a file may declare; more are not decoded.

        Raises:
          UserError: for no picture, a file that is no picture or too large, or an array of another
            kind.
        """
        faces = self._faces(images, max_megapixels)
        parts = [self._outputs_of(faces[k : k + BATCH]) for k in range(0, len(faces), BATCH)]
        outputs = {head.name: np.concatenate([x[head.name] for x in parts]) for head in self.heads}
        probabilities = {x.name: outputs[x.name] for x in self.heads if x.kind == "class"}
        best = next(iter(probabilities.values())).argmax(axis=1) if probabilities else ()
        return Predictions(
            labels=tuple(self.classes[k] for k in best),
            probabilities=probabilities,
            valence_arousal={x.name: outputs[x.name] for x in self.heads if x.kind == "va"},
        )

    def checksum(self) -> int:
        """Returns a number that tells models apart."""
        checksum = zlib.crc32(self.name.encode())
        for leaf in jax.tree.leaves(self.weights):
            checksum = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), checksum)
        return checksum

    @cached_property
    def _compiled(self) -> Any:
        return jax.jit(self.prediction.predict)

    @cached_property
    def _on_device(self) -> Weights:
        return jax.device_put(self.weights)

    def _outputs_of(
        self, faces: UInt8[np.ndarray, "batch height width channels"]
    ) -> dict[str, np.ndarray]:
        """Predicts up to `BATCH` faces, as 1 or padded to `BATCH`, so that two shapes compile."""
        size = 1 if len(faces) == 1 else BATCH
        padded = np.pad(faces, ((0, size - len(faces)), (0, 0), (0, 0), (0, 0)))
        outputs = parallel.to_host(self._compiled(self._on_device, padded))
        return {name: value[: len(faces)] for name, value in outputs.items()}

    def _faces(
        self, images: Picture | Sequence[Picture], max_megapixels: float
    ) -> UInt8[np.ndarray, "faces height width channels"]:
        if isinstance(images, np.ndarray):
            pictures = list(_split(images))
        else:
            several = [images] if isinstance(images, str | Path) else list(images)
            pictures = [face for image in several for face in self._opened(image, max_megapixels)]
        if not pictures:
            raise UserError("predict: no picture was given")
        size, _, channels = self.image_shape
        return np.stack([resize(_in_channels(x, channels), size) for x in pictures])

    def _opened(
        self, image: Picture, max_megapixels: float
    ) -> list[UInt8[np.ndarray, "height width channels"]]:
        if isinstance(image, np.ndarray):
            return list(_split(image))
        try:
            encoded = read_file(image, max_megapixels)
        except OSError as error:
            raise UserError(f"predict: {image}: {error.strerror}") from error
        picture = decode(encoded, self.image_shape[2], max_megapixels)
        if picture is None:
            raise UserError(f"predict: {image} is {fault_of(encoded, max_megapixels)}")
        return [picture]


def load(workdir: str | Path, stage: str = "", weights: str = "last") -> Predictor:
    """Loads the model of a finished run.

    Args:
      workdir: of the run.
      stage: the stage that trained it; '': the run's headline.
      weights: 'last', those at the end of training; or 'best', those that did best on the
        validation faces, where the run held some out.

    Raises:
      UserError: if the folder holds no run that trained such a stage to its end, or no such
        weights.
    """
    workdir = Path(workdir)
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights!r} is none of {', '.join(WEIGHTS)}")
    stage = stage or _headline(workdir)
    about = _about(workdir, stage)
    recipe, classes = ConfigDict(about["recipe"]), tuple(about["classes"])
    shape: Any = tuple(about["image_shape"])
    model = network(recipe.model, len(classes), shape)
    prediction = METHODS[recipe.method].prediction(recipe, model, tuple(about["coders"]))
    folder = workdir / "stages" / stage / WEIGHTS[weights]
    last = about["total_steps"] if weights == "last" else None
    return Predictor(stage, classes, shape, prediction, _weights(folder, last))


def _headline(workdir: Path) -> str:
    path = workdir / "config.json"
    if not path.exists():
        raise UserError(f"trained: {workdir} holds no run (it has no config.json)")
    try:
        config = json.loads(path.read_text())["config"]
        kind, headline = config.get("run"), config.get("headline", "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"trained: {path} was not written by a run, or is damaged: name the stage to do "
            "without, or delete it and repeat the command of that run"
        ) from error
    if not headline:
        raise UserError(f"trained: {workdir} holds a run of kind {kind!r}, which trains no model")
    return headline


def _about(workdir: Path, stage: str) -> dict[str, Any]:
    """Reads what the stage wrote about its model when it ended."""
    path = workdir / "stages" / stage / STAGE
    if not stage or not path.exists():
        finished = ", ".join(sorted(x.parent.name for x in workdir.glob(f"stages/*/{STAGE}")))
        raise UserError(
            f"trained: {workdir} has no finished stage {stage!r}; there are {finished or 'none'}"
        )
    damage = f"trained: {path} is damaged: repeat the command of that run to make it again"
    if STAGE in stages.damaged(path.parent, {STAGE}):
        raise UserError(damage)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise UserError(damage) from error


def _weights(folder: Path, last_step: int | None) -> Weights:
    """Reads the weights in a folder of checkpoints; of a given step, if there is one."""
    if last_step is None and not folder.exists():
        raise UserError(f"trained: there is no {folder}; did the run hold faces out?")
    newest = None
    if folder.exists():
        with closing(Checkpoints(folder, keep=1, read_only=True)) as checkpoints:
            newest = checkpoints.restore_parts("params", "collections")
    if newest is None or last_step not in (None, newest[0]):
        raise UserError(
            f"trained: {folder} lacks the last checkpoint, or it is damaged: delete "
            f"{folder.parent} and repeat the command of that run to train the stage again"
        )
    return Weights(**newest[1])


def _split(images: np.ndarray) -> UInt8[np.ndarray, "faces height width channels"]:
    """Takes an array for a batch of pictures."""
    if images.dtype != np.uint8:
        raise UserError(
            f"predict: pictures must be uint8, from 0 to 255, not {images.dtype}; "
            "multiply numbers in [0, 1] by 255 and convert them"
        )
    shaped = {2: images[None, ..., None], 3: images[None], 4: images}.get(images.ndim)
    if shaped is None or 0 in shaped.shape or shaped.shape[3] not in (1, 3):
        raise UserError(
            "predict: expected an array [height, width], [height, width, channels] or "
            f"[faces, height, width, channels] of 1 or 3 channels, not {list(images.shape)}"
        )
    return shaped


def _in_channels(
    image: UInt8[np.ndarray, "height width given"], channels: int
) -> UInt8[np.ndarray, "height width {channels}"]:
    """Converts a picture to grey (1 channel) or RGB (3)."""
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return to_grey(image)
