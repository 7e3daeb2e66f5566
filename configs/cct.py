"""Consensual Collaborative Training, its distilled student, and the baseline trained alike.

    python -m ferjax.main --config=configs/cct.py --workdir=runs/cct
    python -m ferjax.main --config=configs/cct.py:ferplus --config.data.dir=FOLDER --workdir=DIR

On built-in faces: three minutes on two CPU cores. On FERPlus as released: 40 epochs, batch 256; as
`ferplus_small`, 8,000 faces with 40 % wrong labels, an hour on two CPU cores.
The authors' recipes for other sets: RAF-DB `--config.teachers.epochs=100`; AffectNet 25 epochs of
about 400 steps, `--config.teachers.optimizer.classifier_rate=1e-3 --config.teachers.balanced`.
"""

from ml_collections import ConfigDict

from configs import datasets


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Three stages: `baseline`, `teachers`, `student`."""
    config = datasets.base(dataset)
    config.stages = ("baseline", "teachers", "student")
    config.headline = "student"
    config.teachers = _teachers()
    config.student = _student()
    if dataset == "synthetic":
        _hurry(config)
    if dataset == "ferplus_small":
        config.student.epochs = 20.0
    config.baseline = _alike(config.teachers)
    return config


def _teachers() -> ConfigDict:
    config = datasets.recipe("cct")
    config.networks = 3
    config.lambda_max = 0.9
    config.beta = 0.65
    config.ramp = 0.9  # e_r as a fraction of the epochs
    config.variant = "paper"  # or 'released'
    return config


def _student() -> ConfigDict:
    config = datasets.recipe("cct_student")
    config.needs.teachers = "teachers"
    config.epochs = 200.0
    config.batch_size = 64
    config.optimizer.name = "adamax"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.classifier_rate = 2e-3
    config.optimizer.weight_decay = 4e-5
    config.optimizer.epoch_decay = 1.0
    config.optimizer.milestones = (0.2, 0.5)
    config.temperature = 2.0
    config.variant = "paper"  # or 'released'
    return config


def _hurry(config: ConfigDict) -> None:
    """A recipe that shows in three minutes on two CPU cores what the paper's shows in hours.

    A single network has to fit the faces and begin to learn wrong labels by heart in a few hundred
    steps, so rates are high and fall fast, and only flips augment.
    """
    config.augment.jitter_affine = 0.0
    config.augment.erase = 0.0
    config.teachers.epochs = 14.0
    config.teachers.batch_size = 64
    config.teachers.optimizer.learning_rate = 3e-3
    config.teachers.optimizer.epoch_decay = 0.9
    config.student.epochs = 6.0
    config.student.optimizer.learning_rate = 1e-2
    config.student.optimizer.classifier_rate = 1e-2
    config.student.optimizer.milestones = (0.5, 0.8)


def _alike(teachers: ConfigDict) -> ConfigDict:
    """One network by the teachers' recipe without consensus: it follows every change made there."""
    config = datasets.recipe("supervised")
    for field in ("balanced", "epochs", "steps", "batch_size"):
        config[field] = teachers.get_ref(field)
    for field in config.optimizer:
        config.optimizer[field] = teachers.optimizer.get_ref(field)
    return config
