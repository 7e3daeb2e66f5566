from functools import partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ferjax.nn.conv import stackable_conv

NETWORKS = 2
LINEN = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

# height, width, kernel, stride, padding, inputs, outputs
SHAPES = {
    "3x3": (6, 6, 3, 1, 1, 2, 3),
    "3x3, stride 2": (6, 6, 3, 2, 1, 2, 3),
    "3x3, odd, stride 2": (7, 5, 3, 2, 1, 2, 3),
    "3x3, no padding": (5, 6, 3, 1, 0, 2, 3),
    "3x3, wide": (5, 4, 3, 1, 1, 32, 33),
    "3x3, wide, more padding than a kernel": (3, 4, 3, 1, 3, 32, 32),
    "3x3 on 2x2": (2, 2, 3, 1, 1, 3, 2),
    "3x3 on 2x2, wide": (2, 2, 3, 1, 1, 32, 32),
    "3x3, 4x4 to 2x2": (4, 4, 3, 2, 1, 2, 3),
    "3x3 on 1x1": (1, 1, 3, 2, 1, 2, 3),
    "1x1": (3, 4, 1, 1, 0, 3, 2),
    "1x1, stride 2": (5, 4, 1, 2, 0, 3, 2),
    "7x7, stride 2": (9, 8, 7, 2, 3, 3, 2),
}


def conv_of(shape, function):
    """A convolution of (images, kernel) and random operands for a stack of networks."""
    height, width, size, stride, padding, inputs, outputs = shape
    window = ((stride, stride), ((padding, padding), (padding, padding)))
    keys = jax.random.split(jax.random.key(0), 2)
    images = jax.random.normal(keys[0], (NETWORKS, 3, height, width, inputs))
    kernels = jax.random.normal(keys[1], (NETWORKS, size, size, inputs, outputs))
    return lambda x, k: function(x, k, *window), images, kernels


def plain_conv(images, kernel, strides, padding):
    return lax.conv_general_dilated(images, kernel, strides, padding, **LINEN)


def value_and_gradients(conv):
    """The convolution, and both gradients of a loss that weighs every output differently."""

    def run(images, kernel):
        value, pull = jax.vjp(conv, images, kernel)
        return value, *pull(jnp.sin(value))

    return run


