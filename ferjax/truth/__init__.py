"""Truth inference: the true label of each task from many workers' labels, and their reliability.

This package knows nothing of images and imports nothing of the rest of ferjax.
"""

from ferjax.truth.annotations import Annotations, OptionError
from ferjax.truth.dawid_skene import dawid_skene
from ferjax.truth.majority import majority_vote
from ferjax.truth.one_coin import one_coin
from ferjax.truth.pm import pm
from ferjax.truth.tables import TableError

__all__ = [
    "Annotations",
    "OptionError",
    "TableError",
    "dawid_skene",
    "majority_vote",
    "one_coin",
    "pm",
]
