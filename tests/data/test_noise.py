import ml_collections
import numpy as np
import pytest

from ferjax.data import noise
from ferjax.data.record import Dataset, Images, Split
from ferjax.errors import UserError

NAMES = [f"face{row:04d}.png" for row in range(1000)]
LABELS = np.repeat(np.arange(8), 125).astype(np.int32)


def test_symmetric_noise_leaves_out_the_true_class():
    assert np.allclose(noise.symmetric(5, 0.4), 0.6 * np.eye(5) + 0.1 * (1 - np.eye(5)))


def test_symmetric_noise_that_may_keep_draws_from_all_classes():
    assert np.allclose(noise.symmetric(5, 0.4, keep=True), 0.6 * np.eye(5) + 0.08)


def test_pair_flip_moves_to_the_next_class_and_wraps():
    want = [[0.7, 0.3, 0.0], [0.0, 0.7, 0.3], [0.3, 0.0, 0.7]]
    assert np.allclose(noise.pair_flip(3, 0.3), want)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rate_outside_its_range_is_refused(rate):
    with pytest.raises(UserError, match=r"noise\.rate"):
        noise.symmetric(8, rate)


def test_exact_noise_gives_each_class_its_share():
    transition = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.1, 0.1, 0.8]])
    labels = np.repeat(np.arange(3), [10, 7, 20]).astype(np.int32)
    noisy = noise.corrupt(labels, NAMES[:37], transition, seed=0)
    counts = [np.bincount(noisy[labels == truth], minlength=3).tolist() for truth in range(3)]
    assert counts == [[5, 3, 2], [0, 7, 0], [2, 2, 16]]


def test_exact_noise_rounds_by_largest_remainder_and_favours_no_class():
    labels = np.repeat(np.arange(8), 10).astype(np.int32)
    noisy = noise.corrupt(labels, NAMES[:80], noise.symmetric(8, 0.4), seed=0)
    assert np.sum(noisy != labels) == 32
    assert np.bincount(noisy).tolist() == [10] * 8


@pytest.mark.parametrize("exact", [True, False])
def test_noise_depends_on_seed_and_names_and_not_on_order(exact):
    transition = noise.symmetric(8, 0.4)
    noisy = noise.corrupt(LABELS, NAMES, transition, seed=3, exact=exact)
    order = np.random.default_rng(0).permutation(1000)
    shuffled = noise.corrupt(
        LABELS[order], [NAMES[row] for row in order], transition, 3, exact=exact
    )
    assert np.array_equal(shuffled, noisy[order])
    assert not np.array_equal(noisy, noise.corrupt(LABELS, NAMES, transition, 4, exact=exact))
    assert noisy.dtype == np.int32


def test_random_noise_does_not_depend_on_the_other_faces():
    transition = noise.symmetric(8, 0.4)
    noisy = noise.corrupt(LABELS, NAMES, transition, seed=3, exact=False)
    shard = noise.corrupt(LABELS[1::3], NAMES[1::3], transition, seed=3, exact=False)
    assert np.array_equal(shard, noisy[1::3])


