"""Early-learning regularisation, and a baseline trained the same way.

    python -m ferjax.main --config=configs/elr.py --workdir=runs/elr

On built-in faces, 40 % of them labelled wrong: a minute on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import datasets, recipes
from configs.supervised import ADAPTED


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of two stages: `baseline`, `elr`."""
    config = datasets.base(dataset)
    config.stages = ("baseline", "elr")
    config.headline = "elr"
    config.elr = recipes.training("elr")
    config.elr.momentum = 0.7  # β of the running targets
    config.elr.regularisation = 3.0  # λ, weight of the regulariser
    config.baseline = recipes.alike(config.elr)
    datasets.adapt(config.elr, dataset, ADAPTED)
    return config
