"""Faces drawn by code, 40 % of them labelled wrong; small enough for two CPU cores in minutes."""

from ml_collections import ConfigDict

from configs.datasets.common import network, run


def get_config() -> ConfigDict:
    """Returns the run's config: a narrow ResNet-20, and only flips as augmentation."""
    data = faces()
    data.in_memory = True
    config = run(data, network("resnet20", width=8, stem="small", stem_stride=2))
    config.noise.kind = "symmetric"
    config.augment.jitter_affine = 0.0
    config.augment.erase = 0.0
    return config


def with_valence_arousal() -> ConfigDict:
    """Returns the config for a network with two heads, classes and valence–arousal, and dropout."""
    config = get_config()
    config.model.heads = ("class", "va")
    config.model.dropout = 0.5
    return config


def faces(start: int = 0, train_size: int = 4000, test_size: int = 1000) -> ConfigDict:
    """Returns the data, see `ferjax.data.synthetic`."""
    config = ConfigDict()
    config.name = "synthetic"
    config.start = start  # index of the first face
    config.train_size = train_size
    config.test_size = test_size
    config.image_size = 32
    config.ambiguity = 0.25  # 0: every face clear, 1: neighbours look alike
    config.coders = ("synthetic",)
    config.confusions = ()  # a matrix per coder; (): always right
    return config


def hasten(recipe: ConfigDict) -> None:
    """Shortens CCT's recipe from hours to minutes.

    A network must fit the faces and begin to learn wrong labels by heart in a few hundred steps.
    """
    recipe.epochs = 14.0
    recipe.batch_size = 64
    recipe.optimizer.learning_rate = 3e-3
    recipe.optimizer.epoch_decay = 0.9
