"""Symmetric relevance gain (Blücher et al. 2024), and a random order beside it.

    srg                  area under the curve with the least salient pixels removed first, less that with the most
                         salient first (the deletion curve, whose forward passes it shares)
    random_deletion_auc  area with pixels removed in the order of a random map as coarse as the map: a floor, which
                         deletion_auc must be below; one such order an image, the same for all its maps

Curves and areas are those of deletion, with `metrics.fill`. srg is the gain over a random order of both ways together:
its own curve cancels out. It lies between -1 and 1, and is 0 for an order that knows nothing.
"""

from finer_ray.lazy import Tensor
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.deletion import DELETED, area, deletion_curve, inner_counts, joined, left_counts
from finer_ray.metrics.metric import Masking, Metric, Switch

SWITCH = Switch(
    "srg",
    "symmetric relevance gain: deletion from both ends, and once in a random order; `steps` forward passes per image "
    "and map beside deletion's, and `steps` per image",
)
LEAST_FIRST = Masking(left_counts, first="least")
RANDOM_FIRST = Masking(inner_counts, first="random")


def least_first_curve(context: MetricContext) -> Tensor:
    """(B, M, n + 1) probabilities of the target, from the image to the fill."""
    return joined(context.before, context.masked(LEAST_FIRST), context.blank(context.config.fill))


def random_curve(context: MetricContext) -> Tensor:
    """(B, M, n + 1), the same of all maps."""
    between = context.masked(RANDOM_FIRST).expand(-1, context.maps.shape[1], -1, -1)
    return joined(context.before, between, context.blank(context.config.fill))


def symmetric_relevance_gain(context: MetricContext) -> Tensor:
    """(B, M) in [-1, 1]."""
    return area(least_first_curve(context)) - area(deletion_curve(context))


def random_deletion_auc(context: MetricContext) -> Tensor:
    """(B, M) in [0, 1]."""
    return area(random_curve(context))


SRG = (
    Metric(
        "srg",
        "symmetric relevance gain",
        SWITCH,
        symmetric_relevance_gain,
        "SRG",
        rank=10,
        masks=(DELETED, LEAST_FIRST),
    ),
    Metric(
        "random_deletion_auc",
        "deletion AUC of a random order",
        SWITCH,
        random_deletion_auc,
        "Rand.",
        higher_is_better=False,
        rank=101,
        masks=(RANDOM_FIRST,),
    ),
    Metric(
        "least_first_curve",
        "The target's probability as the least salient pixels are removed",
        SWITCH,
        least_first_curve,
        axes=("step",),
        x_title="% of pixels removed, least salient first",
        masks=(LEAST_FIRST,),
    ),
    Metric(
        "random_curve",
        "The target's probability as pixels are removed in a random order",
        SWITCH,
        random_curve,
        higher_is_better=False,
        axes=("step",),
        x_title="% of pixels removed, in the order of a random map",
        masks=(RANDOM_FIRST,),
    ),
)
