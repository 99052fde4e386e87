"""Deletion and insertion (RISE, Petsiuk et al. 2018): the target's probability as pixels go, or come, by saliency.

With n steps, step i has changed round(i / n * H * W) pixels, the most salient first:

    deletion_auc    area under p_c while pixels are replaced by `metrics.fill` (lower is better)
    insertion_auc   area under p_c while `metrics.insert_into` is replaced by pixels (higher is better)

Areas are by the trapezoidal rule over the share of pixels changed, from 0 to 1.
"""

from collections.abc import Callable
from typing import Any

from finer_ray.lazy import Tensor, torch
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.metric import Masking, Metric, Switch


def step_counts(steps: int, pixels: int) -> list[int]:
    """Pixels changed after each of n steps."""
    return [round(step / steps * pixels) for step in range(1, steps + 1)]


def inner_counts(steps: int, pixels: int) -> list[int]:
    """The same without the last step, whose image is known: all fill, or the image itself."""
    return step_counts(steps, pixels)[:-1]


def area(curve: Tensor) -> Tensor:
    """Trapezoidal area under a curve over the share of pixels changed, from 0 to 1.

    Args:
        curve: (..., n + 1), before the first step and after each of n.
    """
    return torch.trapezoid(curve, dx=1 / (curve.shape[-1] - 1))


def left_counts(steps: int, pixels: int) -> list[int]:
    """Pixels still to change after each of those steps, the fewest first."""
    return [pixels - count for count in reversed(inner_counts(steps, pixels))]


DELETED = Masking(inner_counts)
INSERTED = Masking(left_counts, first="least", fill="insert_into")


def deletion_curve(context: MetricContext) -> Tensor:
    """(B, M, n + 1) probabilities of the target, from the image to the fill."""
    between = context.masked(DELETED)
    return joined(context.before, between, context.blank(context.config.fill))


def insertion_curve(context: MetricContext) -> Tensor:
    """(B, M, n + 1) probabilities of the target, from the fill to the image."""
    # From the image to the fill, least salient first, read backwards.
    between = context.masked(INSERTED).flip(2)
    return joined(context.blank(context.config.insert_into), between, context.before)


def joined(start: Tensor, between: Tensor, end: Tensor) -> Tensor:
    """The target's curve: start and end (B, J), between (B, M, n - 1, J)."""
    first, last = (values[:, :1, None].expand(-1, between.shape[1], 1) for values in (start, end))
    return torch.cat([first, between[..., 0], last], dim=2)


def _metrics(
    name: str, heading: str, rank: int, curve: Callable[[MetricContext], Tensor], happens: str, x_title: str, **how: Any
) -> tuple[Metric, Metric]:
    """The area, which is averaged, and its curve, which is kept."""
    switch = Switch(name, f"{name} AUC: `steps` forward passes per image and map", always=True)
    words = f"The target's probability as the most salient pixels are {happens}"
    return (
        Metric(f"{name}_auc", f"{name} AUC", switch, lambda context: area(curve(context)), heading, rank=rank, **how),
        Metric(f"{name}_curve", words, switch, curve, axes=("step",), x_title=x_title, **how),
    )


DELETION_AUC, DELETION_CURVE = _metrics(
    "deletion",
    "Del.",
    3,
    deletion_curve,
    "removed",
    "% of pixels removed, most salient first",
    higher_is_better=False,
    masks=(DELETED,),
)
INSERTION_AUC, INSERTION_CURVE = _metrics(
    "insertion",
    "Ins.",
    4,
    insertion_curve,
    "put back",
    "% of pixels inserted, most salient first",
    masks=(INSERTED,),
)
