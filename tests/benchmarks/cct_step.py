"""Times one CCT training step: jitted JAX, the same with plain `vmap`, and eager PyTorch.

    python tests/benchmarks/cct_step.py --size 64
    python tests/benchmarks/cct_step.py --platform cuda --dtype bfloat16 --size 224 --batch 256 \\
        --contenders ferjax plain_vmap --peak_tflops 989     # dense bfloat16 of an H100 or H200

Networks, losses and optimiser are the same for all contenders. Each runs in its own process, whose
peak memory is reported (on CPU it is resident memory, which includes some hundred MB of libraries).
They take turns; medians, their ratios and peaks are printed as one line of JSON. `ferjax` lowers a
stack's convolutions to separate ones, `plain_vmap` to grouped ones. On a busy machine PyTorch's
threads wait for each other: compare the CPU seconds of `--cores 1` there.
"""

import argparse
import json
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, cast

import numpy as np
from ml_collections import ConfigDict

from ferjax import memory

NETWORKS, CLASSES, LAMBDA, RATE = 3, 7, 0.5, 1e-3


def inputs(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Draws random normalised images, channels last, and labels."""
    rng = np.random.default_rng(0)
    shape = (options.batch, options.size, options.size, 3)
    images = rng.standard_normal(shape, dtype=np.float32)
    return images, rng.integers(CLASSES, size=options.batch, dtype=np.int32)


class Contender(NamedTuple):
    """A training step.

    Attributes:
      run: does one step and returns the loss.
      peak: returns peak memory so far, in bytes.
      flops: of a step, where known.
    """

    run: Callable[[], float]
    peak: Callable[[], int]
    flops: float | None


def jax_step(options: argparse.Namespace, plain: bool = False) -> Contender:
    """Makes the step of a stack of networks in JAX; `plain` leaves the convolutions to `vmap`."""
    import jax
    import jax.numpy as jnp
    import optax

    from ferjax import parallel
    from ferjax.nn import blocks, networks

    if plain:
        blocks.stackable_conv = cast(Any, jax.lax.conv_general_dilated)
    model = ConfigDict(
        {
            "name": "resnet18",
            "width": options.width,
            "stem": options.stem,
            "stem_stride": 2,
            "dtype": options.dtype,
            "heads": ("class",),
            "dropout": 0.0,
        }
    )
    network = networks.network(model, CLASSES, (options.size, options.size, 3))
    optimiser = optax.adam(RATE)
    images, labels = map(jnp.asarray, inputs(options))
    keys = jax.random.split(jax.random.key(0), NETWORKS)
    weights = jax.jit(jax.vmap(network.init))(keys)
    index = jnp.arange(len(labels))

    def loss(params, collections):
        def apply(params, collections, key):
            stack = networks.Weights(params, collections)
            return network.train(stack, images, index, key, None)

        outputs, updated = jax.vmap(apply)(params, collections, keys)
        logits = outputs["class"]
        log_p = jax.nn.log_softmax(logits)
        p = jnp.exp(log_p)
        supervised = -log_p[:, jnp.arange(len(labels)), labels]
        # Σ_j Σ_k KL(p_k ‖ p_j): the terms with j = k are zero.
        negentropy = (p * log_p).sum(-1)
        divergence = NETWORKS * negentropy - jnp.einsum("kbc,jbc->kb", p, log_p)
        total = (1 - LAMBDA) * supervised + LAMBDA * divergence
        return total.sum(0).mean(), updated

    @jax.jit(donate_argnums=0)
    def step(state):
        params, collections, moments = state
        (value, collections), gradient = jax.value_and_grad(loss, has_aux=True)(params, collections)
        updates, moments = optimiser.update(gradient, moments)
        return (optax.apply_updates(params, updates), collections, moments), value

    state = [(*weights, optimiser.init(weights.params))]

    def run() -> float:
        state[0], value = step(state[0])
        return float(value)

    flops = (step.lower(state[0]).cost_analysis() or {}).get("flops")
    return Contender(run, parallel.peak_memory, flops)


def torch_step(options: argparse.Namespace) -> Contender:
    """Makes the same step in eager PyTorch, one network after the other."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.set_num_threads(options.cores)
    torch.manual_seed(0)

    def conv(inputs: int, outputs: int, size: int, stride: int) -> nn.Sequential:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(layer, nn.BatchNorm2d(outputs))

    class Block(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.conv1 = conv(inputs, outputs, 3, stride)
            self.conv2 = conv(outputs, outputs, 3, 1)
            same = inputs == outputs
            self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv2(F.relu(self.conv1(x), inplace=True))
            return F.relu(y + self.shortcut(x), inplace=True)

    def network() -> nn.Sequential:
        width = options.width
        if options.stem == "imagenet":
            layers = [conv(3, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)]
        else:
            layers = [conv(3, width, 3, 2), nn.ReLU(inplace=True)]
        for stage in range(4):
            outputs, stride = width * 2**stage, 1 if stage == 0 else 2
            layers += [Block(width if stage == 0 else outputs // 2, outputs, stride)]
            layers += [Block(outputs, outputs, 1)]
        return nn.Sequential(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, CLASSES)
        )

    networks = nn.ModuleList(network() for _ in range(NETWORKS))
    optimiser = torch.optim.Adam(networks.parameters(), RATE, fused=True)
    images, labels = map(torch.from_numpy, inputs(options))
    images, labels = images.permute(0, 3, 1, 2).contiguous(), labels.long()

    def run() -> float:
        log_p = [F.log_softmax(network(images), 1) for network in networks]
        supervised = torch.stack([F.nll_loss(q, labels) for q in log_p]).sum()
        divergences = [
            F.kl_div(q, p, reduction="batchmean", log_target=True)
            for q in log_p
            for p in log_p
            if p is not q
        ]
        divergence = torch.stack(divergences).sum()
        loss = (1 - LAMBDA) * supervised + LAMBDA * divergence
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return loss.item()

    return Contender(run, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None)


CONTENDERS = {
    "ferjax": jax_step,
    "plain_vmap": lambda options: jax_step(options, plain=True),
    "torch": torch_step,
}


def serve(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """Runs a step for every message and sends seconds, CPU seconds, loss, peak and FLOPs."""
    os.environ["JAX_PLATFORMS"] = options.platform
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # the contenders share the device
    if name in options.keep_memory:
        memory.keep_freed_memory()
    contender = CONTENDERS[name](options)
    while pipe.recv():
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = contender.run()
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
        pipe.send((seconds, cpu_seconds, loss, contender.peak(), contender.flops))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--stem", default="imagenet")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--platform", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--peak_tflops", type=float, help="of the device, to give shares of it")
    parser.add_argument(
        "--keep_memory",
        nargs="*",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        help="contenders that keep the memory they free, as ferjax.main does",
    )
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    options = parser.parse_args()

    if options.platform == "cpu":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    wall: dict[str, list[float]] = {name: [] for name in options.contenders}
    cpu: dict[str, list[float]] = {name: [] for name in options.contenders}
    peaks: dict[str, int] = {}
    losses: dict[str, float] = {}
    flops: dict[str, float] = {}
    for name in options.contenders:
        pipes[name], theirs = context.Pipe()
        context.Process(target=serve, args=(name, options, theirs), daemon=True).start()
        theirs.close()  # so that a contender that dies is noticed
    for repeat in range(options.repeats + 2):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds, cpu_seconds, loss, peak, flops[name] = pipe.recv()
            if repeat >= 2:  # the first compiles, the second warms up
                wall[name].append(seconds)
                cpu[name].append(cpu_seconds)
            peaks[name], losses[name] = round(peak / 2**20), round(loss, 4)
    for pipe in pipes.values():
        pipe.send(False)
    report = {
        "seconds": medians(wall),
        "cpu_seconds": medians(cpu),
        "peak_MB": peaks,
        "last_loss": losses,
        "images_per_second": {
            name: round(options.batch / statistics.median(times), 1) for name, times in wall.items()
        },
    }
    if options.peak_tflops and flops.get("ferjax"):
        needed = flops["ferjax"] / (options.peak_tflops * 1e12)
        report["share_of_peak"] = {
            name: round(needed / statistics.median(times), 3) for name, times in wall.items()
        }
    print(json.dumps({**vars(options), **report}))


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """Returns the median time of each contender, and its ratio to that of ferjax."""
    median = {name: round(statistics.median(seconds), 4) for name, seconds in times.items()}
    ours = median.get("ferjax")
    ratios = {f"{name}/ferjax": round(m / ours, 3) for name, m in median.items() if ours}
    ratios.pop("ferjax/ferjax", None)
    return median | ratios


if __name__ == "__main__":
    main()