def test_random_noise_has_the_rates_of_its_matrix():
    labels = np.zeros(20_000, np.int32)
    names = [str(row) for row in range(len(labels))]
    transition = np.array([[0.5, 0.3, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    noisy = noise.corrupt(labels, names, transition, seed=0, exact=False)
    assert np.allclose(np.bincount(noisy) / len(labels), transition[0], atol=0.015)


@pytest.mark.parametrize("exact", [True, False])
def test_unknown_labels_stay_unknown(exact):
    labels = np.where(np.arange(1000) % 3 == 0, -1, LABELS).astype(np.int32)
    noisy = noise.corrupt(labels, NAMES, noise.symmetric(8, 1.0), seed=0, exact=exact)
    assert np.array_equal(noisy == -1, labels == -1)
    assert np.all(noisy[labels >= 0] != labels[labels >= 0])


def test_uniforms_of_different_purposes_and_seeds_are_unrelated():
    draws = [noise.uniforms(0, NAMES, "noise"), noise.uniforms(0, NAMES, "subset")]
    draws.append(noise.uniforms(1, NAMES, "noise"))
    assert np.all(np.abs(np.corrcoef(draws) - np.eye(3)) < 0.1)
    assert abs(np.mean(draws) - 0.5) < 0.03
    assert np.min(draws) >= 0.0
    assert np.max(draws) < 1.0


def test_noise_list_is_translated_from_its_own_order(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("b.png 1\n\nmy face.png 2\na.png\t3\nnot asked.png 1\n")
    names = ["a.png", "b.png", "my face.png"]
    labels = noise.read_noise_list(path, names, ("", "surprise", "anger", "neutral"))
    assert labels.tolist() == [0, 3, 6]
    assert noise.read_noise_list(path, names).tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.png 8", r"list\.txt:2: label '8' is not one"),
        ("b.png -1", r"list\.txt:2: label '-1' is not one"),
        ("b.png happy", r"list\.txt:2: label 'happy' is not one"),
        ("b.png", r"list\.txt:2: expected '<file name> <label>'"),
        ("a.png 2", r"list\.txt:2: a\.png is listed again with another label"),
        ("c.png 2", r"list\.txt: no label for 1 faces, the first is b\.png"),
    ],
)
def test_bad_noise_list_is_named_by_file_and_line(tmp_path, line, message):
    path = tmp_path / "list.txt"
    path.write_text(f"a.png 1\n{line}\n")
    with pytest.raises(UserError, match=message):
        noise.read_noise_list(path, ["a.png", "b.png"])


def test_missing_list_and_unknown_class_are_named(tmp_path):
    with pytest.raises(UserError, match=r"noise\.list: cannot read .*nowhere\.txt"):
        noise.read_noise_list(tmp_path / "nowhere.txt", ["a.png"])
    with pytest.raises(UserError, match=r"noise\.classes: unknown class 'joy'"):
        noise.read_noise_list(tmp_path / "list.txt", ["a.png"], ("joy",))


class Blank(Images):
    def __len__(self):
        return 1000

    def read(self, rows):
        return np.zeros((len(rows), 2, 2, 1), np.uint8), np.ones(len(rows), bool)


@pytest.fixture
def dataset():
    split = Split(
        images=Blank(),
        labels={
            "annotations": np.stack([LABELS, np.full_like(LABELS, -1)], axis=1),
            "va": np.full((1000, 2, 2), np.nan, np.float32),
            "votes": (9 * np.eye(8, dtype=np.int32) + np.roll(np.eye(8, dtype=np.int32), 1, 1))[
                LABELS
            ],
        },
        truth=LABELS,
        truth_va=np.full((1000, 2), np.nan, np.float32),
        names=NAMES,
    )
    classes = ("neutral", "happy", "sad", "surprise", "fear", "disgust", "anger", "contempt")
    splits = {"train": split, "test": split}
    return Dataset(classes, ("crowd", "expert"), (2, 2, 1), splits)


@pytest.fixture
def config():
    return ml_collections.ConfigDict(
        {
            "kind": "symmetric",
            "rate": 0.4,
            "matrix": (),
            "list": "",
            "classes": (),
            "coder": "",
            "exact": True,
            "seed": 0,
        }
    )


def test_apply_changes_one_coder_of_the_training_split_only(dataset, config):
    noisy = noise.apply(dataset, config, "crowd")
    changed = noisy.train.labels["annotations"][:, 0] != LABELS
    assert changed.sum() == 400
    assert np.array_equal(noisy.train.labels["annotations"][:, 1], np.full(1000, -1))
    assert np.array_equal(noisy.train.truth, LABELS)
    assert noisy.test is dataset.test
    assert np.array_equal(dataset.train.labels["annotations"][:, 0], LABELS)
    assert noisy.notes == (
        "symmetric noise: 40.0% of 1,000 training labels of coder crowd changed",
    )


def test_votes_follow_the_noise_and_do_not_give_the_label_away(dataset, config):
    labels = noise.apply(dataset, config, "crowd").train.labels
    assert np.array_equal(labels["votes"].argmax(axis=1), labels["annotations"][:, 0])
    assert np.all(labels["votes"].sum(axis=1) == 10)


def test_apply_takes_every_kind(dataset, config, tmp_path):
    config.kind = "none"
    assert noise.apply(dataset, config, "crowd") is dataset
    config.kind = "pair_flip"
    moved = noise.apply(dataset, config, "crowd").train.labels["annotations"][:, 0] - LABELS
    assert set(moved % 8) == {0, 1}
    config.kind = "symmetric_keep"
    assert "35.2% of 1,000" in noise.apply(dataset, config, "crowd").notes[0]
    config.kind = "matrix"
    config.matrix = tuple(map(tuple, np.roll(np.eye(8), 2, axis=1).tolist()))
    moved = noise.apply(dataset, config, "crowd").train.labels["annotations"][:, 0] - LABELS
    assert set(moved % 8) == {2}
    config.kind = "list"
    config.list = str(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("".join(f"{name} 5\n" for name in NAMES))
    assert set(noise.apply(dataset, config, "crowd").train.labels["annotations"][:, 0]) == {5}


def test_the_coder_that_is_trained_on_errs_unless_another_is_named(dataset, config):
    labels = dataset.train.labels["annotations"]
    labels[:, 1] = LABELS
    assert _changed(noise.apply(dataset, config, "expert"), labels) == [0, 400]
    assert _changed(noise.apply(dataset, config, "votes"), labels) == [400, 0]
    config.coder = "expert"
    assert _changed(noise.apply(dataset, config, "crowd"), labels) == [0, 400]
    config.coder = ""
    with pytest.raises(UserError, match=r"noise\.coder is not set: which of crowd, expert errs"):
        noise.apply(dataset, config, "majority")


def _changed(noisy, labels):
    return (noisy.train.labels["annotations"] != labels).sum(axis=0).tolist()


def test_a_noise_list_written_on_windows_is_read(dataset, config, tmp_path):
    config.kind, config.list = "list", str(tmp_path / "list.txt")
    text = "\ufeff" + "".join(f"{name} 5\r\n" for name in NAMES)
    (tmp_path / "list.txt").write_bytes(text.encode())
    noisy = noise.apply(dataset, config, "crowd")
    assert set(noisy.train.labels["annotations"][:, 0]) == {5}


def test_a_noise_list_labels_no_face_that_its_coder_did_not(dataset, config, tmp_path):
    dataset.train.labels["annotations"][:100, 0] = -1
    config.kind, config.list = "list", str(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text("".join(f"{name} 5\n" for name in NAMES))
    labels = noise.apply(dataset, config, "crowd").train.labels["annotations"][:, 0]
    assert set(labels[:100]) == {-1}
    assert set(labels[100:]) == {5}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("kind", "list", r"noise\.list is not set"),
        ("kind", "salt", r"noise\.kind: unknown kind 'salt'"),
        ("coder", "nobody", r"noise\.coder: no coder 'nobody', there are crowd, expert"),
        ("rate", 2.0, r"noise\.rate: 2\.0 is not in"),
    ],
)
def test_wrong_noise_config_is_named(dataset, config, field, value, message):
    config[field] = value
    with pytest.raises(UserError, match=message):
        noise.apply(dataset, config, "crowd")


@pytest.mark.parametrize("matrix", [((1.0,),), tuple(map(tuple, np.full((8, 8), 0.2).tolist()))])
def test_matrix_that_is_no_transition_is_refused(dataset, config, matrix):
    config.kind, config.matrix = "matrix", matrix
    with pytest.raises(UserError, match=r"noise\.matrix"):
        noise.apply(dataset, config, "crowd")
