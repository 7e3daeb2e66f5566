"""Annotation: every face once, whatever was killed, damaged or shared out between processes."""

import itertools
import time
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from ferjax import annotate, preemption
from ferjax.data import sources, synthetic
from ferjax.data.record import Images
from ferjax.errors import UserError
from ferjax.methods.method import Prediction
from ferjax.nn.heads import Head
from ferjax.nn.networks import Weights
from ferjax.writers import MetricsFile

CLASSES = ("dark", "bright")
SETTINGS = annotate.Settings(shard_size=16, batch_size=8, workers=0)
COUNT = 37


class Greys(Images):
    """Faces as bright as their row; the seventh is damaged."""

    def __len__(self):
        return COUNT

    def read(self, rows):
        faces = np.stack([np.full((4, 4, 1), row, np.uint8) for row in rows])
        return faces, rows != 7


def predict(weights, images):
    """Bright from 20 on; with valence and arousal."""
    level = images[:, 0, 0, 0].astype(jnp.float32)
    bright = jnp.clip((level - 10) / 20, 0, 1)
    return {"said": jnp.stack([1 - bright, bright], axis=1), "va": jnp.stack([level, -level], 1)}


PREDICTION = Prediction((Head("said", "class"), Head("va", "va")), predict)


def label(folder, rows=None, settings=SETTINGS):
    rows = np.arange(COUNT, dtype=np.int32) if rows is None else rows
    names = [f"{row}.png" for row in range(COUNT)]
    names[7] = "seven, or 7.png"
    faces = annotate.Faces(Greys(), names, rows)
    weights = Weights({}, {})
    metrics = MetricsFile(folder.parent / "metrics.jsonl")
    annotate.annotate(PREDICTION, weights, CLASSES, faces, folder, settings, metrics, "annotate")
    return faces


def test_every_readable_face_is_labelled_once_and_the_others_listed(tmp_path):
    faces = label(tmp_path / "labels")
    table = annotate.read(tmp_path / "labels")
    index = table["index"].to_numpy()
    assert index.tolist() == [row for row in range(COUNT) if row != 7]
    assert table["file"].to_pylist() == [f"{row}.png" for row in index]
    np.testing.assert_allclose(table["p_bright"], np.clip((index - 10) / 20, 0, 1), atol=1e-6)
    assert table["label"].to_pylist() == [CLASSES[int(row > 20)] for row in index]
    np.testing.assert_allclose(table["valence"], index)
    np.testing.assert_allclose(table["arousal"], -index)
    skipped = (tmp_path / "labels" / "skipped.csv").read_text()
    assert skipped == 'index,file\n7,"seven, or 7.png"\n'
    places = annotate.labels(tmp_path / "labels", CLASSES, COUNT)
    np.testing.assert_array_equal(places, [-1 if r == 7 else int(r > 20) for r in range(COUNT)])
    result = annotate.summarise(tmp_path / "labels", CLASSES, faces, tmp_path)
    assert (result["faces"], result["skipped"]) == (COUNT, 1)
    assert result["labels"] == {"dark": 20, "bright": 16}


def test_chosen_rows_keep_their_numbers(tmp_path):
    rows = np.array([30, 2, 9], np.int32)
    label(tmp_path / "labels", rows)
    table = annotate.read(tmp_path / "labels")
    assert table["index"].to_pylist() == [30, 2, 9]
    assert annotate.labels(tmp_path / "labels", CLASSES, COUNT)[[30, 2, 9]].tolist() == [1, 0, 0]


