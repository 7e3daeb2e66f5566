"""Table 1 of the LTNet paper (CIFAR-10, three coders), with controls that tell what helps.

    python -m ferjax.main --config=configs/papers/ltnet_cifar10.py --config.data.dir=FOLDER \
        --workdir=DIR

50,000 steps per row. `:cifar10_small` takes 10,000 pictures and 2,500 steps, about a quarter of an
hour per row on two CPU cores; `:cifar10n` and `:cifar10n_small` take labels that people gave.
`"--config.stages=('mixture','ltnet')"` trains some rows alone. tests/benchmarks/RESULTS.md has the
small table beside the published one.
"""

from ml_collections import ConfigDict

from configs import coders, datasets, recipes

DATASETS = ("cifar10", "cifar10_small", "cifar10n", "cifar10n_small")


def get_config(dataset: str = "cifar10") -> ConfigDict:
    """Returns every row of the table; NAL, LTNet's rows and `identity` start from the mixture."""
    config = datasets.base(dataset)
    annotators = config.data.coders
    config.data.coders = (*annotators, "clean")
    config.headline = "ltnet"
    config.ltnet = _ltnet(2_500 if dataset.endswith("_small") else 50_000)
    config.ltnet.coders = annotators
    config.ltnet.needs.network = "mixture"
    config.consensus_spectral = recipes.inference("spectral")
    for stage in ("consensus", "consensus_spectral"):
        config[stage].coders = annotators  # the clean labels must not vote
    config.clean = recipes.alike(config.ltnet, "clean")
    config.clean.coders = ("clean",)
    for coder in annotators:
        config[coder] = recipes.alike(config.ltnet, coder)
    config.mixture = recipes.alike(config.ltnet, "random")
    config.majority = recipes.alike(config.ltnet, "majority")
    config.soft = recipes.alike(config.ltnet, "soft")
    config.em_majority = coders.em(config.ltnet)
    config.em_spectral = coders.em(config.ltnet)
    config.em_spectral.needs.truth = "consensus_spectral"
    config.em_posterior = coders.em(config.ltnet)
    config.em_posterior.label = "posterior"
    config.nal = coders.nal(config.ltnet)
    config.nal.coder_weights = (1 / 3,) * 3  # the mean over annotations, as in the mixture
    config.e2e_fc = coders.e2e_fc(config.ltnet)
    config.ltnet_project = recipes.following(config.ltnet)
    config.ltnet_project.transition.constraint = "project"  # as the authors' program does it
    config.ltnet_released = recipes.following(config.ltnet_project)
    config.ltnet_released.loss = "released"
    # Controls: as many steps as LTNet and its start together, and LTNet's loss with T = I.
    config.mixture_long = recipes.alike(config.ltnet, "random")
    config.mixture_long.steps = 2 * config.ltnet.get_ref("steps")
    config.identity = recipes.following(config.ltnet_released)
    config.identity.transition.update(delta=0.0, rate=0.0, weight_decay=0.0)
    config.stages = (
        "clean",
        *annotators,
        "mixture",
        "majority",
        "soft",
        "em_majority",
        "em_spectral",
        "em_posterior",
        "nal",
        "e2e_fc",
        "ltnet",
        "ltnet_project",
        "ltnet_released",
        "mixture_long",
        "identity",
    )
    return config


def _ltnet(steps: int) -> ConfigDict:
    """Returns the recipe of LTNet's authors."""
    config = coders.ltnet()
    config.transition.update(rate=1.0, clip=0.0, epsilon=1e-2, weight_decay=5e-4)
    config.steps = steps
    config.batch_size = 128
    recipes.one_rate(config.optimizer, "sgd", learning_rate=1e-2, weight_decay=1e-3, power=1.5)
    config.optimizer.norm_decay = 5e-4
    config.optimizer.bias_decay = 0.0
    return config
