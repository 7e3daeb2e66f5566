from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ferjax.errors import UserError
from ferjax.nn.batchnorm import BatchNorm
from ferjax.nn.blocks import Layers, PreactivatedBottleneck
from ferjax.nn.networks import network
from ferjax.nn.resnet import Architecture, ResNet
from tests.nn import model


def shallow(block="basic", **options):
    """Two stages of one block: compiles fast, and has a projection and both kinds of stem."""
    return ResNet(Architecture((1, 1), block), width=4, **{"stem": "small", **options})


def shapes_of(name, classes, size, **changes):
    """Shapes of a network's weights."""
    built = network(model.config(name=name, **changes), classes, (*size, 3))
    return jax.eval_shape(built.init, jax.random.key(0))


def count(weights):
    return sum(leaf.size for leaf in jax.tree.leaves(weights.params))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("resnet18", 11_689_512), ("resnet34", 21_797_672), ("resnet50", 25_557_032)],
)
def test_parameter_count_is_the_published_one(name, parameters):
    assert count(shapes_of(name, 1000, (64, 64), width=64, stem="imagenet")) == parameters


def test_ltnets_network_for_cifar_has_biases_and_shortcuts_of_two_by_two():
    """Convolutions 448 + 13,920 + 52,960 + 211,392, batch norm 1,568, classifier 650."""
    weights = shapes_of("resnet20_ltnet", 10, (32, 32), width=16, stem_stride=1)
    assert count(weights) == 280_938
    shortcut = weights.params["stage2_block1"]["shortcut"]["conv"]
    assert shortcut["kernel"].shape == (2, 2, 16, 32)


def test_maps_that_it_cannot_halve_are_named():
    with pytest.raises(UserError, match="13x13 is odd"):
        shapes_of("resnet20_ltnet", 10, (26, 26), stem_stride=1)


def test_a_linear_block_has_no_relu_after_its_sum():
    module = shallow(block="linear")
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))

    @jax.jit
    def lowest():
        variables = module.init(jax.random.key(1), images, train=False)
        look = partial(module.apply, train=False, capture_intermediates=True)
        _, seen = look(variables, images)
        return seen["intermediates"]["stage2_block1"]["__call__"][0].min()

    assert lowest() < 0


def test_resnet80_has_80_layers_before_the_classifier_in_the_papers_widths():
    """26 bottlenecks of three, the stem and the hidden layer; shortcuts do not count."""
    params = shapes_of("resnet80", 7, (224, 224), width=16, stem="imagenet").params
    kernels = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
        if path[-1].key == "kernel"
    }
    layers = [name for name in kernels if not name.endswith("shortcut/kernel")]
    assert len(layers) == 80 + 1
    assert kernels["stem/conv/kernel"] == (7, 7, 3, 32)
    widths = [kernels[f"stage{k}_block1/conv3/kernel"][-2:] for k in range(1, 5)]
    assert widths == [(16, 64), (32, 128), (64, 256), (96, 384)]
    assert kernels["hidden/dense/kernel"] == (384, 1024)
    shortcuts = [name for name in kernels if name.endswith("shortcut/kernel")]
    assert shortcuts == [f"stage{k}_block1/shortcut/kernel" for k in range(1, 5)]


def test_resnet80_normalises_before_each_convolution_but_the_first_after_the_stem():
    """Three activations a block, but two in the first, which takes the stem's; and a last one."""
    params = shapes_of("resnet80", 7, (64, 64), width=16, stem="imagenet").params
    assert "activation1" not in params["stage1_block1"]
    assert params["stage1_block2"]["activation1"]["norm"]["scale"].shape == (64,)
    assert params["stage2_block1"]["activation1"]["norm"]["scale"].shape == (64,)
    assert params["activation"]["norm"]["scale"].shape == (384,)
    norms = [path for path in names_of(params) if path.endswith("norm/scale")]
    assert len(norms) == 3 * 26 - 1 + len(["stem", "last", "hidden"])
    assert not any(name.endswith("conv3/bias") for name in names_of(params))


def names_of(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return ["/".join(key.key for key in path) for path, _ in leaves]


def test_a_preactivated_block_passes_its_input_on_untouched():
    layers = Layers(train=True, dtype=jnp.dtype("float32"), axis_name=None)
    block = PreactivatedBottleneck(layers, features=2, stride=1)
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))  # of both signs

    @jax.jit
    def run(key):
        variables = block.init(key, x)
        params = variables["params"]
        silent = jax.tree.map(jnp.zeros_like, params["conv3"])
        same, _ = block.apply(
            variables | {"params": params | {"conv3": silent}}, x, mutable=["batch_stats"]
        )
        other, _ = block.apply(variables, x, mutable=["batch_stats"])
        return same, other

    same, other = run(jax.random.key(1))
    np.testing.assert_array_equal(same, x)
    assert (other < 0).any()  # no ReLU after the sum
    assert (other != x).any()


