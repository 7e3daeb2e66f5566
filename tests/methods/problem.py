"""Tiny data for tests of methods: grey faces of 8×8, three classes, two coders."""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.methods.method import Batch, Info

CLASSES = ("neutral", "happy", "sad")
CODERS = ("anna", "ben")
SIZE = 8


def info(label: str = "anna", annotations=None, total_steps: int = 100) -> Info:
    """Ten steps to an epoch."""
    given = np.zeros((80, 2), np.int32) if annotations is None else annotations
    return Info(
        classes=CLASSES,
        coders=CODERS,
        image_shape=(8, 8, 1),
        label=label,
        labels={"annotations": given},
        steps_per_epoch=10,
        total_steps=total_steps,
    )


def batch(seed: int = 0, labelled: int = SIZE) -> Batch:
    """Eight faces of noise, of which the first few are labelled (by both coders)."""
    rng = np.random.default_rng(seed)
    annotations = rng.integers(0, len(CLASSES), (SIZE, len(CODERS)))
    annotations[labelled:] = -1
    return {
        "image": jnp.asarray(rng.integers(0, 256, (SIZE, 8, 8, 1)).astype(np.uint8)),
        "index": jnp.asarray(rng.permutation(SIZE).astype(np.int32)),
        "annotations": jnp.asarray(annotations.astype(np.int32)),
    }


def striped(size, seed):
    """Faces that are plain, striped across or striped down, by class; as bright on average."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size)
    down = np.tile(np.arange(8) // 2 % 2 * 100, (8, 1))
    patterns = np.stack([np.full((8, 8), 50), down.T, down])
    images = patterns[truth][..., None] + rng.integers(40, 80, (size, 8, 8, 1))
    return jnp.asarray(images.astype(np.uint8)), truth


def cross_entropy(logits, classes):
    """−log softmax(logits) at the given class of each face, in float64 NumPy."""
    logits = np.asarray(logits, np.float64)
    return -log_softmax(logits)[np.arange(len(classes)), np.asarray(classes)]


def log_softmax(logits):
    """In float64 NumPy."""
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def assert_close(left, right, **tolerance) -> None:
    """Leaf by leaf."""
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), left, right)
