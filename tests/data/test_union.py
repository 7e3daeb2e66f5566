"""Unions of datasets: rows one set after the other, coders by name."""

import numpy as np
import pytest

from ferjax.data import pipeline, union
from ferjax.data.record import Concatenated, InMemory, Names, Subset
from ferjax.errors import UserError
from tests import tiny


def dataset(size, coders, seed=0, **changes):
    data = tiny.dataset(train_size=size, test_size=4, seed=seed)

    def annotated(split):
        va = np.full((len(split.truth), len(coders), 2), 0.5, np.float32)
        return split._replace(
            labels={"annotations": np.repeat(split.truth[:, None], len(coders), axis=1), "va": va}
        )

    train, test = annotated(data.train), annotated(data.test)
    return data._replace(coders=coders, splits={"train": train, "test": test}, **changes)


def test_rows_follow_each_other_and_coders_of_equal_names_are_one():
    parts = {"a": dataset(6, ("ann", "bot")), "b": dataset(5, ("bot",), 1), "c": dataset(3, ())}
    joined = union.join(parts)
    assert joined.coders == ("ann", "bot")
    assert joined.sets == ("a", "b", "c")
    assert joined.train.labels["set"].tolist() == [0] * 6 + [1] * 5 + [2] * 3
    said = joined.train.labels["annotations"]
    np.testing.assert_array_equal(said[:6], parts["a"].train.labels["annotations"])
    np.testing.assert_array_equal(said[6:11, 1], parts["b"].train.truth)
    assert (said[6:, 0] == -1).all()
    assert (said[11:] == -1).all()
    assert np.isnan(joined.train.labels["va"][said == -1]).all()
    assert joined.train.names[7] == "b/1.png"
    assert len(joined.test.images) == 12


def test_further_test_splits_stay_apart_and_are_named_after_their_set():
    a, b = dataset(6, ("ann",)), dataset(5, ("bot",), 1)
    joined = union.join({"a": a.with_split("wild", a.test), "b": b})
    assert list(joined.tests) == ["test", "a_wild"]
    wild = joined.tests["a_wild"]
    np.testing.assert_array_equal(wild.truth, a.test.truth)
    assert (wild.labels["annotations"][:, 1] == -1).all()


def test_faces_are_those_of_their_set_in_memory_or_not():
    parts = {"a": dataset(6, ("ann",)), "b": dataset(5, ("bot",), 1)}
    split = union.join(parts).train
    rows = np.array([10, 0, 6, 5, 6])
    expected = np.concatenate([part.train.images.array for part in parts.values()])
    for images in (split.images, pipeline.cache(split).images):
        np.testing.assert_array_equal(images.faces(rows), expected[rows])
        faces, readable = images.read(rows)
        np.testing.assert_array_equal(faces, expected[rows])
        assert readable.all()
    np.testing.assert_array_equal(split.images[7], expected[7])
    assert pipeline.cache(split).images.in_memory


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "data.sets is empty"),
        (
            {"a": dataset(3, ()), "b": dataset(3, (), image_shape=(8, 8, 3))},
            "faces of a are 8×8×1, those of b 8×8×3",
        ),
        (
            {"a": dataset(3, ()), "b": dataset(3, (), classes=("cat", "dog", "cow"))},
            "the classes of a are not the first of the others'",
        ),
    ],
)
def test_parts_that_do_not_fit_are_named(parts, message):
    with pytest.raises(UserError, match=message):
        union.join(parts)


def test_names_are_strings_without_an_object_for_each():
    names = Names.of(f"{row}.png" for row in range(70_000))
    assert len(names) == 70_000
    assert names[69_999] == "69999.png"
    assert names[3:5] == ["3.png", "4.png"]
    assert list(names.take(np.array([7, 2]))) == ["7.png", "2.png"]
    assert list(Names.of(())) == []


class MaybeDamaged(InMemory):
    in_memory = False
    may_be_damaged = True


def test_sources_that_cannot_be_damaged_are_cached_beside_others():
    sound, other = dataset(6, ("ann",)), dataset(5, ("bot",), 1)
    damaged = MaybeDamaged(other.train.images.array)
    other = other.with_split("train", other.train._replace(images=damaged))
    split = union.join({"a": sound, "b": other}).train
    rows = np.arange(11, dtype=np.int32)
    cached = pipeline.cache(split.take(rows)).images
    assert isinstance(cached, Subset)
    assert isinstance(cached.images, Concatenated)
    assert cached.images.sources[1] is damaged
    np.testing.assert_array_equal(cached.faces(rows), split.images.faces(rows))
