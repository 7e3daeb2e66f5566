"""Prepares the pictures of a table once, as ArrayRecord, and reads them from there.

Labels are not prepared: they are read anew by every run, so that the same pictures serve all lists.
"""

import abc
import contextlib
import csv
import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tensorflow_datasets as tfds
from jaxtyping import Bool

from ferjax import parallel
from ferjax.data.containers import Archive, Container, Folder
from ferjax.data.images import RecordImages, decode, fault_of
from ferjax.data.record import UNREADABLE, Names
from ferjax.data.sources import RECORDS, files_below, is_picture
from ferjax.errors import UserError

INDEX = "pictures.parquet"
"""Has, for each picture of the table, why it cannot be read (empty: it can) and its digest."""

SKIPPED = "skipped.csv"
"""Lists the pictures that cannot be read."""

CHECKSUMS = "checksums.json"
"""Of all other files."""

MISSING = "missing"
UNLISTED = b"unlisted"


class Pictures(abc.ABC):
    """Encoded pictures in the order of a table's rows, to be prepared.

    Attributes:
      files: what each one is called.
    """

    files: Names

    @abc.abstractmethod
    def inputs(self) -> list[Path]:
        """Returns the files that hold the pictures."""

    @abc.abstractmethod
    def read(self) -> Iterator[bytes | None]:
        """Yields the picture file of each row, None where there is none."""

    def unlisted(self) -> dict[str, list[str]]:
        """Returns the pictures of each folder that no row lists; leaves out folders without any."""
        return {}


@dataclasses.dataclass(frozen=True)
class Files(Pictures):
    """Pictures in folders, or in a `.tar` for each folder.

    Attributes:
      root: folder that `files` are relative to.
      files: `FOLDER/NAME`, which is also looked for by its name below `FOLDER` and in
        `FOLDER.tar`; see `containers.Container`.
    """

    root: Path
    files: Names

    def inputs(self) -> list[Path]:
        """See `Pictures.inputs`."""
        paths: list[Path] = []
        for folder in self._folders():
            source = find_source(self.root, folder)
            if source is not None:
                paths += [source] if source.is_file() else _pictures_in(source)
        return list(dict.fromkeys(paths))

    def read(self) -> Iterator[bytes | None]:
        """See `Pictures.read`."""
        with contextlib.ExitStack() as stack:
            containers = self._open(stack)
            for file in self.files:
                folder, name = os.path.split(file)
                path = containers[folder].find(name)
                yield None if path is None else containers[folder].read(path)

    def unlisted(self) -> dict[str, list[str]]:
        """See `Pictures.unlisted`."""
        with contextlib.ExitStack() as stack:
            containers = self._open(stack)
            listed: dict[str, set[str | None]] = {folder: set() for folder in containers}
            for file in self.files:
                folder, name = os.path.split(file)
                listed[folder].add(containers[folder].find(name))
            others = {
                folder: [path for path in container.pictures if path not in listed[folder]]
                for folder, container in containers.items()
            }
        return {folder: paths for folder, paths in others.items() if paths}

    def _open(self, stack: contextlib.ExitStack) -> dict[str, Container]:
        return {
            folder: _container(self.root, folder, len(self.files), stack)
            for folder in self._folders()
        }

    def _folders(self) -> list[str]:
        folders = pc.replace_substring_regex(self.files.array, r"/?[^/]*$", "")
        return pc.unique(folders).to_pylist()


def find_source(root: Path, folder: str) -> Path | None:
    """Returns the folder of this name if a picture is in it or below, else the `.tar`, else None.

    Raises:
      UserError: if it cannot be read.
    """
    path = root / folder
    if path.is_dir() and any(map(is_picture, files_below(path))):
        return path
    archive = path.with_name(f"{path.name}.tar")
    return archive if archive.is_file() else None


def list_pictures(root: Path, folder: str) -> Names:
    """Returns the pictures of a folder or its `.tar` by name, ascending, as `Files` takes them."""
    with contextlib.ExitStack() as stack:
        paths = _container(root, folder, 0, stack).pictures
        return Names.of(sorted(os.path.join(folder, os.path.basename(path)) for path in paths))


def _container(root: Path, folder: str, pictures: int, stack: contextlib.ExitStack) -> Container:
    """Opens the folder or `.tar` of this name, of which at most so many pictures are wanted."""
    source = find_source(root, folder)
    if source is None or source.is_dir():
        return Folder(root / folder)
    return Archive(source, pictures, stack)


