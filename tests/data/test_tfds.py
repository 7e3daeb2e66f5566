"""Any prepared TFDS set of pictures and labels, by name."""

import json

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from ferjax.data import datasets
from ferjax.errors import UserError

SHAPES = ("circle", "square", "star")


def picture(value, side=12):
    return cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))[1].tobytes()


class Shapes(tfds.core.GeneratorBasedBuilder):
    """Three pictures to train on and two to test on, each of its number's brightness."""

    VERSION = tfds.core.Version("1.2.0")
    SPLITS = ("train", "test")

    def features(self):
        return {
            "photo": tfds.features.Image(shape=(12, 12, 3)),
            "kind": tfds.features.ClassLabel(names=SHAPES),
            "size": np.int32,
        }

    def _info(self):
        features = tfds.features.FeaturesDict(self.features())
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        counts = (3, 2)
        return {
            split: self._generate_examples(10 * k, counts[k]) for k, split in enumerate(self.SPLITS)
        }

    def _generate_examples(self, start, count):
        for row in range(count):
            example = {"photo": picture(start + row), "kind": (row + 1) % 3, "size": row}
            yield row, {name: example[name] for name in self.features() if name in example}


class Unlabelled(Shapes):
    def features(self):
        return {"photo": tfds.features.Image(shape=(None, None, 3)), "size": np.int32}


class Faces(Shapes):
    SPLITS = ("train", "validation")

    def features(self):
        return super().features() | {"kind": tfds.features.ClassLabel(names=("happy", "neutral"))}

    def _generate_examples(self, start, count):
        for row in range(count):
            yield row, {"photo": picture(start + row), "kind": row % 2, "size": row}


def prepare(builder, folder, file_format="array_record"):
    tfds.disable_progress_bar()
    prepared = builder(data_dir=folder, file_format=file_format)
    prepared.download_and_prepare(download_dir=folder / "downloads")
    return prepared


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data_dir")
    for builder in (Shapes, Unlabelled, Faces):
        prepare(builder, folder)
    return folder


def load(folder, dataset="shapes", **changes):
    fields = {
        "name": "tfds",
        "dataset": dataset,
        "dir": str(folder),
        "image_size": 0,
        "channels": 0,
        "max_megapixels": 64.0,
        "train_parts": ("train",),
        "test_part": "",
        "subset": 0,
        "seed": 0,
    }
    return datasets.load(ConfigDict(fields | changes))


def test_a_set_is_loaded_by_its_name(folder):
    data = load(folder)
    assert data.classes == SHAPES
    assert data.coders == ("shapes",)
    assert data.label == "shapes"
    assert data.image_shape == (12, 12, 3)
    assert data.train.labels["annotations"].tolist() == [[1], [2], [0]]
    assert data.train.truth.tolist() == [1, 2, 0]
    assert data.test.truth.tolist() == [1, 2]
    assert list(data.test.names) == ["test/0", "test/1"]
    assert data.train.images.faces(np.arange(3))[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.test.images.faces(np.arange(2))[:, 0, 0, 0].tolist() == [10, 11]
    assert load(folder, "shapes:1.2.0", image_size=8).image_shape == (8, 8, 3)
    grey = load(folder, channels=1)
    assert grey.image_shape == grey.train.images[0].shape == (12, 12, 1)


def test_classes_of_faces_are_put_into_our_order(folder):
    data = load(folder, "faces")
    assert data.classes == ("neutral", "happy")
    assert data.train.truth.tolist() == [1, 0, 1]
    assert list(data.test.names) == ["validation/0", "validation/1"]


@pytest.mark.parametrize(
    ("dataset", "changes", "message"),
    [
        ("", {}, "data.dataset is not set"),
        ("mnist", {}, r"mnist: no prepared dataset; prepare mnist there by `tfds build"),
        ("shapes:9.0.0", {}, r"no such version in .*shapes, there are 1\.2\.0"),
        ("unlabelled", {}, "unlabelled: no feature of kind ClassLabel"),
        ("shapes", {"test_part": "val"}, "shapes: no split 'val', there are test, train"),
        ("shapes", {"test_part": "train"}, "shapes: split 'train' is used twice"),
        ("shapes", {"image_size": 4}, "data.image_size must be at least 8"),
        ("shapes", {"channels": 2}, "data.channels must be 1, 3 or 0"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_a_line(folder, dataset, changes, message):
    with pytest.raises(UserError, match=message) as error:
        load(folder, dataset, **changes)
    assert "\n" not in str(error.value)


def test_another_file_format_is_refused(folder, tmp_path):
    info = prepare(Shapes, tmp_path).info
    path = tmp_path / "shapes/1.2.0/dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "tfrecord"}))
    assert info.file_format.value == "array_record"
    with pytest.raises(UserError, match="shapes: prepared as tfrecord, not as ArrayRecord"):
        load(tmp_path)


def test_a_config_must_be_named_if_there_are_several(folder, tmp_path):
    prepare(Shapes, tmp_path / "shapes" / "x")
    for name in ("big", "small"):
        (tmp_path / "sets/shapes").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sets/shapes" / name).symlink_to(tmp_path / "shapes/x/shapes")
    with pytest.raises(UserError, match=r"shapes: which config.* shapes/big, shapes/small"):
        load(tmp_path / "sets")
    assert load(tmp_path / "sets", "shapes/big").coders == ("shapes/big",)


def test_an_incomplete_set_is_named(tmp_path):
    prepare(Shapes, tmp_path)
    (shard,) = tmp_path.glob("shapes/1.2.0/*-test.*")
    shard.unlink()
    with pytest.raises(UserError, match=r"shapes: incomplete, there is no .*-test\.array_record"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("features.json", "TFDS cannot read what describes the set"),
        ("dataset_info.json", "TFDS cannot read what describes the set"),
        ("*-train.*", "a record is damaged or has no 'kind'"),
    ],
)
def test_a_damaged_set_is_named_in_a_line(tmp_path, pattern, message):
    prepare(Shapes, tmp_path)
    (path,) = tmp_path.glob(f"shapes/1.2.0/{pattern}")
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(UserError, match=rf"shapes/1\.2\.0: {message}") as error:
        load(tmp_path)
    assert "\n" not in str(error.value)
