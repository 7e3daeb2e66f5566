"""The methods by name, as a recipe's field `method` gives it."""

from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from ferjax.methods import cct, co_teaching, e2e_fc, elr, ltnet, stack, supervised, tanaka
from ferjax.methods.method import Info, Method, Prediction
from ferjax.nn.networks import Network


def all_needs(config: ConfigDict) -> tuple[str, ...]:
    """Returns the names of all of a recipe's needs but truth inference: what most methods use."""
    return tuple(name for name in config.needs if name != "truth")


class Entry(NamedTuple):
    """A method's entry in the dict of methods.

    Attributes:
      make: (recipe, info) -> the method, ready to train.
      prediction: (recipe, network, coders) -> how its finished model predicts.
      inputs: recipe -> the names of its needs whose outputs the method uses.
    """

    make: Callable[[ConfigDict, Info], Method]
    prediction: Callable[[ConfigDict, Network, tuple[str, ...]], Prediction] = stack.predict_one
    inputs: Callable[[ConfigDict], tuple[str, ...]] = all_needs


METHODS = {
    "supervised": Entry(supervised.make),
    "cct": Entry(cct.make_teachers, stack.predict_side_by_side),
    "cct_student": Entry(cct.make_student),
    "ltnet": Entry(ltnet.make, ltnet.prediction, ltnet.inputs),
    "e2e_fc": Entry(e2e_fc.make, e2e_fc.prediction),
    "co_teaching": Entry(co_teaching.make, stack.predict_side_by_side),
    "elr": Entry(elr.make),
    "tanaka": Entry(tanaka.make),
}
