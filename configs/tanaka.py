"""Joint optimisation of a network and its labels, and a baseline trained the same way.

    python -m ferjax.main --config=configs/tanaka.py --workdir=runs/tanaka

On built-in faces, 40 % of them labelled wrong.
"""

from ml_collections import ConfigDict

from configs import datasets, recipes
from configs.supervised import ADAPTED


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of two stages: `baseline`, `tanaka`."""
    config = datasets.base(dataset)
    config.stages = ("baseline", "tanaka")
    config.headline = "tanaka"
    config.tanaka = recipes.training("tanaka")
    config.tanaka.alpha = 1.2  # α, weight of the prior's term
    config.tanaka.beta = 0.8  # β, weight of the entropy's term
    config.tanaka.start_epoch = 10  # the first epoch after which labels are rewritten
    config.tanaka.average = 10  # how many of the last epochs' probabilities are averaged
    config.baseline = recipes.alike(config.tanaka)
    datasets.adapt(config.tanaka, dataset, ADAPTED)
    return config
