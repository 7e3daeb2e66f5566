"""LTNet beside what the paper compares it with, all trained alike in one run.

    python -m ferjax.main --config=configs/ltnet.py --workdir=runs/ltnet
    python -m ferjax.main --config=configs/ltnet.py:cifar10 --config.data.dir=FOLDER --workdir=DIR

On built-in faces: two datasets, each annotated by its own team, who err in opposite ways; minutes
on two CPU cores. On CIFAR-10: the paper's Table 1, with controls; as `cifar10_small` 10,000
pictures and 2,500 steps. On FERPlus: FER2013's own labels and a fifth of FERPlus's, `:ferplus` or
`:ferplus_small` with `--config.data.dir=FOLDER`. People's labels of CIFAR-10: `:cifar10n`,
`:cifar10n_small`.
"""

import numpy as np
from ml_collections import ConfigDict

from configs import datasets
from ferjax.data.record import CLASSES

TEAMS = {
    "east": {"fear": "surprise", "disgust": "anger"},
    "west": {"surprise": "fear", "anger": "disgust"},
}
"""What each team takes for what, at `RATE`: the opposite of the other."""
RATE = 0.4


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """LTNet, and the mixture of all annotations; then what the data allow to compare them with."""
    config = base(dataset)
    config.stages = ("mixture", "majority", "ltnet")
    config.headline = "ltnet"
    config.ltnet = ltnet(dataset)
    _supervised(config, dataset, "mixture", "random")  # one annotation, drawn anew at each step
    _supervised(config, dataset, "majority", "majority")
    if dataset == "synthetic":
        config.noise.kind = "none"
        datasets.set_data(config, datasets.union(two_teams()))
        config.stages = ("mixture", "ltnet")  # of one annotation the majority is that
    if dataset.startswith("ferplus"):
        _two_labellings(config, dataset)
    if dataset.startswith("cifar10"):
        _table_1(config, dataset)
    return config


def base(dataset: str) -> ConfigDict:
    """What every config shares, with the authors' network for faces of one's own."""
    config = datasets.base(dataset)
    if dataset == "faces":
        config.model.update(name="resnet80", width=16)
        config.loop.log_steps = 100
        config.loop.eval_steps = config.loop.save_steps = 10_000
    return config


def two_teams() -> dict[str, ConfigDict]:
    """Two datasets of built-in faces, each annotated by its own team, who err in opposite ways."""
    sets = {}
    for place, (name, mistakes) in enumerate(TEAMS.items()):
        sets[name] = datasets.synthetic(start=10_000_000 * place, train_size=2000, test_size=1000)
        sets[name].coders = (name,)
        sets[name].confusions = (_confusion(mistakes),)
    return sets


def ltnet(dataset: str) -> ConfigDict:
    """LTNet's recipe: on CIFAR-10 and faces of one's own its authors'."""
    config = datasets.recipe("ltnet", dataset)
    config.loss = "paper"  # or 'released'
    config.coder_weights = ()  # one a coder; (): ones
    config.reduction = ""
    config.transition = ConfigDict()
    config.transition.constraint = "normalise"  # as the paper has it; or 'softmax', 'project'
    config.transition.epsilon = 1e-5  # the authors', on faces
    config.transition.shared = False
    config.transition.start = "identity"  # or 'dawid_skene', 'confusion', 'given'
    config.transition.matrices = ()
    config.transition.delta = -1.0
    # Adam would move all entries alike, and mistakes that nobody makes would grow.
    config.transition.optimizer = "sgd"  # '': the network's
    config.transition.rate = 3.0  # times the network's
    config.transition.clip = 1.0  # most that an entry of T's gradient counts; 0: any
    config.transition.weight_decay = 0.0
    config.transition.trace = 0.0
    config.transition.freeze_epochs = 0.0  # what says little of the truth sweeps T away
    if dataset == "synthetic" or dataset.startswith("ferplus"):
        config.optimizer.epoch_decay = 1.0
        config.optimizer.power = 1.0
        config.transition.freeze_epochs = 3.0
    if dataset == "synthetic":
        config.epochs = 30.0
    if dataset == "faces" or dataset.startswith("cifar10"):  # its authors' rates
        config.transition.update(rate=1.0, clip=0.0)
    if dataset.startswith("cifar10"):
        config.transition.epsilon = 1e-2
        config.transition.weight_decay = 5e-4
        config.steps = 2_500 if dataset.endswith("_small") else 50_000
        config.batch_size = 128
        _set_rates(config.optimizer, "sgd", learning_rate=1e-2, weight_decay=1e-3, power=1.5)
        config.optimizer.norm_decay = 5e-4
        config.optimizer.bias_decay = 0.0
    if dataset == "faces":
        config.transition.update(optimizer="", weight_decay=5e-4)
        config.steps = 300_000
        config.batch_size = 4 * 64
        _set_rates(config.optimizer, "momentum", learning_rate=1e-5, weight_decay=5e-4, power=0.5)
    return config


