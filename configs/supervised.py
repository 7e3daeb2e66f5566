"""Plain cross-entropy on the given labels: the baseline that every method is compared with.

    python -m ferjax.main --config=configs/supervised.py --workdir=DIR

Or `configs/supervised.py:ferplus` and the other datasets of `configs.datasets`.
"""

from ml_collections import ConfigDict

from configs import datasets


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """One stage, `supervised`, by CCT's recipe for one network."""
    config = datasets.base(dataset)
    config.stages = ("supervised",)
    config.headline = "supervised"
    config.supervised = datasets.recipe("supervised", dataset)
    return config
