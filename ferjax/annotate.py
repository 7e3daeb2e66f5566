"""Labels faces with a model: shard by shard, resumable, one Parquet file each.

Every process labels the shards whose number leaves its own as rest, on its own devices. A shard's
file appears when it is complete, and a run that was killed goes on at the first that is missing or
damaged. The file also holds a checksum of its contents and its line of `metrics.jsonl`, so that
neither is there without the other once the run goes on.
"""

import csv
import json
import time
import zlib
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

CHECKSUM, LINE = b"checksum", b"metrics"
"""Metadata of a part: CRC-32 of its columns, and its line of `metrics.jsonl` if it has one."""


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
      Preempted: when asked to stop, after the shard at hand of each process.
    """
    settings.check()
    if "class" not in _written_heads(prediction):
        raise UserError(f"{stage}: the model has no head of classes to label faces with")
    parts = _parts(len(faces.rows), settings.shard_size, folder)
    whole = [part for part in parts if _is_whole(part)]
    metrics.replace(stage, _lines(whole, metrics, stage))
    own = range(jax.process_index(), len(parts), jax.process_count())
    missing = [shard for shard in own if parts[shard] not in whole]
    for shard in missing:
        parts[shard].unlink(missing_ok=True)
    parallel.barrier(f"{stage} knows what is missing")
    begin = time.perf_counter()
    for shard, table in _tables(prediction, weights, classes, faces, missing, settings):
        seconds = time.perf_counter() - begin
        begin += seconds
        line: dict[str, Any] = {
            "step": shard + 1,
            "epoch": (shard + 1) / len(parts),
            "split": "annotate",
            "stage": stage,
            "faces": len(table),
            "images_per_second": len(table) / seconds,
            "seconds": seconds,
            "cpu_seconds": time.process_time(),
            "memory_bytes": parallel.memory(),
        }
        _write_part(parts[shard], table, line)
        metrics.write(**line)
        if shard != missing[-1] and preemption.noticed():
            break
    parallel.meet(f"{stage} is labelled")
    there = parallel.of_first_process(sum(part.exists() for part in parts))
    if there < len(parts):
        raise preemption.Preempted(f"{stage} labelled {there} of {len(parts)} shards")
    if jax.process_index() == 0:
        _write_skipped(faces, parts, folder)


def read(folder: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads all parts of a folder as one table.

    Raises:
      UserError: if it has none, or not all, or for a damaged one.
    """
    parts = _written(folder)
    if not _all_there(parts):
        raise UserError(f"{folder} holds {len(parts)} parts and not all: annotate again")
    return pa.concat_tables(_read_part(part, columns) for part in parts)


def complete(folder: Path, metrics: MetricsFile, stage: str) -> bool:
    """Returns whether a folder holds all parts, none of them damaged, and metrics their lines."""
    parts = _written(folder)
    if not _all_there(parts) or not all(map(_is_whole, parts)):
        return False
    written = [line for line in metrics.read() if line["stage"] == stage]
    return _lines(parts, metrics, stage) == sorted(written, key=lambda line: line["step"])


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


def _all_there(parts: Sequence[Path]) -> bool:
    return bool(parts) and len(parts) == int(parts[0].stem.rsplit("-", 1)[1])


def _write_part(part: Path, table: pa.Table, line: dict[str, Any]) -> None:
    metadata = {CHECKSUM: str(_checksum(table))}
    if jax.process_index() == 0:  # which alone writes metrics
        metadata[LINE] = json.dumps(line)
    with writers.replacing(part) as temporary:
        marked = table.replace_schema_metadata(metadata)
        pq.write_table(marked, temporary, write_page_checksum=True)


def _read_part(part: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Reads columns of a part, by default all, once all of them were checked."""
    try:
        table = pq.read_table(part, page_checksum_verification=True)
        # Pages have checksums, but the names of columns have none. Parts of earlier versions, too.
        checksum = (table.schema.metadata or {}).get(CHECKSUM)
        if checksum is not None and int(checksum) != _checksum(table):
            raise ValueError("checksum differs")
        return table.select(columns or table.column_names)
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{part} is damaged: the same command labels its faces again") from error


def _is_whole(part: Path) -> bool:
    try:
        _read_part(part)
    except UserError:
        return False
    return True


def _checksum(table: pa.Table) -> int:
    """Returns the CRC-32 of the names and values of all columns."""
    checksum = 0
    for name in table.column_names:
        column = table[name]
        if pa.types.is_dictionary(column.type) or pa.types.is_string(column.type):
            values = "\n".join(column.cast(pa.string()).to_pylist()).encode()
        else:
            values = column.to_numpy().tobytes()
        checksum = zlib.crc32(values, zlib.crc32(name.encode(), checksum))
    return checksum


def _lines(parts: Sequence[Path], metrics: MetricsFile, stage: str) -> list[dict[str, Any]]:
    """Returns the lines of `metrics.jsonl` about parts, one each.

    The first process writes lines of its own parts alone; earlier versions kept none in a part.
    """
    written = {line["step"]: line for line in metrics.read() if line["stage"] == stage}
    lines = []
    for part in parts:
        kept = (pq.read_schema(part).metadata or {}).get(LINE)
        step = int(part.stem.split("-")[1]) + 1
        lines.append(written.get(step) if kept is None else json.loads(kept))
    return [line for line in lines if line is not None]


def _parts(faces: int, shard_size: int, folder: Path) -> list[Path]:
    shards = -(-faces // shard_size)
    return [folder / f"part-{shard:05d}-of-{shards:05d}.parquet" for shard in range(shards)]


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
