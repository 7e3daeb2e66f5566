"""CCT on RAF-DB as its authors trained it: teachers 100 epochs, the student 200.

    python -m ferjax.main --config=configs/papers/cct_rafdb.py --workdir=DIR \
        --config.data.sets.raf_db.path=LIST --config.data.sets.raf_db.test_path=LIST

Each list has lines `<file name> <class>`. The authors' log: student, 200 epochs, best 90.84, last
90.58.
"""

from ml_collections import ConfigDict

from configs import cct


def get_config() -> ConfigDict:
    """Returns baseline, teachers and student."""
    config = cct.get_config("faces")
    config.label = "raf_db"
    config.teachers.epochs = 100.0
    return config
