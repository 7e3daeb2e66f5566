"""Folders and archives that anybody may have made: found by name, or refused by name."""

import contextlib
import gzip
import io
import lzma
import os
import tarfile

import pytest

from ferjax.data import containers
from ferjax.data.containers import Archive, Folder
from ferjax.errors import UserError


def member(name, kind=tarfile.REGTYPE, target="", size=None, data=b"picture"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    regular = kind in (tarfile.REGTYPE, tarfile.AREGTYPE)
    info.size = (len(data) if regular else 0) if size is None else size
    return info, data if regular else None


def packed(*members):
    """A tar of some members."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, data and io.BytesIO(data))
    return stream.getvalue()


@pytest.fixture
def opened(tmp_path):
    """Opens an archive of some bytes."""
    with contextlib.ExitStack() as stack:

        def open_bytes(data, pictures=3):
            path = tmp_path / "set.tar"
            path.write_bytes(data)
            return Archive(path, pictures, stack)

        yield open_bytes


def folder(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return Folder(root)


NAMES = ("0/a.png", "7/deep/b.PNG", "c.jpg", "6/c.jpg", "7/notes.txt", "._a.png")


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_picture_is_found_in_any_sub_folder_and_with_any_ending(tmp_path, opened, kind):
    if kind == "folder":
        container = folder(tmp_path / "set", *NAMES)
    else:
        container = opened(packed(*(member(name, data=name.encode()) for name in NAMES)))
    found = {name: container.find(name) for name in ("a.png", "b.png", "c.png", "d.png")}
    assert found == {"a.png": "0/a.png", "b.png": "7/deep/b.PNG", "c.png": "c.jpg", "d.png": None}
    assert container.read("7/deep/b.PNG") == b"7/deep/b.PNG"
    assert sorted(container.pictures) == ["0/a.png", "6/c.jpg", "7/deep/b.PNG", "c.jpg"]


def test_one_name_in_two_sub_folders_is_refused_with_both(tmp_path):
    container = folder(tmp_path, "0/a.png", "1/a.png")
    with pytest.raises(UserError, match=r"which is a\.png\? There are [01]/a\.png and [01]/a\.png"):
        container.find("a.png")


def test_what_is_no_regular_file_in_a_folder_is_named(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png: not a regular file"):
        Folder(tmp_path).read("a.png")
    assert Folder(tmp_path).read("gone.png") is None
    assert Folder(tmp_path / "nowhere").find("a.png") is None


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_within_an_archive_are_followed(opened, kind):
    base = "" if kind == tarfile.SYMTYPE else "x/"
    second = "./" if kind == tarfile.SYMTYPE else "x/"
    container = opened(
        packed(
            member("x/a.png", data=b"first"),
            member("x/b.png", kind, f"{base}a.png"),
            member("x/c.png", kind, f"{second}b.png"),
            member("x/latest", kind, "nowhere"),
        )
    )
    assert container.read(container.find("c.png")) == b"first"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.png", tarfile.SYMTYPE, "b.png")], "'a.png' is a link to no file of it, 'b.png'"),
        ([("a.png", tarfile.LNKTYPE, "b.png")], "'a.png' is a link to no file of it, 'b.png'"),
        ([("x/a.png", tarfile.SYMTYPE, "/etc/passwd")], "is a link to no file of it, '/etc/passw"),
        ([("x/a.png", tarfile.SYMTYPE, "../../b.png")], "is a link to no file of it, '../b.png'"),
        (
            [("a.png", tarfile.SYMTYPE, "b.png"), ("b.png", tarfile.SYMTYPE, "a.png")],
            "'a.png' is a link to no file of it, 'a.png'",
        ),
        ([("a.png", tarfile.LNKTYPE, "a.png")], "'a.png' is a link to no file of it, 'a.png'"),
        ([("/a.png",)], "'/a.png' is an absolute name"),
        ([("x/../../a.png",)], "'x/../../a.png' has a name with '..'"),
        ([("a.png", tarfile.FIFOTYPE)], "'a.png' is a device or pipe"),
        ([("a.png", tarfile.CHRTYPE)], "'a.png' is a device or pipe"),
    ],
)
def test_members_that_no_set_has_are_refused_by_name(opened, members, message):
    with pytest.raises(UserError) as raised:
        opened(packed(member("fine.png"), *(member(*x) for x in members)))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) <= 300


def sparse(name, size):
    """A sparse member, as GNU tar writes it: it declares `size` and has 512 bytes."""
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0%011o\0" % (0, 512)
    header[483:495] = b"\x80" + size.to_bytes(11, "big")  # in base 256
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"x" * 512


def test_a_sparse_member_is_refused_whatever_it_declares(opened):
    with pytest.raises(UserError, match=r"set\.tar: 'huge\.png' is a sparse file"):
        opened(sparse("huge.png", 8 << 40) + packed(member("fine.png")))


def damaged():
    fine = packed(member("a.png"), member("b.png", data=b"p" * 3000))
    other = bytearray(fine)
    other[1024] ^= 1  # the checksum of the second header is wrong
    yield from (fine[:2000], fine[: 512 + 300], bytes(other), b"", b"\x1f\x8b", b"no archive")
    yield from (gzip.compress(fine)[:-9], lzma.compress(fine)[:-40])
    yield gzip.compress(fine)[:-8] + b"\0" * 8
    (info, _) = member("far.png", size=1 << 43)
    yield info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 2048
    yield packed(member("long.png", b"x", size=1 << 41)) + b"\0" * 1024  # a pax header without end


@pytest.mark.parametrize("data", list(damaged()))
def test_a_damaged_or_cut_archive_is_refused_in_a_line(opened, data):
    with pytest.raises(UserError, match=r"set\.tar: not a readable tar archive \(.*, at .*\)"):
        opened(data)


def test_a_cut_archive_is_refused_at_the_member_that_was_cut(opened):
    data = packed(member("a.png"), member("b.png", data=b"p" * 3000))
    with pytest.raises(UserError, match=r"at 'b\.png'"):
        opened(data[:2000])


def test_a_compressed_archive_is_read_unless_it_unpacks_to_far_more(opened, monkeypatch):
    fine = packed(member("a.png"), member("b.png", data=os.urandom(3000)))
    for pack in (gzip.compress, lzma.compress):
        container = opened(pack(fine))
        assert container.read("a.png") == b"picture"
    monkeypatch.setattr(containers, "BYTES", 1 << 16)
    bomb = gzip.compress(packed(member("a.png"), member("zeros.bin", data=bytes(1 << 21))))
    with pytest.raises(UserError, match=r"more than [\d,]+ bytes unpacked, at 'zeros\.bin'"):
        opened(bomb)
    assert opened(bomb, pictures=100).find("a.png") == "a.png"


def test_a_member_larger_than_a_picture_can_be_is_not_read(opened, monkeypatch):
    monkeypatch.setattr(containers, "most_bytes", lambda: 1000)
    container = opened(packed(member("a.png", data=bytes(2000))))
    with pytest.raises(UserError, match=r"'a\.png' cannot be read \(2,000 bytes\)"):
        container.read("a.png")
