"""Times Dawid–Skene on a million annotations, beside crowd-kit in the same run.

    python tests/benchmarks/dawid_skene.py [--annotations 1000000 10000000] [--no-peer]

500 workers, 7 classes, five labels per task, 20 iterations; both read the same Parquet file. Prints
one line of JSON with, for each number of annotations:

- seconds of reading the file and of inferring, medians of `--repeats`;
- seconds of the first run, which compiles;
- seconds of an iteration: 120 iterations less 20, divided by 100;
- peak memory of the process so far;
- the ratio of its total seconds to those of the first number of annotations.

crowd-kit runs only on the first number of annotations, three times, reading included. Both keep the
memory that they free, as `ferjax.main` does. `copied_GB_a_second` is the machine's speed at copying
an array larger than its caches, counting bytes read and written.
"""

import argparse
import json
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ferjax import memory

WORKERS, CLASSES, ITERATIONS, A_TASK = 500, 7, 20, 5
MORE_ITERATIONS = 120


def make(path: Path, annotations: int) -> None:
    """Draws labels by workers with accuracies of 0.4 to 0.95, five per task, and writes them."""
    rng = np.random.default_rng(0)
    tasks = annotations // A_TASK
    truth = rng.integers(0, CLASSES, tasks)
    skill = rng.uniform(0.4, 0.95, WORKERS)
    task = rng.permutation(np.repeat(np.arange(tasks), A_TASK))
    worker = rng.integers(0, WORKERS, len(task))
    right = rng.random(len(task)) < skill[worker]
    label = np.where(right, truth[task], rng.integers(0, CLASSES, len(task)))
    pq.write_table(pa.table({"task": task, "worker": worker, "label": label}), path)


def ours(path: Path, iterations: int = ITERATIONS) -> dict[str, float]:
    """Returns the seconds of each part of one run."""
    from ferjax.truth import Annotations, dawid_skene

    start = time.perf_counter()
    annotations = Annotations.from_table(path)
    read = time.perf_counter()
    found = dawid_skene(annotations, max_iterations=iterations, tolerance=-1.0)
    done = time.perf_counter()
    assert found.iterations == iterations
    return {"read": read - start, "infer": done - read, "total": done - start}


def copied() -> float:
    """Returns the GB per second of copying, reads and writes counted: the best of seven."""
    source = np.ones(1 << 26, np.float32)
    target, seconds = np.empty_like(source), []
    for _ in range(7):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(seconds) / 1e9


def peer(path: Path) -> float:
    """Returns the seconds of crowd-kit, reading included."""
    import pandas
    from crowdkit.aggregation import DawidSkene

    start = time.perf_counter()
    frame = pandas.read_parquet(path)
    DawidSkene(n_iter=ITERATIONS, tol=-np.inf).fit(frame)
    return time.perf_counter() - start


def measure(path: Path, annotations: int, repeats: int) -> dict[str, float]:
    """Returns medians over repeated runs on one file."""
    make(path, annotations)
    first = ours(path)
    runs = [ours(path) for _ in range(repeats)]
    ours(path, MORE_ITERATIONS)  # compiles
    longer = [ours(path, MORE_ITERATIONS) for _ in range(repeats)]
    report = {name: round(statistics.median(x[name] for x in runs), 4) for name in first}
    steady = statistics.median(x["infer"] for x in longer) - report["infer"]
    steady /= MORE_ITERATIONS - ITERATIONS
    return {
        "annotations": annotations,
        **report,
        "first_total": round(first["total"], 2),
        "iteration": round(steady, 5),
        "million_annotation_iterations_a_second": round(annotations / steady / 1e6),
        "peak_GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--devices", type=int, default=1, help="CPU devices to spread tasks over")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    memory.keep_freed_memory()
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={options.devices}"

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{number}.parquet" for number in options.annotations]
        sizes = zip(paths, options.annotations, strict=True)
        runs = [measure(path, number, options.repeats) for path, number in sizes]
        for run in runs:
            run["times_the_first"] = round(run["total"] / runs[0]["total"], 1)
        report = {"devices": options.devices, "runs": runs}
        if options.peer:
            report["crowd_kit"] = round(statistics.median(peer(paths[0]) for _ in range(3)), 2)
            report["crowd_kit_over_ours"] = round(report["crowd_kit"] / runs[0]["total"], 1)
    print(json.dumps(report | {"copied_GB_a_second": round(copied(), 1)}))


if __name__ == "__main__":
    main()
