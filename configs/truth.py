"""Truth inference on crowd annotations; no images.

    python -m ferjax.main --config=configs/truth.py --config.annotations=labels.csv --workdir=DIR

`annotations` is a CSV or Parquet file with columns task (or item), worker, label. Writes into DIR

    labels.csv      task, label, probability of each class, entropy in bits
    workers.csv     labels given, estimated accuracy, most frequent mistake, spam score (near 0: the
                    labels do not depend on the truth; not a ranking) and whether to take the worker
                    for a spammer
    confusions.npz  confusions [workers, classes, classes], row = truth; workers; classes; expected
                    counts, in the shape of the confusions. If a worker labelled no task of a class,
                    voting gives nan, and EM gives equal probability to each label that the worker
                    used
    result.json     accuracy if `truth` is given (gold left out), Krippendorff's alpha, seconds, ...
    report/         the same as a web page
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a config of Dawid and Skene's EM, started from the shares of votes."""
    config = ConfigDict()
    config.run = "truth"
    config.annotations = ""
    # By likelihood: 'dawid_skene', 'one_coin', 'glad' (tasks differ in difficulty), 'mace' (workers
    # know or guess). By votes: 'majority_vote', 'wawa', 'zero_based_skill', 'iwmv', 'pm',
    # 'gold_majority_vote' (needs `gold`), 'weighted_majority_vote' (needs `skills`).
    config.algorithm = "dawid_skene"
    config.gold = ""  # a file of tasks whose truth is known and stays fixed: task, label
    config.earlier = ""  # confusions.npz of an earlier run by the same workers; dawid_skene alone
    config.earlier_as = "prior"  # or 'add' or 'assign', for the start alone
    config.skills = ""  # a file of worker, skill (or accuracy) for weighted_majority_vote
    config.truth = ""  # a file of tasks whose truth is known, to measure the result by
    config.classes = ()  # possible labels, "('a','b')"; (): those that occur
    config.missing = ()  # labels that mean that there is none, "('None','-1','')": rows to drop
    config.repeated = "keep"  # all of a worker's labels of one task; or only the 'last'
    config.init = "majority"  # or 'spectral'; only for dawid_skene
    config.prior = "diagonal"  # of confusion matrices: pseudo-counts; 'none': as published
    config.diagonal = 2.0  # pseudo-count of right labels, or ibcc's α
    config.off_diagonal = 0.5  # of each wrong label
    config.class_prior = "estimate"  # or 'uniform'
    config.max_iterations = 100
    config.tolerance = 1e-5  # change of the log-likelihood per annotation
    config.restarts = 10  # of mace: random starts, of which the likeliest run counts
    config.seed = 0  # of the spectral start, mace's starts and tied votes
    config.table = "csv"  # or 'parquet': how labels are written
    return config
