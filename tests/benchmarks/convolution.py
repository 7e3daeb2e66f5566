"""Times the convolutions of a ResNet-18, layer by layer: ours, XLA's own, and PyTorch's.

    python tests/benchmarks/convolution.py --size 64 --batch 32 --width 64 --stem imagenet

Prints a line for each layer and operation on stderr, and one line of JSON on stdout: milliseconds
of each, and their sum over a network; best of interleaved repeats. On a busy machine use
`--cores 1`, which counts CPU seconds.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def layers(options: argparse.Namespace) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Yields each kind of layer: image side, inputs, outputs, kernel, stride, and its count."""
    side, width = options.size, options.width
    if options.stem == "imagenet":
        yield side, 3, width, 7, 2, 1
        side //= 4
    else:
        yield side, 3, width, 3, 2, 1
        side //= 2
    yield side, width, width, 3, 1, 4
    for _ in range(3):
        yield side, width, 2 * width, 3, 2, 1
        yield side, width, 2 * width, 1, 2, 1
        side, width = (side + 1) // 2, 2 * width
        yield side, width, width, 3, 1, 3


def jax_operations(function: Any, x: Any, k: Any, stride: int) -> dict[str, Callable[[], Any]]:
    """Compiles the forward pass and both gradients for the given operands."""
    import jax

    pad = k.shape[0] // 2
    padding = ((pad, pad), (pad, pad))

    def conv(x: jax.Array, k: jax.Array) -> jax.Array:
        return function(x, k, (stride, stride), padding)

    forward = jax.jit(conv)
    y = forward(x, k)
    image_gradient = jax.jit(lambda x, k, y: jax.vjp(lambda x: conv(x, k), x)[1](y))
    kernel_gradient = jax.jit(lambda x, k, y: jax.vjp(lambda k: conv(x, k), k)[1](y))
    return {
        "forward": lambda: jax.block_until_ready(forward(x, k)),
        "image_gradient": lambda: jax.block_until_ready(image_gradient(x, k, y)),
        "kernel_gradient": lambda: jax.block_until_ready(kernel_gradient(x, k, y)),
    }


def torch_operations(
    images: np.ndarray, kernel: np.ndarray, stride: int
) -> dict[str, Callable[[], Any]]:
    """Makes the same operations in PyTorch's own layout."""
    import torch

    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    k = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous()
    pad = kernel.shape[0] // 2
    y = torch.nn.functional.conv2d(x, k, stride=stride, padding=pad)

    def gradient(*wanted: bool) -> Any:
        geometry = ([stride] * 2, [pad] * 2, [1] * 2, False, [0] * 2, 1)
        return torch.ops.aten.convolution_backward(y, x, k, None, *geometry, [*wanted, False])

    return {
        "forward": lambda: torch.nn.functional.conv2d(x, k, stride=stride, padding=pad),
        "image_gradient": lambda: gradient(True, False),
        "kernel_gradient": lambda: gradient(False, True),
    }


def best(
    contenders: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Returns milliseconds of each contender: the best of interleaved repeats after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            start = clock()
            run()
            if repeat:
                times[name].append(1e3 * (clock() - start))
    return {name: round(min(times[name]), 3) for name in contenders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--stem", choices=("imagenet", "small"), default="imagenet")
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    import torch

    from ferjax.memory import keep_freed_memory
    from ferjax.nn.conv import stackable_conv

    keep_freed_memory()

    def plain_conv(x: jax.Array, k: jax.Array, strides: Any, padding: Any) -> jax.Array:
        names = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=names)

    torch.set_num_threads(options.cores)
    clock = time.process_time if options.cores == 1 else time.perf_counter
    rng = np.random.default_rng(0)
    rows, totals = [], {"ferjax": 0.0, "lax": 0.0, "torch": 0.0}
    for side, inputs, outputs, size, stride, count in layers(options):
        images = rng.standard_normal((options.batch, side, side, inputs), dtype=np.float32)
        kernel = rng.standard_normal((size, size, inputs, outputs), dtype=np.float32)
        operands = jnp.asarray(images), jnp.asarray(kernel), stride
        operations = {
            "ferjax": jax_operations(stackable_conv, *operands),
            "lax": jax_operations(plain_conv, *operands),
            "torch": torch_operations(images, kernel, stride),
        }
        for operation in ("forward", "image_gradient", "kernel_gradient"):
            if inputs == 3 and operation == "image_gradient":
                continue
            runs = {name: operations[name][operation] for name in operations}
            row = best(runs, options.repeats, clock)
            layer = f"{side}x{side} {inputs}->{outputs} {size}x{size}/{stride}"
            print(f"{layer:28} x{count} {operation:16} {row}", file=sys.stderr, flush=True)
            rows.append({"layer": layer, "count": count, "operation": operation, **row})
            for name in totals:
                totals[name] = round(totals[name] + count * row[name], 3)
    print(json.dumps({**vars(options), "milliseconds": totals, "layers": rows}))


if __name__ == "__main__":
    main()
