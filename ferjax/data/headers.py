"""Sizes that picture files declare, read without decoding anything.

A file of a few bytes may declare billions of pixels, for which a decoder sets memory aside, or have
it go over them a thousand times.
"""

import re
import struct
from collections.abc import Iterator

PNM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d{1,9})(?:\s|#[^\r\n]*[\r\n])+(\d{1,9})")
JPEG_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd7\xff])")
"""Any that a segment follows; the others may be among the pixels."""

JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
JPEG_START, JPEG_END, JPEG_SCAN = 0xD8, 0xD9, 0xDA

TIFF_WIDTHS, TIFF_HEIGHTS = (256, 322), (257, 323)
"""Tags of the sides of a picture, and of its tiles."""

TIFF_NUMBERS = {1: "B", 3: "H", 4: "I"}


def declared_size(encoded: bytes) -> tuple[int, int] | None:
    """Returns the height and width, in pixels, that a picture file declares.

    Returns:
      None for a file of none of `FORMATS`, or one whose header is damaged.
    """
    for start, size_of in FORMATS.items():
        if encoded.startswith(start):
            try:
                return size_of(encoded)
            except (IndexError, struct.error):  # cut short
                return None
    return None


def passes(encoded: bytes, most: int) -> int:
    """Returns how often a decoder goes over a picture: once for each scan of a JPEG.

    Args:
      encoded: the picture file.
      most: scans are not counted exactly if there are surely no more than these.
    """
    scans = encoded.count(b"\xff\xda") if encoded.startswith(b"\xff\xd8\xff") else 1
    if scans <= most:
        return max(scans, 1)
    try:
        return sum(marker == JPEG_SCAN for marker, _ in _jpeg_segments(encoded))
    except struct.error:  # cut short
        return scans


def _jpeg(data: bytes) -> tuple[int, int] | None:
    """ITU-T T.81, section B: the first frame header, which comes before any scan."""
    for marker, at in _jpeg_segments(data):
        if marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 3)
            return height, width
        if marker == JPEG_SCAN:
            break
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each marker, and where what follows it begins, up to the picture's end."""
    at = 2
    while match := JPEG_MARKER.search(data, at):
        marker, at = match[1][0], match.end()
        if marker in (JPEG_START, JPEG_END):
            return
        yield marker, at
        at += struct.unpack_from(">H", data, at)[0]


def _png(data: bytes) -> tuple[int, int] | None:
    """ISO/IEC 15948; no chunk may be longer than the file, for decoders make room for it first."""
    size = None
    at = 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data) or (kind == b"IHDR" and size):
            return None
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", data, at + 8)
            size = height, width
        at += 12 + length
    return size


def _webp(data: bytes) -> tuple[int, int] | None:
    """RFC 9649: the first chunk has the size, of the canvas if there are several."""
    kind = data[12:16]
    if data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        return height, width
    return None


def _bmp(data: bytes) -> tuple[int, int]:
    old = struct.unpack_from("<I", data, 14)[0] == 12
    width, height = struct.unpack_from("<HH" if old else "<ii", data, 18)
    return abs(height), abs(width)  # a negative height: from top to bottom


def _tiff(data: bytes) -> tuple[int, int] | None:
    """TIFF 6.0, section 2: the first directory; a tile may be larger than the picture."""
    order = "<" if data.startswith(b"II") else ">"
    (at,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, at)
    height = width = 0
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in (*TIFF_WIDTHS, *TIFF_HEIGHTS) and kind in TIFF_NUMBERS:
            (number,) = struct.unpack_from(order + TIFF_NUMBERS[kind], data, entry + 8)
            if tag in TIFF_WIDTHS:
                width = max(width, number)
            else:
                height = max(height, number)
    return height, width


def _gif(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return height, width


def _pnm(data: bytes) -> tuple[int, int] | None:
    sides = PNM.match(data)
    return (int(sides[2]), int(sides[1])) if sides else None


FORMATS = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
    b"BM": _bmp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"GIF8": _gif,
    **{b"P%d" % kind: _pnm for kind in range(1, 7)},
}
"""The formats that are read, by their first bytes."""
