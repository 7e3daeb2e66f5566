"""A finished model: pictures of any kind in, the answers of its run out, and mistakes in a line."""

import json
import logging
import re
import shutil
from contextlib import closing

import cv2
import numpy as np
import pytest

import ferjax
from configs import cct, elr, ltnet, supervised
from ferjax import main, metrics
from ferjax.checkpoints import Checkpoints
from ferjax.data.images import decode, resize, to_grey
from ferjax.data.load import load_dataset
from ferjax.data.record import CLASSES
from ferjax.errors import UserError
from ferjax.methods.method import Prediction
from ferjax.nn.heads import Head
from ferjax.nn.networks import Weights
from ferjax.predictor import BATCH, Predictor
from tests import tiny

RUN = {
    "data.train_size": 48,
    "data.test_size": 16,
    "data.image_size": 24,
    "model.name": tiny.NETWORK,
    "model.width": 4,
    "loop.eval_batch_size": 16,
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def finish(config, folder, **changes):
    """Runs a config on 48 faces to its end."""
    config.update_from_flattened_dict(RUN | changes)
    assert main.execute(config, folder) == 0
    return folder


@pytest.fixture(scope="module")
def student_run(tmp_path_factory):
    recipe = {"teachers.networks": 2, "teachers.epochs": 2.0, "student.epochs": 1.0}
    sizes = {"teachers.batch_size": 16, "student.batch_size": 16}
    return finish(cct.get_config(), tmp_path_factory.mktemp("cct"), **recipe, **sizes)


@pytest.fixture(scope="module")
def validated_run(tmp_path_factory):
    """Two heads, and a quarter of the faces held out."""
    changes = {"supervised.epochs": 2.0, "supervised.batch_size": 16, "data.validation": 0.25}
    config = supervised.get_config("synthetic_va")
    return finish(config, tmp_path_factory.mktemp("two_heads"), **changes)


@pytest.fixture(scope="module")
def student(student_run):
    return ferjax.load(student_run)


def loaded(config, **changes):
    config.update_from_flattened_dict(RUN | changes)
    return load_dataset(config.copy_and_resolve_references())


@pytest.fixture(scope="module")
def split():
    return loaded(cct.get_config()).test


@pytest.fixture(scope="module")
def faces(split):
    return pixels(split)


def pixels(split):
    return split.images.read(np.arange(len(split.images)))[0]


def picture(height=24, width=24, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def assert_alike(left, right):
    assert left.labels == right.labels
    for one, other in ((left.probabilities, right.probabilities), left[2:] + right[2:]):
        assert one.keys() == other.keys()
        for head in one:
            np.testing.assert_allclose(one[head], other[head], atol=1e-6)


def heads_of(folder, stage):
    return json.loads((folder / "result.json").read_text())["stages"][stage]["heads"]


def damage(checkpoint):
    for path in checkpoint.rglob("*"):
        if path.is_file() and path.stat().st_size > 100:
            path.write_bytes(b"")


def copied(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run"


def own(channels=3, kind="class"):
    """A model of 8 × 8 pixels that says how bright the first channel is, and the last."""

    def predict(weights, images):
        grey = images.astype(np.float32).mean(axis=(1, 2)) / np.float32(255)
        return {kind: grey[:, [0, -1]]}

    prediction = Prediction((Head(kind, kind),), predict)
    return Predictor("own", CLASSES[:2], (8, 8, channels), prediction, Weights({}, {}))


# --- What comes out ---


def test_it_says_what_its_run_said_of_the_test_faces(student_run, student, split, faces):
    said = np.load(student_run / "stages/student/predictions.npz")["test"]
    answers = student.predict(faces)
    np.testing.assert_allclose(answers.probabilities["class"], said, atol=1e-6)
    assert answers.labels == tuple(student.classes[k] for k in said.argmax(axis=1))
    assert answers.valence_arousal == {}
    right = [student.classes[k] for k in split.truth] == np.array(answers.labels)
    result = json.loads((student_run / "result.json").read_text())
    assert right.mean() == pytest.approx(result["test_accuracy"])


def test_a_model_of_cct_is_the_student_unless_another_stage_is_named(student_run, student, faces):
    assert (student.name, student.image_shape) == ("student", (24, 24, 3))
    assert student.classes == CLASSES[:7]
    assert student.predict(faces).probabilities.keys() == {"class"}
    teachers = ferjax.load(str(student_run), stage="teachers")
    answers = teachers.predict(faces)
    each = answers.probabilities
    assert list(each) == ["average", "vote", "network_1", "network_2"]
    np.testing.assert_allclose(
        each["average"], (each["network_1"] + each["network_2"]) / 2, atol=1e-6
    )
    best = each["average"].argmax(axis=1)
    assert answers.labels == tuple(teachers.classes[k] for k in best)
    assert teachers.checksum() != student.checksum() == ferjax.load(student_run).checksum()


def test_a_network_with_two_heads_says_classes_and_valence_and_arousal(validated_run):
    model = ferjax.load(validated_run)
    split = loaded(supervised.get_config("synthetic_va")).test
    answers = model.predict(pixels(split))
    assert answers.probabilities.keys() == {"class"}
    assert answers.valence_arousal.keys() == {"va"}
    assert answers.valence_arousal["va"].shape == (16, 2)
    heads = heads_of(validated_run, "supervised")
    ccc = metrics.affect(answers.valence_arousal["va"], split.truth_va)["ccc"]
    assert ccc == pytest.approx(heads["va"]["last"], abs=1e-5)


def test_the_best_weights_are_those_that_did_best_on_validation_faces(validated_run):
    split = loaded(supervised.get_config("synthetic_va")).test
    heads = heads_of(validated_run, "supervised")
    for weights, figure in (("last", "last"), ("best", "best_validation")):
        model = ferjax.load(validated_run, weights=weights)
        said = model.predict(pixels(split)).probabilities["class"].argmax(axis=1)
        assert (said == split.truth).mean() == pytest.approx(heads["class"][figure])
    metrics_file = (validated_run / "metrics.jsonl").read_text().splitlines()
    lines = [x for x in map(json.loads, metrics_file) if x["split"] == "validation"]
    best = max(lines, key=lambda line: line["class/accuracy"])["step"]
    assert (validated_run / "stages/supervised/best" / str(best)).exists()


def test_ltnet_says_the_truth_and_what_each_coder_would(tmp_path):
    config = ltnet.get_config()
    for part in config.data.sets.values():
        part.train_size, part.test_size, part.image_size = 32, 8, 24
    config.model.name, config.model.width = tiny.NETWORK, 4
    config.loop.eval_batch_size = config.ltnet.batch_size = 16
    config.ltnet.steps, config.stages = 1, ("ltnet",)
    assert main.execute(config, tmp_path) == 0
    model = ferjax.load(tmp_path)
    answers = model.predict(picture())
    each = answers.probabilities
    assert list(each) == ["truth", "as_east", "as_west"]
    assert answers.labels == (model.classes[each["truth"][0].argmax()],)
    for probabilities in each.values():
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert np.abs(each["as_east"] - each["as_west"]).max() > 1e-3


def test_a_model_loads_whose_training_kept_something_of_every_face(tmp_path, faces):
    changes = {"stages": ("elr",), "elr.epochs": 1.0, "elr.batch_size": 16}
    finish(elr.get_config(), tmp_path, **changes)
    with closing(Checkpoints(tmp_path / "stages/elr/checkpoints", 1, read_only=True)) as saved:
        _, parts = saved.restore_parts("faces")
    assert parts["faces"]["target"].shape == (48, 7)
    said = np.load(tmp_path / "stages/elr/predictions.npz")["test"]
    answers = ferjax.load(tmp_path).predict(faces)
    np.testing.assert_allclose(answers.probabilities["class"], said, atol=1e-6)


def test_neither_the_other_stages_nor_the_data_are_needed(student_run, student, tmp_path):
    shutil.copytree(student_run / "stages/student", tmp_path / "stages/student")
    shutil.copy(student_run / "config.json", tmp_path)
    assert ferjax.load(tmp_path).checksum() == student.checksum()


def test_a_model_without_a_head_of_classes_names_none():
    answers = own(kind="va").predict(picture(8, 8))
    assert (answers.labels, answers.probabilities) == ((), {})
    assert answers.valence_arousal["va"].shape == (1, 2)


# --- What goes in ---


def test_one_picture_is_predicted_as_in_a_batch(student, faces):
    batch = student.predict(faces)
    for row in (0, 15):
        alone = student.predict(faces[row])
        assert alone.labels == batch.labels[row : row + 1]
        np.testing.assert_allclose(
            alone.probabilities["class"], batch.probabilities["class"][[row]], atol=1e-6
        )
    assert_alike(student.predict(list(faces)), batch)
    assert_alike(student.predict([faces[:5], faces[5], faces[6:]]), batch)


def test_a_batch_may_be_of_any_length():
    faces = np.stack([picture(8, 8, seed=row) for row in range(BATCH + 3)])
    answers = own().predict(faces)
    expected = faces.mean(axis=(1, 2))[:, [0, 2]] / 255
    np.testing.assert_allclose(answers.probabilities["class"], expected, atol=1e-6)
    assert answers.labels == tuple(CLASSES[k] for k in expected.argmax(axis=1))


@pytest.mark.parametrize("size", [(60, 60), (12, 12), (31, 57), (24, 40)])
def test_a_picture_of_any_size_is_resized_as_on_preparing(student, size):
    face = picture(*size)
    assert_alike(student.predict(face), student.predict(resize(face, 24)))


def test_a_model_of_rgb_takes_grey(student):
    grey = picture(channels=1)
    expected = student.predict(np.repeat(grey, 3, axis=2))
    assert_alike(student.predict(grey), expected)
    assert_alike(student.predict(grey[..., 0]), expected)
    assert_alike(student.predict(grey[None]), expected)


def test_a_model_of_grey_takes_rgb(tmp_path):
    face = picture(8, 8)
    expected = own(channels=1).predict(to_grey(face))
    assert_alike(own(channels=1).predict(face), expected)
    cv2.imwrite(str(tmp_path / "face.png"), face[..., ::-1])
    decoded = decode((tmp_path / "face.png").read_bytes(), channels=1)
    expected = own(channels=1).predict(decoded)
    assert_alike(own(channels=1).predict(tmp_path / "face.png"), expected)
    assert np.abs(decoded.astype(int) - to_grey(face)).max() <= 1


def test_pictures_may_be_files_of_several_kinds_and_sizes(student, tmp_path):
    faces = [picture(), picture(40, 30, seed=1), picture(24, 24, 1, seed=2)]
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, face in zip(paths, faces, strict=True):
        cv2.imwrite(str(path), face[..., ::-1])
    assert_alike(student.predict(paths), student.predict(faces))
    assert_alike(student.predict(paths[1]), student.predict(faces[1]))
    assert_alike(student.predict(str(paths[2])), student.predict(faces[2]))
    assert_alike(student.predict((paths[0], *faces[1:])), student.predict(faces))


# --- Mistakes ---


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((24, 24, 3), np.float32), "pictures must be uint8, from 0 to 255, not float32"),
        (np.zeros((24, 24, 3), np.int64), "must be uint8, from 0 to 255, not int64"),
        (np.zeros(24, np.uint8), "[faces, height, width, channels] of 1 or 3 channels, not [24]"),
        (np.zeros((1, 1, 9, 9, 3), np.uint8), "expected an array [height, width], [height, width"),
        (np.zeros((24, 24, 4), np.uint8), "of 1 or 3 channels, not [24, 24, 4]"),
        ([np.zeros((2, 9, 9, 4), np.uint8)], "of 1 or 3 channels, not [2, 9, 9, 4]"),
        (np.zeros((0, 24, 24, 3), np.uint8), "of 1 or 3 channels, not [0, 24, 24, 3]"),
        (np.zeros((24, 0, 3), np.uint8), "of 1 or 3 channels, not [24, 0, 3]"),
        ([], "no picture was given"),
        ((), "no picture was given"),
        ("nowhere.png", "nowhere.png: No such file or directory"),
        (["nowhere.png"], "nowhere.png: No such file or directory"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_line(images, words):
    with pytest.raises(UserError, match=re.escape(words)) as raised:
        own().predict(images)
    assert str(raised.value).startswith("predict: ")
    assert "\n" not in str(raised.value)


def test_a_damaged_file_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), picture())
    for name, content in (("text", b"no picture"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} is not a readable picture"):
            own().predict([tmp_path / "good.png", tmp_path / name])
    with pytest.raises(UserError, match="Is a directory"):
        own().predict(tmp_path)
    with pytest.raises(UserError, match=r"/dev/zero: not a regular file"):
        own().predict("/dev/zero")


def test_a_file_that_declares_too_many_pixels_is_not_decoded(tmp_path):
    cv2.imwrite(str(tmp_path / "face.png"), picture(100, 100))
    message = r"face\.png is 100×100 pixels, above the limit of 0\.005 megapixels"
    with pytest.raises(UserError, match=message):
        own().predict(tmp_path / "face.png", max_megapixels=0.005)
    assert len(own().predict(tmp_path / "face.png").labels) == 1


def test_a_run_or_stage_or_weights_that_are_not_there_are_named(student_run, tmp_path):
    with pytest.raises(UserError, match=r"holds no run \(it has no config\.json\)"):
        ferjax.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match=r"config\.json was not written by a run"):
        ferjax.load(tmp_path)
    (tmp_path / "config.json").write_text('{"config": {"run": "truth"}}')
    with pytest.raises(UserError, match="holds a run of kind 'truth', which trains no model"):
        ferjax.load(tmp_path)
    stages = "there are baseline, student, teachers"
    with pytest.raises(UserError, match=f"has no finished stage 'magic'; {stages}"):
        ferjax.load(student_run, stage="magic")
    with pytest.raises(UserError, match="weights='first' is none of last, best"):
        ferjax.load(student_run, weights="first")
    with pytest.raises(UserError, match=r"no .*student/best; did the run hold faces out\?"):
        ferjax.load(student_run, weights="best")


def test_a_stage_that_has_not_ended_is_no_model(student_run, tmp_path):
    folder = copied(student_run, tmp_path)
    (folder / "stages/student/stage.json").unlink()
    with pytest.raises(UserError, match="no finished stage 'student'; there are baseline, teach"):
        ferjax.load(folder)


def test_damaged_weights_are_named_and_left_as_they_are(student_run, tmp_path):
    folder = copied(student_run, tmp_path)
    checkpoints = folder / "stages/student/checkpoints"
    newest = max(checkpoints.iterdir(), key=lambda path: int(path.name))
    damage(newest)
    with pytest.raises(UserError, match=r"no checkpoint in .*student/checkpoints can be read"):
        ferjax.load(folder)
    assert newest.exists()
    shutil.rmtree(checkpoints)
    with pytest.raises(UserError, match=r"lacks the last checkpoint.*: delete .*/student and"):
        ferjax.load(folder)


def test_older_weights_do_not_stand_for_the_last(validated_run, tmp_path):
    folder = copied(validated_run, tmp_path)
    steps = sorted((folder / "stages/supervised/checkpoints").iterdir(), key=lambda x: int(x.name))
    assert len(steps) == 2
    damage(steps[1])
    with pytest.raises(UserError, match="checkpoints lacks the last checkpoint, or it is damaged"):
        ferjax.load(folder)
    assert all(path.exists() for path in steps)


def test_loading_is_quiet_and_leaves_the_run_as_it_is(student_run, caplog, capfd):
    before = {path: path.stat().st_mtime_ns for path in student_run.rglob("*")}
    with caplog.at_level(logging.WARNING):
        ferjax.load(student_run).predict(picture())
        ferjax.load(student_run, stage="teachers")
    assert [record.getMessage() for record in caplog.records] == []
    assert capfd.readouterr() == ("", "")
    assert before == {path: path.stat().st_mtime_ns for path in student_run.rglob("*")}
