import csv
import pickle
import shutil
import tarfile
from pathlib import Path

import cv2
import ml_collections
import numpy as np
import pyarrow as pa
import pytest

from configs import supervised
from ferjax.data import prepared
from ferjax.data.datasets import ferplus
from ferjax.data.record import CLASSES
from ferjax.errors import UserError

REAL = Path(__file__).parents[2] / "../shared/data/ferplus"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"no FERPlus files in {REAL}")

VOTES_HEADER = [
    *("Usage", "Image name", "neutral", "happiness", "surprise", "sadness", "anger", "disgust"),
    *("fear", "contempt", "unknown", "NF"),
]
LABELS_HEADER = ["Image name", "emotion"]

# Usage, name, then neutral, happiness, surprise, sadness, anger, disgust, fear, contempt,
# unknown, NF
ROWS = [
    ("Training", "a.png", 0, 9, 1, 0, 0, 0, 0, 0, 0, 0),  # happy
    ("Training", "b.png", 5, 0, 0, 5, 0, 0, 0, 0, 0, 0),  # a tie: neutral or sad, no majority
    ("Training", "c.png", 0, 0, 4, 0, 0, 0, 2, 0, 2, 2),  # 40 % surprise, no majority
    ("Training", "d.png", 0, 0, 0, 0, 1, 1, 0, 0, 8, 0),  # unknown
    ("Training", "e.png", 0, 0, 0, 0, 0, 0, 0, 0, 1, 9),  # not a face
    ("Training", "f.png", 0, 0, 0, 0, 6, 4, 0, 0, 0, 0),  # anger, or disgust
    ("Training", "a.png", 0, 9, 1, 0, 0, 0, 0, 0, 0, 0),  # listed again, alike
    ("Training", "", 9, 0, 0, 0, 0, 0, 0, 0, 0, 1),
    ("Training", "g.png", 0, 0, 0, 0, 0, 8, 0, 2, 0, 0),  # disgust; the same file as h.png
    ("PublicTest", "h.png", 0, 0, 0, 0, 0, 8, 0, 2, 0, 0),
    ("PublicTest", "i.png", 0, 0, 0, 0, 0, 0, 9, 1, 0, 0),  # fear
    ("PrivateTest", "j.png", 0, 0, 9, 1, 0, 0, 0, 0, 0, 0),  # surprise
]
LABELS = [("a.png", 3), ("b.png", 6), ("f.png", 1), ("h.png", 0), ("i.png", 2), ("j.png", 5)]


