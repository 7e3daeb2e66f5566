"""FERPlus: FER2013's faces, each labelled by ten taggers."""

from ferjax.data.datasets.ferplus.dataset import load

__all__ = ["load"]
