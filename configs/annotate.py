"""Labels faces with the model of a finished run.

    python -m ferjax.main --config=configs/annotate.py --config.trained=RUN --config.path=FACES \
        --workdir=DIR

`trained` is the workdir of a finished run; `path` a folder tree of pictures (jpg, png, webp, bmp,
tif, gif, pgm, ppm), a list of such files, or ArrayRecord (a file, or a folder of them). Writes into
DIR

    labels/part-*.parquet  index, file, label, p_<class>, and valence and arousal if the model has
                           them; one file per shard, so that a killed run continues
    labels/skipped.csv     pictures that cannot be read
    result.json            how many faces of each class, images per second, ...
    report/                the same as a web page

`pyarrow.dataset.dataset("DIR/labels", exclude_invalid_files=True)` reads all parts.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a config that labels all faces with the main stage of the trained run."""
    config = ConfigDict()
    config.run = "annotate"
    config.trained = ""
    config.stage = ""  # of that run; '': its headline
    config.weights = "last"  # or 'best' on the faces that the run held out for validation
    config.path = ""
    config.max_megapixels = 64.0  # that a picture may declare; larger ones are not decoded
    config.annotate = annotation()
    return config


def annotation() -> ConfigDict:
    """Returns the settings of a run or stage that labels faces."""
    config = ConfigDict()
    config.shard_size = 16_384  # faces per file
    config.batch_size = 256
    config.workers = 0  # processes that load faces; 0: threads
    return config