def png(name):
    seed = ord("g" if name == "h.png" else name[0])
    image = np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def write_csv(path, header, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "ferplus"
    for part, source in ferplus.PARTS.items():
        (folder / source).mkdir(parents=True)
        for name in {row[1] for row in ROWS if row[0] == part and row[1]}:
            (folder / source / name).write_bytes(png(name))
    write_csv(folder / ferplus.VOTES, VOTES_HEADER, ROWS)
    write_csv(folder / ferplus.LABELS, LABELS_HEADER, LABELS)
    return folder


@pytest.fixture
def config(folder, tmp_path):
    config = supervised.get_config("ferplus").data.copy_and_resolve_references()
    config.update({"dir": str(folder), "cache": str(tmp_path / "cache")})
    return config


def remove(folder, part):
    for path in (folder / part).iterdir():
        path.unlink()
    (folder / part).rmdir()


def label_of(split, name, coder=0):
    label = split.labels["annotations"][split.names.index(name), coder]
    return CLASSES[label] if label >= 0 else None


def test_classes_are_translated_to_our_order(config):
    data = ferplus.load(config)
    assert data.classes == CLASSES
    assert data.coders == ("ferplus", "fer2013")
    assert data.label == "ferplus"
    names = {name: label_of(data.train, name) for name in data.train.names}
    assert names == {"a.png": "happy", "f.png": "anger", "g.png": "disgust"}
    assert label_of(data.train, "a.png", coder=1) == "happy"
    assert label_of(data.train, "f.png", coder=1) == "disgust"
    assert label_of(data.train, "g.png", coder=1) is None
    assert label_of(data.test, "j.png") == label_of(data.test, "j.png", coder=1) == "surprise"


@pytest.mark.parametrize("column", range(8))
def test_every_vote_column_lands_in_the_class_of_its_name(folder, column):
    votes = [10 if place == column else 0 for place in range(10)]
    write_csv(folder / ferplus.VOTES, VOTES_HEADER, [("Training", "a.png", *votes)])
    (truth,) = ferplus.read(folder, "majority").table.truth
    ours = {"happiness": "happy", "sadness": "sad"}
    name = VOTES_HEADER[2 + column]
    assert CLASSES[truth] == ours.get(name, name)


@pytest.mark.parametrize(
    ("label", "name"),
    list(enumerate(["anger", "disgust", "fear", "happy", "sad", "surprise", "neutral"])),
)
def test_every_fer2013_label_is_the_class_of_its_name(tmp_path, label, name):
    write_csv(tmp_path / "l.csv", LABELS_HEADER, [("a.png", label)])
    given = ferplus.read_fer2013(tmp_path / "l.csv", pa.array(["b.png", "a.png"]))
    assert given.tolist() == [-1, CLASSES.index(name)]


def test_modes_keep_the_faces_and_votes_they_promise():
    assert tuple(ferplus.EMOTIONS) == CLASSES
    neutral, happy, sad = np.eye(10, dtype=np.int32)[:3]
    unknown, no_face = np.eye(10, dtype=np.int32)[8:]
    votes = np.stack(
        [
            9 * happy + sad,
            5 * neutral + 5 * sad,
            4 * happy + 3 * sad + 3 * neutral,
            4 * happy + 2 * sad + 2 * unknown + 2 * no_face,
            5 * happy + 5 * unknown,
            6 * happy + 4 * unknown,
            8 * no_face + happy + sad,
            happy + sad,
        ]
    )
    kept = {mode: ferplus.kept_votes(votes, mode)[:, :3].tolist() for mode in ferplus.MODES}
    none = [0, 0, 0]
    assert kept["majority"] == [[0, 9, 0], none, none, none, none, [0, 6, 0], none, none]
    assert kept["multi_target"] == [[0, 9, 0], [5, 0, 5], none, none, none, [0, 6, 0], none, none]
    assert kept["probability"] == [
        [0, 9, 0], [5, 0, 5], [3, 4, 3], [0, 4, 2], none, [0, 6, 0], none, none
    ]  # fmt: skip


def test_votes_and_labels_follow_the_mode(config):
    config.mode = "multi_target"
    train = ferplus.load(config).train
    assert list(train.names) == ["a.png", "b.png", "f.png", "g.png"]
    votes = dict(zip(train.names, train.labels["votes"], strict=True))
    assert votes["b.png"].tolist() == [5, 0, 5, 0, 0, 0, 0, 0]
    assert votes["f.png"].tolist() == [0, 0, 0, 0, 0, 4, 6, 0]
    assert label_of(train, "b.png") == "neutral"
    assert np.array_equal(train.truth, train.labels["annotations"][:, 0])
    assert ferplus.load(config).label == "multi_target"
    config.mode = "probability"
    assert ferplus.load(config).label == "votes"
    assert list(ferplus.load(config).train.names) == ["a.png", "b.png", "c.png", "f.png", "g.png"]


def test_folders_and_tars_give_the_same_data(config, folder):
    first = ferplus.load(config)
    for source in ferplus.PARTS.values():
        with tarfile.open(folder / f"{source}.tar", "w") as archive:
            archive.add(folder / source, source)
        remove(folder, source)
    second = ferplus.load(config)
    for ours, theirs in ((first.train, second.train), (first.test, second.test)):
        assert list(ours.names) == list(theirs.names)
        for row, name in enumerate(ours.names):
            assert np.array_equal(ours.images[row], theirs.images[row]), name
        assert all(np.array_equal(ours.labels[k], theirs.labels[k], k == "va") for k in ours.labels)
    assert first.notes == second.notes


def test_images_are_the_files_pixels_and_travel_to_workers(config):
    data = ferplus.load(config)
    images = pickle.loads(pickle.dumps(data.train.images))
    for row, name in enumerate(data.train.names):
        want = cv2.imdecode(np.frombuffer(png(name), np.uint8), cv2.IMREAD_GRAYSCALE)
        assert np.array_equal(images[row], want[..., None])
    assert images[0].dtype == np.uint8
    assert images[0].shape == data.image_shape == (48, 48, 1)
    config.image_size = 64
    assert ferplus.load(config).test.images[0].shape == (64, 64, 1)


def test_test_split_is_private_where_its_files_are_there_and_else_public(config, folder):
    data = ferplus.load(config)
    assert list(data.test.names) == ["j.png"]
    assert data.notes[0] == "trains on Training, tests on PrivateTest"
    remove(folder, "FER2013Test")
    data = ferplus.load(config)
    assert list(data.test.names) == ["h.png", "i.png"]
    assert data.notes[0] == "trains on Training, tests on PublicTest (no PrivateTest images)"


def test_folder_without_images_counts_as_not_there(config, folder):
    for path in (folder / "FER2013Test").iterdir():
        path.unlink()
    (folder / "FER2013Test/label.csv").touch()
    assert list(ferplus.load(config).test.names) == ["h.png", "i.png"]


def test_parts_can_be_joined_for_training(config):
    config.train_parts = ("Training", "PublicTest")
    data = ferplus.load(config)
    assert list(data.train.names) == ["a.png", "f.png", "g.png", "h.png", "i.png"]
    assert list(data.test.names) == ["j.png"]
    assert "1 training files are redundant copies of others (kept)" in data.notes


def test_what_is_in_the_test_part_is_left_out_of_training_and_counted(config):
    config.test_part = "PublicTest"
    data = ferplus.load(config)
    assert list(data.train.names) == ["a.png", "f.png"]
    counted = "1 PublicTest files are byte-identical to 1 training files; 1 faces {} training"
    assert counted.format("left out of") in data.notes
    config.drop_test_copies = False
    data = ferplus.load(config)
    assert list(data.train.names) == ["a.png", "f.png", "g.png"]
    assert counted.format("kept in") in data.notes


def test_rows_without_name_unknown_and_repeated_are_counted(config):
    notes = ferplus.load(config).notes
    assert "Training: 1 rows without a file name dropped" in notes
    assert notes[1] == (
        "Training: 4 of 8 rows count in mode majority, 3 faces; "
        "dropped 1 unknown, 1 not a face, 2 without enough agreement"
    )


def test_of_two_rows_with_other_votes_the_later_counts(config, folder):
    no_face = ("Training", "a.png", 0, 0, 0, 0, 0, 0, 0, 0, 0, 10)
    sad = ("Training", "b.png", 0, 0, 0, 9, 0, 0, 0, 0, 1, 0)
    write_csv(folder / ferplus.VOTES, VOTES_HEADER, [*ROWS, no_face, sad])
    data = ferplus.load(config)
    labels = {name: label_of(data.train, name) for name in data.train.names}
    assert labels == {"b.png": "sad", "f.png": "anger", "g.png": "disgust"}
    assert "Training: 3 rows give way to later ones of their face, of other votes" in data.notes


@needs_real
def test_the_official_row_that_is_listed_again_is_no_face(folder):
    rows = (REAL / "official_rows.csv").read_text().splitlines()
    (folder / ferplus.VOTES).write_text("\n".join(rows))
    faces = ferplus.read(folder, "majority")
    names = list(faces.table.names)
    assert len(names) == len(set(names)) == len(rows) - 2
    assert not faces.table.keep[names.index("fer0033120.png")]
    assert faces.replaced == {"Training": 0, "PublicTest": 0, "PrivateTest": 1}


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_pictures_in_sub_folders_and_with_other_endings_are_read(config, folder, kind):
    first = ferplus.load(config)
    for row, path in enumerate(sorted((folder / "FER2013Train").iterdir())):
        home = folder / f"FER2013Train/{row % 8}"
        home.mkdir(exist_ok=True)
        path.rename(home / path.with_suffix((".PNG", ".jpg")[row % 2]).name)
    if kind == "tar":
        with tarfile.open(folder / "FER2013Train.tar", "w") as archive:
            archive.add(folder / "FER2013Train", "FER2013Train")
        shutil.rmtree(folder / "FER2013Train")
    second = ferplus.load(config)
    assert list(second.train.names) == list(first.train.names)
    for row in range(len(first.train.names)):
        assert np.array_equal(first.train.images[row], second.train.images[row])
    assert first.notes == second.notes


def test_pictures_of_other_names_are_named(config, folder):
    for path in sorted((folder / "FER2013Train").iterdir()):
        path.rename(path.with_name(f"image_{path.name}"))
    others = r"not listed: FER2013Train has 7 such as image_[a-g]\.png"
    message = rf"^FER2013Train/a\.png: image is missing \(7 in all\); {others}; mend the file"
    with pytest.raises(UserError, match=message):
        ferplus.load(config)


def test_without_original_labels_there_is_one_coder(config, folder):
    (folder / ferplus.LABELS).unlink()
    data = ferplus.load(config)
    assert data.coders == ("ferplus",)
    assert data.train.labels["annotations"].shape == (3, 1)
    assert data.train.labels["va"].shape == (3, 1, 2)


def test_subset_hangs_on_seed_and_names_alone(config):
    config.subset = 2
    chosen = {tuple(ferplus.load(config).train.names) for config.seed in range(12)}
    assert len(chosen) == 3
    config.subset = 99
    with pytest.raises(UserError, match=r"data.subset must be 0 \(all\) to 3, not 99"):
        ferplus.load(config)


def test_prepared_data_are_reused_until_an_input_changes(config, folder, monkeypatch):
    ferplus.load(config)
    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_write", lambda *_: pytest.fail("prepared again"))
        ferplus.load(config)
    (folder / "FER2013Train/a.png").write_bytes(png("z.png"))
    ferplus.load(config)
    assert len(list(Path(config.cache).iterdir())) == 2


def test_default_cache_is_the_users(config, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    config.cache = ""
    ferplus.load(config)
    assert len(list((tmp_path / "users/ferjax").iterdir())) == 1


def test_only_the_first_process_prepares(config, monkeypatch):
    monkeypatch.setattr(prepared.jax, "process_index", lambda: 1)
    with pytest.raises(UserError, match=r"not written by the first process"):
        ferplus.load(config)
    monkeypatch.undo()
    ferplus.load(config)
    monkeypatch.setattr(prepared.jax, "process_index", lambda: 1)
    assert list(ferplus.load(config).train.names) == ["a.png", "f.png", "g.png"]


def test_failing_preparation_leaves_nothing(config, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepared.Builder, "_generate_examples", fail)
    with pytest.raises(KeyboardInterrupt):
        ferplus.load(config)
    assert not list(Path(config.cache).iterdir())


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "empty"), (png("f.png")[:900], "corrupt"), (None, "missing")]
)
def test_unreadable_image_is_named_or_skipped_and_listed(config, folder, content, reason):
    path = folder / "FER2013Train/f.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"^FER2013Train/f.png: image is {reason} "):
        ferplus.load(config)
    assert not list(Path(config.cache).iterdir())
    config.skip_corrupt = True
    data = ferplus.load(config)
    assert list(data.train.names) == ["a.png", "g.png"]
    (skipped,) = Path(config.cache).rglob("skipped.csv")
    assert skipped.read_text().split() == ["file,reason", f"FER2013Train/f.png,{reason}"]
    assert f"1 unreadable images skipped, listed in {skipped}" in data.notes
    config.skip_corrupt = False
    with pytest.raises(UserError, match=r"f\.png"):
        ferplus.load(config)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("PublicTest", "a.png", 0, 9, 1, 0, 0, 0, 0, 0, 0, 0), "a.png is listed again with anoth"),
        (("Training", "z.png", 0, 11, 0, 0, 0, 0, 0, 0, 0, 0), "'11' is not a whole number from 0"),
        (("Training", "z.png", 0, -1, 0, 0, 0, 0, 0, 0, 0, 0), "'-1' is not a whole number"),
        (("Training", "z.png", "x", 0, 0, 0, 0, 0, 0, 0, 0, 0), "'x' is not a whole number"),
        (("Train", "z.png", 9, 0, 0, 0, 0, 0, 0, 0, 0, 0), "unknown part 'Train'"),
        (("Training", "z.png", 9), "3 columns, expected 12"),
    ],
)
def test_bad_row_is_named_by_file_and_line(config, folder, row, message):
    write_csv(folder / ferplus.VOTES, VOTES_HEADER, [*ROWS, row])
    with pytest.raises(UserError, match=rf"{ferplus.VOTES}:{len(ROWS) + 2}: {message}"):
        ferplus.load(config)


