"""Any image-classification set that TFDS prepared as ArrayRecord, by its name.

python -m ferjax.main --config=configs/supervised.py:tfds --config.data.dataset=NAME --workdir=DIR
"""

from ml_collections import ConfigDict

from configs.datasets.common import network, run


def get_config() -> ConfigDict:
    """Returns the run's config, see `ferjax.data.datasets.tfds`; a ResNet-18 for small pictures."""
    data = ConfigDict()
    data.name = "tfds"
    data.dataset = ""  # NAME[/CONFIG][:VERSION]
    data.dir = ""  # where TFDS put it; '': ~/tensorflow_datasets
    data.image_size = 0  # 0: as the pictures are, if all are squares of one size
    data.channels = 0  # 1: grey, 3: RGB; 0: as the set has
    data.max_megapixels = 64.0  # that a picture may declare; larger ones are not decoded
    data.train_parts = ("train",)
    data.test_part = ""  # '': test if there is one, else validation
    data.subset = 0  # training pictures drawn; 0: all
    data.in_memory = True
    return run(data, network("resnet18", width=64, stem="small", stem_stride=2))
