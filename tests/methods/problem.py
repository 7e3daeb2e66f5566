"""Tiny data for tests of methods: grey faces of 8×8, three classes, two coders."""

import jax
import jax.numpy as jnp
import numpy as np

from ferjax.methods import METHODS, method
from ferjax.methods.method import Batch, Info, State
from ferjax.nn.networks import Weights, network

CLASSES = ("neutral", "happy", "sad")
CODERS = ("anna", "ben")
SIZE = 8


def info(label: str = "anna", annotations=None, total_steps: int = 100) -> Info:
    """Ten steps to an epoch."""
    given = np.zeros((80, 2), np.int32) if annotations is None else annotations
    target = np.eye(len(CLASSES) + 1, len(CLASSES), dtype=np.float32)[np.minimum(given[:, 0], 3)]
    return Info(
        classes=CLASSES,
        coders=CODERS,
        image_shape=(8, 8, 1),
        label=label,
        labels={"annotations": given, "target": target},
        steps_per_epoch=10,
        total_steps=total_steps,
        faces=len(given),
    )


def with_target(batch: Batch, coder: int = 0) -> Batch:
    """The batch with one coder's annotations as what it is trained on."""
    target = jax.nn.one_hot(batch["annotations"][:, coder], len(CLASSES))
    return batch | {"target": target}


def batch(seed: int = 0, labelled: int = SIZE) -> Batch:
    """Eight faces of noise, of which the first few are labelled (by both coders)."""
    rng = np.random.default_rng(seed)
    annotations = rng.integers(0, len(CLASSES), (SIZE, len(CODERS)))
    annotations[labelled:] = -1
    faces = {
        "image": jnp.asarray(rng.integers(0, 256, (SIZE, 8, 8, 1)).astype(np.uint8)),
        "index": jnp.asarray(rng.permutation(SIZE).astype(np.int32)),
        "annotations": jnp.asarray(annotations.astype(np.int32)),
    }
    return with_target(faces)


def view_of(config, state: State, faces: Batch | None = None):
    """What a loss sees of a batch at a state."""
    return method.view(config, info(), state, batch() if faces is None else faces, None)


def logits_of(config, weights: Weights, state: State, faces: Batch | None = None):
    """One network's logits in training mode on the batch's own views."""
    seen = view_of(config, state, faces)
    model = network(config.model, len(CLASSES), (8, 8, 1))
    key = jax.random.key(0)
    return model.train(weights, seen.images, seen.batch["index"], key, None)[0]["class"]


def prediction_of(config):
    """How the finished model of a recipe predicts."""
    model = network(config.model, len(CLASSES), (8, 8, 1))
    return METHODS[config.method].prediction(config, model, CODERS)


def predict(config, state: State, images):
    """Every head's predictions by a state."""
    return jax.jit(prediction_of(config).predict)(state.weights, images)


def mapped(step, devices: int = 2):
    """A training step under pmap over so many devices, which takes the global batch."""
    compiled = jax.pmap(
        lambda state, batch: step(state, batch, "data"),
        axis_name="data",
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=jax.devices()[:devices],
    )

    def run(state, batch):
        return compiled(state, jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch))

    return run


def striped(size, seed):
    """Faces that are plain, striped across or striped down, by class; as bright on average."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, size)
    down = np.tile(np.arange(8) // 2 % 2 * 100, (8, 1))
    patterns = np.stack([np.full((8, 8), 50), down.T, down])
    images = patterns[truth][..., None] + rng.integers(40, 80, (size, 8, 8, 1))
    return jnp.asarray(images.astype(np.uint8)), truth


def accuracy_after_wrong_labels(recipe):
    """Of each head on right labels, after 32 epochs on labels of which four in ten are wrong."""
    images, truth = striped(240, seed=0)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(240) < 96
    given = jnp.asarray(np.where(wrong, (truth + rng.integers(1, 3, 240)) % 3, truth), jnp.int32)
    about = info(annotations=np.zeros((240, 2), np.int32), total_steps=320)
    made = METHODS[recipe.method].make(recipe, about)
    state, step = jax.jit(made.init)(jax.random.key(0), {}), jax.jit(made.train_step)
    for rows in np.concatenate([rng.permutation(240).reshape(10, 24) for _ in range(32)]):
        index = jnp.asarray(rows, jnp.int32)
        faces = {"image": images[index], "index": index, "annotations": given[index, None]}
        state, _ = step(state, with_target(faces))
    test_images, test_truth = striped(200, seed=2)
    return {
        head: (np.argmax(probs, axis=1) == test_truth).mean()
        for head, probs in predict(recipe, state, test_images).items()
    }


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
