"""Evaluates a finished run's model on any test sets, with means over groups of them.

    python -m ferjax.main --config=configs/evaluate.py --config.trained=RUN --workdir=DIR \
        --config.groups.wild="(('RAF-DB', 'raf_db/test'), ('SFEW', 'sfew.txt'))" \
        --config.groups.posed="(('CK+', 'ck_plus'),)"

A test set is a folder of folders named after the classes, or a list of `<file name> <class>`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a config with the groups of the IPA2LT paper's Table 2, still without test sets."""
    config = ConfigDict()
    config.run = "evaluate"
    config.trained = ""
    config.stage = ""  # of that run; '': its headline
    config.weights = "last"  # or 'best' on the faces that the run held out for validation
    config.groups = ConfigDict({"wild": (), "posed": ()})
    config.max_megapixels = 64.0  # that a picture may declare; larger ones are not decoded
    config.batch_size = 256
    config.workers = 0  # processes that load faces; 0: threads
    return config
