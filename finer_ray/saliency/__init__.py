"""Saliency maps as pure tensor functions: no Ray, no I/O, no state between batches."""

from finer_ray.saliency.aggregation import AGGREGATIONS, contrast
from finer_ray.saliency.explanation import Explanation, Map, Question, SplitClassifier, explain
from finer_ray.saliency.objective import WEIGHTINGS, reference_weights

__all__ = [
    "AGGREGATIONS",
    "WEIGHTINGS",
    "Explanation",
    "Map",
    "Question",
    "SplitClassifier",
    "contrast",
    "explain",
    "reference_weights",
]
