"""Mutates small valid inputs of every reader and counts what comes of them.

    python tests/faults/mutate.py --inputs 150000 [--readers 'crowd CSV'] [--keep DIR] [--seed 0]

Prints a line for each reader: how many inputs it read, and how many it refused in one line of at
most 300 characters; then the faults, which should all be 0:

- long: refused in a longer message, or in several lines;
- crashed: any other exception, or the end of the process;
- silent: read, but with more or fewer rows than Python's own reader of CSV gives;
- slow: took more than 10 seconds;

and the most memory that a process took. `--keep` keeps the inputs that are faults.
"""

import argparse
import collections
import csv
import io
import json
import logging
import multiprocessing
import os
import resource
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs import truth
from ferjax import workdir
from ferjax.data import images, noise, prepared, sources
from ferjax.data.datasets import cifar10, ferplus
from ferjax.data.record import Names
from ferjax.errors import UserError
from ferjax.truth import Annotations, TableError
from ferjax.truth.annotations import read_known
from ferjax.writers import MetricsFile

LONGEST, SLOWEST = 300, 10.0
IGNORED: list[str] = []
"""Errors that Python could not raise, such as in a callback of Arrow; it would print them."""
FAULTS = ("long", "crashed", "silent", "slow")
AT_ONCE = 500
"""Inputs that one process reads."""
ROWS = 24
FILES = [f"img{k:02d}.png" for k in range(ROWS)]
VOTES = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


class Reader(NamedTuple):
    """A reader and an input for it.

    Attributes:
      write: writes a valid input into a folder and returns the file to mutate.
      read: reads that file; returns how many rows there are, or -1 if that is not known.
      text: whether the input is a CSV, whose rows can be counted in another way.
    """

    write: Callable[[Path], Path]
    read: Callable[[Path], int]
    text: bool = False


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return cv2.imencode(".png" if seed % 2 else ".jpg", pixels)[1].tobytes()


def crowd() -> dict[str, list[str]]:
    rng = np.random.default_rng(0)
    return {
        "task": [f"t{k // 3}" for k in range(ROWS)],
        "worker": [f"w{k % 3}" for k in range(ROWS)],
        "label": [("cat", "dog")[k] for k in rng.integers(0, 2, ROWS)],
    }


def csv_text(columns: dict[str, list], quoted: bool = False) -> str:
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    writer = csv.writer(text, quoting=quoting, lineterminator="\n")
    writer.writerows([list(columns), *zip(*columns.values(), strict=True)])
    return text.getvalue()