def assert_same(actual, expected, tolerance=1e-5):
    """Equal but for a tolerance relative to the largest element."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_stack_equals_networks_written_out_in_values_and_gradients(shape):
    ours, images, kernels = conv_of(shape, stackable_conv)
    plain, _, _ = conv_of(shape, plain_conv)
    written_out = [
        jax.jit(value_and_gradients(plain))(images[i], kernels[i]) for i in range(NETWORKS)
    ]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *written_out)
    assert_same(jax.jit(value_and_gradients(ours))(images[1], kernels[1]), written_out[1])
    assert_same(jax.jit(jax.vmap(value_and_gradients(ours)))(images, kernels), expected)
    assert_same(jax.jit(value_and_gradients(jax.vmap(ours)))(images, kernels), expected)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (1, 3)], ids=str)
@pytest.mark.parametrize("name", ["3x3, wide", "1x1, stride 2", "3x3, stride 2"])
def test_either_operand_can_be_shared_and_the_stack_can_lie_along_any_axis(name, axes):
    ours, images, kernels = conv_of(SHAPES[name], stackable_conv)
    plain, _, _ = conv_of(SHAPES[name], plain_conv)
    operands = [
        array[0] if axis is None else jnp.moveaxis(array, 0, axis)
        for array, axis in zip((images, kernels), axes, strict=True)
    ]

    def run(conv):
        return jax.jit(value_and_gradients(jax.vmap(conv, in_axes=axes)))(*operands)

    assert_same(run(ours), run(plain))


def test_vmap_of_vmap_equals_plain():
    ours, images, kernels = conv_of(SHAPES["3x3"], stackable_conv)
    plain, _, _ = conv_of(SHAPES["3x3"], plain_conv)

    def run(conv):
        inner = jax.vmap(value_and_gradients(conv), in_axes=(0, None))
        return jax.jit(jax.vmap(inner, in_axes=(None, 0)))(images, kernels)

    assert_same(run(ours), run(plain))


@pytest.mark.parametrize("name", ["3x3", "3x3, wide", "3x3 on 2x2"])
def test_bfloat16_equals_plain_to_its_precision(name):
    ours, images, kernels = conv_of(SHAPES[name], stackable_conv)
    plain, _, _ = conv_of(SHAPES[name], plain_conv)
    operands = images.astype(jnp.bfloat16), kernels.astype(jnp.bfloat16)

    def run(conv):
        return jax.jit(jax.vmap(value_and_gradients(conv)))(*operands)

    assert_same(run(ours), run(plain), tolerance=0.03)


def test_rematerialised_equals_plain():
    ours, images, kernels = conv_of(SHAPES["3x3"], stackable_conv)
    saved = jax.checkpoint(lambda x, k: jnp.tanh(ours(x, k)))

    def gradients(conv):
        loss = lambda x, k: jax.vmap(conv)(x, k).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(images, kernels)

    assert_same(gradients(saved), gradients(lambda x, k: jnp.tanh(ours(x, k))))


def test_gradients_averaged_under_pmap_equal_those_of_the_whole_batch():
    ours, images, kernels = conv_of(SHAPES["3x3, wide"], stackable_conv)
    images = jnp.concatenate([images, 2 * images, -images, images + 1], axis=1)[:, :8]

    def gradient(images, kernels):
        return jax.grad(lambda k: (jax.vmap(ours)(images, k) ** 2).mean())(kernels)

    def part(images, kernels):
        return lax.pmean(gradient(images[:, None], kernels), "data")

    mapped = jax.pmap(part, axis_name="data", in_axes=(1, None), out_axes=None)
    assert_same(mapped(images, kernels), gradient(images, kernels))


class Small(nn.Module):
    """A convolution of every kind: narrow, wide, strided, 1x1, and on a tiny map."""

    @nn.compact
    def __call__(self, x):
        conv = partial(nn.Conv, use_bias=False, conv_general_dilated=stackable_conv)
        for features, size, stride in [(4, 3, 1), (32, 3, 2), (32, 3, 1), (8, 1, 2), (8, 3, 1)]:
            x = nn.relu(conv(features, (size, size), strides=stride, padding=size // 2)(x))
        return x.mean(axis=(1, 2))


def test_step_of_a_stack_on_a_sharded_batch_gathers_nothing():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    replicated, sharded = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("data",)))
    images = jax.device_put(jnp.ones((16, 8, 8, 3)), sharded)
    init = jax.vmap(Small().init, in_axes=(0, None))
    params = init(jax.random.split(jax.random.key(0), NETWORKS), images[:1])
    params = jax.device_put(params, replicated)

    def step(params, images):
        loss = lambda p: (jax.vmap(Small().apply, in_axes=(0, None))(p, images) ** 2).mean()  # noqa: E731
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))

    program = jax.jit(step, out_shardings=replicated).lower(params, images).compile().as_text()
    assert "all-reduce" in program
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in program


def gradient_of_a_stack():
    """A gradient with every kind of convolution, and operands for it."""
    images = jnp.ones((4, 8, 8, 3))
    init = jax.vmap(Small().init, in_axes=(0, None))
    params = jax.eval_shape(init, jax.random.split(jax.random.key(0), NETWORKS), images)
    apply = jax.vmap(Small().apply, in_axes=(0, None))
    return jax.jit(jax.value_and_grad(lambda p: (apply(p, images) ** 2).mean())), params


def test_a_step_traced_on_cpu_lowers_to_plain_convolutions_for_tpu_and_cuda():
    gradient, params = gradient_of_a_stack()
    for platform in ("tpu", "cuda"):
        program = jax.export.export(gradient, platforms=(platform,))(params).mlir_module()
        layers = len(params["params"])
        # Forward and kernel gradient in each layer, image gradient in all but the first; the first
        # kernels are joined in the forward pass, as all networks share its images.
        assert program.count("stablehlo.convolution") == NETWORKS * (3 * layers - 1) - 1
        for only_on_cpu in ("dot_general", "inlineable", "_times_one"):
            assert only_on_cpu not in program
    both = jax.export.export(gradient, platforms=("tpu", "cuda"))(params)
    assert both.platforms == ("tpu", "cuda")


def test_the_choice_of_platform_is_made_before_the_step_is_compiled():
    gradient, params = gradient_of_a_stack()
    program = gradient.lower(params).compile().as_text()
    assert "conditional" not in program
    assert 'inlineable="false"' in program


def test_groups_and_other_layouts_are_refused():
    images, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))
    with pytest.raises(NotImplementedError, match="no groups"):
        stackable_conv(images, kernel, (1, 1), "SAME", feature_group_count=2)
    layout = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NCHW", "OIHW", "NCHW"))
    with pytest.raises(NotImplementedError, match="NHWC"):
        stackable_conv(images, kernel, (1, 1), "SAME", dimension_numbers=layout)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_named_padding_and_dilation_equal_plain(padding):
    images, kernel = jnp.arange(49.0).reshape(1, 7, 7, 1), jnp.arange(9.0).reshape(3, 3, 1, 1)
    dilation = {"rhs_dilation": (2, 1)}
    actual = stackable_conv(images, kernel, (2, 1), padding, **dilation)
    expected = lax.conv_general_dilated(images, kernel, (2, 1), padding, **dilation, **LINEN)
    assert_same(actual, expected)
