"""CIFAR-10: both layouts, lists of annotations, and one clear line for what is wrong with them."""

import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from ferjax.data import crowd, datasets
from ferjax.data.datasets import cifar10
from ferjax.errors import UserError

REAL = Path("../shared/data/cifar10")
SMALL = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
LABELS = {"train": [6, 9, 9, 4], "test": [3, 8]}


def pixels(split, row):
    seed = [len(split), row]
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)


def write_labels(folder, split):
    rows = [f"{row},{y},{cifar10.CLASSES[y]}" for row, y in enumerate(LABELS[split])]
    (folder / f"{split}_labels.csv").write_text("\n".join(["index,label,class", *rows]) + "\n")


@pytest.fixture
def pictures(tmp_path):
    """Training pictures in a tar, test pictures in a folder, and a list of two coders."""
    folder = tmp_path / "pictures"
    for split, labels in LABELS.items():
        (folder / split).mkdir(parents=True)
        for row in range(len(labels)):
            image = pixels(split, row)[..., ::-1]
            cv2.imwrite(str(folder / split / f"{row:05d}.png"), image)
        write_labels(folder, split)
    with tarfile.open(folder / "train.tar", "w") as archive:
        archive.add(folder / "train", "train")
    for path in (folder / "train").iterdir():
        path.unlink()
    (folder / "train").rmdir()
    (folder / "said.csv").write_text("index,ann,ben\n0,6,1\n2,9,-1\n3,4,5\n")
    return folder


@pytest.fixture
def binary(tmp_path):
    folder = tmp_path / "binary"
    folder.mkdir()
    for split, names in cifar10.BINARY.items():
        for k, name in enumerate(names):
            rows = range(len(LABELS[split])) if k == 0 else []
            records = [
                np.concatenate([[LABELS[split][r]], pixels(split, r).transpose(2, 0, 1).ravel()])
                for r in rows
            ]
            content = np.array(records or [np.zeros(cifar10.RECORD)], np.uint8)
            (folder / name).write_bytes(content.tobytes())
    return folder


def load(folder, **changes):
    fields = {
        "name": "cifar10",
        "dir": str(folder),
        "cache": str(folder.parent / "cache"),
        "lists": (),
        "coders": (),
        "subset": 0,
        "seed": 0,
    }
    return datasets.load(ConfigDict(fields | changes))


def test_pictures_and_lists(pictures):
    data = load(pictures, lists=("said.csv",), coders=("ben", "clean"))
    assert data.classes[6] == "frog"
    assert data.coders == ("ben", "clean")
    assert data.train.truth.tolist() == LABELS["train"]
    assert data.train.labels["annotations"].tolist() == [[1, 6], [-1, 9], [-1, 9], [5, 4]]
    assert data.test.truth.tolist() == LABELS["test"]
    for row in range(4):
        np.testing.assert_array_equal(data.train.images[row], pixels("train", row))
    assert load(pictures, lists=("said.csv",)).coders == ("clean", "ann", "ben")
    assert load(pictures).label == "clean"
    assert len(load(pictures, subset=2).train.images) == 2


def test_the_official_binary_version(binary):
    data = load(binary)
    assert data.train.truth[:4].tolist() == LABELS["train"]
    assert data.test.truth.tolist() == LABELS["test"]
    np.testing.assert_array_equal(data.train.images[2], pixels("train", 2))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("said.csv", "index,ann\n9,1\n", r"said.csv:2: '9' is not a whole number from 0 to 3"),
        ("said.csv", "index,ann\n1,10\n", r"said.csv:2: '10' is not a whole number from 0 to 9"),
        ("said.csv", "row,ann\n1,1\n", "expected the header index and one name a coder"),
        ("said.csv", None, "data.lists: no file"),
        ("train_labels.csv", None, "train_labels.csv: no such file"),
        ("train_labels.csv", "index,label,class\n0,6,frog\n", "4 pictures, but .* lists 1"),
        ("test_labels.csv", "index,label,class\n0,3,dog\n", "label 3 is cat, not 'dog'"),
        (
            "test_labels.csv",
            "index,label,class\n1,3,cat\n0,8,ship\n",
            r"csv:2: expected index 0, not 1",
        ),
        ("test_labels.csv", "index,class\n0,cat\n", "test_labels.csv:1: no column 'label'"),
        ("test/00001.png", b"no picture", r"test/00001.png: image is corrupt \(1 in all\)"),
        ("test/00001.png", SMALL, r"test/00001.png: image is 8×8 pixels"),
    ],
)
def test_mistakes_are_named(pictures, name, content, message):
    (pictures / name).unlink()
    if content is not None:
        (pictures / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        load(pictures, lists=("said.csv",))


def test_an_unknown_coder_and_a_cut_file_are_named(pictures, binary):
    with pytest.raises(UserError, match="no coder 'zoe', there are clean, ann, ben"):
        load(pictures, lists=("said.csv",), coders=("zoe",))
    (binary / "test_batch.bin").write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="100 bytes are no records of 3,073"):
        load(binary)


@pytest.mark.skipif(not REAL.exists(), reason="the CIFAR-10 files are not beside the project")
def test_real_lists_are_as_wrong_as_published(tmp_path):
    """The three coders of the paper err 40, 30 and 20 % of the time, and EM makes 87.4 % of them.

    The lists are checked without the pictures, which would take ten seconds to prepare."""
    truth = cifar10.read_truth(REAL / "train_labels.csv")
    said = cifar10.read_list(REAL / "ltnet_noise_60_70_80.csv", len(truth))
    annotations = np.stack(list(said.values()), axis=1)
    np.testing.assert_allclose(
        (annotations == truth[:, None]).mean(axis=0), [0.6, 0.7, 0.8], atol=0.01
    )
    found = crowd.dawid_skene(annotations, 10, start="majority", seed=0)
    assert (found.posteriors.argmax(axis=1) == truth).mean() == pytest.approx(0.874, abs=1e-3)
