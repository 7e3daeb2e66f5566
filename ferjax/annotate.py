"""Labels faces with a model: shard by shard, resumable, one Parquet file each.

Every process labels the shards whose number leaves its own as rest, on its own devices. A shard's
file appears when it is complete, and a run that was killed goes on at the first that is missing.
"""

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int32

from ferjax import parallel, preemption, writers
from ferjax.data.pipeline import check_batch, prediction_batches
from ferjax.data.record import Images
from ferjax.errors import UserError
from ferjax.methods.method import Prediction
from ferjax.nn.networks import Weights
from ferjax.writers import MetricsFile

SKIPPED = "skipped.csv"


class Faces(NamedTuple):
    """Faces to label.

    Attributes:
      images: where faces come from.
      names: of their files.
      rows: places of those to label; they become the column `index`.
    """

    images: Images
    names: Sequence[str]
    rows: Int32[np.ndarray, " rows"]


class Settings(NamedTuple):
    """Sizes by which faces are labelled.

    Attributes:
      shard_size: faces in a file, a multiple of the batch size.
      batch_size: faces predicted at a time by each process.
      workers: processes that load faces; 0: threads.
    """

    shard_size: int
    batch_size: int
    workers: int

    def check(self) -> None:
        """Raises a `UserError` for sizes that don't go together."""
        check_batch("batch_size", self.batch_size, jax.local_device_count())
        if self.workers < 0:
            raise UserError(f"workers must be at least 0, not {self.workers}")
        if self.shard_size < 1 or self.shard_size % self.batch_size:
            raise UserError(
                f"shard_size {self.shard_size} is no multiple of batch_size {self.batch_size}"
            )


def annotate(
    prediction: Prediction,
    weights: Weights,
    classes: Sequence[str],
    faces: Faces,
    folder: Path,
    settings: Settings,
    metrics: MetricsFile,
    stage: str,
) -> None:
    """Writes a model's prediction of each face; those whose picture is damaged are left out.

    Columns of `part-<shard>-of-<shards>.parquet`: `index` (int32), `file`, `label` (a class name),
    `p_<class>` (float32, of the first head of classes), and `valence`, `arousal` if the model has
    them. When all shards are there, `skipped.csv` lists the faces without a label.

    Args:
      prediction: how the model predicts; a head of classes is needed.
      weights: of the model.
      classes: their names.
      faces: what to label.
      folder: where the files go.
      settings: how to label.
      metrics: where speed and memory are logged.
      stage: name of the lines there.

    Raises:
      UserError: for sizes that don't go together.
      Preempted: when asked to stop, after the shard at hand; several processes don't heed it.
    """
    settings.check()
    if "class" not in _written_heads(prediction):
        raise UserError(f"{stage}: the model has no head of classes to label faces with")
    metrics.forget(stage, after_step=len(faces.rows))  # no line of it; one cut short by a kill
    parts = _parts(len(faces.rows), settings.shard_size, folder)
    own = range(jax.process_index(), len(parts), jax.process_count())
    missing = [shard for shard in own if not parts[shard].exists()]
    begin = time.perf_counter()
    for shard, table in _tables(prediction, weights, classes, faces, missing, settings):
        with writers.replacing(parts[shard]) as temporary:
            pq.write_table(table, temporary)
        seconds = time.perf_counter() - begin
        begin += seconds
        metrics.write(
            stage=stage,
            split="annotate",
            step=shard + 1,
            epoch=(shard + 1) / len(parts),
            faces=len(table),
            images_per_second=len(table) / seconds,
            seconds=seconds,
            cpu_seconds=time.process_time(),
            memory_bytes=parallel.memory(),
        )
        # Several processes would have to stop at the same number of shards, and some have fewer.
        alone = jax.process_count() == 1
        if alone and shard != missing[-1] and preemption.requested():
            raise preemption.Preempted(f"{stage} labelled shard {shard + 1} of {len(parts)}")
    _await(parts)
    parallel.barrier(f"{stage} is labelled")
    if jax.process_index() == 0:
        _write_skipped(faces, parts, folder)


