"""Saliency maps as pure tensor functions: no Ray, no I/O, no state between batches."""

from finer_ray.saliency.aggregation import AGGREGATIONS, contrast
from finer_ray.saliency.explanation import Explanation, Question, SplitClassifier, explain

__all__ = ["AGGREGATIONS", "Explanation", "Question", "SplitClassifier", "contrast", "explain"]
