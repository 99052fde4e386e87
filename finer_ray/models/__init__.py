"""Models: backbones cut at their CAM layer, and heads, behind one small interface."""

from finer_ray.models.classes import ClassNames
from finer_ray.models.classifier import Classifier, build_classifier

__all__ = ["ClassNames", "Classifier", "build_classifier"]
