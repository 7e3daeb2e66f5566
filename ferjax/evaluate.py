"""Predictions of a model on a split, every face exactly once, and measures of each head."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from ferjax import metrics, parallel
from ferjax.data.pipeline import evaluation_batches
from ferjax.data.record import Split
from ferjax.data.targets import allowed_classes
from ferjax.nn.heads import Head
from ferjax.nn.networks import Weights
from ferjax.parallel import Devices

Predictions = dict[str, Float[np.ndarray, "faces _"]]

SCORES = {"class": "accuracy", "va": "ccc"}
"""The measure that a head of each kind is judged by: the larger, the better."""


class Sweeper:
    """A model's `predict`, compiled once and run over whole splits."""

    def __init__(
        self,
        predict: Callable[[Weights, jax.Array], dict[str, jax.Array]],
        devices: Devices,
        batch_size: int,
        workers: int = 0,
    ):
        self._predict: Callable = parallel.compile_predict(devices, predict)
        self._devices = devices
        self._batch_size = batch_size
        self._workers = workers

    def __call__(self, weights: Weights, split: Split) -> Predictions:
        """Returns each head's predictions for every face of the split, in row order."""
        process = (jax.process_index(), jax.process_count())
        parts: list[Predictions] = []
        running = None  # one batch behind, so that the devices needn't wait for the host
        with evaluation_batches(
            split, batch_size=self._batch_size, process=process, workers=self._workers
        ) as batches:
            for batch in batches:
                images = parallel.shard(self._devices, batch["image"], for_step=False)
                running, finished = self._predict(weights, images), running
                if finished is not None:
                    parts.append(parallel.gather_outputs(self._devices, finished))
        parts.append(parallel.gather_outputs(self._devices, running))
        count = len(split.images)
        return {head: np.concatenate([part[head] for part in parts])[:count] for head in parts[0]}


def right_classes(
    split: Split, classes: int, multi_target: bool
) -> Bool[np.ndarray, "faces classes"]:
    """Returns which classes are right: the truth, or with `multi_target` any over 30 % of votes."""
    if multi_target:
        return allowed_classes(split.labels["votes"])
    return split.truth[:, None] == np.arange(classes)


def measure(
    heads: Sequence[Head],
    predictions: Predictions,
    split: Split,
    right: Bool[np.ndarray, "faces classes"],
) -> dict[str, Any]:
    """Measures every head by its score, and the main one by all measures of its kind.

    Args:
      heads: of the model, the main one first.
      predictions: of all faces of the split.
      split: its truth is what is measured against.
      right: which classes count as right for each face.

    Returns:
      `<head>/accuracy` of heads of classes and `<head>/ccc` of heads of valence and arousal.
      Without a prefix, all measures of the main head: `accuracy`, `uar`, `macro_f1` and
      `confusion`, or those of `metrics.affect`; beside a main head of classes also the latter, of
      the first head of valence and arousal.
    """
    measures = [_measures(head.kind, predictions[head.name], split, right) for head in heads]
    scores = {
        f"{head.name}/{SCORES[head.kind]}": values[SCORES[head.kind]]
        for head, values in zip(heads, measures, strict=True)
    }
    affects = [values for head, values in zip(heads, measures, strict=True) if head.kind == "va"]
    return scores | (affects[0] if affects else {}) | measures[0]


def _measures(
    kind: str,
    predicted: Float[np.ndarray, "faces _"],
    split: Split,
    right: Bool[np.ndarray, "faces classes"],
) -> dict[str, Any]:
    if kind == "va":
        return metrics.affect(predicted, split.truth_va)
    best = predicted.argmax(axis=1)
    confusion = metrics.confusion_matrix(split.truth, best, right.shape[1])
    return {
        "accuracy": metrics.accuracy(best, right),
        "uar": metrics.uar(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "confusion": confusion.tolist(),
    }
