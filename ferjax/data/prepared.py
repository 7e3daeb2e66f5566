"""What datasets read from files share: preparing them once, their images, subsets and tables."""

import contextlib
import csv
import dataclasses
import hashlib
import logging
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import jax
import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import Bool, Int, Int32, UInt8
from tensorflow_datasets.proto import tf_example_pb2

from ferjax import parallel
from ferjax.data import noise
from ferjax.data.record import Images
from ferjax.errors import UserError

Builder: TypeAlias = tfds.core.GeneratorBasedBuilder


def prepare(
    kind: type[Builder],
    name: str,
    folder: Path,
    cache: str,
    checksum: str,
    check: Callable[[Builder], None] = lambda builder: None,
) -> Builder:
    """The prepared data of a folder; the first process writes them if they are not there yet.

    They appear under their final name, which holds the checksum of the inputs, only when complete;
    a kill can leave a folder `preparing-*` beside it, which nothing reads.

    Args:
      kind: the builder.
      name: of the dataset.
      folder: holds the inputs.
      cache: where prepared data go; empty: the user's cache folder.
      checksum: of the inputs.
      check: raises a `UserError` if what was prepared must not be used.
    """
    root = Path(cache) if cache else _user_cache()
    home = root / f"{name}-{kind.VERSION}-{checksum}"
    try:
        if jax.process_index() == 0 and not home.exists():
            _write(kind, folder, home, check)
    finally:  # also on failure, or the other processes would wait for ever
        parallel.barrier(f"{name} prepared")
    if not home.exists():
        raise UserError(f"{home}: not written by the first process; data.cache must be shared")
    builder = kind(data_dir=home, file_format="array_record")
    check(builder)
    return builder


def records(builder: Builder, splits: Sequence[str]) -> ArrayRecordDataSource:
    """The examples of some splits, one after the other, as bytes."""
    paths = [path for split in splits for path in builder.info.splits[split].filepaths]
    return ArrayRecordDataSource([str(path) for path in paths])


def features(record: bytes) -> Any:
    """An example's features, read straight: through TFDS it takes more than twice as long."""
    return tf_example_pb2.Example.FromString(record).features.feature


@dataclasses.dataclass(frozen=True)
class PreparedImages(Images):
    """Pictures [size, size, channels] in prepared files, which were checked on preparing.

    Attributes:
      records: examples whose feature `image` is an encoded picture.
      size: pixels of the side.
      channels: 1, grey; or 3, RGB.
    """

    records: ArrayRecordDataSource
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.records)

    def read(
        self, rows: Int[np.ndarray, " batch"]
    ) -> tuple[UInt8[np.ndarray, "batch height width channels"], Bool[np.ndarray, " batch"]]:
        """See `record.Images.read`; all rows in one call, which is far faster."""
        faces = np.empty((len(rows), self.size, self.size, self.channels), np.uint8)
        for face, record in zip(faces, self.records.__getitems__(rows.tolist()), strict=True):
            image = decode(features(record)["image"].bytes_list.value[0], self.channels)
            assert image is not None, "checked on preparing"
            face[...] = resize(image, self.size)
        return faces, np.ones(len(rows), bool)


def decode(encoded: bytes, channels: int) -> UInt8[np.ndarray, "height width channels"] | None:
    """A picture file's pixels, grey (1 channel) or RGB (3), or None if the bytes are damaged."""
    code = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR_RGB
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), code) if encoded else None
    except cv2.error:  # a header that claims a size beyond all bounds
        return None
    return None if image is None else image.reshape(*image.shape[:2], channels)


def resize(
    image: UInt8[np.ndarray, "height width channels"], size: int
) -> UInt8[np.ndarray, "size size channels"]:
    """The picture as a square of so many pixels, averaged when it shrinks."""
    if image.shape[:2] == (size, size):
        return image
    method = cv2.INTER_AREA if size < min(image.shape[:2]) else cv2.INTER_LINEAR
    return cv2.resize(image, (size, size), interpolation=method).reshape(size, size, -1)


def to_grey(
    image: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "height width 1"]:
    """Returns the luma of an RGB picture, within one level of decoding it in grey."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def checksum(folder: Path, paths: Sequence[Path]) -> str:
    """A checksum over the names and contents of the files that are there."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, paths):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder)} {content}\n".encode())
    return digest.hexdigest()[:32]


def read_pictures(source: Path, endings: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """File names and bytes of the pictures in a folder or `.tar`."""
    if source.is_dir():
        paths = (path for path in source.iterdir() if path.suffix in endings)
        yield from ((path.name, path.read_bytes()) for path in paths)
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file and member.name.endswith(endings):
                    yield Path(member.name).name, file.read()
    except tarfile.TarError as error:
        raise UserError(f"{source}: not a readable tar archive ({error})") from error


def subset(names: Sequence[str], count: int, seed: int) -> Int32[np.ndarray, " chosen"]:
    """Rows of `count` names (0: all), drawn by seed and name alone.

    Raises:
      UserError: if `data.subset` asks for more than there are, or less than none.
    """
    if not 0 <= count <= len(names):
        raise UserError(f"data.subset must be 0 (all) to {len(names)}, not {count}")
    order = np.argsort(noise.uniforms(seed, names, "subset"), kind="stable")
    return np.sort(order[: count or None]).astype(np.int32)


def read_rows(path: Path, header: list[str] | None) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and stripped cells of a CSV's rows; without a given header, of its own too.

    Raises:
      UserError: for another header, or a row of another length.
    """
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.reader(file)
        found = [cell.strip() for cell in next(reader, [])]
        if header is None:
            yield 1, found
        elif found != header:
            raise UserError(
                f"{path}:1: expected the header {','.join(header)}, found {','.join(found)!r}"
            )
        for row in filter(None, reader):  # a blank line is no row
            if len(row) != len(found):
                raise UserError(
                    f"{path}:{reader.line_num}: {len(row)} columns, expected {len(found)}"
                )
            yield reader.line_num, [cell.strip() for cell in row]


def number(cell: str, largest: int, path: Path, line: int) -> int:
    """A whole number from 0 to `largest`."""
    if not cell.isdecimal() or int(cell) > largest:
        raise UserError(f"{path}:{line}: {cell!r} is not a whole number from 0 to {largest}")
    return int(cell)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferjax"


def _write(kind: type[Builder], folder: Path, home: Path, check: Callable[[Builder], None]) -> None:
    """Prepares in a temporary folder beside `home`, then renames."""
    logging.info("preparing the data once, in %s", home)
    tfds.disable_progress_bar()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix="preparing-") as temporary:
            data = Path(temporary) / "data"
            builder = kind(data_dir=data, file_format="array_record")
            manual = tfds.download.DownloadConfig(manual_dir=folder)
            with contextlib.redirect_stdout(None):  # TFDS announces a download; there is none
                builder.download_and_prepare(
                    download_dir=Path(temporary) / "downloads", download_config=manual
                )
            check(builder)
            if not home.exists():  # another run may have been faster
                data.rename(home)
    except OSError as error:
        raise UserError(f"cannot prepare {home}: {error}") from error