@pytest.mark.parametrize("label", [7, "happy"])
def test_original_label_out_of_range_is_named_by_file_and_line(config, folder, label):
    write_csv(folder / ferplus.LABELS, LABELS_HEADER, [("a.png", 3), ("b.png", label)])
    with pytest.raises(UserError, match=rf"{ferplus.LABELS}:3: '{label}' is not a whole number"):
        ferplus.load(config)


def test_missing_files_are_named_with_where_to_get_them(config, folder):
    config.dir = str(folder / "nowhere")
    with pytest.raises(UserError, match=r"nowhere: no such folder; expected .* Kaggle's .*FERPlus"):
        ferplus.load(config)
    config.dir = ""
    with pytest.raises(UserError, match=r"data.dir is not set; expected"):
        ferplus.load(config)
    config.dir = str(folder)
    (folder / ferplus.VOTES).unlink()
    with pytest.raises(UserError, match=r"no fer2013new.csv"):
        ferplus.load(config)
    for source in ferplus.PARTS.values():
        remove(folder, source)
    with pytest.raises(UserError, match=r"no images, only fer2013_labels\.csv; expected"):
        ferplus.load(config)


def test_broken_archive_is_named(config, folder):
    remove(folder, "FER2013Train")
    (folder / "FER2013Train.tar").write_bytes(b"not a tar")
    with pytest.raises(UserError, match=r"FER2013Train.tar: not a readable tar archive"):
        ferplus.load(config)


