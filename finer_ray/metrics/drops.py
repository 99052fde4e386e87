"""Drops (Finer-CAM, Tab. 4, `RD.`): what the most salient pixels are worth to the target, and to its references.

With the top q of pixels replaced by `metrics.fill`, q = 0.05 and 0.10, and p' the probabilities then:

    relative_drop     (p_c - p'_c) - mean_k (p_d - p'_d)
    confidence_drop   (p_c - p'_c) / p_c

The probabilities p' themselves are kept, too.

Of an image whose target the model hardly believes in, as a label that it predicts wrongly, p_c may be 1e-6, and masking
may make it a thousand times that: its confidence drop is then -1000, and outweighs all others' in the mean. The median
does not know such images.
"""

from collections.abc import Callable
from typing import Any

from finer_ray.lazy import Tensor, torch
from finer_ray.metrics.context import MetricContext
from finer_ray.metrics.metric import Masking, Metric, Switch

# From a batch and the probabilities of target and references, (B, M, J), with the pixels gone.
Drop = Callable[[MetricContext, Tensor], Tensor]


def relative_drop(before: Tensor, after: Tensor, present: Tensor) -> Tensor:
    """(p_c - p'_c) - mean over the references that count of (p_d - p'_d).

    Args:
        before, after: (..., 1+K), the target first; anything for references that do not count.
        present: (..., K) bool.

    Returns:
        (...,) in [-2, 2]; the target's drop alone where no reference counts.
    """
    drop = before - after
    others = drop[..., 1:].masked_fill(~present, 0).sum(-1) / present.sum(-1).clamp(min=1)
    return drop[..., 0] - others


def confidence_drop(before: Tensor, after: Tensor) -> Tensor:
    """(p_c - p'_c) / p_c, (...,); NaN where p_c is 0.

    Args:
        before, after: (...,), of the target.
    """
    return ((before - after) / before).masked_fill(before == 0, torch.nan)


def _relative(context: MetricContext, after: Tensor) -> Tensor:
    before, present = context.before[:, None].expand_as(after), context.classes[:, None, 1:] >= 0
    return relative_drop(before, after, present.expand_as(after[..., 1:]))


def _confidence(context: MetricContext, after: Tensor) -> Tensor:
    return confidence_drop(context.before[:, None, 0].expand_as(after[..., 0]), after[..., 0])


def _target(_context: MetricContext, after: Tensor) -> Tensor:
    return after[..., 0]


def _references(_context: MetricContext, after: Tensor) -> Tensor:
    return after[..., 1:]


SWITCH = Switch("drops", "relative and confidence drop at 5 % and 10 % of the pixels", always=True)


def _metric(name: str, words: str, percent: int, drop: Drop, heading: str | None = None, **options: Any) -> Metric:
    """A drop at one share of the pixels."""

    def counts(_steps: int, pixels: int) -> list[int]:
        return [round(percent / 100 * pixels)]

    def compute(context: MetricContext) -> Tensor:
        return drop(context, context.masked(masking)[:, :, 0])

    masking = Masking(counts)

    heading = heading and f"{heading}@{percent / 100}"
    return Metric(
        f"{name}_{percent:02d}", f"{words} at {percent} %", SWITCH, compute, heading, masks=(masking,), **options
    )


DROPS = (
    _metric("relative_drop", "relative drop", 5, _relative, "RD.", rank=1),
    _metric("relative_drop", "relative drop", 10, _relative, "RD.", rank=2),
    _metric("confidence_drop", "confidence drop", 5, _confidence, "CD.", rank=5, skewed=True),
    _metric("confidence_drop", "confidence drop", 10, _confidence, "CD.", rank=6, skewed=True),
    _metric("probability", "target's probability", 5, _target),
    _metric("probability", "target's probability", 10, _target),
    _metric("reference_probabilities", "references' probabilities", 5, _references, axes=("reference",)),
    _metric("reference_probabilities", "references' probabilities", 10, _references, axes=("reference",)),
)
