"""FERPlus, 48×48 grey, from the project's files in `data.dir`."""

from ml_collections import ConfigDict

from configs.datasets.common import network, no_colour, run


def get_config() -> ConfigDict:
    """Returns the run's config: all faces, a ResNet-18 of full width."""
    data = ConfigDict()
    data.name = "ferplus"
    data.dir = ""
    data.cache = ""  # of prepared data; '': the user's cache folder
    data.image_size = 48
    data.mode = "majority"  # 'multi_target', 'probability'
    data.train_parts = ("Training",)
    data.test_part = ""  # '': PrivateTest if its images are there, else PublicTest
    data.drop_test_copies = True
    data.skip_corrupt = False
    data.subset = 0  # training faces drawn; 0: all
    data.classes = 8  # 7: without contempt
    data.ferplus_share = 1.0  # share of the training faces that keep FERPlus's label
    data.in_memory = True
    return run(data, network("resnet18", width=64, stem="small", stem_stride=2))


def small() -> ConfigDict:
    """Returns the config for CPUs: 8,000 faces, 40 % labelled wrong, and a narrow network.

    Keeps only the flip and the shift of CCT's augmentation.
    """
    config = get_config()
    config.data.subset = 8000
    config.data.test_part = "PublicTest"
    config.model.width = 16
    config.noise.kind = "symmetric"
    no_colour(config)
    config.augment.scale = (1.0, 1.0)
    return config
