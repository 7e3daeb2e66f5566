"""The methods, by the name that a stage's `method` gives."""

from collections.abc import Callable

from ml_collections import ConfigDict

from ferjax.methods import cct, e2e_fc, ltnet, supervised
from ferjax.methods.method import Info, Method

METHODS: dict[str, Callable[[ConfigDict, Info], Method]] = {
    "supervised": supervised.make,
    "cct": cct.make_teachers,
    "cct_student": cct.make_student,
    "ltnet": ltnet.make,
    "e2e_fc": e2e_fc.make,
}