def test_a_preactivated_block_that_changes_the_shape_projects_the_activated_input():
    layers = Layers(train=False, dtype=jnp.dtype("float32"), axis_name=None)
    block = PreactivatedBottleneck(layers, features=2, stride=2)
    x = -jnp.ones((1, 4, 4, 3))  # ReLU makes nothing of it

    def run(key):
        variables = block.init(key, x)
        return block.apply(variables, x)

    np.testing.assert_array_equal(jax.jit(run)(jax.random.key(0)), np.zeros((1, 2, 2, 8)))


def test_the_hidden_layer_is_normalised_before_its_relu():
    module = ResNet(Architecture((1,), "preactivated", hidden=8), width=4, stem="small")
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))

    @jax.jit
    def features(key, scale):
        variables = module.init(key, images, train=False)
        kernel = variables["params"]["hidden"]["dense"]["kernel"]
        variables["params"]["hidden"]["dense"]["kernel"] = scale * kernel
        return module.apply(variables, images, train=True, mutable=["batch_stats"])[0]

    one, ten = (features(jax.random.key(1), scale) for scale in (10.0, 100.0))
    np.testing.assert_allclose(one, ten, atol=1e-3)
    assert (one >= 0).all()
    assert (one == 0).any()


def test_resnet20_has_272474_parameters():
    # 3x3 convolutions 432 + 6·2304 + 4608 + 5·9216 + 18432 + 5·36864, projections 512 + 2048,
    # normalisation 2·(16 + 6·16 + 7·32 + 7·64), classifier 650.
    assert count(shapes_of("resnet20", 10, (32, 32), width=16, stem_stride=1)) == 272_474


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 2), ("small", 1), ("small", 2)])
def test_any_image_size_gives_one_row_of_logits_per_face(name, stem, stride):
    built = network(model.config(name=name, stem=stem, stem_stride=stride), 7, (21, 40, 1))
    weights = jax.eval_shape(built.init, jax.random.key(0))
    logits = jax.eval_shape(built.predict, weights, jnp.ones((2, 21, 40, 3)))["class"]
    assert (logits.shape, logits.dtype) == ((2, 7), jnp.float32)
    assert set(weights.params["classifier"]) == {"kernel", "bias"}


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_state():
    module = shallow(dtype=jnp.dtype("bfloat16"))
    images = jax.random.normal(jax.random.key(0), (4, 12, 12, 3))

    def run(key):
        variables = module.init(key, images, train=False)
        logits, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables, logits, updated

    variables, logits, updated = jax.jit(run)(jax.random.key(1))
    for leaf in jax.tree.leaves((variables, logits, updated)):
        assert leaf.dtype == jnp.float32
        assert jnp.isfinite(leaf).all()
    program = jax.jit(lambda v: module.apply(v, images, train=False)).lower(variables).as_text()
    assert "convolution" in program
    assert "xbf16>" in program


def test_stack_under_vmap_equals_networks_written_out():
    module = shallow(stem="imagenet")
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    keys = jax.random.split(jax.random.key(1), 2)

    def init(key):
        return module.init(key, images, train=False)

    def loss(variables):
        logits, updated = module.apply(variables, images, train=True, mutable=["batch_stats"])
        return (logits**2).mean(), (logits, updated)

    gradient = jax.value_and_grad(loss, has_aux=True)
    stack = jax.jit(jax.vmap(init))(keys)
    together = jax.jit(jax.vmap(gradient))(stack)
    for i, key in enumerate(keys):
        alone = jax.jit(init)(key)
        variables = jax.tree.map(lambda leaf, i=i: leaf[i], stack)
        for a, b in zip(jax.tree.leaves(variables), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
        expected = jax.tree.leaves(jax.jit(gradient)(variables))
        for a, b in zip(jax.tree.leaves(together), expected, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-3)


def test_batch_statistics_under_pmap_are_those_of_the_whole_batch():
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 3))

    def update(module, images):
        variables = module.init(jax.random.key(1), images, train=False)
        return module.apply(variables, images, train=True, mutable=["batch_stats"])

    spread = shallow(axis_name="data")
    logits, updated = jax.pmap(lambda x: update(spread, x), axis_name="data")(images[:, None])
    whole = shallow()
    expected_logits, expected = jax.jit(lambda x: update(whole, x))(images)
    np.testing.assert_allclose(logits[:, 0], expected_logits, rtol=1e-3, atol=1e-4)
    for a, b in zip(jax.tree.leaves(updated), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a[3], b, rtol=1e-3, atol=1e-5)


def test_running_statistics_move_a_tenth_of_the_way_and_serve_evaluation():
    x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
    variables = BatchNorm().init(jax.random.key(0), x, False)
    y, updated = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(y, [[-1, -1], [1, 1]], rtol=1e-4)
    stats = updated["batch_stats"]
    np.testing.assert_allclose(stats["mean"], [0.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(stats["var"], [1.0, 10.9], rtol=1e-6)
    y = BatchNorm().apply({**variables, **updated}, x, False)
    np.testing.assert_allclose(y[0], [0.8, 8 / np.sqrt(10.9)], rtol=1e-4)
