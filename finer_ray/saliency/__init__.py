"""Saliency maps as pure tensor functions: no Ray, no I/O, no state between batches; torch is imported on first use."""

from typing import TYPE_CHECKING, Any

from finer_ray.saliency.aggregation import AGGREGATIONS, contrast
from finer_ray.saliency.gem import Gem
from finer_ray.saliency.legrad import LeGrad
from finer_ray.saliency.mask import Mask
from finer_ray.saliency.objective import WEIGHTINGS, reference_weights
from finer_ray.saliency.rise import Rise
from finer_ray.saliency.spec import MapSpec, SaliencySpec
from finer_ray.saliency.split_classifier import SplitClassifier

if TYPE_CHECKING:
    from finer_ray.saliency.explanation import Explanation, explain

__all__ = [
    "AGGREGATIONS",
    "WEIGHTINGS",
    "Explanation",
    "Gem",
    "LeGrad",
    "MapSpec",
    "Mask",
    "Rise",
    "SaliencySpec",
    "SplitClassifier",
    "contrast",
    "explain",
    "reference_weights",
]


def __getattr__(name: str) -> Any:
    if name in ("Explanation", "explain"):
        from finer_ray.saliency import explanation

        return getattr(explanation, name)
    raise AttributeError(f"module 'finer_ray.saliency' has no attribute {name!r}")
