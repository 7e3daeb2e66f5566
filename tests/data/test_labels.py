"""The one reader of labels: every form they come in, and one clear line for what is wrong."""

import codecs
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ferjax.data import labels
from ferjax.data.record import Names
from ferjax.errors import UserError

ROWS = [("a.png", "happy"), ("my face.png", "sad"), ("deep/c.png", "fear")]
TEXTS = {
    "list.txt": "a.png happy\n\nmy face.png\tsad\ndeep/c.png   fear  \n",
    "quoted.txt": '"a.png" "happy"\n"my face.png" sad\n"deep/c.png" fear',
    "windows.txt": "\ufeffa.png happy\r\nmy face.png sad\r\ndeep\\c.png fear\r\n",
    "table.csv": "file,label,age\na.png,happy,3\n my face.png , sad ,4\n\ndeep/c.png,fear,5\n",
    "table.tsv": "Emotion\tImage Name\nhappy\ta.png\nsad\tmy face.png\nfear\tdeep\\c.png\n",
    "mac.txt": "a.png happy\rmy face.png sad\rdeep/c.png fear\r",
    "excel.csv": '\ufefffile;label\r\na.png;happy\r\n"my face.png";sad\r\ndeep/c.png;fear\r\n;\r\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_form_of_a_list_is_read_alike(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode())
    listing = labels.read_list(path)
    columns = (listing.columns["file"].to_pylist(), listing.columns["label"].to_pylist())
    assert list(zip(*columns, strict=True)) == ROWS


def test_a_table_in_utf_16_is_read_alike(tmp_path):
    path = tmp_path / "table.txt"
    path.write_bytes(TEXTS["table.tsv"].encode("utf-16"))
    listing = labels.read_list(path)
    assert listing.columns["label"].to_pylist() == ["happy", "sad", "fear"]


@pytest.mark.parametrize("read", [labels.read_list, labels.read_table])
def test_damaged_parquet_is_one_line(tmp_path, read):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet table"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize("read", [labels.read_list, labels.read_table])
def test_parquet_damaged_anywhere_is_one_short_line(tmp_path, read):
    path, rng = tmp_path / "t.parquet", np.random.default_rng(0)
    table = pa.table({"file": [f"img {k}.png" for k in range(60)], "label": ["a", "b"] * 30})
    pq.write_table(table, path, compression="none")
    whole = path.read_bytes()
    outcomes = set()
    for k in range(100):
        data = bytearray(whole if k % 3 else whole[: rng.integers(8, len(whole))])
        data[rng.integers(4, len(data))] = rng.integers(256)
        path.write_bytes(data)
        try:
            read(path)
            outcomes.add("read")
        except UserError as error:
            outcomes.add(len(str(error)) <= 290 and str(error).isprintable())
    assert outcomes == {"read", True}
    path.write_bytes(whole.replace(b"img 7", b"img\xff7"))
    with pytest.raises(UserError, match=r"t\.parquet: not a readable Parquet table of labels"):
        read(path)
    path.write_bytes(whole.replace(b"img 7", b"img\0" + b"7"))
    with pytest.raises(UserError, match=r"t\.parquet:8: a NUL byte"):
        read(path)


def test_devices_and_pipes_are_no_lists(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match=f"{path}: a device or pipe; expected a file"):
            labels.read_list(path)


@pytest.mark.parametrize("content", ['{"a": "' + "x" * 200_000 + '"}', "file,\rlabel\na,1\n"])
def test_what_is_no_list_is_refused_in_a_short_line(tmp_path, content):
    (tmp_path / "t.json").write_bytes(content.encode())
    with pytest.raises(UserError, match=r"t\.json:[12]: expected '<file name> <label>'") as error:
        labels.read_list(tmp_path / "t.json")
    assert len(str(error.value)) < 300


def test_parquet_is_a_table_too(tmp_path):
    path = tmp_path / "part-00000.parquet"
    word = pa.array([label for _, label in ROWS]).dictionary_encode()
    pq.write_table(
        pa.table({"index": [3, 4, 5], "file": [name for name, _ in ROWS], "label": word}), path
    )
    listing = labels.read_list(path)
    assert listing.columns["label"].to_pylist() == ["happy", "sad", "fear"]
    assert labels.read_table(path).numbers("index", 5).tolist() == [3, 4, 5]
    with pytest.raises(UserError, match=r"part-00000\.parquet:2: unknown label 'sad', expected fe"):
        listing.choices("label", ("fear", "happy"))
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(UserError, match=r"part-00000\.parquet:1: expected columns file and label"):
        labels.read_list(path)


def test_names_alone_are_a_list_without_labels(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text('a.png\n"my face.png"\n\n')
    names = labels.read_list(path, labelled=False).columns["file"]
    assert names.to_pylist() == ["a.png", "my face.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file,label\na,1\n\nb,2,3\n", r"t\.csv:4: 3 columns, expected 2"),
        ("file,label\na,1\n  \nb\n", r"t\.csv:4: 1 columns, expected 2"),
        ("file,label\na,1\n\n\nb,10\n", r"t\.csv:5: '10' is not a whole number from 0 to 9"),
        ("file,label\na,-1\n", r"t\.csv:2: '-1' is not a whole number from 0 to 9"),
        ("file,label\na,99999999999999999999\n", r"t\.csv:2: '9+' is not a whole number"),
        ("file,label\na,\n", r"t\.csv:2: '' is not a whole number"),
        ("file,age\na,1\n", r"t\.csv:1: no column 'label', there are file, age"),
        ("label,label\n1,1\n", r"t\.csv:1: more than one column 'label'"),
        ("", r"t\.csv:1: no column 'label'"),
        ("file,label\na,1\nb\xe9,2\n", r"t\.csv:3: .* this is not UTF-8 text"),
        ("file,label\n\0,1\n", r"t\.csv:2: .* this is not UTF-8 text"),
        ('file,label\n"a",1\n"b,2\nc,3\n', r"t\.csv:3: a quote is not closed .*: '\"b,2'"),
        ('file,label\na,"1\nb,"2"\nc,3\n', r"t\.csv:2: a quote is not closed"),
        ('file,label\n"a ""b""",1\nc"d,2\ne,x\n', r"t\.csv:4: 'x' is not a whole number"),
        ("file,label\na,1\nb,2\nfile , label\nc,3\n", r"t\.csv:4: the header again"),
        ("file,label\na," + "9" * 5000, r"t\.csv:2: '9{80}\.\.\.' is not a whole number"),
        (
            "file,label\na,1\nb," + "9" * 5_000_000 + "\nc,3\n",
            r"t\.csv:3: a line of 5,000,002 bytes",
        ),
        (",".join(["9" * 50] * 100), r"t\.csv:1: no column 'label', there are 999"),
        ("x" * 200_000 + ",label\n", r"t\.csv:1: no column 'label'"),
    ],
)
def test_a_mistake_is_named_by_file_and_line(tmp_path, content, message):
    path = tmp_path / "t.csv"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=message) as error:
        labels.read_table(path, ["label"]).numbers("label", 9)
    assert len(str(error.value)) <= 290


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.csv: No such file"):
        labels.read_table(tmp_path / "nowhere.csv")


