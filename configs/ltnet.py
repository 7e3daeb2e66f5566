"""LTNet, and networks trained alike on the mixture of all annotations and on their majority.

    python -m ferjax.main --config=configs/ltnet.py --workdir=runs/ltnet

Built-in faces, every one labelled by two coders who err in opposed ways: one calls fear surprise,
the other anger disgust, 40 % of the time.
"""

from ml_collections import ConfigDict

from configs import datasets
from ferjax.data.record import CLASSES

MISTAKES = (("fear", "surprise"), ("anger", "disgust"))
"""What each coder takes for what."""
RATE = 0.4


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Three stages: `mixture`, `majority`, `ltnet`."""
    config = datasets.base(dataset)
    config.stages = ("mixture", "majority", "ltnet")
    config.headline = "ltnet"
    if dataset == "synthetic":
        config.noise.kind = "none"
        config.data.confusions = tuple(_confusion(*pair) for pair in MISTAKES)
    config.ltnet = _ltnet(dataset)
    for label in ("mixture", "majority"):
        config[label] = datasets.alike(config.ltnet, dataset)
    config.mixture.label = "random"  # one of a face's annotations, drawn anew at each step
    config.majority.label = "majority"
    return config


def _ltnet(dataset: str) -> ConfigDict:
    config = datasets.recipe("ltnet", dataset)
    config.loss = "paper"  # or 'released'
    config.coder_weights = ()  # one a coder; (): ones
    config.transition = ConfigDict()
    config.transition.constraint = "project"  # or 'normalise', 'softmax'
    config.transition.epsilon = 1e-2
    config.transition.delta = 0.01
    config.transition.rate = 0.03  # times the backbone's; Adam moves entries by it at every step
    config.transition.weight_decay = 0.0
    config.transition.trace = 0.0
    config.transition.freeze_epochs = 0.0
    return config


def _confusion(truth: str, taken_for: str) -> tuple[tuple[float, ...], ...]:
    """A coder's matrix over the seven classes drawn: right but for one class."""
    names = CLASSES[:7]
    wrong = {(truth, truth): 1 - RATE, (truth, taken_for): RATE}
    return tuple(tuple(wrong.get((k, j), float(k == j)) for j in names) for k in names)
