"""Encoded pictures, in files or in ArrayRecord, decoded and resized when they are wanted."""

import abc
import dataclasses
import errno
import functools
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Bool, Int, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from ferjax.data.headers import FORMATS, declared_size, passes
from ferjax.data.record import UNREADABLE, Images, Names
from ferjax.errors import UserError

MAX_MEGAPIXELS = 64.0
"""Pictures that declare more million pixels are not decoded unless a field says otherwise."""

PASSES = 16
"""A progressive picture of as many pixels may go over them so often, a smaller one more often."""

BYTES_A_PIXEL = 8
"""Of a picture without compression, 16 bits in each of four channels; see `most_bytes`."""

METADATA = 1 << 24

RECORDS_AT_A_TIME = 1024


def decode(
    encoded: bytes, channels: int, max_megapixels: float = MAX_MEGAPIXELS
) -> UInt8[np.ndarray, "height width channels"] | None:
    """Decodes a picture file, in grey (1 channel) or RGB (3).

    Args:
      encoded: the file, of one of `headers.FORMATS`.
      channels: 1 or 3.
      max_megapixels: millions of pixels that it may declare; nothing is decoded if it has more.

    Returns:
      None if the bytes are damaged, or for too many pixels: see `fault_of`.
    """
    if declared_size(encoded) is None or _excess(encoded, max_megapixels):
        return None
    code = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), code)
    except cv2.error:
        return None
    return None if image is None else image.reshape(*image.shape[:2], channels)


def fault_of(encoded: bytes, max_megapixels: float = MAX_MEGAPIXELS) -> str:
    """Returns what is wrong with a picture file that `decode` gives None for."""
    return _excess(encoded, max_megapixels) or UNREADABLE


def _excess(encoded: bytes, max_megapixels: float) -> str:
    """Returns why a picture would take too much memory or time to decode; '' if it would not."""
    height, width = declared_size(encoded) or (0, 0)
    pixels, most = height * width, max_megapixels * 1e6
    limit = f"the limit of {max_megapixels:g} megapixels (max_megapixels)"
    if pixels > most:
        return f"{height:,}×{width:,} pixels, above {limit}"
    if pixels and (scans := passes(encoded, int(PASSES * most / pixels))) * pixels > PASSES * most:
        return f"{height:,}×{width:,} pixels in {scans:,} scans, {PASSES} times above {limit}"
    return ""


def check_limit(max_megapixels: float) -> None:
    """Checks that some pictures may be decoded.

    Raises:
      UserError: if none may.
    """
    if not max_megapixels > 0:
        raise UserError(f"max_megapixels must be above 0, not {max_megapixels}")


def most_bytes(max_megapixels: float = MAX_MEGAPIXELS) -> int:
    """Returns how many bytes the file of a picture of so many pixels can have."""
    return int(max_megapixels * 1e6) * BYTES_A_PIXEL + METADATA


def read_file(path: str | Path, max_megapixels: float = MAX_MEGAPIXELS) -> bytes:
    """Reads a picture file.

    Raises:
      OSError: if it is not there, no regular file (a device may never end, and a pipe never begin),
        or larger than a picture of so many pixels can be.
    """
    status = os.stat(path)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if status.st_size > most_bytes(max_megapixels):
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return Path(path).read_bytes()


def resize(
    image: UInt8[np.ndarray, "height width channels"], size: int
) -> UInt8[np.ndarray, "size size channels"]:
    """Resizes a picture to a square of so many pixels, averaging when it shrinks."""
    if image.shape[:2] == (size, size):
        return image
    method = cv2.INTER_AREA if size < min(image.shape[:2]) else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method).reshape(size, size, -1)


