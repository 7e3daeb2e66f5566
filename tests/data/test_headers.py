"""Declared sizes: what every format says of itself, and what a decoder must never be given."""

import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest

from ferjax.data import images
from ferjax.data.headers import declared_size, passes

ENDINGS = (".jpg", ".png", ".webp", ".bmp", ".tif", ".gif", ".ppm", ".pgm", ".pbm")


def encoded(ending, height=9, width=14, *options):
    channels = 1 if ending in (".pgm", ".pbm") else 3
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)
    return cv2.imencode(ending, pixels, options)[1].tobytes()


def chunk(kind, data, length=None):
    size = len(data) if length is None else length
    return struct.pack(">I", size) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(height, width, length=None):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 100), length)
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def with_sides(ending, height, width):
    """A small file that declares these sides."""
    lossy = (cv2.IMWRITE_WEBP_QUALITY, 80) if ending == ".webp" else ()
    data = bytearray(encoded(ending, 9, 14, *lossy))
    match ending:
        case ".jpg":
            at = data.index(b"\xff\xc0")
            data[at + 5 : at + 9] = struct.pack(">HH", height, width)
        case ".png":
            return png(height, width)
        case ".webp":
            data[26:30] = struct.pack("<HH", width, height)
        case ".bmp":
            data[18:26] = struct.pack("<ii", width, -height)
        case ".tif":
            order = "<" if data.startswith(b"II") else ">"
            (at,) = struct.unpack_from(f"{order}I", data, 4)
            for entry in range(at + 2, len(data) - 11, 12):
                tag = struct.unpack_from(f"{order}H", data, entry)[0]
                if tag in (256, 257):
                    side = width if tag == 256 else height
                    data[entry + 2 : entry + 12] = struct.pack(f"{order}HII", 4, 1, side)
        case ".gif":
            data[6:10] = struct.pack("<HH", width, height)
        case _:
            sides = data.index(b"14 9")
            data[sides : sides + 4] = b"%d\n# sides\n%d" % (width, height)
    return bytes(data)


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_declares_its_height_and_width(ending):
    assert declared_size(encoded(ending)) == (9, 14)


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),  # without: lossless
        (".ppm", (cv2.IMWRITE_PXM_BINARY, 0)),
    ],
)
def test_so_does_every_variant_of_one(ending, options):
    data = encoded(ending, 9, 14, *options)
    assert declared_size(data) == (9, 14)
    assert images.decode(data, 3).shape == (9, 14, 3)


def test_a_thumbnail_inside_a_jpeg_does_not_stand_for_it():
    data = encoded(".jpg")
    thumbnail = encoded(".jpg", 3, 4)
    segment = b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    assert declared_size(data[:2] + segment + b"\xff\xff" + data[3:]) == (9, 14)


def test_the_canvas_and_the_largest_tile_count():
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + (19_999).to_bytes(3, "little") * 2
    assert declared_size(b"RIFF\0\0\0\0WEBP" + canvas) == (20_000, 20_000)
    tile = struct.pack("<HHII", 322, 4, 1, 1 << 20)
    tags = struct.pack("<HHII", 256, 3, 1, 5) + struct.pack("<HHII", 257, 3, 1, 6) + tile
    assert declared_size(b"II*\0" + struct.pack("<IH", 8, 3) + tags) == (6, 1 << 20)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_small_file_that_declares_a_huge_picture_is_not_decoded(ending, monkeypatch):
    sides = (16_383, 16_382) if ending == ".webp" else (20_000, 30_000)
    data = with_sides(ending, *sides)
    assert declared_size(data) == sides
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert images.decode(data, 3) is None
    assert images.fault_of(data) == (
        f"{sides[0]:,}×{sides[1]:,} pixels, above the limit of 64 megapixels (max_megapixels)"
    )


def test_a_progressive_picture_may_not_go_over_its_pixels_for_ever(monkeypatch):
    data = encoded(".jpg", 100, 100, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    scan = data[data.rindex(b"\xff\xc4") : -2]
    many = data[:-2] + 300 * scan + data[-2:]
    scans = many.count(b"\xff\xda")
    assert scans > 300
    assert passes(many, 0) == scans
    assert passes(data + b"\xff\xda" * 50, 0) == data.count(b"\xff\xda")  # what follows the picture
    assert images.decode(many, 1, max_megapixels=1.0) is not None
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    assert images.decode(many, 1, max_megapixels=0.1) is None
    assert images.fault_of(many, 0.1).startswith(f"100×100 pixels in {scans} scans, 16 times above")


def test_the_limit_can_be_set():
    data = encoded(".png", 100, 100)
    assert images.decode(data, 3, max_megapixels=0.01).shape == (100, 100, 3)
    assert images.decode(data, 3, max_megapixels=0.009) is None
    assert "above the limit of 0.009 megapixels" in images.fault_of(data, 0.009)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_cut_or_of_another_format_declares_nothing_or_its_size(ending):
    data = encoded(ending)
    for end in range(0, min(len(data), 200)):
        assert declared_size(data[:end]) in (None, (9, 14), (9, 1), (0, 0), (0, 14))
    assert declared_size(b"") is declared_size(b"GIF") is declared_size(b"text") is None


def test_a_chunk_longer_than_its_file_is_not_made_room_for(monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded"))
    tracemalloc.start()
    for length in (1 << 31, 300_000_000):
        assert images.decode(png(24, 24, length), 3) is None
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
