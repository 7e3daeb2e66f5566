"""CIFAR-10 as LTNet's authors have it: their network, colours, augmentation and three coders.

Also CIFAR-10N, whose labels people gave.
"""

from ml_collections import ConfigDict

from configs.datasets.common import network, no_colour, run

SMALL = 10_000
"""Training pictures of the variants for CPUs."""


def get_config() -> ConfigDict:
    """Returns the run's config: all pictures, annotated by coders who are 60, 70 and 80 % right."""
    data = ConfigDict()
    data.name = "cifar10"
    data.dir = ""
    data.cache = ""
    data.lists = ("ltnet_noise_60_70_80.csv",)
    data.coders = ("coder_60", "coder_70", "coder_80")
    data.subset = 0
    data.in_memory = True
    config = run(data, network("resnet20_ltnet", width=16, stem="small", stem_stride=1))
    config.model.input = "bgr"
    config.loop.eval_epochs = 5.0
    config.loop.save_epochs = 5.0
    no_colour(config)
    config.augment.jitter_affine = 1.0
    config.augment.whole_pixels = True
    config.augment.shift = 4 / 32
    config.augment.scale = (1.0, 1.0)
    return config


def small() -> ConfigDict:
    """Returns the config for CPUs: 10,000 pictures."""
    config = get_config()
    config.data.subset = SMALL
    return config


def human() -> ConfigDict:
    """Returns the config of CIFAR-10N, with three labels per picture that people gave."""
    config = get_config()
    config.data.lists = ("cifar10n.csv",)
    config.data.coders = ("random1", "random2", "random3")
    return config


def human_small() -> ConfigDict:
    """Returns the config of CIFAR-10N for CPUs: 10,000 pictures."""
    config = human()
    config.data.subset = SMALL
    return config
