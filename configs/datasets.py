"""What every config shares: the data, the network that suits it, noise, augmentation, the loop."""

from ml_collections import ConfigDict

from ferjax.errors import UserError


def base(dataset: str) -> ConfigDict:
    """A config without a method: everything that depends on the dataset alone.

    Raises:
      UserError: for an unknown dataset.
    """
    known = {
        "synthetic": _synthetic,
        "ferplus": _ferplus,
        "ferplus_small": _ferplus_small,
        "cifar10": _cifar10,
        "cifar10_small": _cifar10_small,
        "cifar10n": _cifar10n,
        "cifar10n_small": _cifar10n_small,
        "faces": _faces,
    }
    if dataset not in known:
        raise UserError(f"unknown dataset {dataset!r}; there are {', '.join(known)}")
    config = ConfigDict()
    config.seed = 0
    config.run = "train"
    # A coder's name or one of `methods.method.LABELS`; '': as the dataset is labelled.
    config.label = ""
    config.parallel = "jit"  # or 'pmap'
    config.loop = _loop()
    config.noise = _noise()
    config.noise.seed = config.get_oneway_ref("seed")
    config.augment = _augmentation()
    known[dataset](config)
    set_data(config, config.data)
    return config


def set_data(config: ConfigDict, data: ConfigDict) -> None:
    """Makes `data` what the run works on; one seed varies faces, noise and training."""
    config.data = data
    for each in (data, *(data.sets.values() if "sets" in data else ())):
        each.seed = config.get_oneway_ref("seed")
    data.validation = 0.0  # share of the training faces held out, with the labels given


def recipe(method: str, dataset: str) -> ConfigDict:
    """One stage of training: how long and with which optimiser, as CCT trains its networks.

    The synthetic faces have a hasty one that shows in minutes what the paper's shows in hours: a
    network has to fit the faces and begin to learn wrong labels by heart in a few hundred steps.
    """
    config = ConfigDict()
    config.method = method
    config.needs = ConfigDict()  # {name known to the method: stage}
    config.sets = ()  # datasets of a union to train on; (): all
    config.coders = ()  # whose annotations count; (): everybody's
    config.label = ""  # what this stage trains on; '': as the run
    config.inference = ConfigDict()  # of label 'inferred'
    config.inference.start = "majority"  # or 'spectral'
    config.inference.soft = False  # train on posteriors instead of on the likeliest class
    config.unlabelled = False  # keep faces that none of these annotated
    config.balanced = False  # draw every class as often
    config.set_weights = ()  # how often to draw from each dataset of a union; (): as many as it has
    config.epochs = 40.0
    config.steps = 0  # instead of epochs, unless 0
    config.epoch_steps = 0  # steps that count as an epoch; 0: as many as take every face once
    config.batch_size = 256
    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.classifier_rate = 1e-2
    config.optimizer.weight_decay = 0.0
    for kind in ("norm_decay", "bias_decay"):  # as the weights', unless given
        config.optimizer[kind] = config.optimizer.get_oneway_ref("weight_decay")
    config.optimizer.epoch_decay = 0.95
    config.optimizer.milestones = ()  # fractions of the run
    config.optimizer.milestone_decay = 0.1
    config.optimizer.power = 0.0  # of the share of the run that is left
    if dataset == "synthetic":
        config.epochs = 14.0
        config.batch_size = 64
        config.optimizer.learning_rate = 3e-3
        config.optimizer.epoch_decay = 0.9
    if dataset == "ferplus_small":
        config.batch_size = 64  # with 256 the steps are too few to learn wrong labels by heart
    return config


def following(other: ConfigDict) -> ConfigDict:
    """A copy that follows every change made there; what is set in it is its own."""
    config = ConfigDict()
    for field, value in other.items():
        nested = isinstance(value, ConfigDict)
        config[field] = following(value) if nested else other.get_oneway_ref(field)
    return config


def alike(other: ConfigDict, dataset: str) -> ConfigDict:
    """One supervised network by another stage's recipe: it follows every change made there.

    What it is trained on (`label`, `inference`) is its own.
    """
    config = recipe("supervised", dataset)
    for field in config:
        if field not in ("method", "needs", "optimizer", "label", "inference"):
            config[field] = other.get_oneway_ref(field)
    config.optimizer = following(other.optimizer)
    return config


def synthetic(start: int = 0, train_size: int = 4000, test_size: int = 1000) -> ConfigDict:
    """Faces drawn by code, see `ferjax.data.synthetic`."""
    config = ConfigDict()
    config.name = "synthetic"
    config.start = start  # of the faces that there are
    config.train_size = train_size
    config.test_size = test_size
    config.image_size = 32
    config.ambiguity = 0.25  # 0: every face clear, 1: neighbours look alike
    config.coders = ("synthetic",)
    config.confusions = ()  # a matrix for each coder; (): always right
    return config


def folder() -> ConfigDict:
    """Faces from a folder tree, a list or ArrayRecord, see `ferjax.data.datasets.folder`."""
    config = ConfigDict()
    config.name = "folder"
    config.path = ""
    config.test_path = ""
    config.coder = ""  # who gave the labels; '': nobody labelled them
    config.classes = 7
    config.image_size = 224
    config.channels = 3
    return config


