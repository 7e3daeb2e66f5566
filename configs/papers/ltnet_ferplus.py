"""FERPlus with two labellings: FER2013's on all faces, FERPlus's majority on a random fifth.

    python -m ferjax.main --config=configs/papers/ltnet_ferplus.py --config.data.dir=FOLDER \
        --workdir=DIR

Seven classes, 6,000 steps per row. `:ferplus_small` has a ResNet-18 of width 16: an hour on one CPU
core; PublicTest: FERPlus's fifth alone 72.6 %, FER2013 alone 65.8, mixture 67.3, LTNet 75.6.
`FOLDER` must hold `fer2013_labels.csv`, too.
"""

from ml_collections import ConfigDict

from configs import coders, datasets, recipes
from configs.supervised import ADAPTED

DATASETS = ("ferplus", "ferplus_small")


def get_config(dataset: str = "ferplus") -> ConfigDict:
    """Returns either labelling alone, both mixed, and LTNet on both."""
    config = datasets.base(dataset)
    config.noise.kind = "none"
    config.data.classes = 7
    config.data.ferplus_share = 0.2
    config.data.subset = 0
    config.stages = ("ferplus", "fer2013", "mixture", "ltnet")
    config.headline = "ltnet"
    config.ltnet = coders.ltnet()
    datasets.adapt(config.ltnet, dataset, ADAPTED)
    coders.long_start(config.ltnet)
    config.ltnet.steps = 6000  # the same for all: the fifth has shorter epochs
    # Both labellings count equally: else the more numerous labels would decide the truth.
    config.ltnet.reduction = "coder_mean"
    for coder in ("ferplus", "fer2013"):
        config[coder] = recipes.alike(config.ltnet, coder)
        config[coder].coders = (coder,)
    config.mixture = recipes.alike(config.ltnet, "random")
    return config
