"""Measures labelling a million faces: speed, CPU time, memory, and what a kill loses.

    python tests/benchmarks/annotate.py --faces 1200000 --dir=FOLDER

Draws built-in faces as JPEG pictures in ArrayRecord (once), trains a ResNet-18 of width 32 with a
3×3/2 stem on 48×48 faces for a few steps, and labels all faces with `configs/annotate.py`. Kills
the process once (SIGKILL), when a third of the faces are labelled. Prints one line of JSON:

- faces per second while labelling (median over shards), and of the same network alone, on a batch
  in memory, before and after;
- microseconds of CPU per face for everything but inference: the same faces, or `--host_faces` of
  them, labelled by a trivial model;
- memory of the process after a tenth of its faces, and at the end;
- whether every face was labelled exactly once.
"""

import argparse
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from ferjax import annotate, parallel, predictor
from ferjax.data import sources, synthetic
from ferjax.writers import MetricsFile

FILES, SIZE, BATCH, SHARD = 16, 48, 256, 8192
SETTINGS = annotate.Settings(shard_size=SHARD, batch_size=BATCH, workers=0)


def main() -> None:
    """Draws faces, trains, labels, and prints the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faces", type=int, default=1_200_000)
    parser.add_argument("--host_faces", type=int, default=100_000)
    parser.add_argument("--dir", type=Path, required=True)
    options = parser.parse_args()
    faces, run = options.dir / f"faces-{options.faces}", options.dir / "run"
    write_faces(faces, options.faces)
    train(run)
    model = predictor.load(run)
    before = bare_inference(model)
    labels = options.dir / "labels"
    shutil.rmtree(labels, ignore_errors=True)
    lost = label(run, faces, labels)
    after = bare_inference(model)
    lines = [x for x in MetricsFile(labels / "metrics.jsonl").read() if x["split"] == "annotate"]
    last = lines[lost:]  # lines of the process that was not killed
    found = annotate.read(labels / "labels", ["index"])["index"].to_numpy()
    rate = statistics.median(line["images_per_second"] for line in lines)
    memory = [line["memory_bytes"] for line in last]
    report = {
        "faces": options.faces,
        "faces_per_second": round(rate),
        "bare_inference": [round(before), round(after)],
        "of_bare_inference": round(rate / ((before + after) / 2), 3),
        "host_cpu_microseconds": round(host_cost(model, faces, options), 1),
        "memory_mib_at_a_tenth": round(memory[len(memory) // 10] / 2**20),
        "memory_mib_at_the_end": round(memory[-1] / 2**20),
        "shards_before_the_kill": lost,
        "each_labelled_once": bool((np.sort(found) == np.arange(options.faces)).all()),
    }
    print(json.dumps(report))


def write_faces(folder: Path, count: int) -> None:
    """Draws faces into ArrayRecord files, unless the files exist."""
    if folder.exists():
        return
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    edges = np.linspace(0, count, FILES + 1).astype(int)
    jobs = [
        (partial / f"faces.array_record-{k:05d}-of-{FILES:05d}", *edges[k : k + 2])
        for k in range(FILES)
    ]
    with multiprocessing.get_context("spawn").Pool() as pool:
        pool.starmap(write_file, jobs)
    partial.rename(folder)


def write_file(path: Path, start: int, end: int) -> None:
    """Draws faces `start` to `end` into one file."""
    cv2.setNumThreads(1)
    drawn = synthetic.SyntheticFaces(
        seed=1, size=int(end - start), image_size=SIZE, start=int(start)
    )
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for row in range(len(drawn)):
        writer.write(cv2.imencode(".jpg", drawn[row][..., ::-1])[1].tobytes())
    writer.close()


def train(run: Path) -> None:
    """Trains a network for a few steps; its accuracy does not matter here."""
    changes = {
        "model.name": "resnet18",
        "model.width": 32,
        "data.image_size": SIZE,
        "data.train_size": 256,
        "data.test_size": 64,
        "supervised.steps": 2,
    }
    execute("supervised", run, *(f"--config.{name}={value}" for name, value in changes.items()))


def execute(config: str, workdir: Path, *changes: str) -> None:
    """Runs `python -m ferjax.main` and waits for it."""
    subprocess.run(command(config, workdir, *changes), check=True, stdout=sys.stderr)


def command(config: str, workdir: Path, *changes: str) -> list[str]:
    """Returns the command line of `python -m ferjax.main` with a config of this project."""
    main = [sys.executable, "-m", "ferjax.main", f"--config=configs/{config}.py"]
    return [*main, f"--workdir={workdir}", *changes]


def label(run: Path, faces: Path, workdir: Path) -> int:
    """Labels all faces with one kill; returns the number of shards done by then."""
    changes = [f"--config.trained={run}", f"--config.path={faces}"]
    changes += [f"--config.annotate.shard_size={SHARD}", f"--config.annotate.batch_size={BATCH}"]
    first = subprocess.Popen(command("annotate", workdir, *changes))
    metrics, shards = MetricsFile(workdir / "metrics.jsonl"), None
    while first.poll() is None:
        time.sleep(0.2)
        parts = list((workdir / "labels").glob("part-*.parquet"))
        if parts:
            shards = int(parts[0].stem.rsplit("-", 1)[1])
            if len(parts) >= max(1, shards // 3):
                first.kill()
    lost = len([x for x in metrics.read() if x["split"] == "annotate"])
    execute("annotate", workdir, *changes)
    return lost


def bare_inference(model: predictor.Predictor) -> float:
    """Returns faces per second of the model alone, on one batch kept on the devices (median)."""
    devices = parallel.find_devices("jit")
    predict = parallel.compile_predict(devices, model.prediction.predict)
    weights = parallel.replicate(devices, model.weights)
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *model.image_shape), np.uint8)
    batch = parallel.shard(devices, images, for_step=False)
    jax.block_until_ready(predict(weights, batch))
    rates = []
    for _ in range(60):
        start = time.perf_counter()
        jax.block_until_ready(predict(weights, batch))
        rates.append(BATCH / (time.perf_counter() - start))
    return statistics.median(rates)


def host_cost(model: predictor.Predictor, folder: Path, options: argparse.Namespace) -> float:
    """Returns microseconds of CPU per face to read, decode, batch and write, without a network."""

    def predict(_: object, images: jax.Array) -> dict[str, jax.Array]:
        said = jnp.zeros((images.shape[0], len(model.classes)))
        return {model.heads[0].name: said + images[:, 0, 0, :1].astype(jnp.float32)}

    height, _, channels = model.image_shape
    source = sources.find(folder, height, channels)
    rows = np.arange(min(options.host_faces, options.faces), dtype=np.int32)
    place = options.dir / "host"
    shutil.rmtree(place, ignore_errors=True)
    start = time.process_time()
    annotate.annotate(
        model.prediction._replace(predict=predict),
        model.weights,
        model.classes,
        annotate.Faces(source.pictures, source.names, rows),
        place,
        SETTINGS,
        MetricsFile(options.dir / "host.jsonl"),
        "host",
    )
    return 1e6 * (time.process_time() - start) / len(rows)


if __name__ == "__main__":
    main()