def union(sets: dict[str, ConfigDict]) -> ConfigDict:
    """Several datasets as one, see `ferjax.data.union`."""
    config = ConfigDict()
    config.name = "union"
    config.sets = ConfigDict(sets)
    config.in_memory = True
    return config


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
    config.coder = ""  # whose annotations; '': those of the coder that is trained on
    config.matrix = ()
    config.list = ""
    config.classes = ()
    config.exact = True
    return config


def _augmentation() -> ConfigDict:
    """CCT's."""
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


def _model(name: str, width: int, stem: str, stem_stride: int) -> ConfigDict:
    config = ConfigDict()
    config.name = name
    config.width = width
    config.stem = stem  # 'imagenet' (7×7/2 and pooling) or 'small' (3×3)
    config.stem_stride = stem_stride  # of the small stem
    config.input = "imagenet"  # how bytes become numbers; or 'bgr'
    config.dtype = "float32"  # of the computation; parameters are float32
    config.heads = ("class",)  # what it predicts: "class", "va" or both, the main one first
    config.dropout = 0.0  # rate before the last layers
    return config


def _synthetic(config: ConfigDict) -> None:
    """Faces drawn by code; small enough for two CPU cores in minutes."""
    config.data = synthetic()
    config.data.in_memory = True
    config.model = _model("resnet20", width=8, stem="small", stem_stride=2)
    config.noise.kind = "symmetric"
    config.augment.jitter_affine = 0.0
    config.augment.erase = 0.0


def _ferplus(config: ConfigDict) -> None:
    """FERPlus, 48×48 grey, from the project's files in `data.dir`; full-width ResNet-18."""
    config.data = ConfigDict()
    config.data.name = "ferplus"
    config.data.dir = ""
    config.data.cache = ""
    config.data.image_size = 48
    config.data.mode = "majority"
    config.data.train_parts = ("Training",)
    config.data.test_part = ""
    config.data.drop_test_copies = True
    config.data.skip_corrupt = False
    config.data.subset = 0
    config.data.classes = 8  # 7: without contempt
    config.data.ferplus_share = 1.0  # of the training faces that keep FERPlus's label
    config.data.in_memory = True
    config.model = _model("resnet18", width=64, stem="small", stem_stride=2)


def _ferplus_small(config: ConfigDict) -> None:
    """8,000 faces of FERPlus, 40 % of them labelled wrong, and a narrow network: for CPUs.

    Of CCT's augmentation the flip and the shift, as likely as there.
    """
    _ferplus(config)
    config.data.subset = 8000
    config.data.test_part = "PublicTest"
    config.model.width = 16
    config.noise.kind = "symmetric"
    for field in ("brightness", "contrast", "saturation", "hue", "erase"):
        config.augment[field] = 0.0
    config.augment.scale = (1.0, 1.0)


def _cifar10(config: ConfigDict) -> None:
    """CIFAR-10 as LTNet's authors have it: their network, bytes, augmentation and three coders."""
    config.data = ConfigDict()
    config.data.name = "cifar10"
    config.data.dir = ""
    config.data.cache = ""
    config.data.lists = ("ltnet_noise_60_70_80.csv",)
    config.data.coders = ("coder_60", "coder_70", "coder_80")
    config.data.subset = 0
    config.data.in_memory = True
    config.model = _model("resnet20_ltnet", width=16, stem="small", stem_stride=1)
    config.model.input = "bgr"
    config.loop.eval_epochs = 5.0
    config.loop.save_epochs = 5.0
    config.augment.jitter_affine = 1.0
    config.augment.whole_pixels = True
    config.augment.shift = 4 / 32
    config.augment.scale = (1.0, 1.0)
    for field in ("brightness", "contrast", "saturation", "hue", "erase"):
        config.augment[field] = 0.0


def _cifar10_small(config: ConfigDict) -> None:
    """10,000 of its pictures: for CPUs."""
    _cifar10(config)
    config.data.subset = 10_000


def _cifar10n(config: ConfigDict) -> None:
    """CIFAR-10 with three labels a picture that people gave, CIFAR-10N."""
    _cifar10(config)
    config.data.lists = ("cifar10n.csv",)
    config.data.coders = ("random1", "random2", "random3")


def _cifar10n_small(config: ConfigDict) -> None:
    """10,000 of its pictures: for CPUs."""
    _cifar10n(config)
    config.data.subset = 10_000


def _faces(config: ConfigDict) -> None:
    """Aligned faces of one's own, labelled or not."""
    sets = {}
    for name in ("affectnet", "raf_db", "unlabelled"):
        sets[name] = folder()
        sets[name].coder = "" if name == "unlabelled" else name
    config.data = union(sets)
    config.data.in_memory = False
    config.data.image_size = 224
    for each in sets:
        config.data.sets[each].image_size = config.data.get_oneway_ref("image_size")
    config.model = _model("resnet18", width=64, stem="imagenet", stem_stride=2)
    config.noise.kind = "none"
