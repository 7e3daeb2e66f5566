"""Networks bound to a config: their heads, collections, draws and errors."""

from functools import partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ferjax.errors import UserError
from ferjax.nn import networks
from ferjax.nn.networks import network
from ferjax.nn.resnet import Architecture, ResNet
from tests.nn import model

BATCH = 8
INDEX = jnp.arange(BATCH, dtype=jnp.int32)


def faces(batch=BATCH):
    return jax.random.normal(jax.random.key(1), (batch, *model.SHAPE[:2], 3))


def squared(weights, images, index, key, axis_name, built):
    """Outputs, new collections and gradient of the mean square of all outputs."""

    def loss(params):
        outputs, collections = built.train(
            weights._replace(params=params), images, index, key, axis_name
        )
        return sum((x**2).mean() for x in outputs.values()), (outputs, collections)

    gradient, (outputs, collections) = jax.grad(loss, has_aux=True)(weights.params)
    if axis_name:
        gradient = jax.lax.pmean(gradient, axis_name)
    return outputs, collections, gradient


def assert_close(actual, expected):
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("heads", [("class",), ("va",), ("class", "va"), ("va", "class")])
def test_each_head_has_outputs_and_a_layer_of_its_own(monkeypatch, heads):
    built = model.shallow(monkeypatch, heads=heads)
    assert tuple(head.name for head in built.heads) == heads
    weights = jax.eval_shape(built.init, jax.random.key(0))
    outputs = jax.eval_shape(built.predict, weights, faces())
    expected = {"class": (BATCH, model.CLASSES), "va": (BATCH, 2)}
    assert {name: x.shape for name, x in outputs.items()} == {h: expected[h] for h in heads}
    layers = {"class": "classifier", "va": "va"}
    last = {name for name in weights.params if not name.startswith("st")}
    assert last == {layers[head] for head in heads}


def test_another_head_does_not_change_the_start_of_the_rest(monkeypatch):
    one, two = (
        jax.jit(model.shallow(monkeypatch, heads=heads).init)(jax.random.key(0)).params
        for heads in (("class",), ("class", "va"))
    )
    jax.tree.map(np.testing.assert_array_equal, one, {name: two[name] for name in one})


def test_training_moves_the_running_statistics_and_prediction_uses_them(monkeypatch):
    built = model.shallow(monkeypatch)
    weights = jax.jit(built.init)(jax.random.key(0))
    outputs, collections = jax.jit(built.train)(weights, faces(), INDEX, jax.random.key(0))
    assert set(collections) == set(weights.collections) == {"batch_stats"}
    moved = weights._replace(collections=collections)
    before, after = (jax.jit(built.predict)(w, faces())["class"] for w in (weights, moved))
    assert (before != after).any()
    assert (outputs["class"] != before).any()


class Counting(nn.Module):
    """A backbone without batch normalisation that counts its training steps."""

    @nn.compact
    def __call__(self, images, train):
        steps = self.variable("counts", "steps", jnp.zeros, (), jnp.int32)
        if train:
            steps.value += 1
        return images.mean(axis=(1, 2))


class Plain(nn.Module):
    """A backbone that has nothing but its input."""

    @nn.compact
    def __call__(self, images, train):
        return images.mean(axis=(1, 2))


def backbone(monkeypatch, module):
    monkeypatch.setitem(networks.NETWORKS, "other", lambda **options: module())
    return network(model.config(name="other"), model.CLASSES, model.SHAPE)


def test_collections_of_any_name_are_moved_on(monkeypatch):
    built = backbone(monkeypatch, Counting)
    weights = built.init(jax.random.key(0))
    _, collections = built.train(weights, faces(), INDEX, jax.random.key(0), None)
    assert (weights.collections["counts"]["steps"], collections["counts"]["steps"]) == (0, 1)


def test_a_network_without_collections_returns_none(monkeypatch):
    built = backbone(monkeypatch, Plain)
    weights = built.init(jax.random.key(0))
    assert weights.collections == {}
    assert built.train(weights, faces(), INDEX, jax.random.key(0), None)[1] == {}


