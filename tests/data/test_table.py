"""Tables: parts, copies and draws are done alike for all datasets; the guide's example works."""

import re
import sys
import types
from pathlib import Path

import cv2
import numpy as np
import pytest
from ml_collections import ConfigDict

from ferjax.data import datasets, prepared, table
from ferjax.data.record import Names
from ferjax.errors import UserError

GUIDE = Path(table.__file__).parent / "datasets/README.md"


def png(value, side=12):
    return cv2.imencode(".png", np.full((side, side, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def root(tmp_path):
    """Eight pictures, each of its number's brightness; 7 is a copy of 1, 5 one of 4."""
    for row in range(8):
        path = tmp_path / ("west" if row < 6 else "east") / f"{row}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png({7: 1, 5: 4}.get(row, row)))
    return tmp_path


def listed(**changes):
    truth = np.array([0, 1, 0, 1, 0, 1, 0, 1], np.int32)
    fields = {
        "classes": ("neutral", "happy"),
        "coders": ("ann",),
        "files": Names.of([f"west/{k}.png" for k in range(6)] + ["east/6.png", "east/7.png"]),
        "part": np.repeat(["train", "test"], [6, 2]),
        "labels": truth[:, None],
        "truth": truth,
    }
    return table.Table(**fields | changes)


def load(root, data, **changes):
    fields = {"size": 12, "channels": 1, "cache": str(root / "cache")}
    return table.load("tiny", data, root, **fields | changes)


def brightness(split):
    return split.images.faces(np.arange(len(split.images)))[:, 0, 0, 0].tolist()


def test_training_pictures_that_are_tested_on_are_left_out_and_copies_are_one_group(root):
    data = load(root, listed())
    assert list(data.train.names) == [f"west/{k}.png" for k in (0, 2, 3, 4, 5)]
    assert brightness(data.train) == [0, 2, 3, 4, 4]
    assert brightness(data.test) == [6, 1]
    assert data.train.labels["annotations"][:, 0].tolist() == [0, 0, 1, 0, 1]
    assert data.train.groups[3] == data.train.groups[4]
    assert len(set(data.train.groups)) == 4
    assert data.notes == (
        "1 test files are byte-identical to 1 training files; 1 faces left out of training",
        "1 training files are redundant copies of others (kept)",
    )
    assert len(load(root, listed(), drop_copies=False).train.names) == 6


def test_pictures_that_do_not_count_are_only_compared(root):
    keep = np.arange(8) != 2
    data = load(root, listed(keep=keep, names=Names.of("abcdefgh")))
    assert list(data.train.names) == ["a", "d", "e", "f"]


def test_parts_are_taken_in_the_order_asked_and_must_be_there(root):
    part = np.array(["b", "a", "b", "a", "b", "a", "test", "test"])
    data = load(root, listed(part=part), train=("a", "b"), drop_copies=False)
    assert brightness(data.train) == [1, 3, 4, 0, 2, 4]
    for parts, message in ((("c",), "unknown part 'c'"), (("a", "test"), "'test' is used twice")):
        with pytest.raises(UserError, match=message):
            load(root, listed(part=part), train=parts)


def test_what_is_known_stays_with_its_picture_when_one_cannot_be_read(root):
    (root / "west/2.png").unlink()
    with pytest.raises(UserError, match=r"west/2\.png: image is missing .*data\.skip_corrupt=True"):
        load(root, listed(), skip_corrupt=False)
    votes = np.stack([np.arange(8), np.zeros(8)], axis=1).astype(np.int32)
    va = np.arange(16, dtype=np.float32).reshape(8, 1, 2)
    every = listed(votes=votes, va=va, groups=[f"person {row}" for row in range(8)])
    train = load(root, every, skip_corrupt=True).train
    assert train.labels["votes"][:, 0].tolist() == [0, 3, 4, 5]
    assert train.labels["va"][:, 0, 0].tolist() == [0, 6, 8, 10]
    assert list(train.groups) == ["person 0", "person 3", "person 4", "person 5"]


def test_a_table_without_a_single_picture_is_refused(root):
    for path in root.glob("*/*.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"none of the 8 pictures can be read: west/0\.png is miss"):
        load(root, listed(), skip_corrupt=True)
    assert not list((root / "cache").iterdir())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            RuntimeError("write() failed: No space left; writing /x; at byte 9"),
            "write\\(\\) failed: No",
        ),
    ],
)
def test_a_full_disk_is_named_with_the_file(root, monkeypatch, error, reason):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(prepared.Builder, "download_and_prepare", fail)
    with pytest.raises(
        UserError, match=rf"cannot write .*/cache/tiny-\S+: {reason}[^;]*; data.cache"
    ):
        load(root, listed())
    assert not list((root / "cache").iterdir())


def test_labels_may_change_without_preparing_again(root, monkeypatch):
    load(root, listed())
    monkeypatch.setattr(prepared, "_write", lambda *_: pytest.fail("prepared again"))
    other = np.ones((8, 1), np.int32)
    assert load(root, listed(labels=other)).train.labels["annotations"].all()


def test_a_damaged_preparation_is_made_again(root, caplog):
    first = load(root, listed())
    (index,) = (root / "cache").rglob(prepared.INDEX)
    index.write_bytes(b"")
    again = load(root, listed())
    assert "is damaged: all is prepared again" in caplog.text
    rows = np.arange(len(first.train.images))
    np.testing.assert_array_equal(again.train.images.faces(rows), first.train.images.faces(rows))


def test_the_example_of_the_guide_is_a_dataset(tmp_path, monkeypatch):
    example, config, test = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    raf_db = types.ModuleType("ferjax.data.datasets.raf_db")
    exec(example, raf_db.__dict__)
    monkeypatch.setitem(sys.modules, raf_db.__name__, raf_db)
    monkeypatch.setattr(datasets, "raf_db", raf_db, raising=False)
    checks, configs = {}, {}
    exec(test, checks)
    exec(config, configs)
    checks["test_every_label_is_the_class_of_its_name"](tmp_path)
    fields = configs["get_config"]().data.copy_and_resolve_references()
    fields.update({"dir": str(tmp_path), "cache": str(tmp_path / "cache")})
    faces = raf_db.load(ConfigDict(fields))
    assert faces.image_shape == (100, 100, 3)
    assert len(faces.train.names) == len(faces.test.names) == 7
    checks["test_an_unknown_label_is_reported_with_its_line"](tmp_path)
    assert len(example.splitlines()) <= 60
