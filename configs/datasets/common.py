"""Fields of a run that the configs of all datasets have in common."""

from ml_collections import ConfigDict

from configs import recipes


def run(data: ConfigDict, model: ConfigDict) -> ConfigDict:
    """Returns the config of a run with CCT's augmentation and no label noise.

    Args:
      data: see `ferjax.data`.
      model: see `network`.
    """
    config = ConfigDict()
    config.seed = 0
    config.seeds = ()  # several: a run for each, in a folder of its own
    config.run = "train"
    # A coder's name or one of `ferjax.data.targets.LABELS`; '': the dataset's own.
    config.label = ""
    config.parallel = "jit"  # or 'pmap'
    config.loop = _loop()
    config.noise = _noise()
    config.noise.seed = config.get_oneway_ref("seed")
    config.augment = _augmentation()
    config.model = model
    config.consensus = recipes.inference()  # run if a stage learns from it
    set_data(config, data)
    return config


def set_data(config: ConfigDict, data: ConfigDict) -> None:
    """Sets the data of a run, whose seeds follow the run's."""
    config.data = data
    for each in (data, *(data.sets.values() if "sets" in data else ())):
        each.seed = config.get_oneway_ref("seed")
    data.validation = 0.0  # share of the training faces held out, with their given labels


def union(sets: dict[str, ConfigDict]) -> ConfigDict:
    """Returns the data of several datasets joined, see `ferjax.data.union`."""
    config = ConfigDict()
    config.name = "union"
    config.sets = ConfigDict(sets)
    config.in_memory = True
    return config


def network(name: str, width: int, stem: str, stem_stride: int) -> ConfigDict:
    """Returns the config of a network, see `ferjax.nn.networks`."""
    config = ConfigDict()
    config.name = name
    config.width = width
    config.stem = stem  # 'imagenet' (7×7/2 and pooling) or 'small' (3×3)
    config.stem_stride = stem_stride  # of the small stem
    config.input = "imagenet"  # how bytes become numbers, see `ferjax.augment.SCHEMES`
    config.heads = ("class",)  # or 'va', valence and arousal; the main head first
    config.dropout = 0.0  # rate before the last layers
    config.dtype = "float32"  # of the computation; parameters are float32
    return config


def no_colour(config: ConfigDict) -> None:
    """Switches off all augmentation but flip, shift and scale."""
    for field in ("brightness", "contrast", "saturation", "hue", "erase"):
        config.augment[field] = 0.0


def _loop() -> ConfigDict:
    config = ConfigDict()
    config.log_steps = 10
    config.eval_epochs = 1.0
    config.eval_steps = 0  # instead of epochs, unless 0
    config.eval_batch_size = 256
    config.save_epochs = 1.0
    config.save_steps = 0
    config.keep = 2  # checkpoints
    config.workers = 0  # processes that load faces; 0: threads
    return config


def _noise() -> ConfigDict:
    config = ConfigDict()
    config.kind = "none"  # 'symmetric', 'symmetric_keep', 'pair_flip', 'matrix', 'list'
    config.rate = 0.4
    config.coder = ""  # whose labels are changed; '': the coder's that is trained on
    config.matrix = ()
    config.list = ""
    config.classes = ()
    config.exact = True
    return config


def _augmentation() -> ConfigDict:
    """Returns CCT's augmentation."""
    config = ConfigDict()
    config.flip = 0.5
    config.jitter_affine = 0.5  # colour jitter and affine together
    config.brightness = 0.25
    config.contrast = 0.25
    config.saturation = 0.25
    config.hue = 0.25
    config.shift = 0.1
    config.whole_pixels = False  # shifts
    config.scale = (1.0, 1.25)
    config.erase = 0.5
    config.erase_area = (0.02, 0.25)
    config.erase_aspect = (0.3, 3.3)
    return config
