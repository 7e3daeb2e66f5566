"""Truth inference: the true label of each task from many workers' labels, and their reliability.

This package knows nothing of images and imports nothing of the rest of ferjax.
"""

from ferjax.truth.annotations import Annotations, OptionError
from ferjax.truth.dawid_skene import dawid_skene
from ferjax.truth.glad import glad
from ferjax.truth.gold_vote import gold_majority_vote
from ferjax.truth.ibcc import ibcc
from ferjax.truth.iwmv import iwmv
from ferjax.truth.krippendorff import krippendorff_alpha
from ferjax.truth.mace import mace
from ferjax.truth.majority import majority_vote
from ferjax.truth.one_coin import one_coin
from ferjax.truth.pm import pm
from ferjax.truth.spammers import spam_scores, spammers
from ferjax.truth.tables import TableError
from ferjax.truth.wawa import wawa
from ferjax.truth.weighted_vote import weighted_majority_vote
from ferjax.truth.zero_based_skill import zero_based_skill

__all__ = [
    "Annotations",
    "OptionError",
    "TableError",
    "dawid_skene",
    "glad",
    "gold_majority_vote",
    "ibcc",
    "iwmv",
    "krippendorff_alpha",
    "mace",
    "majority_vote",
    "one_coin",
    "pm",
    "spam_scores",
    "spammers",
    "wawa",
    "weighted_majority_vote",
    "zero_based_skill",
]
