"""Whatever is in a file, it is read as it says, or one short line names the file and the row."""

import os

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ferjax.truth import Annotations, TableError
from ferjax.truth.tables import look_alikes, positions

HEADER = "task,worker,label\n"
START = HEADER + "t1,ann,cat\nt1,bob,cat\nt2,ann,dog\nt2,bob,dog\n"


def refusal(path):
    with pytest.raises(TableError) as error:
        Annotations.from_table(path)
    assert len(str(error.value)) <= 290
    assert str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (START + 't3,bob,"dog\nt3,ann,dog\nt4,ann,cat\n', 'row 5 (line 6): the quote in "dog is'),
        (START + 't3,bob,"dog', 'row 5 (line 6): the quote in "dog is never closed'),
        (START + '"t3,bob,dog\n', 'row 5 (line 6): the quote in "t3,bob,dog is never closed'),
        (START + 't3,bob,"dog\nt4,bob,cat\nt5,ann,"cat"\n', "row 5 (line 6): the quote in"),
        (START + '"a\nb",bob,dog\n\nt3,bob,"dog\n', 'row 6 (line 9): the quote in "dog is'),
        (START + 't3,"5"" ""in",cat\nt4,6" or 7",cat\nt5,"bob,cat\n', "row 7 (line 8): the quote"),
        (START + 't3,bob,"' + "dog\n" * 600_000, 'row 5 (line 6): the quote in "dog is never'),
        ('task,"worker,label\n' + "a,b,c\n" * 50_000, 'row 0 (line 1): the quote in "worker,'),
        ('"', 'row 0 (line 1): the quote in " is never closed'),
        ('task,worker,label,note\na,b,c,"x\na,c,d,e\na,c,d,"e"\n', "row 1 (line 2): the quote"),
    ],
)
def test_a_quote_that_is_never_closed_is_named_by_its_line(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_text(content)
    assert f"labels.csv, {message}" in refusal(path)


def test_quotes_inside_cells_and_cells_of_several_lines_are_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(START + '"t\n3","a ""b""",6" disk\n\nt4,"ann","dog"')
    found = Annotations.from_table(path)
    assert found.tasks.tolist() == ["t1", "t2", "t\n3", "t4"]
    assert found.workers.tolist() == ["ann", "bob", 'a "b"']
    assert found.classes.tolist() == ['6" disk', "cat", "dog"]


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\r"])
def test_the_last_row_counts_however_it_ends(tmp_path, end):
    path = tmp_path / "labels.csv"
    path.write_bytes((START.replace("\n", end or "\n") + "t3,ann,cat" + end).encode())
    assert len(Annotations.from_table(path).task) == 5


def test_letters_of_several_bytes_may_lie_across_blocks(tmp_path):
    names = ["é" * 10] * 100_000
    for shift in ("a", "aa"):
        rows = "".join(f"{name},{name},{k % 2}\n" for k, name in enumerate(names))
        (tmp_path / "labels.csv").write_text(f"task,worker,label\n{shift},b,1\n{rows}")
        assert Annotations.from_table(tmp_path / "labels.csv").tasks.tolist() == [shift, names[0]]


@pytest.mark.parametrize("size", [5, 400_000])
def test_no_row_is_lost_where_every_cell_is_quoted(tmp_path, size):
    names = [f"{k % 1000}, the {k % 7}th" for k in range(size)]
    rows = pa.table({"task": names, "worker": names, "label": [str(k % 2) for k in range(size)]})
    pa.csv.write_csv(rows, tmp_path / "labels.csv")
    assert len(Annotations.from_table(tmp_path / "labels.csv").task) == size


@pytest.mark.parametrize("header", [HEADER, "worker,task,label\n", "item,worker,label\n"])
def test_files_joined_with_their_headers_are_refused(tmp_path, header):
    (tmp_path / "labels.csv").write_text(START + header + "t3,ann,cat\n")
    assert "labels.csv, row 5: a header again" in refusal(tmp_path / "labels.csv")


def test_a_column_may_hold_the_name_of_one(tmp_path):
    (tmp_path / "labels.csv").write_text(START + "task,label,cat\nt1,worker,label\n")
    assert Annotations.from_table(tmp_path / "labels.csv").sizes == (3, 4, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (START + "t3,a\0n,dog\n", "labels.csv, column worker, row 5: holds a NUL byte"),
        (START + "t3,ann," + "x" * 200_000, "column label, row 5: has more than 131,072 bytes"),
        (START + "t3,ann," + "x" * 3_000_000, "line 6: 3,000,007 bytes in a line are too many"),
        ("x" * 200_000, "labels.csv, line 1: 200,000 bytes in a line are too many"),
        ('"' + "x" * 200_000 + '"', "labels.csv, line 1: 200,002 bytes in a line are too many"),
        (START.encode() + b"t3,\xff,dog\n", "labels.csv, line 6: expected a CSV in UTF-8"),
        (START.encode() + b"t3,\xff\n", "labels.csv, line 6: expected a CSV in UTF-8"),
        (START.encode() + b"t3,ann,dog\xe2\x82", "labels.csv, line 6: expected a CSV in UTF-8"),
        (START.encode("utf-16"), "labels.csv, line 1: expected a CSV in UTF-8"),
        (START + "9" * 5000 + ",ann\n", "labels.csv, row 5: 2 cells, not 3"),
        (HEADER + "a,b," + "9" * 5000, "labels.csv: the only class is 999"),
        (",".join("9" * 50 for _ in range(500)), "labels.csv has no column task or item"),
        ("\0", "labels.csv has no column task or item"),
        ("\n", "labels.csv is empty"),
    ],
)
def test_what_is_no_table_is_refused_in_a_short_line(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refusal(path)


def test_numbers_of_any_length_are_ids(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(START + f"{'7' * 5000},{'8' * 5000},{'9' * 5000}\n")
    assert Annotations.from_table(path).classes[0] == "9" * 5000


def test_damaged_parquet_is_refused_in_a_short_line(tmp_path):
    """Every cut, and bytes changed one by one."""
    path, rng = tmp_path / "labels.parquet", np.random.default_rng(0)
    names = [f"img {k}" for k in range(60)]
    pq.write_table(
        pa.table({"task": names, "worker": names, "label": [1, 2] * 30}), path, compression="none"
    )
    whole = path.read_bytes()
    outcomes = set()
    for k in range(150):
        data = bytearray(whole if k % 3 else whole[: rng.integers(1, len(whole))])
        data[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            Annotations.from_table(path)
            outcomes.add("read")
        except TableError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}
    path.write_bytes(whole.replace(b"img 7", b"img\xff7"))
    assert "labels.parquet" in refusal(path)


def test_devices_and_pipes_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        assert refusal(path) == f"cannot read {path}: a device or pipe; expected a file"


def test_positions_take_equal_numbers_for_equal_unless_both_are_there():
    among = np.array(["1", "1.0", "2.50", "007", "x"], object)
    values = np.array(["1.0", "1", "1.00", "2.5", "7", "x", "12345678901234567890.0"], object)
    assert positions(values, among).tolist() == [1, 0, 0, 2, -1, 4, -1]
    large = np.array(["12345678901234567891", "12345678901234567890"], object)
    assert positions(values[-1:], large).tolist() == [1]


def test_look_alikes_are_pairs_in_order():
    values = np.array(["1", "a", "1.0", "A", "1.00", "b"], object)
    assert look_alikes(values) == [("1", "1.0"), ("1", "1.00")]
    assert look_alikes(values, capitals=True) == [("1", "1.0"), ("a", "A"), ("1", "1.00")]
    assert look_alikes(np.arange(3)) == []
