"""Checksums tell data apart, and tell of damage before a run begins."""

import cv2
import numpy as np
import pytest

from configs.datasets import faces
from ferjax.data import fingerprint, images
from ferjax.data.datasets import folder
from ferjax.data.record import InMemory, Names
from ferjax.errors import UserError
from tests import tiny


def test_a_damaged_picture_stops_a_run_before_it_begins_if_somebody_labelled_it(tmp_path):
    """Else the run could not go on once the picture is mended: these would be other data."""
    for row in range(2):
        path = tmp_path / f"happy/{row}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), row, np.uint8))
    path.write_bytes(b"no picture")
    config = faces.folder("team")
    config.update(path=str(tmp_path), image_size=8, channels=1)
    with pytest.raises(UserError, match=r"happy/1\.png is not a readable picture"):
        fingerprint.checksum_of(folder.load(config).train)
    config.coder = ""
    unlabelled = folder.load(config).train
    assert fingerprint.checksum_of(unlabelled) > 0
    assert fingerprint.checksum_of_pictures(unlabelled.images) > 0


def test_no_picture_is_decoded_twice_however_few_there_are(tmp_path, monkeypatch):
    for row in range(3):
        path = tmp_path / f"happy/{row}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8), row, np.uint8))
    config = faces.folder()
    config.update(path=str(tmp_path), image_size=8, channels=1)
    images_of = folder.load(config).train.images
    decoded = []
    decode = images.decode
    monkeypatch.setattr(images, "decode", lambda *x: decoded.append(x[0]) or decode(*x))
    fingerprint.checksum_of_pictures(images_of)
    assert len(decoded) == len(set(decoded)) == 3
    assert fingerprint._sample(InMemory(np.zeros((1000, 1, 1, 1), np.uint8))).shape == (256,)


def changed(part):
    """The tiny training split, but for one value."""
    split = tiny.dataset().train
    match part:
        case "names":
            return split._replace(names=[*split.names[:-1], "other.png"])
        case "annotations":
            annotations = split.labels["annotations"].copy()
            annotations[5] = -1
            return split._replace(labels=split.labels | {"annotations": annotations})
        case "truth":
            return split._replace(truth=np.concatenate([split.truth[:-1], [-1]]).astype(np.int32))
        case "pixels":
            pixels = split.images.array.copy()
            pixels[7, 0, 0, 0] ^= 1
            return split._replace(images=InMemory(pixels))


@pytest.mark.parametrize("part", ["names", "annotations", "truth", "pixels"])
def test_data_that_differ_in_one_value_are_told_apart(part):
    data = tiny.dataset()
    same, other = (
        fingerprint.fingerprint(data.with_split("train", split))
        for split in (tiny.dataset().train, changed(part))
    )
    assert same == fingerprint.fingerprint(data)
    assert other["checksums"]["train"] != same["checksums"]["train"]
    assert other["checksums"]["test"] == same["checksums"]["test"]


def test_names_are_told_apart_by_where_they_end_and_not_by_how_they_are_stored():
    names = ["a.png", "b.png"]
    checksum = fingerprint.checksum_of_names(names)
    assert fingerprint.checksum_of_names(Names.of(names)) == checksum
    assert fingerprint.checksum_of_names(["a.pngb.png"]) != checksum
