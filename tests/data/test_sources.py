"""Faces from folder trees, lists and ArrayRecord, damaged ones told; and the dataset of them."""

import os
import pickle
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from ferjax.data import datasets, pipeline, sources
from ferjax.data.datasets import folder
from ferjax.data.record import CLASSES, Concatenated, Subset
from ferjax.errors import UserError


def picture(brightness, ending=".png"):
    return cv2.imencode(ending, np.full((10, 12, 3), brightness, np.uint8))[1].tobytes()


@pytest.fixture
def tree(tmp_path):
    """Three pictures in folders, one damaged, one of no bytes, and a text file."""
    for name in ("happy/b.png", "happy/a.jpg", "sad/deep/c.WEBP"):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(100, path.suffix.lower()))
    (tmp_path / "tree/sad/bad.png").write_bytes(b"no picture")
    (tmp_path / "tree/sad/empty.png").write_bytes(b"")
    (tmp_path / "tree/sad/notes.txt").write_text("no picture")
    return tmp_path / "tree"


def test_a_tree_is_searched_in_the_order_of_names_and_damage_is_told(tree):
    found = sources.find(tree, size=8, channels=1)
    names = ["happy/a.jpg", "happy/b.png", "sad/bad.png", "sad/deep/c.WEBP", "sad/empty.png"]
    assert list(found.names) == names
    assert list(found.labels) == ["happy", "happy", "sad", "deep", "sad"]
    faces, readable = found.pictures.read(np.array([4, 3, 0, 2]))
    assert readable.tolist() == [False, True, True, False]
    assert faces.shape == (4, 8, 8, 1)
    np.testing.assert_allclose(faces[[1, 2]], 100, atol=1)
    assert (faces[[0, 3]] == 0).all()
    with pytest.raises(UserError, match=r"sad/bad\.png is not a readable picture"):
        found.pictures[2]
    (tree / "happy/a.jpg").unlink()
    assert not found.pictures.read(np.array([0]))[1][0]


def test_a_link_to_a_folder_is_followed_unless_it_leads_back(tree):
    (tree / "happy/up").symlink_to(tree, target_is_directory=True)
    (tree / "happy/here").symlink_to(tree / "happy")
    (tree / "more").symlink_to(tree / "sad/deep")
    names = list(sources.find(tree, size=8, channels=1).names)
    assert len(names) == 6
    assert "more/c.WEBP" in names


def test_hidden_files_are_no_pictures_and_old_formats_are(tmp_path):
    (tmp_path / "._a.png").write_bytes(picture(1))
    (tmp_path / ".thumbnails").mkdir()
    (tmp_path / ".thumbnails/a.png").write_bytes(picture(1))
    for ending in (".bmp", ".tif"):
        (tmp_path / f"a{ending}").write_bytes(picture(7, ending))
    found = sources.find(tmp_path, size=8, channels=3)
    assert list(found.names) == ["a.bmp", "a.tif"]
    faces, readable = found.pictures.read(np.arange(2))
    assert readable.all()
    assert (faces == 7).all()


def test_a_list_gives_names_beside_it_and_labels_if_asked(tree):
    path = tree / "list.txt"
    path.write_text("happy/b.png happy\r\n\nname with spaces.png   2\n")
    (tree / "name with spaces.png").write_bytes(picture(7))
    found = sources.find(path, size=8, channels=3, labelled=True)
    assert list(found.names) == ["happy/b.png", "name with spaces.png"]
    assert list(found.labels) == ["happy", "2"]
    np.testing.assert_allclose(found.pictures[1], 7)
    path.write_text("happy/b.png\n")
    assert list(sources.find(path, 8, 3).names) == ["happy/b.png"]
    with pytest.raises(UserError, match=r"list\.txt:1: expected '<file name> <label>', got 'happy"):
        sources.find(path, 8, 3, labelled=True)
    path.write_text("happy/b.png,happy/a.jpg\n")
    with pytest.raises(UserError, match=r"no file 'happy/b\.png,happy/a\.jpg' beside it"):
        sources.find(path, 8, 3)


def test_a_list_may_be_a_table_and_written_on_windows(tree):
    (tree / "list.csv").write_text("file,expression\nhappy\\b.png,happy\n")
    found = sources.find(tree / "list.csv", size=8, channels=3, labelled=True)
    assert list(found.names) == ["happy/b.png"]
    assert list(found.labels) == ["happy"]


