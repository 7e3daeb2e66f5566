"""Joint optimisation of a network and its labels, and the baseline trained alike.

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
    config.tanaka.alpha = 1.2  # α, of the prior
    config.tanaka.beta = 0.8  # β, of the entropy
    config.tanaka.start_epoch = 10  # the first after which labels are rewritten
    config.tanaka.average = 10  # epochs whose probabilities the labels are
    config.baseline = recipes.alike(config.tanaka)
    ADAPTED.get(dataset, lambda recipe: None)(config.tanaka)
    return config
