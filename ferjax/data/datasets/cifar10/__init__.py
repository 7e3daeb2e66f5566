"""CIFAR-10, and lists of what others said about its pictures."""

from ferjax.data.datasets.cifar10.dataset import load

__all__ = ["load"]
