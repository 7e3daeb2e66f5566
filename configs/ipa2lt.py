"""IPA2LT: machine coders, their annotations of each other's faces, and LTNet on all of it.

    python -m ferjax.main --config=configs/ipa2lt.py --workdir=runs/ipa2lt
    python -m ferjax.main --config=configs/ipa2lt.py:faces --workdir=DIR \
        --config.data.sets.raf_db.path=LIST --config.data.sets.raf_db.test_path=LIST \
        --config.data.sets.affectnet.path=LIST --config.data.sets.unlabelled.path=FOLDER

J. Zeng, S. Shan and X. Chen, *Facial Expression Recognition with Inconsistently Annotated
Datasets*, ECCV 2018, in three steps. A machine coder learns from each annotated dataset; each
annotates all faces it did not learn from, also those that nobody annotated; and LTNet learns
from the union, where every face now has annotations by several coders: the humans of its own set
and the machine coders of the other sets. It starts from a network trained on the human annotations.

On built-in faces: two datasets whose teams err in opposite ways, and faces that nobody annotated;
three minutes on two CPU cores, union 85.6 %, LTNet 89.5 %. `faces` is the paper's recipe: an
80-layer network on aligned faces of its two datasets, each a list of `<file name> <class>`, and any
unlabelled ones.
"""

from ml_collections import ConfigDict

from configs import coders, datasets, recipes
from configs import ltnet as ltnet_config
from configs.annotate import annotation as annotation_settings
from configs.datasets import synthetic

ANNOTATED = {"synthetic": ("east", "west"), "faces": ("affectnet", "raf_db")}
"""The sets that people annotated, for each dataset that this config supports."""


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Returns a config of a machine coder for each set, `union`, and `ltnet`, which starts from it.

    `comparators` names what LTNet is compared with, as in the paper's Table 2.
    """
    config = datasets.base(dataset)
    sets = ANNOTATED.get(dataset, ())
    machines = tuple(f"machine_{name}" for name in sets)
    annotations = tuple(f"annotate_{name}" for name in sets)
    config.noise.kind = "none"
    config.annotate = annotation_settings()
    config.comparators = ()  # "('em', 'nal', 'e2e_fc')"
    # References can be added to tuples but not unpacked: they are resolved after the flags.
    config.stages = (*machines, "union") + config.get_ref("comparators") + ("ltnet",)  # noqa: RUF005
    config.headline = "ltnet"
    config.ltnet = coders.ltnet()
    config.ltnet.annotations = annotations
    config.ltnet.needs.network = "union"
    datasets.adapt(config, dataset, ADAPTED)
    for name in sets:
        config[f"machine_{name}"] = _on_humans(config.ltnet)
        config[f"machine_{name}"].sets = (name,)
        config[f"annotate_{name}"] = recipes.annotation(f"machine_{name}")
    config.union = _on_humans(config.ltnet)
    config.consensus.annotations = annotations
    for name, recipe_from in coders.COMPARATORS.items():
        config[name] = recipe_from(config.ltnet)
    return config


def _on_humans(ltnet: ConfigDict) -> ConfigDict:
    """Returns a recipe as LTNet's, but of one network on the mixture of human annotations."""
    recipe = recipes.alike(ltnet, "random")
    recipe.annotations, recipe.coders, recipe.set_weights = (), (), ()
    return recipe


def _built_in_faces(config: ConfigDict) -> None:
    unlabelled = synthetic.faces(start=90_000_000, train_size=2000, test_size=0)
    unlabelled.coders = ()
    sets = ltnet_config.two_teams() | {"unlabelled": unlabelled}
    datasets.set_data(config, datasets.union(sets))
    ltnet_config.hasten(config.ltnet)
    config.ltnet.transition.freeze_epochs = 0.0  # it starts from a trained network
    config.ltnet.epochs = 15.0  # of every stage: four of them within three minutes
    config.ltnet.coder_weights = (1.0, 1.0, 0.5, 0.5)  # the teams, the machines


def _faces(config: ConfigDict) -> None:
    coders.authors_network(config)
    coders.authors_rates(config.ltnet)
    config.ltnet.coder_weights = (3.0, 3.0, 0.5, 0.1)  # humans, then machines; sets by name


ADAPTED = {"synthetic": _built_in_faces, "faces": _faces}
"""Changes for each dataset."""