def file(name: str, content: str | bytes | Callable[[], str | bytes]) -> Callable[[Path], Path]:
    """Returns a function that writes a file into a folder."""

    def write(folder: Path) -> Path:
        data = content() if callable(content) else content
        (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return folder / name

    return write


def parquet(columns: dict[str, list]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def with_pictures(write: Callable[[Path], Path]) -> Callable[[Path], Path]:
    """Returns a function that also writes `FILES`, beside the file and as a part of FERPlus."""

    def both(folder: Path) -> Path:
        for home in (folder, folder / "FER2013Train"):
            home.mkdir(exist_ok=True)
            for k, name in enumerate(FILES):
                (home / name).write_bytes(picture(k))
        return write(folder)

    return both


def archive(folder: Path) -> Path:
    path = folder / "faces.tar"
    with tarfile.open(path, "w:gz" if len(folder.name) % 2 else "w") as tar:
        for k, name in enumerate(FILES[:6]):
            info = tarfile.TarInfo(f"faces/{name}")
            info.size = len(picture(k))
            tar.addfile(info, io.BytesIO(picture(k)))
    return path


def votes() -> str:
    rng = np.random.default_rng(0)
    lines = [VOTES]
    for name in FILES:
        counts = rng.multinomial(10, [0.5, 0.2, 0.1, 0.1, 0.02, 0.02, 0.02, 0.02, 0.01, 0.01])
        lines.append(",".join(["Training", name, *map(str, counts)]))
    return "\n".join(lines) + "\n"


def read_crowd(path: Path) -> int:
    return len(Annotations.from_table(path).task)


def read_truths(path: Path) -> int:
    read_known(path, Annotations.from_table(pa.table(crowd())))
    return -1


def read_pictures(path: Path, labelled: bool) -> int:
    source = sources.find(path, 8, 1, labelled=labelled)
    source.pictures.read(np.arange(len(source.names)))
    return -1


def read_picture(path: Path) -> int:
    if images.decode(path.read_bytes(), 3) is None:
        raise UserError("damaged")
    return -1


def read_archive(path: Path) -> int:
    names = prepared.list_pictures(path.parent, "faces")
    if not len(names):
        raise UserError("no picture")
    list(prepared.Files(path.parent, names).read())
    return -1


def read_workdir(path: Path) -> int:
    """Goes on in the workdir of `begun`."""
    workdir.check(path.parent, truth.get_config(), set())
    workdir.claim(path.parent, truth.get_config(), {"checksums": {"labels": 1}}, set())
    return -1


def begun(name: str) -> Callable[[Path], Path]:
    """Returns a function that begins a run in a folder and returns one of its files."""

    def write(folder: Path) -> Path:
        read_workdir(folder / name)
        (folder / "stages" / "truth").mkdir(parents=True)
        (folder / "stages" / "truth" / "done.json").write_text("{}")
        return folder / name

    return write


def _nothing(read: Callable[[Path], object]) -> Callable[[Path], int]:
    """Returns the reader without what it returns."""

    def only_read(path: Path) -> int:
        read(path)
        return -1

    return only_read


LIST = "".join(f"{name} {('happy', 'sad')[k % 2]}\n" for k, name in enumerate(FILES))
CIFAR = {"index": list(range(ROWS)), "label": [k % 10 for k in range(ROWS)]}
METRICS = {"step": 3, "epoch": 1.0, "split": "train", "stage": "student", "loss": 0.25}

READERS = {
    "crowd CSV": Reader(file("labels.csv", csv_text(crowd())), read_crowd, text=True),
    "crowd CSV in quotes": Reader(file("labels.csv", csv_text(crowd(), True)), read_crowd, True),
    "crowd Parquet": Reader(file("labels.parquet", lambda: parquet(crowd())), read_crowd),
    "known truths": Reader(
        file("truth.csv", "task,label\n" + "".join(f"t{k},cat\n" for k in range(8))), read_truths
    ),
    "FERPlus votes": Reader(
        with_pictures(file("fer2013new.csv", votes)),
        _nothing(lambda path: ferplus.read(path.parent, "majority")),
    ),
    "FER2013 labels": Reader(
        file("fer2013.csv", "Image name,emotion\n" + "".join(f"{name},3\n" for name in FILES)),
        _nothing(lambda path: ferplus.read_fer2013(path, Names.of(FILES).array)),
    ),
    "CIFAR-10 labels": Reader(
        file(
            "labels.csv",
            csv_text(CIFAR | {"class": [cifar10.CLASSES[k % 10] for k in range(ROWS)]}),
        ),
        _nothing(cifar10.read_truth),
    ),
    "CIFAR-10 coders": Reader(
        file("coders.csv", csv_text(CIFAR | {"ann": [-1, 2] * (ROWS // 2)})),
        _nothing(lambda path: cifar10.read_list(path, ROWS)),
    ),
    "noise list": Reader(
        file("noise.txt", "".join(f"{name} {k % 7}\n" for k, name in enumerate(FILES))),
        _nothing(lambda path: noise.read_noise_list(path, FILES[:1])),
    ),
    "picture list": Reader(
        with_pictures(file("list.txt", "\n".join(FILES))), lambda path: read_pictures(path, False)
    ),
    "labelled list": Reader(
        with_pictures(file("list.txt", LIST)), lambda path: read_pictures(path, True)
    ),
    "labelled table": Reader(
        with_pictures(file("list.csv", "file,label\n" + LIST.replace(" ", ","))),
        lambda path: read_pictures(path, True),
    ),
    "labelled Parquet": Reader(
        with_pictures(
            file(
                "list.parquet", lambda: parquet({"file": FILES, "label": ["a", "b"] * (ROWS // 2)})
            )
        ),
        lambda path: read_pictures(path, True),
    ),
    "PNG": Reader(file("a.png", lambda: picture(1)), read_picture),
    "JPEG": Reader(file("a.jpg", lambda: picture(2)), read_picture),
    "tar": Reader(archive, read_archive),
    "config.json": Reader(begun("config.json"), read_workdir),
    "data.json": Reader(begun("data.json"), read_workdir),
    "metrics.jsonl": Reader(
        file("metrics.jsonl", (json.dumps(METRICS) + "\n") * 5),
        _nothing(lambda path: MetricsFile(path).read()),
    ),
}


def flip_a_bit(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + bytes([data[at] ^ (1 << rng.integers(8))]) + data[at + 1 :]


def set_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(data)), rng.integers(1, 9)
    return data[:at] + rng.bytes(size) + data[at + size :]


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[at:] if rng.random() < 0.2 else data[:at]


def leave_out(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + data[at + rng.integers(1, 20) :]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    words = (b'"', b"\0", b",", b"\n", b"\r", b"\r\n", b" ", b"\t", b"\xff", b"\xef\xbb\xbf", b"-1")
    words += (b"nan", b"\xcc\x81", b"''", b'""', b"/", b"..", b"{", b"]", b";", rng.bytes(4))
    at = rng.integers(len(data) + 1)
    return data[:at] + words[rng.integers(len(words))] + data[at:]


def insert_much(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(data) + 1), (400, 4400, 140_000)[rng.integers(3)]
    return data[:at] + (b"9", b"A", b"\n", b" ", b"(")[rng.integers(5)] * size + data[at:]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(data)), rng.integers(1, 200)
    return data[: at + size] + data[at : at + size] * rng.integers(1, 4) + data[at + size :]


def largest_number(data: bytes, rng: np.random.Generator) -> bytes:
    """Sets some bytes to the ends of a whole number, as in a declared size."""
    at, size = rng.integers(len(data)), (1, 2, 4, 8)[rng.integers(4)]
    value = (b"\0", b"\xff", b"\x7f")[rng.integers(3)] * size
    return data[:at] + value + data[at + size :]


def mix_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """Swaps, doubles or drops a line, or appends the whole again."""
    lines = data.splitlines(keepends=True)
    one, other, action = *rng.integers(len(lines), size=2), rng.integers(4)
    if action == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif action == 1:
        lines.insert(one, lines[other])
    elif action == 2:
        del lines[one]
    else:
        lines *= 2
    return b"".join(lines)


MUTATIONS = (
    *(flip_a_bit, set_bytes, cut, leave_out, insert, insert_much),
    *(repeat, largest_number, mix_lines),
)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Returns the input after one to three mutations."""
    for _ in range((1, 1, 1, 2, 3)[rng.integers(5)]):
        if data:
            data = MUTATIONS[rng.integers(len(MUTATIONS))](data, rng)
    return data


def inputs(name: str, first: int, count: int, seed: int) -> Iterator[tuple[Path, bytes]]:
    """Yields mutated inputs of a reader, written to a file; each depends on its number alone."""
    with tempfile.TemporaryDirectory(prefix="mutated-") as folder:
        path = READERS[name].write(Path(folder))
        whole = path.read_bytes()
        for number in range(first, first + count):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
            data = mutated(whole, rng)
            path.write_bytes(data)
            yield path, data


def outcome(reader: Reader, path: Path, data: bytes) -> tuple[str, str]:
    """Returns what came of reading an input, and the message or error."""
    IGNORED.clear()
    start = time.perf_counter()
    try:
        rows = reader.read(path)
        result = "silent" if reader.text and rows not in (-1, count_rows(data, rows)) else "read"
        message = f"{rows} rows"
    except (UserError, TableError) as error:
        message = str(error)
        result = "refused" if len(message) <= LONGEST and message.isprintable() else "long"
    except Exception as error:
        result, message = "crashed", f"{type(error).__name__}: {error}"
    if IGNORED:
        result, message = "crashed", IGNORED[0]
    if time.perf_counter() - start > SLOWEST:
        result = "slow"
    return result, message


def count_rows(data: bytes, default: int) -> int:
    """Returns the rows of a CSV after its header; the default if Python's reader refuses it."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode()
    try:
        return sum(map(bool, csv.reader(io.StringIO(text, newline=""), strict=True))) - 1
    except csv.Error:
        return default


def read_some(
    name: str, first: int, count: int, seed: int, keep: Path | None = None
) -> collections.Counter[str]:
    """Reads mutated inputs and counts the outcomes."""
    counts: collections.Counter[str] = collections.Counter()
    for number, (path, data) in enumerate(inputs(name, first, count, seed), start=first):
        result, message = outcome(READERS[name], path, data)
        counts[result] += 1
        if result in FAULTS and keep is not None:
            stem = f"{name} {result} {number}".replace(" ", "_")
            (keep / f"{stem}{path.suffix}").write_bytes(data)
            (keep / f"{stem}.message").write_text(message, errors="backslashreplace")
    return counts


def _child(sender, *arguments) -> None:
    sys.stderr = open(os.dup(2), "w")  # noqa: SIM115
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where libpng and libjpeg write
    sys.unraisablehook = lambda error: IGNORED.append(repr(error.exc_value))
    counts = read_some(*arguments)
    sender.send((counts, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024))


def in_process(*arguments) -> tuple[collections.Counter[str], int]:
    """Does `read_some` in a process of its own, which may die: that is one crash."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, *arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return collections.Counter(crashed=1), 0
    finally:
        process.join()


def main() -> int:
    logging.disable()  # mutated tables give many warnings
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=150_000, help="of all readers together")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=list(READERS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    each = -(-options.inputs // len(options.readers))
    total: collections.Counter[str] = collections.Counter()
    titles = ("read", "refused", *FAULTS)
    print(f"{'reader':20}", *(f"{title:>8}" for title in ("inputs", *titles)), "     MiB")
    for name in options.readers:
        counts, most = collections.Counter(), 0
        for first in range(0, each, AT_ONCE):
            some = min(AT_ONCE, each - first)
            part, memory = in_process(name, first, some, options.seed, options.keep)
            counts, most = counts + part, max(most, memory)
        total += counts
        figures = (sum(counts.values()), *(counts[title] for title in titles), most)
        print(f"{name:20}", *(f"{figure:8,}" for figure in figures), flush=True)
    print(f"{'all':20}", *(f"{x:8,}" for x in (sum(total.values()), *(total[t] for t in titles))))
    return int(any(total[fault] for fault in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