def to_grey(
    image: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height width 1"]:
    """Returns the luma of an RGB picture, within one level of decoding it in grey."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


@dataclasses.dataclass(frozen=True)
class EncodedImages(Images):
    """Encoded pictures as faces [size, size, channels]; a source implements `encoded`.

    Attributes:
      size: pixels of the side.
      channels: 1, grey; or 3, RGB.
      max_megapixels: see `decode`.
    """

    size: int
    channels: int
    max_megapixels: float = dataclasses.field(default=MAX_MEGAPIXELS, kw_only=True)

    @abc.abstractmethod
    def encoded(self, rows: list[int]) -> Iterator[bytes]:
        """Yields the picture file of each row, no bytes where it cannot be read."""

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `record.Images.read`."""
        faces = np.zeros((len(rows), self.size, self.size, self.channels), np.uint8)
        readable = np.zeros(len(rows), bool)
        for k, encoded in enumerate(self.encoded(rows.tolist())):
            image = decode(encoded, self.channels, self.max_megapixels)
            if image is not None:
                faces[k] = resize(image, self.size)
                readable[k] = True
        return faces, readable

    def fault_of(self, row: int) -> str:
        """See `record.Images.fault_of`."""
        return fault_of(next(self.encoded([row])), self.max_megapixels)


@dataclasses.dataclass(frozen=True)
class FileImages(EncodedImages):
    """Pictures in files, which may be damaged.

    Attributes:
      root: folder that the names are relative to.
      names: of the files.
    """

    root: str
    names: Names

    may_be_damaged = True

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, row: int) -> str:
        """See `record.Images.name_of`."""
        return f"{self.root}: {self.names[row]}"

    def paths(self) -> pa.StringArray:
        """See `record.Images.paths`: links to folders are followed, links to pictures are not."""
        real = functools.cache(os.path.realpath)

        def path(name: str) -> str:
            folder, file = os.path.split(os.path.join(self.root, name))
            return os.path.join(real(folder), file)

        return Names.of(map(path, self.names)).array

    def encoded(self, rows: list[int]) -> Iterator[bytes]:
        """See `EncodedImages.encoded`."""
        for row in rows:
            try:
                yield read_file(os.path.join(self.root, self.names[row]), self.max_megapixels)
            except (OSError, ValueError):  # a null byte in a name
                yield b""


@dataclasses.dataclass(frozen=True)
class RecordImages(EncodedImages):
    """Pictures in ArrayRecord files: each record is a picture file or an example that holds one.

    Attributes:
      files: the ArrayRecord files.
      names: of the pictures, for messages.
      feature: what holds the picture in an example.
      may_be_damaged: false if they were checked when the files were written.
    """

    files: tuple[str, ...]
    names: Names
    feature: str = "image"
    may_be_damaged: bool = True

    def __len__(self) -> int:
        return len(self.names)

    def name_of(self, row: int) -> str:
        """See `record.Images.name_of`."""
        return f"{Path(self.files[0]).parent}: {self.names[row]}"

    def encoded(self, rows: list[int]) -> Iterator[bytes]:
        """See `EncodedImages.encoded`; all rows in one call, which is far faster."""
        for record in _records_at(_opened(self.files), rows):
            yield self._picture_in(record)

    def _picture_in(self, record: bytes) -> bytes:
        if record.startswith(tuple(FORMATS)):
            return record
        try:
            return features(record)[self.feature].bytes_list.value[0]
        except Exception:  # whatever the parser says of bytes that are no example
            return b""


def features(record: bytes) -> Any:
    """Parses an example's features directly; TFDS takes more than twice as long."""
    return tf_example_pb2.Example.FromString(record).features.feature


def all_records(files: tuple[str, ...]) -> Iterator[bytes]:
    """Yields every record of some ArrayRecord files."""
    source = _opened(files)
    for start in range(0, len(source), RECORDS_AT_A_TIME):
        stop = min(start + RECORDS_AT_A_TIME, len(source))
        yield from source.__getitems__(list(range(start, stop)))


@functools.lru_cache(maxsize=8)
def _opened(files: tuple[str, ...]) -> ArrayRecordDataSource:
    """Opened once in each process: what is open cannot be sent to pipeline workers."""
    return ArrayRecordDataSource(list(files))


def _records_at(source: ArrayRecordDataSource, rows: list[int]) -> list[bytes]:
    """The records of some rows, no bytes for those in a damaged part of a file."""
    try:
        return source.__getitems__(rows)
    except (RuntimeError, ValueError):
        if len(rows) == 1:
            return [b""]
        return [record for row in rows for record in _records_at(source, [row])]
