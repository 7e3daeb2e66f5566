"""Your own aligned faces, labelled or not: each set is a folder tree, a list or ArrayRecord.

Sets are used in the order of their names. Add sets with other names to `SETS`.
"""

from ml_collections import ConfigDict

from configs.datasets.common import network, run, union

SETS = {"affectnet": "affectnet", "raf_db": "raf_db", "unlabelled": ""}
"""Sets, and the coder who labelled each; '': nobody did."""


def get_config() -> ConfigDict:
    """Returns the run's config: faces of 224×224, ResNet-18."""
    sets = {name: folder(coder) for name, coder in SETS.items()}
    data = union(sets)
    data.in_memory = False
    data.image_size = 224
    data.max_megapixels = 64.0  # that a picture may declare; larger ones are not decoded
    for each in sets:
        for field in ("image_size", "max_megapixels"):
            data.sets[each][field] = data.get_oneway_ref(field)
    return run(data, network("resnet18", width=64, stem="imagenet", stem_stride=2))


def folder(coder: str = "") -> ConfigDict:
    """Returns the data of one set, see `ferjax.data.datasets.folder`."""
    config = ConfigDict()
    config.name = "folder"
    config.path = ""
    config.test_path = ""
    config.coder = coder  # who gave the labels; '': nobody labelled them
    config.classes = 7
    config.image_size = 224
    config.channels = 3
    config.max_megapixels = 64.0
    return config
