"""Times a training step of LTNet with many coders, beside one without transition layers.

    PYTHONPATH=. python tests/benchmarks/transition_cost.py

The network, its optimiser and the batch are those of `configs/ltnet.py:ferplus` (48×48 faces) with
batch 64 and `--width`; every coder annotates every face. The step without transition layers is
plain cross-entropy on the mixture. The steps take turns. Prints one line of JSON: the median over
rounds of their ratio and, for comparison, of the ratio of two equal steps.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
from ml_collections import ConfigDict

from configs import ltnet as ltnet_config
from ferjax import parallel
from ferjax.methods import METHODS
from ferjax.methods.method import Info
from ferjax.runs.train import SHARED

CLASSES = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger")


def main() -> None:
    """Times the steps and prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coders", type=int, default=20)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    steps = {name: compiled(options, name) for name in ("mixture", "ltnet", "again")}
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(x) for name, x in times.items()}

    def ratio(name: str) -> float:
        pairs = zip(times[name], times["mixture"], strict=True)
        return round(statistics.median(a / b for a, b in pairs), 4)

    report = {
        "coders": options.coders,
        "seconds": {name: round(x, 4) for name, x in medians.items()},
        "ltnet_over_mixture": ratio("ltnet"),
        "mixture_over_itself": ratio("again"),
    }
    print(json.dumps(report))


def compiled(options: argparse.Namespace, name: str):
    """Returns a function that runs one step on one batch and waits for it."""
    config = ltnet_config.get_config("ferplus").copy_and_resolve_references()
    config.model.width = options.width
    config.ltnet.coder_weights = ()  # there are other coders than the config's
    own = config.ltnet if name == "ltnet" else config.mixture
    recipe = ConfigDict({part: config[part] for part in SHARED} | own.to_dict())
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (options.batch, 48, 48, 1), dtype=np.uint8),
        "index": np.arange(options.batch, dtype=np.int32),
        "annotations": rng.integers(0, 7, (options.batch, options.coders)).astype(np.int32),
        "target": np.eye(7, dtype=np.float32)[rng.integers(0, 7, options.batch)],
    }
    info = Info(
        classes=CLASSES,
        coders=tuple(f"coder_{c}" for c in range(options.coders)),
        image_shape=(48, 48, 1),
        label="random",
        labels={"annotations": batch["annotations"]},
        steps_per_epoch=100,
        total_steps=1000,
        faces=options.batch,
    )
    method = METHODS[recipe.method].make(recipe, info)
    devices = parallel.find_devices("jit")
    step = parallel.compile_step(devices, method.train_step)
    state = jax.jit(method.init)(jax.random.key(0), {})
    state = parallel.replicate(devices, jax.device_get(state))
    on_devices = parallel.shard(devices, batch)
    states = [step(state, on_devices)[0]]

    def run() -> None:
        states[0] = jax.block_until_ready(step(states[0], on_devices)[0])

    run()
    return run


if __name__ == "__main__":
    main()