def test_dropout_depends_on_the_key_in_training_alone(monkeypatch):
    built = model.shallow(monkeypatch, dropout=0.5)
    weights = jax.jit(built.init)(jax.random.key(0))
    train = jax.jit(lambda key: built.train(weights, faces(), INDEX, key)[0]["class"])
    one, other = train(jax.random.key(1)), train(jax.random.key(2))
    assert (one != other).any()
    np.testing.assert_array_equal(one, train(jax.random.key(1)))
    plain = model.shallow(monkeypatch)
    same = jax.jit(plain.predict)(weights, faces())["class"]
    np.testing.assert_array_equal(jax.jit(built.predict)(weights, faces())["class"], same)


def test_a_dropout_rate_of_zero_leaves_the_step_as_it_is(monkeypatch):
    def program(rate):
        built = model.shallow(monkeypatch, dropout=rate)
        weights = jax.eval_shape(built.init, jax.random.key(0))
        step = jax.jit(lambda *args: built.train(*args))
        return step.lower(weights, faces(), INDEX, jax.random.key(0)).as_text()

    assert "threefry" not in program(0.0)
    assert "threefry" in program(0.5)


@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_stack_spread_over_devices_does_what_it_does_on_one(monkeypatch, mode):
    """With dropout, two heads and batch statistics, in outputs and gradients."""
    built = model.shallow(monkeypatch, heads=("class", "va"), dropout=0.3)
    weights, keys = model.stack(built, 2)

    def step(weights, images, index, keys, axis_name=None):
        one = partial(squared, axis_name=axis_name, built=built)
        return jax.vmap(one, in_axes=(0, None, None, 0))(weights, images, index, keys)

    expected = jax.jit(step)(weights, faces(), INDEX, keys)
    if mode == "jit":
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
        sharded = NamedSharding(mesh, PartitionSpec("data"))
        images, index = jax.device_put((faces(), INDEX), sharded)
        actual = jax.jit(step)(weights, images, index, keys)
    else:
        spread = jax.pmap(
            partial(step, axis_name="data"),
            axis_name="data",
            in_axes=(None, 0, 0, None),
            out_axes=(1, None, None),
        )
        outputs, *rest = spread(weights, faces().reshape(8, 1, 8, 8, 3), INDEX[:, None], keys)
        joined = jax.tree.map(lambda x: x.reshape(2, BATCH, -1), outputs)
        actual = (joined, *rest)
    assert_close(actual, expected)


def test_parameters_and_draws_are_those_of_the_backbone_and_a_dense_layer():
    """So that a run draws the same start whatever else a network can have."""
    built = network(model.config(name="resnet20"), model.CLASSES, model.SHAPE)
    params = jax.jit(built.init)(jax.random.key(3)).params

    class WrittenOut(ResNet):
        @nn.compact
        def __call__(self, images, train):
            return nn.Dense(model.CLASSES, name="classifier")(super().__call__(images, train))

    module = WrittenOut(Architecture((3, 3, 3)), width=4, stem="small", stem_stride=2)
    expected = jax.jit(lambda key: module.init(key, jnp.zeros((1, 8, 8, 3)), train=False))
    jax.tree.map(np.testing.assert_array_equal, params, expected(jax.random.key(3))["params"])


def test_a_step_of_a_stack_lowers_for_tpu_and_cuda(monkeypatch):
    built = model.shallow(monkeypatch, heads=("class", "va"), dropout=0.3, stem="imagenet")
    weights, keys = model.stack(built, 2)
    step = partial(squared, axis_name=None, built=built)
    stack = jax.jit(jax.vmap(step, in_axes=(0, None, None, 0)))
    exported = jax.export.export(stack, platforms=("tpu", "cuda"))(weights, faces(), INDEX, keys)
    assert exported.platforms == ("tpu", "cuda")
    assert "inlineable" not in exported.mlir_module()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "resnet19"),
        ("stem", "big"),
        ("stem_stride", 3),
        ("dtype", "float16"),
        ("width", 0),
        ("heads", ()),
        ("heads", ("class", "age")),
        ("heads", ("va", "va")),
        ("dropout", 1.0),
        ("dropout", -0.1),
    ],
)
def test_an_invalid_setting_of_a_network_is_named(field, value):
    with pytest.raises(UserError, match=f"model.{field}") as error:
        network(model.config(**{field: value}), model.CLASSES, model.SHAPE)
    assert "\n" not in str(error.value)
