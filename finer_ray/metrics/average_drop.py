"""Average drop, increase in confidence (Grad-CAM++, Chattopadhay et al. 2018): the image as its map shows it.

The image is multiplied by the map, which is scaled from its lowest value to its highest and drawn: x' = b + m (x - b),
with b = `metrics.fill` and p'_c the target's probability then.

    average_drop    max(0, p_c - p'_c) / p_c    (lower is better)
    increase        p'_c > p_c                  (higher is better; averaged, the share of images)

With `fill: mean`, which is zero in normalised pixels, x' = m x there, as pytorch-grad-cam and torch-cam have it; with
`fill: black` the photo's own pixels are multiplied. The paper's figures are means over images, in %.
"""

from finer_ray.lazy import Tensor
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.drops import confidence_drop
from finer_ray.metrics.metric import Metric, Switch

SWITCH = Switch("average_drop", "average drop and increase in confidence: one forward pass per image and map")


def average_drop(context: MetricContext) -> Tensor:
    """(B, M) in [0, 1]; NaN where p_c is 0."""
    before, after = _targets(context)
    return confidence_drop(before, after).clamp(min=0)


def increase(context: MetricContext) -> Tensor:
    """(B, M), 1 where the target's probability has risen, else 0; NaN where there is none."""
    before, after = _targets(context)
    return (after > before).to(after.dtype).masked_fill(after.isnan(), float("nan"))


def _targets(context: MetricContext) -> tuple[Tensor, Tensor]:
    after = context.multiplied[..., 0]
    return context.before[:, None, 0].expand_as(after), after


AVERAGE_DROP = Metric(
    "average_drop", "average drop in confidence", SWITCH, average_drop, "AvgDrop", higher_is_better=False, rank=12
)
INCREASE = Metric("increase", "increase in confidence", SWITCH, increase, "Incr.", rank=13, dtype="bool")
