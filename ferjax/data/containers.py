"""Pictures by name, in a folder or in a `.tar`, whatever sub-folders they are in there.

Nothing is written to disk. An archive may be anybody's, so it is bounded, and what only an attack
or an accident puts into one is refused.
"""

import abc
import bz2
import gzip
import io
import lzma
import os
import posixpath
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from ferjax.data.images import most_bytes, read_file
from ferjax.data.sources import files_below, is_picture
from ferjax.errors import UserError

PACKED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
"""How archives are opened that are compressed, by their first bytes."""

RATIO, BYTES_A_PICTURE, BYTES = 10, 1 << 16, 1 << 26
"""An archive may unpack to so many times its size, so much for each picture wanted, and so much."""

LETTERS = 80
"""So many letters of a member's name an error shows."""


class Container(abc.ABC):
    """Files by the names that a list gives them.

    A set circulates in sub-folders or with other endings than its list has: a name is looked for
    as it is, then with another picture's ending, and among several the one least deep counts.

    Attributes:
      source: the folder or archive.
      pictures: paths in it of all pictures.
    """

    def __init__(self, source: Path, paths: Iterable[str]):
        self.source = source
        self.pictures: list[str] = []
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_stem: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = posixpath.basename(path)
            self._by_name[name].append(path)
            if is_picture(name):
                self.pictures.append(path)
                self._by_stem[posixpath.splitext(name)[0]].append(path)

    def find(self, name: str) -> str | None:
        """Returns the path in the container of the file that a list calls so, None without one.

        Raises:
          UserError: if there are several.
        """
        stem = posixpath.splitext(name)[0]
        paths = self._by_name.get(name) or self._by_stem.get(stem) or []
        if not paths:
            return None
        least = min(path.count("/") for path in paths)
        first, *others = [path for path in paths if path.count("/") == least]
        if others:
            raise UserError(f"{self.source}: which is {name}? There are {first} and {others[0]}")
        return first

    @abc.abstractmethod
    def read(self, path: str) -> bytes | None:
        """Returns the bytes of a file, None if it is gone.

        Raises:
          UserError: if it cannot be read.
        """


class Folder(Container):
    """The files of a folder and all below it."""

    def __init__(self, path: Path):
        super().__init__(path, files_below(path) if path.is_dir() else ())

    def read(self, path: str) -> bytes | None:
        """See `Container.read`."""
        try:
            return read_file(self.source / path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{self.source / path}: {error.strerror}") from error


class Archive(Container):
    """The files of a `.tar`, which may be compressed.

    Args:
      path: the archive.
      pictures: how many are wanted of it, which bounds what it may unpack to.
      stack: closes the archive.

    Raises:
      UserError: if it is damaged, cut, or unpacks to more; naming a member that is sparse, a
        device, of an absolute name or one with `..`, or a link to a picture that is not in it.
    """

    def __init__(self, path: Path, pictures: int, stack: ExitStack):
        last = "its first member"
        self._members: dict[str, tarfile.TarInfo] = {}
        try:
            file = _Bounded(stack.enter_context(_open(path)), _bound(path, pictures))
            self._tar = tarfile.TarFile(fileobj=file)  # type: ignore[arg-type]
            for member in self._tar:
                last = repr(member.name[:LETTERS])
                self._members[posixpath.normpath(member.name)] = member
                _check(path, member)
            file.seek(self._tar.offset)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise tarfile.ReadError("damaged header")
            while file.read(tarfile.RECORDSIZE):  # its checksum comes last
                pass
        except UserError:
            raise
        except Exception as error:  # tarfile and what unpacks each raise their own
            reason = (str(error) or type(error).__name__).partition("\n")[0][:LETTERS]
            raise UserError(f"{path}: not a readable tar archive ({reason}, at {last})") from error
        self._targets = {
            name: target
            for name, member in self._members.items()
            if (target := self._target(path, name, member))
        }
        names = (x for x in self._targets if not posixpath.basename(x).startswith("."))
        super().__init__(path, names)

    def read(self, path: str) -> bytes | None:
        """See `Container.read`."""
        member = self._targets[path]
        try:
            if member.size > most_bytes():
                raise tarfile.ReadError(f"{member.size:,} bytes")
            file = self._tar.extractfile(member)
            return None if file is None else file.read()
        except Exception as error:
            reason = str(error).partition("\n")[0][:LETTERS]
            raise UserError(
                f"{self.source}: {path[:LETTERS]!r} cannot be read ({reason})"
            ) from error

    def _target(self, path: Path, name: str, member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Returns the file that a member is or links to; None if it is no picture."""
        if member.isfile() or not is_picture(name):
            return member if member.isfile() else None
        visited = {name}
        target: tarfile.TarInfo | None = member
        at = name
        while target is not None and (target.issym() or target.islnk()):
            base = posixpath.dirname(at) if target.issym() else ""
            at = posixpath.normpath(posixpath.join(base, target.linkname))
            target = None if at in visited else self._members.get(at)
            visited.add(at)
        if target is None or not target.isfile():
            raise UserError(
                f"{path}: {name[:LETTERS]!r} is a link to no file of it, {at[:LETTERS]!r}"
            )
        return target


class _Bounded:
    """A file that is not read beyond a bound, however much it would unpack to."""

    def __init__(self, file: io.BufferedIOBase, bound: int):
        self._file, self._bound = file, bound

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, position: int) -> int:
        self._check(position)
        return self._file.seek(position)

    def read(self, size: int) -> bytes:
        self._check(self.tell() + size)
        return self._file.read(size)

    def _check(self, end: int) -> None:
        if end > self._bound:
            raise tarfile.ReadError(f"cut, or more than {self._bound:,} bytes unpacked")


def _open(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((PACKED[magic] for magic in PACKED if start.startswith(magic)), open)
    return opener(path, "rb")  # type: ignore[operator]


def _bound(path: Path, pictures: int) -> int:
    return RATIO * os.path.getsize(path) + BYTES_A_PICTURE * pictures + BYTES


def _check(path: Path, member: tarfile.TarInfo) -> None:
    """Refuses a member that no set of pictures has."""
    faults = {
        "is an absolute name": member.name.startswith("/"),
        "has a name with '..'": ".." in member.name.split("/"),
        "is a sparse file": member.issparse(),
        "is a device or pipe": member.isdev(),
    }
    for fault, present in faults.items():
        if present:
            raise UserError(f"{path}: {member.name[:LETTERS]!r} {fault}")
