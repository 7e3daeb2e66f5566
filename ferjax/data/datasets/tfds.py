"""Any image-classification set that TFDS prepared as ArrayRecord, by its name.

Prepare one where TensorFlow may be installed, for example with
`tfds build NAME --file_format=array_record`; reading it needs no TensorFlow.
"""

from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Int32
from tensorflow_datasets.core.utils import Version

from ferjax.data import images, table
from ferjax.data.images import RecordImages
from ferjax.data.record import CLASSES, Concatenated, Dataset, Names
from ferjax.data.table import Table
from ferjax.errors import UserError

USUAL_DIR = "tensorflow_datasets"
"""Where TFDS puts prepared data, in the user's home."""

INFO = "dataset_info.json"
ARRAY_RECORD = "array_record"
TEST_PARTS = ("test", "validation")


def load(config: ml_collections.ConfigDict) -> Dataset:
    """Loads a prepared set; its labels are the truth, and those of one coder named like the set.

    Args:
      config: `dataset`, its `NAME[/CONFIG][:VERSION]` (by default the only config and the newest
        version); `dir`, where TFDS put it (empty: `~/tensorflow_datasets`); `image_size` in pixels
        (0: that of the set, if all its pictures are squares of one size); `channels`, 1 (grey) or 3
        (0: those of the set); `max_megapixels`, see `images.decode`; `train_parts` and
        `test_part`, names of its splits (an empty test part: `test`, else `validation`); `subset`,
        how many training pictures to draw by `seed` (0: all).

    Returns:
      A dataset with the set's classes. If these are `CLASSES`, or the first of them, in another
      order, they are put into the order of `CLASSES`.

    Raises:
      UserError: if the set is not prepared as ArrayRecord, has no such split, or has not one
        picture with one label.
    """
    if not config.dataset:
        raise UserError("data.dataset is not set: the NAME[/CONFIG][:VERSION] of a TFDS set")
    info = open_info(config.dataset, config.dir)
    image, label = find_features(config.dataset, info.features)
    *sides, channels = info.features[image].shape
    size = config.image_size or _size(config.dataset, sides)
    table.check_size(size)
    images.check_limit(config.max_megapixels)
    if config.channels not in (0, 1, 3):
        raise UserError(f"data.channels must be 1, 3 or 0 (the set's own), not {config.channels}")
    channels = config.channels or (1 if channels == 1 else 3)
    splits = sorted(info.splits)
    test = config.test_part or next((name for name in TEST_PARTS if name in splits), TEST_PARTS[0])
    parts = {"train": tuple(config.train_parts), "test": (test,)}
    used = [name for names in parts.values() for name in names]
    for name in used:
        if name not in splits:
            raise UserError(f"{config.dataset}: no split {name!r}, there are {', '.join(splits)}")
        if used.count(name) > 1:
            raise UserError(f"{config.dataset}: split {name!r} is used twice")

    coder = config.dataset.partition(":")[0]
    names = info.features[label].names
    files = {name: tuple(str(path) for path in info.splits[name].filepaths) for name in used}
    missing = [path for paths in files.values() for path in paths if not Path(path).exists()]
    if missing:
        raise UserError(f"{config.dataset}: incomplete, there is no {missing[0]}")
    given = {name: _labels(paths, label) for name, paths in files.items()}
    rows = {name: Names.of(f"{name}/{row}" for row in range(len(x))) for name, x in given.items()}
    classes, truth = _in_our_order(tuple(names), np.concatenate(list(given.values())))
    listed = Table(
        classes=classes,
        coders=(coder,),
        files=Names.of(file for part in rows.values() for file in part),
        part=np.repeat(used, [len(part) for part in rows.values()]),
        labels=truth[:, None],
        truth=truth,
        label=coder,
    )
    pictures = [
        RecordImages(
            size=size,
            channels=channels,
            files=files[name],
            names=rows[name],
            feature=image,
            max_megapixels=config.max_megapixels,
            may_be_damaged=False,
        )
        for name in used
    ]
    return table.to_dataset(
        listed,
        Concatenated(pictures),
        parts,
        (size, size, channels),
        subset=config.subset,
        seed=config.seed,
    )


