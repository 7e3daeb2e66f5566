"""A finished model in Python: faces of any kind in, labels and probabilities out."""

import logging
import shutil

import cv2
import numpy as np
import pytest

import ferjax
from configs import cct, elr, ltnet, supervised
from ferjax import main
from ferjax.data import prepared
from ferjax.errors import UserError
from tests import tiny

SMALL = {
    "data.train_size": 32,
    "data.test_size": 16,
    "data.image_size": 24,
    "model.name": tiny.NETWORK,
    "model.width": 4,
    "loop.eval_batch_size": 16,
}


def run(folder, config, stage, **changes):
    """A run of one step a stage."""
    recipe = {f"{stage}.batch_size": 16, f"{stage}.steps": 1}
    config.update_from_flattened_dict(SMALL | recipe | changes)
    assert main.execute(config, folder) == 0
    return folder


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """CCT's workdir, of RGB faces of 24×24."""
    changes = {"student.steps": 1, "student.batch_size": 16, "teachers.networks": 2}
    return run(tmp_path_factory.mktemp("cct"), cct.get_config(), "teachers", **changes)


@pytest.fixture(scope="module")
def model(finished):
    return ferjax.load(finished)


def face(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_one_image_or_a_batch_of_any_size_grey_or_rgb_is_predicted(model):
    big = face(50, 40, 3)
    one = model.predict(big)
    assert one.probabilities["class"].shape == (1, 7)
    np.testing.assert_allclose(one.probabilities["class"].sum(), 1, rtol=1e-5)
    assert one.labels == (model.classes[one.probabilities["class"].argmax()],)
    resized = model.predict(prepared.resize(big, 24))
    np.testing.assert_array_equal(resized.probabilities["class"], one.probabilities["class"])
    several = model.predict(np.stack([big, face(50, 40, 3, seed=1)]))
    np.testing.assert_allclose(
        several.probabilities["class"][:1], one.probabilities["class"], rtol=1e-4
    )
    grey = face(24, 24)
    as_rgb = model.predict(np.repeat(grey[..., None], 3, axis=2)).probabilities["class"]
    for same in (grey, grey[..., None], [grey]):
        np.testing.assert_array_equal(model.predict(same).probabilities["class"], as_rgb)


def test_paths_are_predicted_as_their_pixels(model, tmp_path):
    pixels = face(24, 24, 3)
    path = tmp_path / "face.png"
    cv2.imwrite(str(path), pixels[..., ::-1])
    expected = model.predict(pixels).probabilities["class"]
    for given in (path, str(path), [path]):
        np.testing.assert_array_equal(model.predict(given).probabilities["class"], expected)
    assert len(model.predict([path, pixels, str(path)]).labels) == 3


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((24, 24, 3), np.float32), "pictures must be uint8, from 0 to 255, not float32"),
        (np.zeros(24, np.uint8), r"expected an array \[height, width\].*not \[24\]"),
        (np.zeros((24, 24, 4), np.uint8), r"of 1 or 3 channels, not \[24, 24, 4\]"),
        (np.zeros((0, 24, 24, 3), np.uint8), r"not \[0, 24, 24, 3\]"),
        ([], "predict: no picture was given"),
        ("nowhere.png", "predict: nowhere.png: No such file"),
    ],
)
def test_what_is_no_picture_is_named(model, images, message):
    with pytest.raises(UserError, match=message):
        model.predict(images)


def test_a_damaged_file_is_named(model, tmp_path):
    (tmp_path / "face.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"face\.png is not a readable picture"):
        model.predict(tmp_path / "face.png")


def test_it_predicts_what_its_run_did(finished, model):
    from ferjax.data import datasets

    config = cct.get_config()
    config.update_from_flattened_dict(SMALL)
    test = datasets.load(config.data.copy_and_resolve_references()).test
    with np.load(finished / "stages/student/predictions.npz") as saved:
        expected = saved["test"]
    faces = test.images.faces(np.arange(16))
    np.testing.assert_allclose(model.predict(faces).probabilities["class"], expected, rtol=1e-4)


def test_other_stages_and_their_heads_can_be_loaded(finished):
    teachers = ferjax.load(finished, stage="teachers")
    found = teachers.predict(face(24, 24, 3)).probabilities
    assert list(found) == ["average", "vote", "network_1", "network_2"]
    mean = (found["network_1"] + found["network_2"]) / 2
    np.testing.assert_allclose(found["average"], mean, rtol=1e-5)


def test_neither_the_other_stages_nor_the_data_are_needed(finished, tmp_path):
    shutil.copytree(finished / "stages/student", tmp_path / "stages/student")
    shutil.copy(finished / "config.json", tmp_path)
    assert ferjax.load(tmp_path).name == "student"


def test_loading_says_nothing(finished, caplog):
    with caplog.at_level(logging.WARNING):
        ferjax.load(finished)
    assert caplog.records == []


def test_a_model_with_an_array_for_each_face_loads(tmp_path):
    run(tmp_path, elr.get_config(), "elr")
    assert len(ferjax.load(tmp_path).predict(face(24, 24, 3)).labels) == 1


def test_a_network_of_two_heads_gives_classes_and_valence_and_arousal(tmp_path):
    run(tmp_path, supervised.get_config("synthetic_va"), "supervised")
    found = ferjax.load(tmp_path).predict(face(3, 24, 24, 3))
    assert len(found.labels) == 3
    assert found.valence_arousal["va"].shape == (3, 2)


def test_ltnet_gives_the_truth_and_each_coders_annotation(tmp_path):
    config = ltnet.get_config()
    for part in config.data.sets.values():
        part.train_size, part.test_size, part.image_size = 32, 8, 24
    changes = {"model.name": tiny.NETWORK, "model.width": 4, "loop.eval_batch_size": 16}
    changes |= {"ltnet.batch_size": 16, "ltnet.steps": 1, "stages": ("ltnet",)}
    config.update_from_flattened_dict(changes)
    assert main.execute(config, tmp_path) == 0
    found = ferjax.load(tmp_path).predict(face(24, 24, 3))
    assert list(found.probabilities) == ["truth", "as_east", "as_west"]
    assert found.labels == (ferjax.load(tmp_path).classes[found.probabilities["truth"].argmax()],)


def test_what_cannot_be_loaded_is_named(finished, tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        ferjax.load(tmp_path)
    with pytest.raises(UserError, match="has no finished stage 'magic'; there are baseline"):
        ferjax.load(finished, stage="magic")
    with pytest.raises(UserError, match="weights='worst' is none of last, best"):
        ferjax.load(finished, weights="worst")
    with pytest.raises(UserError, match="did the run hold faces out"):
        ferjax.load(finished, weights="best")
