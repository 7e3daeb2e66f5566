"""Faces from folder trees, lists and ArrayRecord, damaged ones told; and the dataset of them."""

import os
import pickle
import shutil
import zlib

import cv2
import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from ferjax.data import datasets, pipeline, sources
from ferjax.data.datasets import folder
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
    endings = "jpg, jpeg, png, webp, bmp, tif, tiff"
    with pytest.raises(UserError, match=rf"no picture \({endings}\) in it"):
        sources.find(tmp_path, 8, 1)
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        UserError, match=r"list\.txt:1: expected a list or table, but this is not UTF-8 text"
    ):
        sources.find(tmp_path / "list.txt", 8, 1)


def config(**changes):
    fields = {
        "path": "",
        "test_path": "",
        "coder": "team",
        "classes": 7,
        "image_size": 8,
        "channels": 1,
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
    (copy / "sad/bad.png").write_bytes(picture(0))
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
