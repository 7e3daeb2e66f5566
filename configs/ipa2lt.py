"""IPA2LT: machine coders, their annotations of each other's faces, and LTNet on all of it.

    python -m ferjax.main --config=configs/ipa2lt.py --workdir=runs/ipa2lt
    python -m ferjax.main --config=configs/ipa2lt.py:faces --workdir=DIR \
        --config.data.sets.raf_db.path=LIST --config.data.sets.raf_db.test_path=LIST \
        --config.data.sets.affectnet.path=LIST --config.data.sets.unlabelled.path=FOLDER

On built-in faces: two datasets whose teams err in opposite ways, and faces that nobody annotated; a
few minutes on two CPU cores. `faces` is the paper's recipe: an 80-layer network on aligned faces of
its two datasets, each a list of `<file name> <class>`, and any unlabelled ones.
"""

from ml_collections import ConfigDict

from configs import annotate, datasets
from configs import ltnet as ltnet_config


def get_config(dataset: str = "synthetic") -> ConfigDict:
    """Three steps: `machine` coders, their annotations, and `ltnet` that starts from `union`."""
    config = ltnet_config.base(dataset)
    config.run = "ipa2lt"
    config.headline = "ltnet"
    config.noise.kind = "none"
    config.annotate = annotate.annotation()
    config.ltnet = ltnet_config.ltnet(dataset)
    config.ltnet.needs.network = "union"
    config.ltnet.transition.freeze_epochs = 0.0  # it starts from a network
    config.machine = datasets.alike(config.ltnet, dataset)
    config.union = datasets.alike(config.ltnet, dataset)
    for learner in (config.machine, config.union):
        learner.label = "random"
    config.union.coders = ()  # human ones; LTNet may choose among machines, too
    for field in ("sets", "coders", "set_weights"):  # each machine has its own set's
        del config.machine[field]
    config.comparators = ()  # those of the paper's Table 2: "('em', 'nal', 'e2e_fc')"
    for name, add in ltnet_config.COMPARATORS.items():
        config[name] = add(config.ltnet, dataset)
    if dataset == "synthetic":
        unlabelled = datasets.synthetic(start=90_000_000, train_size=2000, test_size=0)
        unlabelled.coders = ()
        sets = ltnet_config.two_teams() | {"unlabelled": unlabelled}
        datasets.set_data(config, datasets.union(sets))
        config.ltnet.coder_weights = (1.0, 1.0, 0.5, 0.5)  # the teams, the machines
        config.ltnet.epochs = 15.0  # of every stage: four of them within five minutes
    if dataset == "faces":
        config.ltnet.coder_weights = (3.0, 3.0, 0.5, 0.1)  # likewise, sets in the order of names
    return config
