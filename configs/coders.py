"""Recipes of methods that model coders: LTNet and what it is compared with."""

from ml_collections import ConfigDict

from configs import recipes


def ltnet() -> ConfigDict:
    """Returns LTNet's recipe, with the settings that suit the built-in faces and FERPlus."""
    config = recipes.training("ltnet")
    config.loss = "paper"  # or 'released'
    config.coder_weights = ()  # one per coder; (): ones
    config.reduction = ""  # 'faces', 'coder_mean'; '': the one that belongs to the loss
    config.transition = ConfigDict()
    config.transition.constraint = "normalise"  # as the paper has it; or 'softmax', 'project'
    config.transition.epsilon = 1e-5  # the authors', on faces
    config.transition.shared = False
    config.transition.start = "identity"  # or 'dawid_skene', 'confusion', 'given'
    config.transition.matrices = ()
    config.transition.delta = -1.0  # of the start; negative: 0.01, or 0.001 with the released loss
    # Adam would move all entries equally, so mistakes that nobody makes would grow.
    config.transition.optimizer = "sgd"  # '': the network's
    config.transition.rate = 3.0  # multiple of the network's
    config.transition.clip = 1.0  # bound on each entry of T's gradient; 0: none
    config.transition.weight_decay = 0.0
    config.transition.trace = 0.0
    config.transition.freeze_epochs = 0.0  # more protects T from an untrained network
    return config


def em(other: ConfigDict) -> ConfigDict:
    """Returns the recipe of one network on the classes that EM infers from the annotations."""
    return recipes.alike(other, "inferred")


def nal(other: ConfigDict) -> ConfigDict:
    """Returns the noise adaptation layer's recipe: one matrix, which learns as the network does."""
    config = recipes.following(other)
    config.transition.update(shared=True, start="confusion", constraint="softmax")
    config.transition.update(optimizer="", rate=1.0, clip=0.0)
    config.transition.weight_decay = 0.0  # it would pull the logits of rows together
    return config


def e2e_fc(other: ConfigDict) -> ConfigDict:
    """Returns E2E-FC's recipe, a free layer for every coder; it starts from fresh weights."""
    config = recipes.alike(other)
    config.method = "e2e_fc"
    config.coder_weights = other.get_oneway_ref("coder_weights")
    return config


COMPARATORS = {"em": em, "nal": nal, "e2e_fc": e2e_fc}
"""Functions of LTNet's recipe that make those of its comparators besides single networks."""


def authors_network(config: ConfigDict) -> None:
    """Sets the 80-layer network of LTNet's authors for a run on aligned faces."""
    config.model.update(name="resnet80", width=16)
    config.loop.log_steps = 100
    config.loop.eval_steps = config.loop.save_steps = 10_000


def authors_rates(recipe: ConfigDict) -> None:
    """Sets rates, steps and batch size as LTNet's authors do on aligned faces."""
    recipe.transition.update(rate=1.0, clip=0.0, optimizer="", weight_decay=5e-4)
    recipe.steps = 300_000
    recipe.batch_size = 4 * 64
    recipes.one_rate(recipe.optimizer, "momentum", learning_rate=1e-5, weight_decay=5e-4, power=0.5)


def long_start(recipe: ConfigDict) -> None:
    """Freezes T for three epochs, and lets learning rates fall linearly to zero."""
    recipe.transition.freeze_epochs = 3.0
    recipe.optimizer.epoch_decay = 1.0
    recipe.optimizer.power = 1.0