class Prepared(NamedTuple):
    """Prepared pictures.

    Attributes:
      readable: which rows of the table have a picture; only these are in the records.
      names: what the pictures in the records are called.
      digests: equal for pictures of equal bytes; of those in the records.
      records: the ArrayRecord files.
      skipped: (file, reason) of each picture that cannot be read.
      listed: the file that lists these.
      unlisted: how many pictures of a folder no row lists, for folders that have any.
    """

    readable: Bool[np.ndarray, " rows"]
    names: Names
    digests: Names
    records: tuple[str, ...]
    skipped: list[tuple[str, str]]
    listed: Path
    unlisted: dict[str, int]

    def images(self, size: int, channels: int) -> RecordImages:
        """Returns the readable pictures as faces [size, size, channels]."""
        return RecordImages(
            size=size,
            channels=channels,
            files=self.records,
            names=self.names,
            may_be_damaged=False,
        )


def prepare(
    name: str,
    pictures: Pictures,
    cache: str = "",
    *,
    shape: tuple[int, int] | None = None,
    skip_corrupt: bool | None = None,
) -> Prepared:
    """Prepares pictures as ArrayRecord unless they are; the first process alone writes.

    What is damaged is prepared again.

    They appear under their final name, which holds the checksum of the inputs, only when complete;
    a kill can leave a folder `preparing-*` beside it, which nothing reads.

    Args:
      name: of the dataset.
      pictures: to prepare.
      cache: where prepared data go; empty: the user's cache folder.
      shape: height and width that all must have, if given.
      skip_corrupt: whether to go on without pictures that cannot be read; None: the dataset has no
        such field.

    Raises:
      UserError: for an input that cannot be read, or pictures that cannot unless they are skipped.
    """
    root = Path(cache) if cache else _user_cache()
    home = root / f"{name}-{Builder.VERSION}-{_checksum(pictures)}"
    try:
        if jax.process_index() == 0:
            _remove_damaged(home)
            if not home.exists():
                _write(pictures, home, shape, skip_corrupt)
    finally:  # also on failure, or the other processes would wait for ever
        parallel.barrier(f"{name} prepared")
    if not home.exists():
        raise UserError(f"{home}: not written by the first process; data.cache must be shared")
    prepared = _open(home)
    _refuse_skipped(prepared.skipped, skip_corrupt)
    return prepared


