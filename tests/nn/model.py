"""Small networks for tests."""

from functools import partial

import jax
from ml_collections import ConfigDict

from ferjax.nn import networks
from ferjax.nn.resnet import Architecture, ResNet

CLASSES, SHAPE = 3, (8, 8, 1)


def config(**changes):
    """Returns a run's `model` with everything at its default."""
    settings = {
        "name": "resnet18",
        "width": 4,
        "stem": "small",
        "stem_stride": 2,
        "dtype": "float32",
        "heads": ("class",),
        "dropout": 0.0,
    }
    return ConfigDict(settings | changes)


def shallow(monkeypatch, block="basic", **changes):
    """Makes a network of two blocks, which compiles fast."""
    monkeypatch.setitem(networks.NETWORKS, "shallow", partial(ResNet, Architecture((1, 1), block)))
    return networks.network(config(name="shallow", **changes), CLASSES, SHAPE)


def stack(network, count):
    """Draws the weights of so many networks, with a leading axis, and a key for each."""
    keys = jax.random.split(jax.random.key(7), count)
    return jax.jit(jax.vmap(network.init))(keys), keys
