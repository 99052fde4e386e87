"""ROAD, remove and debias (Rong et al. 2022): deletion whose masks the model cannot see.

Pixels that are gone follow from those that are left (`finer_ray.metrics.imputation`), so that the outline of a mask
does not tell the class. With p_q(most), p_q(least) the target's probability with a share q of the pixels gone, the most
or the least salient first, and q = 20, 40, 60 and 80 %:

    road    mean over q of (p_q(least) - p_q(most)) / 2    (higher is better)

as pytorch-grad-cam's ROADCombined has it: in [-0.5, 0.5], 0 for an order that knows nothing.
"""

from finer_ray.lazy import Tensor
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.metric import Masking, Metric, Switch

PERCENT = (20, 40, 60, 80)


def counts(_steps: int, pixels: int) -> list[int]:
    """Pixels that are gone, at each share."""
    return [round(percent / 100 * pixels) for percent in PERCENT]


MOST, LEAST = (Masking(counts, first=first, fill="neighbours") for first in ("most", "least"))


def road(context: MetricContext) -> Tensor:
    """(B, M) in [-0.5, 0.5]."""
    most, least = (context.masked(masking)[..., 0].mean(2) for masking in (MOST, LEAST))
    return (least - most) / 2


ROAD = Metric(
    "road",
    "remove and debias (ROAD)",
    Switch("road", "ROAD: 8 forward passes per image and map, and as many linear systems, which take longer on CPUs"),
    road,
    "ROAD",
    rank=11,
    masks=(MOST, LEAST),
)
