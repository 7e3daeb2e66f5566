"""Recipes: the parts of a config that say how one stage works, see `ferjax.runs.train`."""

from typing import Any

from ml_collections import ConfigDict

CONSENSUS = "consensus"
"""The stage that infers the truth from all annotations, if another stage needs it."""


def training(method: str, **own: Any) -> ConfigDict:
    """Returns a recipe of training, by default as CCT trains its networks on FERPlus.

    Args:
      method: one of `ferjax.methods.METHODS`.
      **own: the method's own fields.
    """
    config = ConfigDict()
    config.kind = "train"
    config.method = method
    config.needs = ConfigDict()  # {name known to the method: stage}
    config.needs.truth = CONSENSUS  # used only where EM's labels or matrices are
    config.annotations = ()  # stages of kind 'annotate' whose labels join the human ones
    config.sets = ()  # datasets of a union to train on; (): all
    config.coders = ()  # whose annotations count; (): everybody's
    config.label = ""  # what each face is trained on, see `ferjax.data.targets`; '': the run's
    config.unlabelled = False  # keep faces that none of these annotated among the training faces
    config.pool = False  # or in a pool, for a method that draws from it
    config.balanced = False  # draw every class equally often
    config.set_weights = ()  # how often to draw from each dataset of a union; (): by its size
    config.epochs = 40.0
    config.steps = 0  # instead of epochs, unless 0
    config.epoch_steps = 0  # steps that count as an epoch; 0: as many as take every face once
    config.batch_size = 256
    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # 'adamax', 'momentum', or 'sgd' for Nesterov's momentum
    config.optimizer.learning_rate = 1e-3
    config.optimizer.classifier_rate = 1e-2
    config.optimizer.weight_decay = 0.0
    for kind in ("norm_decay", "bias_decay"):  # as `weight_decay`, unless set
        config.optimizer[kind] = config.optimizer.get_oneway_ref("weight_decay")
    config.optimizer.epoch_decay = 0.95
    config.optimizer.milestones = ()  # when rates drop, as fractions of the run
    config.optimizer.milestone_decay = 0.1
    config.optimizer.power = 0.0  # exponent of the share of the run that is left
    config.update(own)
    return config


def supervised() -> ConfigDict:
    """Returns the recipe of one network on one target per face."""
    return training("supervised", va_loss="ccc", va_weight=1.0)  # for a va head: 'ccc' or 'mse'


def following(other: ConfigDict) -> ConfigDict:
    """Returns a copy whose fields follow every later change of `other`, until they are set."""
    config = ConfigDict()
    for field, value in other.items():
        nested = isinstance(value, ConfigDict)
        config[field] = following(value) if nested else other.get_oneway_ref(field)
    return config


def alike(other: ConfigDict, label: str = "") -> ConfigDict:
    """Returns the recipe of one supervised network that follows another recipe's every change.

    Args:
      other: the recipe to follow, in all but its method, label and needs.
      label: what each face is trained on; '': the run's.
    """
    config = supervised()
    for field in config:
        if field not in ("method", "needs", "label", "optimizer", "va_loss", "va_weight"):
            config[field] = other.get_oneway_ref(field)
    config.optimizer = following(other.optimizer)
    config.label = label
    return config


def inference(start: str = "majority", annotations: tuple[str, ...] = ()) -> ConfigDict:
    """Returns a recipe that infers the truth of the training faces by Dawid and Skene's EM.

    Args:
      start: 'majority' or 'spectral'.
      annotations: stages whose labels join the human ones.
    """
    config = ConfigDict()
    config.kind = "infer"
    config.start = start
    config.annotations = annotations
    config.sets = ()  # datasets of a union to infer from; (): all
    config.coders = ()  # (): everybody
    return config


def annotation(model: str) -> ConfigDict:
    """Returns a recipe that has a stage's model label the faces it was not trained on."""
    config = ConfigDict()
    config.kind = "annotate"
    config.needs = ConfigDict({"model": model})
    return config


def one_rate(
    optimizer: ConfigDict, name: str, *, learning_rate: float, weight_decay: float, power: float
) -> None:
    """Sets one rate for the whole network, which falls by a power of the share of the run left."""
    optimizer.name = name
    optimizer.learning_rate = optimizer.classifier_rate = learning_rate
    optimizer.weight_decay = weight_decay
    optimizer.epoch_decay = 1.0
    optimizer.power = power
