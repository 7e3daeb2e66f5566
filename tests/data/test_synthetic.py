import concurrent.futures
import hashlib
import multiprocessing
import pickle

import ml_collections
import numpy as np
import pytest

from ferjax.data import record, synthetic
from ferjax.data.synthetic.dataset import parameters
from ferjax.errors import UserError

CLASSES = len(synthetic.EXPRESSIONS)
TWO = ("anna", "ben")
FUZZY = 0.7 * np.eye(CLASSES) + 0.3 * np.roll(np.eye(CLASSES), 1, axis=1)
UNIFORM = np.full((CLASSES, CLASSES), 1 / CLASSES)


def make_config(**changes):
    config = ml_collections.ConfigDict(
        {
            "seed": 0,
            "start": 0,
            "train_size": 40,
            "test_size": 20,
            "image_size": 24,
            "ambiguity": 0.5,
            "coders": ("synthetic",),
            "confusions": (),
        }
    )
    config.update(changes)
    return config


def nested(matrix):
    return tuple(map(tuple, matrix.tolist()))


def digest(faces, rows):
    return [hashlib.sha256(faces[row].tobytes()).hexdigest() for row in rows]


@pytest.mark.parametrize("size", [24, 49, 224])
def test_face_is_an_rgb_image_of_the_size_asked_for(size):
    face = synthetic.SyntheticFaces(0, 3, size)[2]
    assert face.shape == (size, size, 3)
    assert face.dtype == np.uint8
    assert face.std() > 10


def test_every_face_in_a_run_of_many_can_be_drawn():
    faces = synthetic.SyntheticFaces(1, 300, 24, ambiguity=1.0)
    assert len(set(digest(faces, range(300)))) == 300


def test_face_does_not_depend_on_order_or_on_where_the_range_starts():
    faces = synthetic.SyntheticFaces(5, 30, 32)
    later = synthetic.SyntheticFaces(5, 10, 32, start=20)
    forwards = digest(faces, range(20, 30))
    assert digest(faces, reversed(range(20, 30))) == forwards[::-1]
    assert digest(later, range(10)) == forwards


def test_face_is_the_same_in_another_process():
    faces = synthetic.SyntheticFaces(5, 30, 32)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        elsewhere = pool.submit(digest, faces, range(30)).result()
    assert elsewhere == digest(faces, range(30))


def test_another_seed_gives_other_faces_and_labels():
    indices = np.arange(200)
    assert digest(synthetic.SyntheticFaces(0, 5, 24), range(5)) != digest(
        synthetic.SyntheticFaces(1, 5, 24), range(5)
    )
    assert np.mean(synthetic.truths(0, indices) == synthetic.truths(1, indices)) < 0.3


def test_labels_stay_what_they_were():
    # Whoever keeps a list of labels or names of faces relies on these never changing.
    indices = np.array([0, 1, 2, 3, 10**6, 2**31 - 1])
    np.testing.assert_array_equal(synthetic.truths(0, indices), [3, 6, 4, 0, 1, 6])


def test_labels_of_many_faces_are_those_of_each_alone():
    indices = np.array([3, 0, 999_999, 17])
    truths = synthetic.truths(7, indices)
    va = synthetic.valence_arousal(7, indices)
    confusions = np.stack([FUZZY, UNIFORM])
    annotations = synthetic.annotate(7, indices, truths, confusions)
    for row, index in enumerate(indices):
        alone = np.array([index])
        np.testing.assert_array_equal(synthetic.truths(7, alone), truths[[row]])
        np.testing.assert_array_equal(synthetic.valence_arousal(7, alone), va[[row]])
        np.testing.assert_array_equal(
            synthetic.annotate(7, alone, truths[[row]], confusions), annotations[[row]]
        )


def test_an_unambiguous_face_shows_the_action_units_of_its_label():
    indices = np.arange(60)
    truths = synthetic.truths(2, indices)
    shown = [vars(parameters(2, index, 0.0)[0]) for index in range(60)]
    least = synthetic.MIN_INTENSITY * 0.8
    for name, unit in [
        ("happy", "corner_pull"),
        ("sad", "corner_depress"),
        ("surprise", "outer_brow_raise"),
        ("fear", "lip_stretch"),
        ("disgust", "nose_wrinkle"),
        ("anger", "brow_lower"),
    ]:
        rows = np.flatnonzero(truths == record.CLASSES.index(name))
        assert all(shown[index][unit] >= least for index in rows)
    for index in np.flatnonzero(truths == record.CLASSES.index("neutral")):
        assert max(shown[index].values()) == 0


def test_classes_are_equally_likely():
    counts = np.bincount(synthetic.truths(0, np.arange(70_000)), minlength=CLASSES)
    np.testing.assert_allclose(counts, 10_000, atol=5 * np.sqrt(10_000))


