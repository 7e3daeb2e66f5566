"""The dataset of a run, with its label noise, its validation split and its cache."""

import logging

from ml_collections import ConfigDict

from ferjax.data import datasets, noise, pipeline, validation
from ferjax.data.record import Dataset
from ferjax.data.targets import LABELS, VOTED, targets
from ferjax.errors import UserError


def load_dataset(config: ConfigDict, coders: tuple[str, ...] = ()) -> Dataset:
    """Loads the dataset that a run's config describes, with its label noise and validation split.

    Args:
      config: of the run: `data`, `noise`, `label` and `seed`.
      coders: those whose annotations give the labels of validation faces; names that the data lack
        are ignored; (): everybody. If the run's label is a coder who is not among them, the
        majority of their annotations is used.

    Returns:
      The dataset; its `label` is what the run trains on. With `data.in_memory` its faces are
      decoded once and kept.

    Raises:
      UserError: for a mistake in the data, an empty split, or an unknown dataset.
    """
    dataset = datasets.load(config.data)
    label = config.label or dataset.label
    if label in VOTED and label != dataset.label:
        raise UserError(f"label={label!r} needs a dataset with that label: set data.mode")
    dataset = noise.apply(dataset, config.noise, label)._replace(label=label)
    if config.data.validation:
        known = tuple(name for name in coders if name in dataset.coders)
        trusted = dataset.of_coders(known or dataset.coders)
        given = targets(
            trusted.train,
            label if label in (*LABELS, *trusted.coders) else "majority",
            coders=trusted.coders,
            classes=len(dataset.classes),
            seed=config.seed,
        ).given
        dataset = validation.hold_out(
            dataset, config.data.validation, given=given, seed=config.data.seed
        )
    for note in dataset.notes:
        logging.info("%s", note)
    for name in ("train", "test"):
        if len(dataset.splits[name].images) == 0:
            what = "training" if name == "train" else name
            raise UserError(f"the {what} split of {config.data.name} has no faces")
    if config.data.in_memory:
        splits = {name: pipeline.cache(split) for name, split in dataset.splits.items()}
        dataset = dataset._replace(splits=splits)
    return dataset
