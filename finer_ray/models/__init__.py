"""Models: backbones cut at their CAM layer, and heads, behind one small interface."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finer_ray.models.classes import ClassNames
    from finer_ray.models.classifier import Classifier, build_classifier

__all__ = ["ClassNames", "Classifier", "build_classifier"]


def __getattr__(name: str) -> Any:
    # Imported on first use: configs ask for the names of libraries, and need no torch.
    if name in __all__:
        return getattr(import_module(f"{__name__}.{'classes' if name == 'ClassNames' else 'classifier'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