def em(other: ConfigDict, dataset: str) -> ConfigDict:
    """A network trained on what EM makes of the annotations."""
    config = datasets.alike(other, dataset)
    config.label = "inferred"
    return config


def nal(other: ConfigDict, dataset: str) -> ConfigDict:
    """The noise adaptation layer: one matrix for all coders, which learns as the network does."""
    config = datasets.following(other)
    config.transition.update(shared=True, start="confusion", constraint="softmax")
    config.transition.update(optimizer="", rate=1.0, clip=0.0)
    config.transition.weight_decay = 0.0  # it would pull the logits of rows together
    return config


def e2e_fc(other: ConfigDict, dataset: str) -> ConfigDict:
    """A free layer for every coder; it starts afresh."""
    config = datasets.alike(other, dataset)
    config.method = "e2e_fc"
    config.coder_weights = other.get_oneway_ref("coder_weights")
    return config


COMPARATORS = {"em": em, "nal": nal, "e2e_fc": e2e_fc}
"""What LTNet is compared with besides single networks, from LTNet's recipe and the dataset."""


def _set_rates(
    optimizer: ConfigDict, name: str, *, learning_rate: float, weight_decay: float, power: float
) -> None:
    """One rate for all of the network, which falls by a power of the share of the run left."""
    optimizer.name = name
    optimizer.learning_rate = optimizer.classifier_rate = learning_rate
    optimizer.weight_decay = weight_decay
    optimizer.epoch_decay = 1.0
    optimizer.power = power


def _two_labellings(config: ConfigDict, dataset: str) -> None:
    """FER2013's own labels of all faces and FERPlus's of a fifth; either alone, mixed, and both."""
    config.noise.kind = "none"
    config.data.classes = 7
    config.data.ferplus_share = share = 0.2
    config.data.subset = 0
    config.stages = ("ferplus", "fer2013", "mixture", "ltnet")
    for coder in ("ferplus", "fer2013"):
        _supervised(config, dataset, coder, coder).coders = (coder,)
    config.ltnet.steps = 6000  # alike for all: the fifth has fewer to an epoch
    # Both labellings count alike: else the truth is what the more numerous labels say.
    config.ltnet.coder_weights = (1 / share, 1.0)


def _table_1(config: ConfigDict, dataset: str) -> None:
    """All rows of the paper's Table 1, and controls that tell what it is that helps."""
    annotators = config.data.coders
    config.data.coders = (*annotators, "clean")
    config.ltnet.coders = annotators
    config.ltnet.needs.network = "mixture"
    _supervised(config, dataset, "clean", "clean").coders = ("clean",)
    for coder in annotators:
        _supervised(config, dataset, coder, coder)
    _supervised(config, dataset, "soft", "soft")
    for name, start, soft in (
        ("em_majority", "majority", False),
        ("em_spectral", "spectral", False),
        ("em_posterior", "majority", True),
    ):
        config[name] = em(config.ltnet, dataset)
        config[name].label = "posterior" if soft else "inferred"
        config[name].needs.truth = f"consensus_{start}"
        config[f"consensus_{start}"] = ConfigDict({"kind": "infer", "start": start, "annotations": (), "sets": (), "coders": ()})
    config.nal = nal(config.ltnet, dataset)
    config.nal.coder_weights = (1 / 3,) * 3  # the mean over annotations: the mixture
    config.e2e_fc = e2e_fc(config.ltnet, dataset)
    config.ltnet_project = datasets.following(config.ltnet)
    config.ltnet_project.transition.constraint = "project"  # as the authors' program does it
    config.ltnet_released = datasets.following(config.ltnet_project)
    config.ltnet_released.loss = "released"
    # Controls: as many steps as LTNet has with its start, and LTNet's loss without its matrices.
    _supervised(config, dataset, "mixture_long", "random")
    config.mixture_long.steps = 2 * config.ltnet.get_ref("steps")
    config.identity = datasets.following(config.ltnet_released)
    config.identity.transition.update(delta=0.0, rate=0.0, weight_decay=0.0)
    config.stages = (
        "clean",
        *annotators,
        "mixture",
        "majority",
        "soft",
        "em_majority",
        "em_spectral",
        "em_posterior",
        "nal",
        "e2e_fc",
        "ltnet",
        "ltnet_project",
        "ltnet_released",
        "mixture_long",
        "identity",
    )


def _supervised(config: ConfigDict, dataset: str, stage: str, label: str) -> ConfigDict:
    """Adds a network trained as LTNet is, on one label a face."""
    config[stage] = datasets.alike(config.ltnet, dataset)
    config[stage].label = label
    return config[stage]


def _confusion(mistakes: dict[str, str]) -> tuple[tuple[float, ...], ...]:
    """A coder's matrix over the seven classes drawn: right but for these mistakes."""
    matrix = np.eye(7)
    for truth, taken_for in mistakes.items():
        row = CLASSES.index(truth)
        matrix[row, [row, CLASSES.index(taken_for)]] = 1 - RATE, RATE
    return tuple(map(tuple, matrix.tolist()))
