"""Consensual Collaborative Training, its distilled student, and the baseline trained alike.

    python -m ferjax.main --config=configs/cct.py --workdir=runs/cct
    python -m ferjax.main --config=configs/cct.py:ferplus --config.data.dir=FOLDER --workdir=DIR

On built-in faces: two minutes on two CPU cores. On FERPlus as released: 40 epochs, batch 256; as
`ferplus_small`, 8,000 faces with 40 % wrong labels, half an hour on two CPU cores.
On faces of one's own, `:faces` with `--config.data.sets.raf_db.path=LIST`, `...test_path=LIST`. The
authors' recipes: RAF-DB `--config.teachers.epochs=100`; AffectNet
`--config.teachers.epochs=25 --config.teachers.epoch_steps=400 --config.teachers.balanced
--config.teachers.optimizer.classifier_rate=1e-3`.
"""

from ml_collections import ConfigDict

from configs import datasets


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Three stages: `baseline`, `teachers`, `student`."""
    config = datasets.base(dataset)
    config.stages = ("baseline", "teachers", "student")
    config.headline = "student"
    config.teachers = _teachers(dataset)
    config.student = _student(dataset)
    config.baseline = datasets.alike(config.teachers, dataset)
    return config


def _teachers(dataset: str) -> ConfigDict:
    config = datasets.recipe("cct", dataset)
    config.networks = 3
    config.lambda_max = 0.9
    config.beta = 0.65
    config.ramp = 0.9  # e_r as a fraction of the epochs
    config.variant = "paper"  # or 'released'
    return config


def _student(dataset: str) -> ConfigDict:
    config = datasets.recipe("cct_student", dataset)
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
    if dataset == "synthetic":
        config.epochs = 6.0
        config.optimizer.learning_rate = 1e-2
        config.optimizer.classifier_rate = 1e-2
        config.optimizer.milestones = (0.5, 0.8)
    if dataset == "ferplus_small":
        config.epochs = 20.0
    return config
