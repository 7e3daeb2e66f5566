"""Annotation: every face once, whatever was killed, damaged or shared out between processes."""

import itertools

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


def steps(folder):
    return [line["step"] for line in MetricsFile(folder / "metrics.jsonl").read()]


def test_a_damaged_part_is_named_and_made_again_with_its_line(tmp_path):
    label(tmp_path / "labels")
    whole = annotate.read(tmp_path / "labels")
    part = tmp_path / "labels/part-00001-of-00003.parquet"
    part.write_bytes(part.read_bytes()[:500])
    with pytest.raises(UserError, match=r"part-00001-of-00003\.parquet is damaged: the same comm"):
        annotate.read(tmp_path / "labels")
    label(tmp_path / "labels")
    assert annotate.read(tmp_path / "labels").equals(whole)
    assert sorted(steps(tmp_path)) == [1, 2, 3]


def test_no_flipped_bit_passes_as_a_label(tmp_path):
    label(tmp_path / "labels")
    part = tmp_path / "labels/part-00000-of-00003.parquet"
    written, table = part.read_bytes(), annotate._read_part(part)
    column = pq.ParquetFile(part).metadata.row_group(0).column(2)  # of labels
    pages = range(column.dictionary_page_offset, column.data_page_offset + 60)
    for place in (*pages, *range(0, len(written), 37)):
        bits = bytearray(written)
        bits[place] ^= 1 << (place % 8)
        part.write_bytes(bits)
        if annotate._is_whole(part):  # as a bit of a statistic, or of a time
            assert annotate._read_part(part).to_pydict() == table.to_pydict()


def test_other_readers_find_checksums_in_the_pages(tmp_path):
    label(tmp_path / "labels")
    part = tmp_path / "labels/part-00000-of-00003.parquet"
    column = pq.ParquetFile(part).metadata.row_group(0).column(0)
    bits = bytearray(part.read_bytes())
    bits[column.data_page_offset + column.total_compressed_size - 2] ^= 1
    part.write_bytes(bits)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(part, page_checksum_verification=True)


@pytest.mark.parametrize("lost", ["line", "part", "both", "file", "doubled"])
def test_a_part_and_its_line_are_there_together_once_the_run_goes_on(tmp_path, lost):
    label(tmp_path / "labels")
    path, part = tmp_path / "metrics.jsonl", tmp_path / "labels/part-00001-of-00003.parquet"
    lines = path.read_text().splitlines(keepends=True)
    if lost in ("part", "both"):
        part.unlink()
    kept = {"line": lines[::2], "both": lines[::2], "file": [], "doubled": [*lines, lines[1]]}
    path.write_text("".join(kept.get(lost, lines)))
    metrics = MetricsFile(path)
    assert not annotate.complete(tmp_path / "labels", metrics, "annotate")
    label(tmp_path / "labels")
    assert sorted(steps(tmp_path)) == [1, 2, 3]
    assert annotate.complete(tmp_path / "labels", metrics, "annotate")
    if lost not in ("part", "both"):
        assert path.read_text() == "".join(lines), "what was measured is not measured again"


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

    def write_and_break_off(table, path, **options):
        write(table, path, **options)
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
    with pytest.raises(preemption.Preempted, match="labelled 1 of 3 shards"):
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

    def run_the_first(name):
        assert there() == ["00001"]
        monkeypatch.setattr(annotate.parallel, "meet", lambda name: None)
        monkeypatch.setattr(annotate.jax, "process_index", lambda: 0)
        label(folder)

    monkeypatch.setattr(annotate.jax, "process_count", lambda: 2)
    monkeypatch.setattr(annotate.jax, "process_index", lambda: 1)
    monkeypatch.setattr(annotate.parallel, "meet", run_the_first)
    monkeypatch.setattr(annotate.parallel, "barrier", lambda name: None)
    monkeypatch.setattr(annotate.parallel, "of_first_process", lambda value: value)
    monkeypatch.setattr(preemption, "noticed", lambda: False)
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