class Builder(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the pictures of any table: their files as they are, without TensorFlow.

    Attributes:
      reasons: why each picture of the table cannot be read, empty where it can.
      digests: of each picture, empty where it cannot be read.
    """

    name = "pictures"
    VERSION = tfds.core.Version("2.0.0")

    def __init__(self, pictures: Pictures, shape: tuple[int, int] | None, **kwargs: Any):
        self.pictures, self.shape = pictures, shape
        self.reasons: list[str] = []
        self.digests: list[str] = []
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, None))
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"image": image, "name": tfds.features.Text()}),
            disable_shuffling=True,  # so that a position is an index
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        return {"pictures": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict]]:
        rows = zip(self.pictures.files, self.pictures.read(), strict=True)
        for row, (file, encoded) in enumerate(rows):
            reason = _reason(encoded, self.shape)
            self.reasons.append(reason)
            if encoded is None or reason:
                self.digests.append("")
                continue
            self.digests.append(hashlib.blake2b(encoded, digest_size=16).hexdigest())
            yield row, {"image": encoded, "name": file}
        if all(self.reasons):  # TFDS cannot write nothing
            what = f": {self.pictures.files[0]} is {self.reasons[0]}" if self.reasons else ""
            others = _others(self.pictures.unlisted())
            raise UserError(f"none of the {len(self.reasons)} pictures can be read{what}{others}")


def _reason(encoded: bytes | None, shape: tuple[int, int] | None) -> str:
    """Why a picture cannot be used, or nothing."""
    if encoded is None:
        return MISSING
    if not encoded:
        return "empty"
    pixels = decode(encoded, channels=1)
    if pixels is None:
        fault = fault_of(encoded)
        return "corrupt" if fault == UNREADABLE else fault
    height, width, _ = pixels.shape
    if shape not in (None, (height, width)):
        return f"{height}×{width} pixels"
    return ""


def _write(
    pictures: Pictures, home: Path, shape: tuple[int, int] | None, skip_corrupt: bool | None
) -> None:
    """Prepares in a temporary folder beside `home`, then renames."""
    logging.info("preparing the data once, in %s", home)
    tfds.disable_progress_bar()
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home.parent, prefix="preparing-") as temporary:
            data = Path(temporary) / "data"
            builder = Builder(pictures, shape, data_dir=data, file_format="array_record")
            with contextlib.redirect_stdout(None):  # TFDS announces a download; there is none
                builder.download_and_prepare(download_dir=Path(temporary) / "downloads")
            skipped = [x for x in zip(pictures.files, builder.reasons, strict=True) if x[1]]
            unlisted = pictures.unlisted()
            _refuse_skipped(skipped, skip_corrupt, unlisted)
            with (data / SKIPPED).open("w", newline="") as file:
                csv.writer(file).writerows([("file", "reason"), *skipped])
            index = {
                "file": pictures.files.array,
                "reason": builder.reasons,
                "digest": builder.digests,
            }
            counts = {folder: len(paths) for folder, paths in unlisted.items()}
            metadata = {UNLISTED: json.dumps(counts).encode()}
            table = pa.table(index).replace_schema_metadata(metadata)
            pq.write_table(table, data / INDEX)
            (data / CHECKSUMS).write_text(json.dumps(_checksums(data), indent=2))
            if not home.exists():  # another run may have been faster
                data.rename(home)
    except (OSError, RuntimeError) as error:  # ArrayRecord raises the latter, such as for no space
        reason = error.strerror if isinstance(error, OSError) else str(error).partition(";")[0]
        raise UserError(
            f"cannot write {home}: {reason or error}; data.cache may be on another disk"
        ) from error


def _remove_damaged(home: Path) -> None:
    """Removes prepared pictures that are not as they were written."""
    path = home / CHECKSUMS
    if not path.exists():  # nothing is there, or earlier versions wrote it
        return
    try:
        expected = json.loads(path.read_text()).items()
    except (AttributeError, ValueError):
        expected = {CHECKSUMS: ""}.items()
    left = _checksums(home)
    damaged = [name for name, checksum in expected if left.get(name) != checksum]
    if damaged:
        logging.warning("%s is damaged: all is prepared again", home / damaged[0])
        shutil.rmtree(home)


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(x.relative_to(folder)): _digest(x) for x in files if x.name != CHECKSUMS}


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error


def _open(home: Path) -> Prepared:
    records = tuple(sorted(str(path) for path in home.rglob(f"*{RECORDS}*")))
    try:
        table = pq.read_table(home / INDEX).combine_chunks()
    except (OSError, pa.ArrowException):
        table = None
    if table is None or not records:
        raise UserError(f"{home} is damaged: delete it, and the data will be prepared again")
    readable = pc.equal(table["reason"], "")
    damaged = table.filter(pc.invert(readable))
    kept = table.filter(readable).combine_chunks()
    return Prepared(
        readable=readable.to_numpy(),
        names=Names(_array(kept["file"])),
        digests=Names(_array(kept["digest"])),
        records=records,
        skipped=list(zip(damaged["file"].to_pylist(), damaged["reason"].to_pylist(), strict=True)),
        listed=home / SKIPPED,
        unlisted=json.loads(table.schema.metadata[UNLISTED]),
    )


def _refuse_skipped(
    skipped: Sequence[tuple[str, str]],
    skip_corrupt: bool | None,
    unlisted: Mapping[str, Sequence[str]] | None = None,
) -> None:
    if skipped and not skip_corrupt:
        (file, reason), count = skipped[0], len(skipped)
        others = _others(unlisted or {}) if reason == MISSING else ""
        hint = "" if skip_corrupt is None else ", or go on without by data.skip_corrupt=True"
        raise UserError(
            f"{file}: image is {reason} ({count:,} in all){others}; mend the file{hint}"
        )


def _others(unlisted: Mapping[str, Sequence[str]]) -> str:
    """Returns a hint at pictures that no row lists; '' if there are none."""
    counts = {folder: f"{len(paths):,} such as {paths[0]}" for folder, paths in unlisted.items()}
    folders = "; ".join(f"{folder} has {count}" for folder, count in counts.items())
    return f"; not listed: {folders}" if folders else ""


def _checksum(pictures: Pictures) -> str:
    """Returns a checksum of the names of the pictures and of the files that hold them."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, pictures.inputs()):
        digest.update(f"{path.name} {_digest(path)}\n".encode())
    for name in pictures.files:
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()[:32]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferjax"


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(folder / name for name in files_below(folder) if is_picture(name))


def _array(column: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *column.chunks])
