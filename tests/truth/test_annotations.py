"""Tables become compact arrays, or one line says what is wrong with them and where."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ferjax.truth import Annotations, OptionError, TableError
from ferjax.truth.annotations import NO_CLASS, UNKNOWN, read_known

ROWS = [
    ("b", "ann", "10"),
    ("a", "ann", "9"),
    ("b", "bob", "9"),
    ("a", "cy", "10"),
    ("b", "bob", "10"),
]


PETS = {
    "task": ["t1", "t1", "t2", "t2"],
    "worker": ["ann", "bob", "ann", "bob"],
    "label": ["cat", "cat", "dog", "cat"],
}


def table(rows=ROWS, task="task"):
    columns = zip(*rows, strict=True)
    return pa.table(dict(zip((task, "worker", "label"), map(list, columns), strict=True)))


def as_rows(annotations):
    places = zip(annotations.task, annotations.worker, annotations.label, strict=True)
    ids = annotations.tasks, annotations.workers, annotations.classes
    return [tuple(values[place] for values, place in zip(ids, row, strict=True)) for row in places]


def write_csv(path, rows=ROWS, header="task,worker,label"):
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return path


def test_rows_are_sorted_by_task_then_worker_and_ids_keep_their_first_appearance():
    annotations = Annotations.from_table(table())
    assert annotations.tasks.tolist() == ["b", "a"]
    assert annotations.workers.tolist() == ["ann", "bob", "cy"]
    assert as_rows(annotations) == [ROWS[0], ROWS[2], ROWS[4], ROWS[1], ROWS[3]]
    assert annotations.task.dtype == annotations.label.dtype == np.int32


def test_classes_that_are_numbers_are_sorted_as_numbers():
    assert Annotations.from_table(table()).classes.tolist() == ["9", "10"]
    words = [(task, worker, {"9": "yes", "10": "no"}[label]) for task, worker, label in ROWS]
    assert Annotations.from_table(table(words)).classes.tolist() == ["no", "yes"]


def test_pandas_arrow_csv_and_parquet_agree(tmp_path):
    pq.write_table(table(task="item"), tmp_path / "a.parquet", row_group_size=2)
    write_csv(tmp_path / "a.csv")
    frame = table().to_pandas()
    whole = as_rows(Annotations.from_table(table()))
    for other in (frame, tmp_path / "a.parquet", str(tmp_path / "a.csv")):
        assert as_rows(Annotations.from_table(other)) == whole


def test_dictionaries_count_what_is_in_their_rows_alone(tmp_path):
    """Categories that no row has are no task, worker or class; and chunks may differ in theirs."""
    frame = table().to_pandas().astype("category")
    half = frame[frame.worker == "ann"]
    found = Annotations.from_table(half)
    assert as_rows(found) == [ROWS[0], ROWS[1]]
    assert (found.tasks.tolist(), found.workers.tolist()) == (["b", "a"], ["ann"])
    chunks = [pa.array(x).dictionary_encode() for x in (["b", "a", "a"], ["c", "b", "b"])]
    labels = pa.chunked_array(chunks)
    mixed = pa.table({"task": [1, 2, 3, 4, 5, 6], "worker": ["w"] * 6, "label": labels})
    found = Annotations.from_table(mixed)
    assert found.classes[found.label].tolist() == ["b", "a", "a", "c", "b", "b"]
    with pytest.raises(TableError, match="column label, row 2: empty or NaN"):
        Annotations.from_table(frame.assign(label=frame.label.cat.rename_categories({"9": "nan"})))


def test_ids_of_other_types_become_strings_or_are_refused():
    days = np.array(["2020-01-02", "2020-01-01"], "datetime64[D]")
    odd = pa.table({"task": [b"x", b"y"], "worker": np.float16([1, 2]), "label": days})
    found = Annotations.from_table(odd)
    assert found.tasks.tolist() == ["x", "y"]
    assert found.classes.tolist() == ["2020-01-01", "2020-01-02"]
    for nested in (pa.array([[1], [2]]), pa.array([{"a": 1}, {"a": 2}])):
        with pytest.raises(TableError, match="column task, of type"):
            Annotations.from_table(pa.table({"task": nested, "worker": [1, 2], "label": [0, 1]}))
    with pytest.raises(TableError, match="expected a pandas or Arrow table or a path, not list"):
        Annotations.from_table([1, 2])
    with pytest.raises(TableError, match="has several columns named label"):
        Annotations.from_table(pa.table([[1], [2], [3], [4]], ["task", "worker", "label", "label"]))


def test_whole_numbers_far_apart_or_of_any_width_are_numbered_alike(monkeypatch):
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 50, 400)
    ids = rng.permutation(50)
    small = {"worker": np.zeros(400, int), "label": codes % 3}
    for spread in (ids.astype(np.int8), ids.astype(np.uint64) + 2**63, ids * 10**15, -ids):
        found = Annotations.from_table(pa.table({"task": spread[codes]} | small))
        first = list(dict.fromkeys(spread[codes].tolist()))
        assert found.tasks.tolist() == first
        assert sorted(found.tasks[found.task].tolist()) == sorted(spread[codes].tolist())
    monkeypatch.setattr("ferjax.truth.tables.BATCH_ROWS", 64)
    monkeypatch.setattr("ferjax.truth.tables.TABLE_SIZE", 60)  # given up in a later batch
    late = np.concatenate([ids[codes[:200]], ids[codes[200:]] * 1000])
    batches = pa.Table.from_batches(pa.table({"task": late} | small).to_batches(max_chunksize=64))
    found = Annotations.from_table(batches)
    assert found.tasks.tolist() == list(dict.fromkeys(late.tolist()))
    assert sorted(found.tasks[found.task].tolist()) == sorted(late.tolist())


def test_batches_make_no_difference(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    rows = {name: rng.integers(0, 40, 1000) for name in ("task", "worker", "label")}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet", row_group_size=70)
    whole = Annotations.from_table(pa.table(rows))
    monkeypatch.setattr("ferjax.truth.tables.BATCH_ROWS", 64)
    for left, right in zip(Annotations.from_table(tmp_path / "a.parquet"), whole, strict=True):
        np.testing.assert_array_equal(left, right)


def test_repeated_pairs_are_counted_and_kept_or_the_last_wins():
    kept = Annotations.from_table(table())
    assert kept.repeated == 1
    last = Annotations.from_table(table(), repeated="last")
    assert last.repeated == 1
    assert as_rows(last) == [ROWS[0], ROWS[4], ROWS[1], ROWS[3]]
    with pytest.raises(ValueError, match="repeated must be"):
        Annotations.from_table(table(), repeated="first")


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (ROWS, "task,who,label", "has no column worker, only task, who, label"),
        ([*ROWS, ("", "ann", "9")], "task,worker,label", "column task, row 6: empty or NaN"),
        ([*ROWS, ("c", "ann", "")], "task,worker,label", "column label, row 6: empty or NaN"),
        ([("a", "ann", "9")], "task,worker,label", "the only class is 9; at least two are needed"),
        ([], "task,worker,label", "has no rows"),
        ([("a", "ann")], "task,worker,label", "csv, row 1: 2 cells, not 3"),
        ([*ROWS, ("c", "ann", "9", "")], "task,worker,label", "csv, row 6: 4 cells, not 3"),
        ([*ROWS, ("c", "NaN", "9")], "task,worker,label", "column worker, row 6: empty or NaN"),
    ],
)
def test_a_csv_that_cannot_be_used_is_named(tmp_path, rows, header, message):
    path = write_csv(tmp_path / "labels.csv", rows, header)
    with pytest.raises(TableError, match=message) as error:
        Annotations.from_table(path)
    assert "labels.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_empty_file_a_missing_one_and_nan_are_named(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(TableError, match=r"empty.csv is empty"):
        Annotations.from_table(tmp_path / "empty.csv")
    with pytest.raises(TableError, match=r"cannot read .*none.csv: No such file"):
        Annotations.from_table(tmp_path / "none.csv")
    nan = pa.table({"task": [1, 2], "worker": [1, 2], "label": [1.0, float("nan")]})
    with pytest.raises(TableError, match="the table, column label, row 2: empty or NaN"):
        Annotations.from_table(nan)


def test_known_truths_find_their_tasks_whatever_the_type_of_the_ids():
    numbers = pa.table({"task": [3, 1, 2], "worker": [1, 1, 2], "label": [0, 5, 5]})
    annotations = Annotations.from_table(numbers)
    assert read_known({1: 5, 7: 5}, annotations).tolist() == [-1, 1, -1]
    strings = pa.table({"item": ["2", "3"], "truth": ["5", "0"]})
    numbers = pa.table({"item": [2.0, 3.0], "truth": ["5.0", "0"]})
    for known in (strings, numbers):
        assert read_known(known, annotations).tolist() == [0, -1, 1]
    booleans = Annotations.from_table(
        pa.table({"task": [1], "worker": [1], "label": [True]}), classes=[False, True]
    )
    assert read_known(pa.table({"task": ["1"], "label": ["True"]}), booleans).tolist() == [1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": "11"}, r"row 1: label 11 is none of the classes 9, 10"),
        (
            pa.table({"task": ["a", "b", "a"], "label": ["9", "9", "10"]}),
            "task a is listed with two",
        ),
        (
            {"z": "9"},
            "none of its tasks was annotated; its first task is z, the first annotated one is b",
        ),
        (np.zeros(3, np.int32), "known truths must be 2 indices of 2 classes, or -1"),
        (np.array([2, 0], np.int32), "known truths must be 2 indices of 2 classes, or -1"),
    ],
)
def test_known_truths_that_make_no_sense_are_named(labels, message):
    with pytest.raises(TableError, match=message):
        read_known(labels, Annotations.from_table(table()))


@pytest.mark.parametrize(
    ("labels", "truths"),
    [
        (("0.0", "1.0"), ("0", "1")),
        (("0", "1"), ("0.0", "1.00")),
        (("0.50", "0.25"), (0.5, 0.25)),
        (("cat", "dog"), ("cat ", "\u00a0dog\t")),
        ((0, 1), ("0.0", "1.0")),
    ],
)
def test_known_truths_match_however_numbers_and_blanks_are_written(labels, truths):
    rows = {
        "task": [1, 1, 2, 2],
        "worker": [1, 2, 1, 2],
        "label": [labels[k] for k in (0, 0, 1, 1)],
    }
    annotations = Annotations.from_table(pa.table(rows))
    truth = annotations.classes[read_known({1: truths[0], 2: truths[1]}, annotations)]
    assert truth.tolist() == list(labels)


@pytest.mark.parametrize("others", [True, False])
def test_known_truths_that_are_no_class_are_refused_if_all_are_else_counted(caplog, others):
    annotations = Annotations.from_table(pa.table(PETS))
    with pytest.raises(TableError, match=r"row 1: label 'Cat' \(which is not 'cat'\) is none of"):
        read_known({"t1": "Cat", "t2": "DOG"}, annotations, others=others)
    known = read_known({"t1": "cat", "t2": "DOG", "t9": "cow"}, annotations, others=others)
    assert known.tolist() == [0, NO_CLASS if others else UNKNOWN]
    assert "1 of 2 labels" in caplog.text
    assert "none of the classes cat, dog: 'DOG' (which is not 'dog')" in caplog.text


def test_known_truths_may_be_blank_or_missing_for_some_tasks(caplog):
    annotations = Annotations.from_table(pa.table(PETS))
    known = pa.table({"task": ["t1", "t2", "t3"], "label": ["dog", " ", None]})
    assert read_known(known, annotations).tolist() == [1, UNKNOWN]
    known = {"t1": "dog", "t2": "-1"}
    assert read_known(known, annotations, missing=("-1",)).tolist() == [1, UNKNOWN]
    assert caplog.text == ""
    with pytest.raises(TableError, match="no annotated task has a label"):
        read_known({"t1": None, "t2": ""}, annotations)


def test_a_task_that_only_looks_like_an_annotated_one_is_named(caplog):
    read_known({"T1": "cat", "t2": "dog"}, Annotations.from_table(pa.table(PETS)))
    assert "task 'T1' was not annotated, but 't1' was" in caplog.text


def test_blanks_around_ids_are_no_part_of_them(tmp_path):
    rows = [
        ("t1", "ann", "cat "),
        (" t1", "bob", "dog"),
        ("t2", "ann\t", "\u3000dog"),
        ("t2", "bob", "cat"),
    ]
    found = Annotations.from_table(write_csv(tmp_path / "labels.csv", rows))
    assert found.sizes == (2, 2, 2)
    assert as_rows(found) == [tuple(word.strip() for word in row) for row in rows]


@pytest.mark.parametrize(
    ("column", "pair", "message"),
    [
        ("task", ("1", "1.0"), "column task: '1' and '1.0' are counted as different"),
        ("worker", ("2.50", "2.5"), "column worker: '2.50' and '2.5' are counted"),
        ("label", ("1.0", "1"), "column label: '1.0' and '1' are counted as different"),
        ("task", ("caf\u00e9", "cafe\u0301"), r"column task: 'caf\xe9' and 'cafe\u0301' are"),
        ("label", ("dog\u200b", "dog"), r"column label: 'dog\u200b' and 'dog' are counted"),
        ("label", ("Cat", "cat"), "column label: 'Cat' and 'cat' are counted as different"),
        ("label", ("None", "cat"), "'None' counted as a class; missing=('None',) drops such rows"),
        ("label", ("-1", "nuLL"), "'-1' and 'nuLL' counted as a class; missing=('-1', 'nuLL')"),
        ("label", ("a,b\nc", "d"), r"class 'a,b\nc' has several lines; is a quote closed too late"),
    ],
)
def test_ids_that_may_be_meant_otherwise_are_named_in_a_warning(caplog, column, pair, message):
    rows = {"task": ["a", "b"], "worker": ["c", "d"], "label": ["e", "f"]} | {column: list(pair)}
    assert Annotations.from_table(pa.table(rows)).sizes == (2, 2, 2)
    assert message in caplog.text
    assert len(caplog.records) == 1


def test_usual_ids_give_no_warning(caplog):
    rows = {
        "task": ["1.jpg", "1.png", "T", "t"],
        "worker": ["A", "a", "é", "e"],
        "label": [0, 1, 2, 3],
    }
    Annotations.from_table(pa.table(rows))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("missing", "labels"),
    [
        (("None", "-1"), ["x", "None", "y", "-1", "y"]),
        ((-1, None), ["x", None, "y", "-1", "y"]),
        (("",), ["x", "", "y", "nan", "y"]),
        (("nan", 9), [1.0, None, 2.0, 9.0, 2.0]),
        (("9",), [1, 9, 2, 9, 2]),
    ],
)
def test_rows_whose_label_is_missing_count_as_if_they_were_not_there(missing, labels):
    rows = {"task": ["c", "a", "b", "a", "c"], "worker": [5, 4, 3, 3, 5], "label": labels}
    whole = pa.table(rows)
    found = Annotations.from_table(whole, missing=missing)
    for left, right in zip(found, Annotations.from_table(whole.take([0, 2, 4])), strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(TableError, match="every label is one of those that are missing"):
        Annotations.from_table(whole.take([1, 3]), missing=missing)
    with pytest.raises(OptionError, match=r"missing must be several labels, such as \('x',\)"):
        Annotations.from_table(whole, missing="x")


def test_known_truths_to_measure_by_may_be_none_of_the_classes():
    annotations = Annotations.from_table(table())
    known = read_known({"a": "11", "b": "9", "z": "12"}, annotations, others=True)
    assert known.tolist() == [0, NO_CLASS]


def test_an_array_of_known_truths_is_taken_as_it_is():
    known = np.array([-1, 1], np.int32)
    np.testing.assert_array_equal(read_known(known, Annotations.from_table(table())), known)


def test_classes_may_be_given_with_some_that_nobody_chose():
    annotations = Annotations.from_table(table(), classes=["10", "8", "9"])
    assert annotations.classes.tolist() == ["10", "8", "9"]
    assert as_rows(annotations) == as_rows(Annotations.from_table(table()))
    with pytest.raises(TableError, match="the table, row 2: label 9 is none of the classes 8, 10"):
        Annotations.from_table(table(), classes=["8", "10"])
    with pytest.raises(TableError, match="classes must differ, but are 9, 10, 9"):
        Annotations.from_table(table(), classes=["9", "10", "9"])
    with pytest.raises(TableError, match="the only class is 9"):
        Annotations.from_table(table(), classes=["9"])
