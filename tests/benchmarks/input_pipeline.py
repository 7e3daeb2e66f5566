"""Times reading FERPlus from ArrayRecord, beside a PyTorch DataLoader over the same PNG files.

    python tests/benchmarks/input_pipeline.py --dir=<folder of the FERPlus project's files>

Both yield decoded uint8 batches of the training faces, shuffled, without augmentation; the
DataLoader decodes with PIL. Needs the extra `bench`. Files are read once beforehand, so no disk is
timed.
"""

import argparse
import json
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import grain.python as grain
import numpy as np
import torch.utils.data
from PIL import Image

from configs import supervised
from ferjax.data import pipeline
from ferjax.data.datasets import ferplus
from ferjax.data.record import Split

WARM_BATCHES = 16  # starts workers and fills every buffer


class PngFaces(torch.utils.data.Dataset):
    """The DataLoader's dataset: one file per face."""

    def __init__(self, paths: list[Path]):
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        with Image.open(self.paths[row]) as image:
            return torch.from_numpy(np.array(image)), row


def images_per_second(batches: Iterable, batch_size: int, steps: int) -> float:
    """Returns images per second over one epoch, after warming up."""
    iterator = iter(batches)
    for _ in range(WARM_BATCHES):
        next(iterator)
    start = time.perf_counter()
    for _ in range(steps - WARM_BATCHES):
        next(iterator)
    return batch_size * (steps - WARM_BATCHES) / (time.perf_counter() - start)


def microseconds(call: Callable[[], object], records: int) -> float:
    """Returns microseconds per record, the median of five calls."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(statistics.median(times) / records * 1e6, 2)


def parts(split: Split, cached: Split, paths: list[Path]) -> dict[str, float]:
    """Returns microseconds per record of each part of the pipeline, on one thread."""
    count = 1024
    rows = np.random.default_rng(0).integers(len(paths), size=count).astype(np.int32)
    pngs = [np.fromfile(paths[row], np.uint8) for row in rows]
    memory = cached.images.faces(np.arange(len(paths)))
    order = grain.MapDataset.range(len(paths)).seed(0).shuffle().repeat()
    whole = microseconds(lambda: [split.images.faces(part) for part in np.split(rows, 8)], count)
    decode = microseconds(lambda: [cv2.imdecode(png, cv2.IMREAD_GRAYSCALE) for png in pngs], count)
    return {
        "shuffle": microseconds(lambda: [order[place] for place in range(count)], count),
        "read_parse_and_stack": round(whole - decode, 2),
        "decode": decode,
        "gather_cached": microseconds(lambda: memory[rows], count),
        "labels": microseconds(lambda: [array[rows] for array in split.labels.values()], count),
    }


def extract(folder: Path, target: Path, names: Iterable[str]) -> list[Path]:
    """Extracts the PNG files of the training part and returns them in the order of the split."""
    with tarfile.open(folder / "FER2013Train.tar") as tar:
        tar.extractall(target, filter="data")
    found = {path.name: path for path in target.rglob("*.png")}
    return [found[name] for name in names]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = arguments.batch_size

    with tempfile.TemporaryDirectory() as folder:
        config = supervised.get_config("ferplus").data
        config.update({"dir": str(arguments.dir), "cache": f"{folder}/cache"})
        split = ferplus.load(config).train
        paths = extract(arguments.dir, Path(folder) / "png", split.names)
        rows = np.arange(len(paths), dtype=np.int32)
        steps = len(rows) // size
        cached = pipeline.cache(split)
        peers = PngFaces(paths)
        for row in (0, 7, len(rows) - 1):
            np.testing.assert_array_equal(cached.images[row][..., 0], peers[row][0].numpy())

        def ours(faces: Split, workers: int, seed: int) -> float:
            with pipeline.train_batches(
                faces, rows, seed=seed, batch_size=size, workers=workers
            ) as batches:
                return images_per_second(batches, size, steps)

        def peer(workers: int) -> float:
            loader = torch.utils.data.DataLoader(
                peers,
                size,
                shuffle=True,
                drop_last=True,
                num_workers=workers,
                multiprocessing_context="spawn" if workers else None,  # a fork under JAX may hang
            )
            return images_per_second(loader, size, steps)

        def filling() -> float:
            start = time.perf_counter()
            pipeline.cache(split)
            return len(rows) / (time.perf_counter() - start)

        arms: dict[str, Callable[[int], float]] = {
            "first_pass": lambda seed: ours(split, 0, seed),
            "filling_cache": lambda seed: filling(),
            "cached": lambda seed: ours(cached, 0, seed),
            "dataloader": lambda seed: peer(0),
            "first_pass_2_workers": lambda seed: ours(split, 2, seed),
            "dataloader_2_workers": lambda seed: peer(2),
        }
        speeds: dict[str, list[float]] = {name: [] for name in arms}
        for repeat in range(arguments.repeats):
            for name, arm in arms.items():
                speeds[name].append(arm(repeat))
        medians = {name: round(statistics.median(values)) for name, values in speeds.items()}
        print(
            json.dumps(
                {
                    "faces": len(rows),
                    "batch_size": size,
                    "images_per_second": medians,
                    "first_pass_over_dataloader": ratio(medians, "first_pass", "dataloader"),
                    "cached_over_dataloader": ratio(medians, "cached", "dataloader"),
                    "first_pass_over_dataloader_2_workers": ratio(
                        medians, "first_pass_2_workers", "dataloader_2_workers"
                    ),
                    "cached_over_dataloader_2_workers": ratio(
                        medians, "cached", "dataloader_2_workers"
                    ),
                    "microseconds_a_record": parts(split, cached, paths),
                }
            )
        )


def ratio(medians: dict[str, int], ours: str, peer: str) -> float:
    return round(medians[ours] / medians[peer], 2)


if __name__ == "__main__":
    main()
