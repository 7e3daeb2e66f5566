"""The CCT paper's sweeps, each one command.

    python -m ferjax.main --config=configs/cct_sweep.py:ferplus --config.data.dir=FOLDER \
        --config.sweep=networks|temperature|beta --workdir=DIR

networks: M = 1…4 with and without consistency (Table 8); temperature: U of the distillation
(Fig. 5); beta: the ramp of λ (Fig. 2).
"""

from ml_collections import ConfigDict

from configs import cct


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns CCT's config, with the values to try."""
    config = cct.get_config(dataset)
    config.run = "sweep"
    config.sweep = "networks"
    config.network_counts = (1, 2, 3, 4)
    config.temperatures = (1.0, 2.0, 3.0, 4.0, 5.0)
    config.betas = (0.25, 0.45, 0.65, 0.85, 1.05)
    return config
