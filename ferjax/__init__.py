"""Facial-expression recognition from labels that cannot be trusted."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ferjax.predictor import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Imports `load` when it is first asked for: nothing here costs an import."""
    if name != "load":
        raise AttributeError(f"module 'ferjax' has no attribute {name!r}")
    from ferjax import predictor

    return predictor.load