def test_a_picture_that_claims_to_be_huge_and_a_name_that_is_no_text_are_damaged(tmp_path):
    chunk = b"IHDR" + b"\x7f\xff\xff\xff" * 2 + b"\x08\x02\x00\x00\x00"
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(header + picture(9)[33:])
    (tmp_path / "fine.png").write_bytes(picture(9))
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:
        file.write(picture(9))
    found = sources.find(tmp_path, size=8, channels=1)
    assert list(found.names) == [r"caf\udce9.png", "fine.png", "huge.png"]
    assert found.pictures.read(np.arange(3))[1].tolist() == [False, True, False]


def test_array_record_holds_pictures_or_examples(tmp_path):
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(picture(50))
    for name, records in {
        "a.array_record-00000-of-00002": [picture(10), b"\x00damaged"],
        "a.array_record-00001-of-00002": [example.SerializeToString()],
    }.items():
        writer = ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    found = sources.find(tmp_path, size=8, channels=1)
    assert list(found.names)[2] == "a.array_record-00001-of-00002:0"
    faces, readable = pickle.loads(pickle.dumps(found.pictures)).read(np.arange(3))
    assert readable.tolist() == [True, False, True]
    assert faces[:, 0, 0, 0].tolist() == [10, 0, 50]
    assert len(sources.find(tmp_path / "a.array_record-00001-of-00002", 8, 1).names) == 1
    with pytest.raises(UserError, match="ArrayRecord has no labels"):
        sources.find(tmp_path, 8, 1, labelled=True)
    (tmp_path / "a.array_record-00001-of-00002").write_bytes(b"no record")
    with pytest.raises(UserError, match="not a readable ArrayRecord file"):
        sources.find(tmp_path, 8, 1)


def test_places_without_pictures_are_named(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        sources.find(tmp_path / "nowhere", 8, 1)
    endings = "jpg, jpeg, jpe, jfif, png, webp, bmp, tif, tiff, gif, pgm, ppm, pbm, pnm"
    with pytest.raises(UserError, match=rf"no picture \({endings}\) in it$"):
        sources.find(tmp_path, 8, 1)
    (tmp_path / "a.heic").touch()
    with pytest.raises(UserError, match=r"in it, but by ending 1 \.heic$"):
        sources.find(tmp_path, 8, 1)
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(UserError, match=r"empty\.txt: no picture is listed in it"):
        sources.find(tmp_path / "empty.txt", 8, 1)
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UserError, match="neither a folder nor a regular file"):
            sources.find(path, 8, 1)
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        UserError, match=r"list\.txt:1: expected a list or table, but this is not UTF-8 text"
    ):
        sources.find(tmp_path / "list.txt", 8, 1)


def test_every_format_is_read_and_other_files_are_counted_by_their_ending(tmp_path, caplog):
    for ending in (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm"):
        (tmp_path / f"a{ending}").write_bytes(picture(100, ending))
    (tmp_path / "a.pgm").write_bytes(b"P5 12 10 255\n" + b"d" * 120)
    shutil.copy(tmp_path / "a.jpg", tmp_path / "b.JFIF")
    for name in ("a.heic", "b.heic", "notes.TXT", "Makefile", ".hidden.heic"):
        (tmp_path / name).touch()
    found = sources.find(tmp_path, size=8, channels=1)
    assert len(found.names) == 9
    assert found.pictures.read(np.arange(9))[1].all()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{tmp_path}: left out files that are no pictures by their ending: "
        "2 .heic, 1 .txt, 1 without one"
    )


