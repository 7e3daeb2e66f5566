"""Table 8 of the CCT paper: M = 1…4 networks, with and without consistency, and their students.

    python -m ferjax.main --config=configs/papers/cct_table8.py:ferplus --config.data.dir=FOLDER \
        --workdir=DIR

The paper explains the table by the distilled student, which is shown beside the average of the
networks. `configs/cct_sweep.py` has the paper's other sweeps.
"""

from ml_collections import ConfigDict

from configs import cct_sweep


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns the sweep over the number of networks."""
    config = cct_sweep.get_config(dataset)
    config.sweep = "networks"
    return config
