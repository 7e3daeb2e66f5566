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
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
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
from ferjax.data.images import RecordImages, decode
from ferjax.data.record import Names
from ferjax.data.sources import ENDINGS, RECORDS
from ferjax.errors import UserError

INDEX = "pictures.parquet"
"""Says of every picture of the table why it cannot be read (empty: it can), and its digest."""

SKIPPED = "skipped.csv"
"""Lists the pictures that cannot be read."""

CHECKSUMS = "checksums.json"
"""Of all other files."""

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

    def unlisted(self) -> dict[str, int]:
        """Counts the pictures of each folder that no row lists; leaves out folders without any."""
        return {}


@dataclasses.dataclass(frozen=True)
class Files(Pictures):
    """Pictures in folders, or in a `.tar` for each folder.

    Attributes:
      root: folder that `files` are relative to.
      files: `FOLDER/NAME`, which is also looked for by its name in `FOLDER.tar`.
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
        return paths

    def read(self) -> Iterator[bytes | None]:
        """See `Pictures.read`."""
        with contextlib.ExitStack() as stack:
            sources = {folder: _open_source(self.root, folder, stack) for folder in self._folders()}
            for file in self.files:
                folder, name = os.path.split(file)
                yield sources[folder].get(name)

    def unlisted(self) -> dict[str, int]:
        """See `Pictures.unlisted`."""
        counts = {}
        with contextlib.ExitStack() as stack:
            for folder in self._folders():
                source = _open_source(self.root, folder, stack)
                names = Names.of(os.path.join(folder, name) for name in source.names())
                listed = pc.is_in(names.array, value_set=self.files.array)
                counts[folder] = len(names) - (pc.sum(listed).as_py() or 0)
        return {folder: count for folder, count in counts.items() if count}

    def _folders(self) -> list[str]:
        folders = pc.replace_substring_regex(self.files.array, r"/?[^/]*$", "")
        return pc.unique(folders).to_pylist()


def find_source(root: Path, folder: str) -> Path | None:
    """Returns the folder of this name if it holds a picture, else the `.tar`, else None."""
    path = root / folder
    if path.is_dir() and any(_is_picture(entry.name) for entry in path.iterdir()):
        return path
    archive = path.with_name(f"{path.name}.tar")
    return archive if archive.is_file() else None


def list_pictures(root: Path, folder: str) -> Names:
    """Returns the files of a folder or its `.tar`, ascending, as `Files` takes them."""
    with contextlib.ExitStack() as stack:
        names = _open_source(root, folder, stack).names()
        return Names.of(sorted(os.path.join(folder, name) for name in names))


def _open_source(root: Path, folder: str, stack: contextlib.ExitStack) -> "_Folder | _Archive":
    source = find_source(root, folder)
    if source is None or source.is_dir():
        return _Folder(root / folder)
    return _Archive(source, stack)


class _Folder:
    """The pictures of a folder by name."""

    def __init__(self, path: Path):
        self._path = path

    def names(self) -> Iterator[str]:
        if self._path.is_dir():
            yield from (path.name for path in _pictures_in(self._path))

    def get(self, name: str) -> bytes | None:
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None


class _Archive:
    """The pictures of a `.tar` by name, whatever folders they are in there."""

    def __init__(self, path: Path, stack: contextlib.ExitStack):
        try:
            self._archive = stack.enter_context(tarfile.open(path))  # noqa: SIM115
            self._members = {
                Path(member.name).name: member for member in self._archive if member.isfile()
            }
        except tarfile.TarError as error:
            raise UserError(f"{path}: not a readable tar archive ({error})") from error

    def names(self) -> Iterator[str]:
        yield from filter(_is_picture, self._members)

    def get(self, name: str) -> bytes | None:
        member = self._members.get(name)
        file = None if member is None else self._archive.extractfile(member)
        return None if file is None else file.read()


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
            raise UserError(f"none of the {len(self.reasons)} pictures can be read{what}")


def _reason(encoded: bytes | None, shape: tuple[int, int] | None) -> str:
    """Why a picture cannot be used, or nothing."""
    if encoded is None:
        return "missing"
    if not encoded:
        return "empty"
    pixels = decode(encoded, channels=1)
    if pixels is None:
        return "corrupt"
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
            _refuse_skipped(skipped, skip_corrupt)
            with (data / SKIPPED).open("w", newline="") as file:
                csv.writer(file).writerows([("file", "reason"), *skipped])
            index = {
                "file": pictures.files.array,
                "reason": builder.reasons,
                "digest": builder.digests,
            }
            unlisted = json.dumps(pictures.unlisted()).encode()
            table = pa.table(index).replace_schema_metadata({UNLISTED: unlisted})
            pq.write_table(table, data / INDEX)
            (data / CHECKSUMS).write_text(json.dumps(_checksums(data), indent=2))
            if not home.exists():  # another run may have been faster
                data.rename(home)
    except OSError as error:
        raise UserError(f"cannot prepare {home}: {error}") from error


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def _refuse_skipped(skipped: Sequence[tuple[str, str]], skip_corrupt: bool | None) -> None:
    if skipped and not skip_corrupt:
        (file, reason), count = skipped[0], len(skipped)
        hint = "" if skip_corrupt is None else ", or go on without by data.skip_corrupt=True"
        raise UserError(f"{file}: image is {reason} ({count:,} in all); mend the file{hint}")


def _checksum(pictures: Pictures) -> str:
    """A checksum over the names of the pictures, and over the files that hold them."""
    digest = hashlib.sha256()
    for path in filter(Path.is_file, pictures.inputs()):
        digest.update(f"{path.name} {_digest(path)}\n".encode())
    for name in pictures.files:
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()[:32]


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ferjax"


def _is_picture(name: str) -> bool:
    return name.lower().endswith(ENDINGS)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _is_picture(path.name))


def _array(column: pa.ChunkedArray) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *column.chunks])
