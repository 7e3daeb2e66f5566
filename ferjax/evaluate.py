"""Predicts any split with any method, every face exactly once, and measures what came out."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from ferjax import metrics, parallel
from ferjax.data.pipeline import evaluation_batches
from ferjax.data.record import Split
from ferjax.methods.method import MULTI_TARGET_SHARE, Method, State
from ferjax.parallel import Devices

Predictions = dict[str, Float[np.ndarray, "faces _"]]


class Sweeper:
    """A method's `predict`, compiled once and run over whole splits."""

    def __init__(self, method: Method, devices: Devices, batch_size: int, workers: int = 0):
        self._predict: Callable = parallel.compile_predict(devices, method.predict)
        self._devices = devices
        self._batch_size = batch_size
        self._workers = workers

    def __call__(self, state: State, split: Split) -> Predictions:
        """Each head's predictions for every face of the split, in row order."""
        process = (jax.process_index(), jax.process_count())
        parts: list[Predictions] = []
        running = None  # one batch behind, so that the devices needn't wait for the host
        with evaluation_batches(
            split, batch_size=self._batch_size, process=process, workers=self._workers
        ) as batches:
            for batch in batches:
                images = parallel.shard(self._devices, batch["image"], for_step=False)
                running, finished = self._predict(state, images), running
                if finished is not None:
                    parts.append(parallel.gather_outputs(self._devices, finished))
        parts.append(parallel.gather_outputs(self._devices, running))
        count = len(split.images)
        return {head: np.concatenate([part[head] for part in parts])[:count] for head in parts[0]}


def right_classes(
    split: Split, classes: int, multi_target: bool
) -> Bool[np.ndarray, "faces classes"]:
    """Which classes count as right: the truth, or every class with over 30 % of the votes."""
    if multi_target:
        votes = split.labels["votes"]
        return votes > MULTI_TARGET_SHARE * votes.sum(axis=1, keepdims=True)
    return split.truth[:, None] == np.arange(classes)


def measure(
    method: Method, predictions: Predictions, split: Split, right: Bool[np.ndarray, "faces classes"]
) -> dict[str, Any]:
    """Accuracy of each head, and of the main head also UAR, macro F1 and the confusion counts."""
    classes = right.shape[1]
    values: dict[str, Any] = {}
    for head, _ in method.heads:
        values[f"{head}/accuracy"] = metrics.accuracy(predictions[head].argmax(axis=1), right)
    main = method.heads[0][0]
    confusion = metrics.confusion_matrix(split.truth, predictions[main].argmax(axis=1), classes)
    return values | {
        "accuracy": values[f"{main}/accuracy"],
        "uar": metrics.uar(confusion),
        "macro_f1": metrics.macro_f1(confusion),
        "confusion": confusion.tolist(),
    }