def test_a_killed_run_labels_only_what_is_missing(tmp_path):
    folder = tmp_path / "labels"
    label(folder)
    parts = sorted(folder.glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [15, 16, 5]
    whole = annotate.read(folder)
    times = [part.stat().st_mtime_ns for part in parts]
    parts[1].unlink()
    (folder / "part-00001-of-00003.parquet.tmp").write_bytes(b"half")
    with pytest.raises(UserError, match="holds 2 parts and not all"):
        annotate.read(folder)
    label(folder)
    assert annotate.read(folder).equals(whole)
    assert [parts[k].stat().st_mtime_ns for k in (0, 2)] == [times[0], times[2]]
    assert sorted(folder.iterdir()) == [*parts, folder / "skipped.csv"]


def test_a_damaged_part_is_named(tmp_path):
    label(tmp_path / "labels")
    part = tmp_path / "labels/part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:500])
    for again in (annotate.read, label):
        with pytest.raises(UserError, match=r"part-00001-of-00003\.parquet is damaged: delete it"):
            again(tmp_path / "labels")


def test_of_two_thousand_faces_in_array_record_a_broken_off_run_loses_none(tmp_path, monkeypatch):
    drawn = synthetic.SyntheticFaces(0, 2000, 24)
    for half in range(2):
        name = f"faces.array_record-{half:05d}-of-00002"
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for row in range(1000 * half, 1000 * (half + 1)):
            writer.write(cv2.imencode(".jpg", drawn[row])[1].tobytes())
        writer.close()
    source = sources.find(tmp_path, size=24, channels=1)
    rows = np.arange(2000, dtype=np.int32)
    faces = annotate.Faces(source.pictures, source.names, rows)
    metrics, folder = MetricsFile(tmp_path / "metrics.jsonl"), tmp_path / "labels"
    settings = annotate.Settings(shard_size=256, batch_size=64, workers=0)

    def go() -> None:
        given = PREDICTION, Weights({}, {}), CLASSES, faces
        annotate.annotate(*given, folder, settings, metrics, "annotate")

    write, calls = pq.write_table, itertools.count()

    def write_and_break_off(table, path):
        write(table, path)
        if next(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(annotate.pq, "write_table", write_and_break_off)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(list(folder.iterdir())) == 3
    monkeypatch.undo()
    go()
    assert annotate.read(folder)["index"].to_pylist() == list(range(2000))
    assert [line["step"] for line in metrics.read()] == list(range(1, 9))


def test_a_run_that_is_told_to_stop_ends_after_the_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(preemption, "requested", lambda: True)
    with pytest.raises(preemption.Preempted, match="labelled shard 1 of 3"):
        label(tmp_path / "labels")
    assert len(list((tmp_path / "labels").glob("*.parquet"))) == 1
    monkeypatch.undo()
    label(tmp_path / "labels")
    assert len(annotate.read(tmp_path / "labels")) == COUNT - 1


def test_a_line_of_metrics_cut_short_by_a_kill_does_no_harm(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "epoch": 0.3, "split": "annot')
    label(tmp_path / "labels")
    assert [line["step"] for line in MetricsFile(tmp_path / "metrics.jsonl").read()] == [1, 2, 3]


def test_two_processes_share_the_shards_out(tmp_path, monkeypatch):
    """The second waits for the first, which works meanwhile and lists what both skipped."""
    folder = tmp_path / "labels"

    def there():
        return [path.name[5:10] for path in sorted(folder.glob("*.parquet"))]

    def run_the_first(seconds):
        assert there() == ["00001"]
        monkeypatch.setattr(annotate.jax, "process_index", lambda: 0)
        label(folder)

    clock = SimpleNamespace(
        perf_counter=time.perf_counter, process_time=time.process_time, sleep=run_the_first
    )
    monkeypatch.setattr(annotate, "time", clock)
    monkeypatch.setattr(annotate.jax, "process_count", lambda: 2)
    monkeypatch.setattr(annotate.jax, "process_index", lambda: 1)
    monkeypatch.setattr(annotate.parallel, "barrier", lambda name: None)
    label(folder)
    assert there() == ["00000", "00001", "00002"]
    assert len(annotate.read(folder)) == COUNT - 1
    assert (folder / "skipped.csv").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((16, 12, 0), "batch_size must be a positive multiple of the 8 devices, not 12"),
        ((20, 8, 0), "shard_size 20 is no multiple of batch_size 8"),
        ((16, 8, -1), "workers must be at least 0"),
    ],
)
def test_sizes_that_do_not_go_together_are_named(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        label(tmp_path / "labels", settings=annotate.Settings(*settings))
