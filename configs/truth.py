"""Truth inference on crowd annotations; no images.

    python -m ferjax.main --config=configs/truth.py --config.annotations=labels.csv --workdir=DIR

`annotations` is a CSV or Parquet file with columns task (or item), worker, label. Writes into DIR

    labels.csv      task, label, probability of each class, entropy in bits
    workers.csv     labels given, estimated accuracy, most frequent mistake
    confusions.npz  confusions [workers, classes, classes], row = truth; workers; classes. Where a
                    worker met no task of a class, votes give nan, and EM the labels that the worker
                    gave as alike
    result.json     accuracy if `truth` is given (gold left out), log-likelihood, seconds, ...
    report/         the same to look at
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns a config of Dawid and Skene's EM, started from the shares of votes."""
    config = ConfigDict()
    config.run = "truth"
    config.annotations = ""
    config.algorithm = "dawid_skene"  # 'majority_vote', 'one_coin', 'pm'
    config.gold = ""  # a file of tasks whose truth is known and stays fixed: task, label
    config.truth = ""  # a file of tasks whose truth is known, to measure the result by
    config.classes = ()  # labels that may be chosen, "('a','b')"; (): those that were
    config.missing = ()  # labels that mean that there is none, "('None','-1','')": rows to drop
    config.repeated = "keep"  # annotations of one task by one worker; or the 'last' alone
    config.init = "majority"  # or 'spectral'; dawid_skene alone
    config.pseudo_count = 0.0
    config.prior = "estimate"  # or 'uniform'
    config.max_iterations = 100
    config.tolerance = 1e-5  # change of the log-likelihood per annotation
    config.seed = 0  # of the spectral start, and of ties of majority_vote and pm
    config.table = "csv"  # or 'parquet': how labels are written
    return config
