"""The dataset of a run: whose labels validation goes by, and what lies in memory."""

import numpy as np
import pytest

from configs.datasets import synthetic
from ferjax.data import datasets
from ferjax.data.load import load_dataset
from ferjax.data.record import InMemory, Names
from ferjax.errors import UserError
from tests import tiny


def config(**changes):
    made = synthetic.get_config()
    made.noise.kind = "none"
    made.data.train_size, made.data.test_size, made.data.image_size = 40, 20, 24
    made.update_from_flattened_dict(changes)
    return made


def use(monkeypatch, dataset):
    """Makes every config load a dataset."""
    monkeypatch.setattr(datasets, "load", lambda _: dataset)


def three_coders():
    """Forty faces: the first coder is always wrong, the others are always right."""
    dataset = tiny.dataset(train_size=40)
    truth = dataset.train.truth
    labels = {
        "annotations": np.stack([1 - truth, truth, truth], axis=1).astype(np.int32),
        "va": np.full((40, 3, 2), np.nan, np.float32),
    }
    names = [f"{k}-{row}.png" for row, k in enumerate(truth)]
    return dataset._replace(coders=("a", "b", "c")).with_split(
        "train", dataset.train._replace(labels=labels, names=names)
    )


@pytest.mark.parametrize(
    ("coders", "right"),
    [((), 1.0), (("a",), 0.0), (("b", "c"), 1.0), (("a", "nobody"), 0.0), (("nobody",), 1.0)],
)
def test_validation_labels_are_those_of_the_trusted_coders_alone(monkeypatch, coders, right):
    """A majority of all would be right; coders that the data lack are passed over."""
    use(monkeypatch, three_coders())
    data = load_dataset(config(**{"label": "majority", "data.validation": 0.5}), coders)
    known = [int(name[0]) for name in data.validation.names]
    assert len(known) == 20
    assert np.mean(data.validation.truth == known) == right
    assert data.coders == ("a", "b", "c"), "training may still learn from everybody"
    assert data.train.labels["annotations"].shape == (20, 3)


@pytest.mark.parametrize("label", ["b", "machine"])
def test_where_no_trusted_coder_is_the_label_validation_goes_by_their_majority(monkeypatch, label):
    """A stage may be trained on another label, or a stage may bring the coder that is named."""
    use(monkeypatch, three_coders())
    data = load_dataset(config(**{"label": label, "data.validation": 0.5}), ("a",))
    known = np.array([int(name[0]) for name in data.validation.names])
    np.testing.assert_array_equal(data.validation.truth, 1 - known)
    assert data.label == label


def test_no_share_holds_nothing_out():
    data = load_dataset(config(**{"data.validation": 0.0}))
    assert data.validation is None
    assert len(data.train.images) == 40


def test_validation_labels_have_the_noise_of_training_labels():
    changes = {"noise.kind": "symmetric", "noise.rate": 1.0, "data.validation": 0.25}
    clean, noisy = (
        load_dataset(config(**{"data.validation": 0.25})),
        load_dataset(config(**changes)),
    )
    assert noisy.validation.names == clean.validation.names
    assert (noisy.validation.truth != clean.validation.truth).all()
    np.testing.assert_array_equal(noisy.test.truth, clean.test.truth)


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_faces_of_every_split_are_decoded_once_if_asked(monkeypatch, in_memory):
    made = config(**{"data.in_memory": in_memory, "data.validation": 0.25})
    faces = datasets.load(made.data)
    use(monkeypatch, faces.with_split("other", faces.test.take(np.arange(3, dtype=np.int32))))
    data = load_dataset(made)
    assert list(data.tests) == ["test", "other"]
    assert {name: len(split.images) for name, split in data.splits.items()} == {
        "train": 30,
        "test": 20,
        "other": 3,
        "validation": 10,
    }
    for split in data.splits.values():
        assert isinstance(split.images, InMemory) == in_memory
    np.testing.assert_array_equal(data.splits["other"].images[2], faces.test.images[2])


def test_what_is_trained_on_is_what_the_config_says_or_else_the_dataset():
    assert load_dataset(config(label="soft")).label == "soft"
    assert load_dataset(config()).label == datasets.load(config().data).label
    with pytest.raises(UserError, match=r"label='votes' needs .* with that label: set data\.mode"):
        load_dataset(config(label="votes"))


@pytest.mark.parametrize(("name", "what"), [("train", "training"), ("test", "test")])
def test_an_empty_split_is_named(monkeypatch, name, what):
    data = tiny.dataset()
    nothing = data.splits[name].take(np.array([], np.int32))
    use(monkeypatch, data.with_split(name, nothing._replace(names=Names.of(()))))
    with pytest.raises(UserError, match=f"the {what} split of synthetic has no faces"):
        load_dataset(config())
