"""Datasets by the name after a config's colon: data, and the network and augmentation for them."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from configs.datasets import cifar10, faces, ferplus, synthetic, tfds
from configs.datasets.common import set_data, union
from ferjax.errors import UserError

__all__ = ["DATASETS", "adapt", "base", "set_data", "union"]

DATASETS = {
    "synthetic": synthetic.get_config,
    "synthetic_va": synthetic.with_valence_arousal,
    "ferplus": ferplus.get_config,
    "ferplus_small": ferplus.small,
    "cifar10": cifar10.get_config,
    "cifar10_small": cifar10.small,
    "cifar10n": cifar10.human,
    "cifar10n_small": cifar10.human_small,
    "faces": faces.get_config,
    "tfds": tfds.get_config,
}


def base(dataset: str) -> ConfigDict:
    """Returns a config without a method: everything that depends on the dataset alone.

    Raises:
      UserError: for an unknown dataset.
    """
    if dataset not in DATASETS:
        raise UserError(f"unknown dataset {dataset!r}; there are {', '.join(DATASETS)}")
    return DATASETS[dataset]()


def adapt(
    config: ConfigDict, dataset: str, changes: Mapping[str, Callable[[ConfigDict], None]]
) -> None:
    """Makes the changes to a config or recipe that a dataset needs, if it needs any."""
    if dataset in changes:
        changes[dataset](config)
