"""Co-teaching: two networks that teach each other, and a baseline trained the same way.

    python -m ferjax.main --config=configs/co_teaching.py --workdir=runs/co_teaching

On built-in faces, 40 % of them labelled wrong: two minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import datasets, recipes
from configs.supervised import ADAPTED


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of two stages: `baseline`, `co_teaching`."""
    config = datasets.base(dataset)
    config.stages = ("baseline", "co_teaching")
    config.headline = "co_teaching"
    config.co_teaching = recipes.training("co_teaching")
    config.co_teaching.networks = 2
    config.co_teaching.forget_rate = 0.4  # τ, the estimated share of wrong labels
    config.co_teaching.ramp_epochs = 5.0  # T_k, epochs over which the share left out rises to τ
    config.co_teaching.exponent = 1.0  # c, exponent of the rise
    config.baseline = recipes.alike(config.co_teaching)
    datasets.adapt(config.co_teaching, dataset, ADAPTED)
    return config