def test_impossible_choice_of_parts_or_mode_is_refused(config, folder):
    for field, value, message in (
        ("mode", "median", "unknown mode 'median'"),
        ("test_part", "Valid", "unknown part 'Valid'"),
        ("test_part", "Training", "Training is also in data.train_parts"),
    ):
        wrong = ml_collections.ConfigDict(config)
        wrong[field] = value
        with pytest.raises(UserError, match=message):
            ferplus.load(wrong)
    write_csv(folder / ferplus.VOTES, VOTES_HEADER, [r for r in ROWS if r[0] != "PrivateTest"])
    with pytest.raises(UserError, match=r"fer2013new.csv lists no face of PrivateTest"):
        ferplus.load(config)
    remove(folder, "FER2013Test")
    config.test_part = "PrivateTest"
    with pytest.raises(UserError, match=r"no FER2013Test folder or .tar for PrivateTest"):
        ferplus.load(config)


@needs_real
def test_real_data_give_the_published_counts(config):
    config.dir = str(REAL)
    data = ferplus.load(config)
    notes = "\n".join(data.notes)
    assert "Training: 25,060 of 28,561 rows count in mode majority, 25,057 faces" in notes
    assert "PublicTest: 3,199 of 3,579 rows count in mode majority, 3,199 faces" in notes
    assert "Training: 148 rows without a file name dropped" in notes
    assert "PublicTest: 10 rows without a file name dropped" in notes
    assert "279 PublicTest files are byte-identical to 340 training files" in notes
    assert "1,224 training files are redundant copies" in notes
    assert len(data.train.images) == 24_752
    assert len(data.test.images) == 3_199
    agree = np.mean(
        data.train.labels["annotations"][:, 0] == data.train.labels["annotations"][:, 1]
    )
    assert 0.6 < agree < 0.9  # the original labels are noisy, but in the same order of classes
