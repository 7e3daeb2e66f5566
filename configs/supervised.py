"""Plain cross-entropy on the given labels: the baseline that every method is compared with.

    python -m ferjax.main --config=configs/supervised.py --workdir=DIR

Or `configs/supervised.py:ferplus` and the other datasets of `configs.datasets`;
`configs/supervised.py:synthetic_va` trains a network with two heads, of classes and of valence and
arousal.
"""

from ml_collections import ConfigDict

from configs import datasets, recipes
from configs.datasets import synthetic


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of one stage, `supervised`, by CCT's recipe for one network."""
    config = datasets.base(dataset)
    config.stages = ("supervised",)
    config.headline = "supervised"
    config.supervised = recipes.supervised()
    datasets.adapt(config.supervised, dataset, ADAPTED)
    return config


def for_cpus(recipe: ConfigDict) -> None:
    """Sets a batch small enough for wrong labels to be memorised in the few steps of a CPU run."""
    recipe.batch_size = 64


ADAPTED = {
    "synthetic": synthetic.hasten,
    "synthetic_va": synthetic.hasten,
    "ferplus_small": for_cpus,
}
"""What some datasets change in the recipe of one network."""
