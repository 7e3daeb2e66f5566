"""CCT on FERPlus as its authors trained it: 100 epochs.

    python -m ferjax.main --config=configs/papers/cct_ferplus.py --config.data.dir=FOLDER \
        --workdir=DIR

The authors' log: average of three networks, best epoch 89.99, last 89.51.
"""

from ml_collections import ConfigDict

from configs import cct


def get_config() -> ConfigDict:
    """Returns baseline, teachers and student; the teachers' average is the published figure."""
    config = cct.get_config("ferplus")
    config.teachers.epochs = 100.0
    return config