def read(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads all parts of a folder as one table.

    Raises:
      UserError: if it has none, or not all, or for a damaged one.
    """
    parts = _written(folder)
    if not complete(folder):
        raise UserError(f"{folder} holds {len(parts)} parts and not all: annotate again")
    return pa.concat_tables(_read_part(part, columns) for part in parts)


def complete(folder: Path) -> bool:
    """Returns whether a folder holds all parts."""
    parts = _written(folder)
    return bool(parts) and len(parts) == int(parts[0].stem.rsplit("-", 1)[1])


def labels(folder: Path, classes: Sequence[str], count: int) -> Int32[np.ndarray, " count"]:
    """Returns the label of each of `count` faces as an index of the classes, -1 without one."""
    table = read(folder, ["index", "label"]).combine_chunks()
    words = table["label"].combine_chunks()
    indices = np.array([classes.index(word) for word in words.dictionary.to_pylist()], np.int32)
    given = np.full(count, -1, np.int32)
    given[table["index"].to_numpy()] = indices[words.indices.to_numpy()]
    return given


def summarise(folder: Path, classes: Sequence[str], faces: Faces, workdir: Path) -> dict[str, Any]:
    """Returns the contents of `result.json`; times are those of the first process."""
    counts = np.bincount(
        labels(folder, classes, len(faces.names))[faces.rows] + 1, minlength=len(classes) + 1
    )
    lines = [x for x in MetricsFile(workdir / "metrics.jsonl").read() if x["split"] == "annotate"]
    seconds = sum(line["seconds"] for line in lines)
    return {
        "faces": len(faces.rows),
        "skipped": int(counts[0]),
        "labels": {name: int(counts[k + 1]) for k, name in enumerate(classes)},
        "images_per_second": sum(line["faces"] for line in lines) / seconds if lines else None,
        "wall_seconds": seconds,
    }


def format_result(result: dict[str, Any]) -> str:
    """Formats how many faces a run labelled, skipped, and gave each class."""
    total = max(1, result["faces"] - result["skipped"])
    lines = [f"faces {result['faces']:,}, skipped {result['skipped']:,}"]
    lines += [f"{name:<10} {n:>10,} {n / total:7.1%}" for name, n in result["labels"].items()]
    return "\n".join(lines)


def _written(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*-of-*.parquet"))


def _read_part(part: Path, columns: Sequence[str] | None) -> pa.Table:
    try:
        return pq.read_table(part, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(
            f"{part} is damaged: delete it, and the same command labels its faces again"
        ) from error


def _parts(faces: int, shard_size: int, folder: Path) -> list[Path]:
    shards = -(-faces // shard_size)
    return [folder / f"part-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)]


def _await(parts: Sequence[Path]) -> None:
    """Waits for the shards of other processes, which may take longer than a barrier waits.

    Should one of them die, JAX stops this one, too.
    """
    while not all(part.exists() for part in parts):
        time.sleep(1)


def _tables(
    prediction: Prediction,
    weights: Weights,
    classes: Sequence[str],
    faces: Faces,
    shards: Sequence[int],
    settings: Settings,
) -> Iterator[tuple[int, pa.Table]]:
    """Each shard with the table of its faces, in order."""
    if not shards:
        return
    size, batch_size = settings.shard_size, settings.batch_size
    rows = [faces.rows[shard * size : (shard + 1) * size] for shard in shards]
    padded = [np.pad(x, (0, -len(x) % batch_size), constant_values=-1) for x in rows]
    outputs = _outputs(prediction, weights, faces.images, np.concatenate(padded), settings)
    for shard, rows_of_shard in zip(shards, padded, strict=True):
        batches = [next(outputs) for _ in range(len(rows_of_shard) // batch_size)]
        index = np.concatenate([rows for rows, _ in batches])
        heads = {name: np.concatenate([x[name] for _, x in batches]) for name in batches[0][1]}
        yield shard, _table(prediction, heads, index, faces.names, classes)


def _outputs(
    prediction: Prediction,
    weights: Weights,
    images: Images,
    rows: Int32[np.ndarray, " rows"],
    settings: Settings,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Rows and predictions of each batch's readable faces, a batch behind the devices."""
    devices = parallel.find_devices("jit", jax.local_devices())
    heads = _written_heads(prediction)

    def wanted(weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
        outputs = prediction.predict(weights, images)
        return {head: outputs[head] for head in heads.values()}

    predict: Callable = parallel.compile_predict(devices, wanted)
    weights = parallel.replicate(devices, weights)
    running: Any = None
    with prediction_batches(
        images, rows, batch_size=settings.batch_size, workers=settings.workers
    ) as batches:
        for batch in batches:
            begun = predict(weights, parallel.shard(devices, batch["image"], for_step=False)), batch
            if running is not None:
                yield _readable(*running)
            running = begun
        yield _readable(*running)


def _readable(outputs: Any, batch: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
    mask = batch["mask"]
    return batch["index"][mask], jax.tree.map(lambda x: np.asarray(x)[mask], outputs)


def _written_heads(prediction: Prediction) -> dict[str, str]:
    """The first head of each kind, which are what is written."""
    return {head.kind: head.name for head in reversed(prediction.heads)}


def _table(
    prediction: Prediction,
    heads: dict[str, Float32[np.ndarray, "faces _"]],
    index: Int32[np.ndarray, " faces"],
    names: Sequence[str],
    classes: Sequence[str],
) -> pa.Table:
    written = _written_heads(prediction)
    probs = heads[written["class"]]
    best = pa.array(probs.argmax(axis=1).astype(np.int32))
    columns: dict[str, Any] = {
        "index": index.astype(np.int32),
        "file": pa.array([names[row] for row in index.tolist()], pa.string()),
        "label": pa.DictionaryArray.from_arrays(best, pa.array(classes, pa.string())),
        **{f"p_{name}": probs[:, k] for k, name in enumerate(classes)},
    }
    if "va" in written:
        columns["valence"], columns["arousal"] = heads[written["va"]].T
    return pa.table(columns)


def _write_skipped(faces: Faces, parts: Sequence[Path], folder: Path) -> None:
    labelled = [_read_part(part, ["index"])["index"].to_numpy() for part in parts]
    skipped = np.setdiff1d(faces.rows, np.concatenate(labelled))
    with writers.replacing(folder / SKIPPED) as temporary, temporary.open("w", newline="") as file:
        rows = ((row, faces.names[row]) for row in skipped.tolist())
        csv.writer(file, lineterminator="\n").writerows([("index", "file"), *rows])