def open_info(dataset: str, data_dir: str = "") -> tfds.core.DatasetInfo:
    """Reads what TFDS wrote about a prepared set.

    Args:
      dataset: `NAME[/CONFIG][:VERSION]`.
      data_dir: where TFDS put it; '': `~/tensorflow_datasets`.

    Raises:
      UserError: if it is not there, damaged, or not as ArrayRecord.
    """
    root = Path(data_dir) if data_dir else Path.home() / USUAL_DIR
    folder, _, version = dataset.partition(":")
    home = _only_config(root, folder)
    versions = {path.name: path for path in _subfolders(home) if (path / INFO).exists()}
    valid = sorted(filter(Version.is_valid, versions), key=Version)
    if not valid:
        raise UserError(
            f"{home}: no prepared dataset; prepare {folder} there by "
            "`tfds build --file_format=array_record`"
        )
    if version and version not in valid:
        raise UserError(f"{dataset}: no such version in {home}, there are {', '.join(valid)}")
    path = versions[version or valid[-1]]
    try:
        info = tfds.builder_from_directory(path).info
    except Exception as error:  # JSON, protocol buffers and features each raise their own
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path}: TFDS cannot read what describes the set ({reason})") from error
    format_of = info.file_format.value if info.file_format else "unknown"
    if format_of != ARRAY_RECORD:
        raise UserError(
            f"{dataset}: prepared as {format_of}, not as ArrayRecord; prepare it by "
            "`tfds build --file_format=array_record`"
        )
    return info


def find_features(dataset: str, features: Any) -> tuple[str, str]:
    """Returns the names of the features that hold the picture and the label of an example.

    Raises:
      UserError: if there is none of either, or several and none is called `image` or `label`.
    """
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    single = {}
    for usual, kind in kinds.items():
        names = [name for name, feature in dict(features).items() if type(feature) is kind]
        if usual in names:
            names = [usual]
        if len(names) != 1:
            several = f"several features of kind {kind.__name__}: {', '.join(names)}"
            what = several if names else f"no feature of kind {kind.__name__}"
            raise UserError(f"{dataset}: {what}; expected one image and one label an example")
        single[usual] = names[0]
    return single["image"], single["label"]


def _only_config(root: Path, name: str) -> Path:
    """The folder that holds the versions of a set."""
    home = root / name
    if any((path / INFO).exists() for path in _subfolders(home)):
        return home
    configs = [
        path for path in _subfolders(home) if any((x / INFO).exists() for x in _subfolders(path))
    ]
    if len(configs) > 1:
        names = ", ".join(f"{name}/{path.name}" for path in configs)
        raise UserError(f"{name}: which config? There are {names}")
    return configs[0] if configs else home


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _size(dataset: str, sides: list[int | None]) -> int:
    """The side of a set's pictures, all squares of one size."""
    height, width = sides
    if height is None or height != width:
        raise UserError(f"{dataset}: pictures of several sizes or no squares; set data.image_size")
    return height


def _labels(files: tuple[str, ...], label: str) -> Int32[np.ndarray, " rows"]:
    """The label of each example, -1 where it has none."""
    examples = map(images.features, images.all_records(files))
    try:
        return np.fromiter((example[label].int64_list.value[0] for example in examples), np.int32)
    except Exception as error:  # ArrayRecord and protocol buffers each raise their own
        folder = Path(files[0]).parent
        raise UserError(f"{folder}: a record is damaged or has no {label!r} ({error})") from error


def _in_our_order(
    names: tuple[str, ...], labels: Int32[np.ndarray, " rows"]
) -> tuple[tuple[str, ...], Int32[np.ndarray, " rows"]]:
    """Classes and labels, of faces in the order of `CLASSES`."""
    ours = CLASSES[: len(names)]
    if set(names) != set(ours):
        return names, labels
    to_ours = np.array([ours.index(name) for name in names] + [-1], np.int32)
    return ours, to_ours[labels]