def test_valence_and_arousal_agree_with_the_class():
    indices = np.arange(20_000)
    truths = synthetic.truths(0, indices)
    va = synthetic.valence_arousal(0, indices)
    assert va.dtype == np.float32
    assert np.abs(va).max() <= 1
    of = {name: va[truths == label] for label, name in enumerate(synthetic.EXPRESSIONS)}
    assert of["happy"][:, 0].min() > 0
    assert np.abs(of["neutral"]).max() <= synthetic.VA_JITTER
    for name in ("sad", "fear", "disgust", "anger"):
        assert of[name][:, 0].max() < 0
    for name in ("surprise", "fear", "anger"):
        assert of[name][:, 1].min() > 0
    assert of["sad"][:, 1].max() < 0


def test_stronger_expressions_lie_further_out_on_the_circumplex():
    indices = np.arange(5_000)
    happy = synthetic.truths(0, indices) == record.CLASSES.index("happy")
    valence = synthetic.valence_arousal(0, indices)[happy, 0]
    assert np.corrcoef(valence, synthetic.intensities(0, indices)[happy])[0, 1] > 0.9


def test_annotations_follow_each_coders_confusion_matrix():
    indices = np.arange(70_000)
    truths = synthetic.truths(0, indices)
    confusions = np.stack([FUZZY, np.eye(CLASSES), UNIFORM])
    annotations = synthetic.annotate(0, indices, truths, confusions)
    assert annotations.dtype == np.int32
    for coder, confusion in enumerate(confusions):
        counts = np.zeros((CLASSES, CLASSES))
        np.add.at(counts, (truths, annotations[:, coder]), 1)
        rows = counts.sum(axis=1, keepdims=True)
        sigma = np.sqrt(confusion * (1 - confusion) / rows)
        assert np.all(np.abs(counts / rows - confusion) <= 5 * sigma)


def test_coders_err_independently():
    indices = np.arange(70_000)
    truths = synthetic.truths(0, indices)
    annotations = synthetic.annotate(0, indices, truths, np.stack([FUZZY, FUZZY]))
    wrong = annotations != truths[:, None]
    assert wrong.all(axis=1).mean() == pytest.approx(0.09, abs=0.006)


def test_load_without_confusions_gives_one_coder_who_is_always_right():
    data = synthetic.load(make_config())
    assert data.coders == ("synthetic",)
    assert data.classes == record.CLASSES[:7]
    assert data.image_shape == data.train.images[0].shape
    for split, size in ((data.train, 40), (data.test, 20)):
        assert len(split.images) == len(split.names) == size
        np.testing.assert_array_equal(split.labels["annotations"], split.truth[:, None])
        np.testing.assert_array_equal(split.labels["va"], split.truth_va[:, None])


def test_load_gives_each_coder_a_column():
    both = nested(FUZZY), nested(UNIFORM)
    data = synthetic.load(make_config(confusions=both, coders=TWO))
    assert data.coders == TWO
    assert data.train.labels["annotations"].shape == (40, 2)
    assert data.train.labels["va"].shape == (40, 2, 2)


def test_train_and_test_faces_are_disjoint():
    data = synthetic.load(make_config())
    faces = [digest(split.images, range(len(split.images))) for split in (data.train, data.test)]
    assert not set(faces[0]) & set(faces[1])
    assert not set(data.train.names) & set(data.test.names)


def test_a_face_keeps_its_name_and_label_when_the_splits_grow():
    small, large = synthetic.load(make_config()), synthetic.load(make_config(train_size=60))
    rows = slice(40, 60)
    assert list(large.train.names[rows]) == list(small.test.names)
    np.testing.assert_array_equal(large.train.truth[rows], small.test.truth)


def test_a_million_faces_are_loaded_without_drawing_or_naming_them():
    data = synthetic.load(make_config(train_size=1_000_000))
    assert data.train.names[-1] == "synthetic00999999"
    assert data.train.images[999_999].shape == (24, 24, 3)


def test_split_survives_pickling_for_pipeline_workers():
    split = synthetic.load(make_config()).train
    again = pickle.loads(pickle.dumps(split))
    np.testing.assert_array_equal(again.images[3], split.images[3])
    assert again.names[3] == split.names[3]


def test_rows_and_names_past_the_end_raise():
    split = synthetic.load(make_config()).train
    with pytest.raises(IndexError):
        split.images[40]
    with pytest.raises(IndexError):
        split.names[40]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_size": -1}, "train_size"),
        ({"start": -1}, "start"),
        ({"test_size": -1}, "test_size"),
        ({"image_size": 8}, "image_size"),
        ({"ambiguity": 1.5}, "ambiguity"),
        ({"confusions": (nested(np.eye(6)),)}, r"confusions\[0\] must have 7 rows of 7"),
        ({"confusions": (nested(FUZZY),) * 2}, "2 matrices, but data.coders has 1 names"),
        (
            {"confusions": (nested(FUZZY), (0.5, 0.5)), "coders": TWO},
            r"confusions\[1\] must have 7 rows of 7",
        ),
        (
            {"confusions": (nested(FUZZY), nested(0.9 * FUZZY)), "coders": TWO},
            r"confusions\[1\], row neutral",
        ),
        ({"confusions": (nested(2 * np.eye(7) - UNIFORM),)}, r"confusions\[0\], row neutral"),
    ],
)
def test_load_names_the_field_that_is_wrong(changes, message):
    with pytest.raises(UserError, match=message):
        synthetic.load(make_config(**changes))