def test_lines_are_counted_through_a_long_file(tmp_path):
    """Arrow reads blocks of a megabyte."""
    rows = [f"face{row:07d}.png,{row % 7}" for row in range(200_000)]
    rows.insert(150_000, "   ")
    rows.insert(190_000, "bad.png,7")
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    table = labels.read_table(tmp_path / "t.csv")
    assert len(table) == 200_001
    with pytest.raises(UserError, match=r"t\.csv:190002: '7' is not a whole number from 0 to 6"):
        table.numbers("label", 6)
    rows.insert(195_000, "bad.png")
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *rows]))
    with pytest.raises(UserError, match=r"t\.csv:195002: 1 columns, expected 2"):
        labels.read_table(tmp_path / "t.csv")


def test_unknown_labels_are_numbers_where_they_may_be(tmp_path):
    (tmp_path / "t.csv").write_text("index,ann\n0,-1\n1,4\n")
    listing = labels.read_table(tmp_path / "t.csv")
    assert listing.numbers("ann", 9, unknown=True).tolist() == [-1, 4]
    with pytest.raises(UserError, match="'-1' is not a whole number"):
        listing.numbers("ann", 9)


def test_a_file_listed_again_must_say_the_same(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(codecs.BOM_UTF8 + b"b 1\na 2\nb 1\n")
    first, counts = labels.read_list(path).first_of("file", ["label"], "another label")
    assert (first.tolist(), counts.tolist()) == ([0, 1], [2, 1])
    path.write_text("b 1\na 2\n\nb 2\na 1\n")
    with pytest.raises(UserError, match=r"list\.txt:4: b is listed again with another label"):
        labels.read_list(path).first_of("file", ["label"], "another label")


def test_names_are_looked_up(tmp_path):
    (tmp_path / "list.txt").write_text("b 1\na 2\n")
    listing = labels.read_list(tmp_path / "list.txt")
    assert listing.rows_of("file", ["a", "c", "b"]).tolist() == [1, -1, 0]
    assert listing.rows_of("file", Names.of(["a"])).tolist() == [1]
    assert listing.where(np.array([False, True])).rows_of("file", ["a", "b"]).tolist() == [0, -1]