def test_a_picture_above_the_limit_is_not_decoded_and_is_named(tmp_path):
    for name, side in (("a.png", 200), ("b.png", 100)):
        pixels = np.zeros((side, side, 3), np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    found = sources.find(tmp_path, 8, 1, max_megapixels=0.01)
    assert found.pictures.read(np.arange(2))[1].tolist() == [False, True]
    with pytest.raises(UserError, match=r"a\.png is 200×200 pixels, above the limit of 0\.01 mega"):
        Subset(Concatenated([found.pictures]), np.array([1, 0])).faces(np.arange(2))
    assert sources.find(tmp_path, 8, 1).pictures.read(np.arange(2))[1].all()
    with pytest.raises(UserError, match="max_megapixels must be above 0, not 0"):
        sources.find(tmp_path, 8, 1, max_megapixels=0.0)


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    (tmp_path / "fine.png").write_bytes(picture(1))
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    found = sources.find(tmp_path, 8, 1)
    assert found.pictures.read(np.arange(2))[1].tolist() == [True, False]


def test_devices_pipes_and_rings_of_links_are_no_pictures(tree):
    os.mkfifo(tree / "happy/pipe.png")
    (tree / "happy/ring.png").symlink_to(tree / "happy/ring.png")
    names = ["happy/b.png", "happy/pipe.png", "/dev/zero", "happy/ring.png", "x" * 300]
    (tree / "list.txt").write_text("\n".join(names))
    pictures = sources.find(tree / "list.txt", 8, 1).pictures
    assert pictures.read(np.arange(5))[1].tolist() == [True, False, False, False, False]
    names = list(sources.find(tree, 8, 1).names)
    assert {"happy/pipe.png", "happy/ring.png"} < set(names)
    for name, reason in {
        "happy/pipe.png": "not a regular file",
        "/dev/zero": "(empty file|not a regular file)",
        "happy/ring.png": "Too many levels of symbolic links",
        "x" * 300: "File name too long",
    }.items():
        (tree / "list.txt").write_text(f"happy/b.png happy\n{name} happy\n")
        with pytest.raises(UserError, match=rf"list\.txt:2: {name[:80]}: {reason}") as raised:
            sources.find(tree / "list.txt", 8, 1, labelled=True)
        assert len(str(raised.value)) <= 300


def config(**changes):
    fields = {
        "path": "",
        "test_path": "",
        "coder": "team",
        "classes": 7,
        "image_size": 8,
        "channels": 1,
        "max_megapixels": 64.0,
    }
    return ConfigDict(fields | changes)


def test_the_folder_dataset_is_labelled_by_folders_unless_it_has_no_coder(tree):
    (tree / "sad/deep").rename(tree / "fear")
    with pytest.raises(UserError, match=r"sad/empty\.png: empty file"):
        folder.load(config(path=str(tree)))
    (tree / "sad/empty.png").write_bytes(picture(0))
    copy = shutil.copytree(tree, tree.with_name("copy"))
    with pytest.raises(UserError, match=r"sad/bad\.png is not a readable picture"):
        folder.load(config(path=str(tree), test_path=str(copy)))
    for row, path in enumerate(sorted(copy.rglob("*.*"))):
        if path.suffix != ".txt":
            path.write_bytes(picture(10 * row, path.suffix.lower()))
    labelled = folder.load(config(path=str(tree), test_path=str(copy)))
    assert labelled.train.labels["annotations"][:, 0].tolist() == [4, 1, 1, 2, 2]
    assert (labelled.train.truth == -1).all(), "the coder's word alone"
    assert labelled.test.truth.tolist() == [4, 1, 1, 2, 2]
    unlabelled = folder.load(config(path=str(tree), coder=""))
    assert unlabelled.coders == ()
    assert unlabelled.train.labels["annotations"].shape == (5, 0)
    assert (unlabelled.train.truth == -1).all()
    assert len(unlabelled.test.images) == 0
    cached = pipeline.cache(unlabelled.train)
    assert not cached.images.in_memory, "damaged pictures would be wanted"


@pytest.mark.parametrize("coder", ["team", ""])
@pytest.mark.parametrize(
    "spelling",
    ["happy/b.png", "./happy/../happy//b.png", "{tree}/happy/b.png", "{tree}/../link/happy/b.png"],
)
def test_pictures_to_evaluate_on_must_not_be_learnt_from(tree, coder, spelling):
    shutil.move(tree / "sad/deep/c.WEBP", tree / "sad")
    (tree / "sad/empty.png").unlink()
    tree.with_name("link").symlink_to(tree)
    (tree / "list.txt").write_text(f"{spelling.format(tree=tree)} happy\n")
    places = {"path": str(tree), "test_path": str(tree / "list.txt")}
    with pytest.raises(UserError, match=r"shares 1 of its pictures with data.path: happy/b\.png"):
        folder.load(config(coder=coder, **places))


def test_nor_by_way_of_another_set(tree):
    shutil.move(tree / "sad/deep/c.WEBP", tree / "sad")
    (tree / "list.txt").write_text("happy/b.png happy\n")
    sets = {
        "everything": config(path=str(tree), coder=""),
        "mine": config(test_path=str(tree / "list.txt")),
    }
    for part in sets.values():
        part.name = "folder"
    with pytest.raises(UserError, match=r"no test faces; set data\.sets\.everything\.test_path"):
        datasets.load(ConfigDict({"name": "union", "sets": {"everything": sets["everything"]}}))
    message = (
        "data.sets.mine.test_path shares 1 of its pictures with data.sets.everything.path: happy"
    )
    with pytest.raises(UserError, match=message):
        datasets.load(ConfigDict({"name": "union", "sets": sets}))


@pytest.fixture
def halves(tmp_path):
    """Five pictures to train on and three to test on; two of these are among those, renamed."""
    for name, brightness in {
        **{f"train/happy/{row}.png": row for row in range(3)},
        **{f"train/sad/{row}.png": row for row in range(3, 5)},
        **{"test/happy/a.png": 2, "test/sad/b.png": 3, "test/sad/c.png": 99},
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(brightness))
    return tmp_path


COPIES = "2 test files are byte-identical to 2 training files, which are left out of training"


@pytest.mark.parametrize("coder", ["team", ""])
@pytest.mark.parametrize("kind", ["folders", "lists"])
def test_copies_of_test_pictures_are_left_out_of_training(halves, coder, kind):
    paths = {"path": halves / "train", "test_path": halves / "test"}
    if kind == "lists":
        for field, tree in paths.items():
            rows = [f"{x.relative_to(halves)} {x.parent.name}" for x in sorted(tree.glob("*/*"))]
            rows = rows if coder or field == "test_path" else [row.split()[0] for row in rows]
            paths[field] = halves / f"{tree.name}.txt"
            paths[field].write_text("\n".join(rows))
    data = folder.load(config(coder=coder, **{field: str(path) for field, path in paths.items()}))
    assert [Path(name).name for name in data.train.names] == ["0.png", "1.png", "4.png"]
    assert data.train.images.faces(np.arange(3))[:, 0, 0, 0].tolist() == [0, 1, 4]
    assert len(data.test.names) == 3
    assert data.notes == (COPIES,)


def test_so_are_copies_of_the_test_pictures_of_another_set(halves):
    sets = {
        "everything": config(path=str(halves / "train"), coder=""),
        "mine": config(test_path=str(halves / "test")),
    }
    for part in sets.values():
        part.name = "folder"
    data = datasets.load(ConfigDict({"name": "union", "sets": sets}))
    assert len(data.train.names) == 3
    assert data.notes == (f"everything: {COPIES}",)


def test_only_files_as_long_as_a_test_picture_are_read(halves, monkeypatch):
    (halves / "train/happy/0.png").write_bytes(picture(0) + b"more")
    lengths = []
    digest = folder.hashlib.file_digest
    monkeypatch.setattr(
        folder.hashlib,
        "file_digest",
        lambda file, kind: lengths.append(os.fstat(file.fileno()).st_size) or digest(file, kind),
    )
    tested = {path.stat().st_size for path in halves.glob("test/*/*")}
    folder.load(config(path=str(halves / "train"), test_path=str(halves / "test")))
    assert lengths
    assert set(lengths) <= tested


def test_a_test_picture_listed_twice_counts_once_however_it_is_spelt(halves, caplog):
    rows = ["test/happy/a.png happy", "test/sad/c.png sad", "./test/sad/../happy/a.png happy"]
    path = halves / "test.txt"
    path.write_text("\n".join([*rows, rows[1]]))
    note = f"{path}: 2 rows of pictures listed before left out"
    data = folder.load(config(path=str(halves / "train"), test_path=str(path)))
    assert list(data.test.names) == ["test/happy/a.png", "test/sad/c.png"]
    assert data.test.truth.tolist() == [1, 2]
    assert note in data.notes
    assert len(folder.to_test(path, 8, 1, CLASSES[:7]).names) == 2
    assert [record.getMessage() for record in caplog.records] == [note]
    path.write_text("\n".join([*rows[:2], rows[2].replace(" happy", " sad")]))
    with pytest.raises(UserError, match=r"test\.txt:3: .*/a\.png is listed again with another lab"):
        folder.to_test(path, 8, 1, CLASSES[:7])


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("happy/b.png happy\nhappy/c.png sad\n", r"list\.txt:2: happy/c\.png: No such file"),
        (
            "happy/b.png happy\nhappy/b.png sad\n",
            r"list\.txt:2: happy/b\.png is listed again with another label",
        ),
    ],
)
def test_labelled_pictures_of_a_list_are_there_and_have_one_label(tree, lines, message):
    (tree / "list.txt").write_text(lines)
    with pytest.raises(UserError, match=message):
        sources.find(tree / "list.txt", 8, 1, labelled=True)
    (tree / "list.txt").write_text("happy/b.png happy\nhappy/b.png happy\n")
    assert len(sources.find(tree / "list.txt", 8, 1, labelled=True).names) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "data.path is not set"),
        ({"path": "TREE"}, r"tree: sad/deep/c\.WEBP: label 'deep' is none of neutral, happy"),
        ({"path": "TREE", "image_size": 4}, "data.image_size must be at least 8"),
        ({"path": "TREE", "channels": 2}, "data.channels must be 1 or 3"),
        ({"path": "TREE", "classes": 9}, "data.classes must be 2 to 8"),
    ],
)
def test_mistakes_in_the_folder_dataset_are_named(tree, changes, message):
    (tree / "sad/empty.png").unlink()
    changes = {k: str(tree) if v == "TREE" else v for k, v in changes.items()}
    with pytest.raises(UserError, match=message):
        folder.load(config(**changes))
