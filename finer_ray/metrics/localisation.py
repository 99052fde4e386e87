"""Localisation: does a map's energy, or its maximum, lie on the annotated object? (Finer-CAM, Tab. 4, `Loc.`)"""

from collections.abc import Callable

from finer_ray.lazy import Tensor, functional, torch
from finer_ray.metrics.metric import MapContext, Metric, Switch


def localisation(maps: Tensor, region: Tensor) -> Tensor:
    """Energy share: sum of the map inside the region over its sum.

    Args:
        maps: (B, M, h, w) non-negative; upsampled bilinearly to the region's size.
        region: (B, H, W) bool, the box or mask in the model input's geometry.

    Returns:
        (B, M) in [0, 1]; NaN where the map has no energy, or the region no pixel.
    """
    maps = upsample(maps, region.shape[1:])
    inside = (maps * region[:, None]).sum((2, 3))
    share = inside / maps.sum((2, 3))
    return share.masked_fill(~region.flatten(1).any(1)[:, None], torch.nan)


def pointing_hit(maps: Tensor, region: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018): whether the map's maximum lies in the region.

    Args:
        maps: (B, M, h, w) non-negative; upsampled bilinearly to the region's size.
        region: (B, H, W) bool.

    Returns:
        (B, M) float: 1 hit, 0 miss, NaN where the map is flat zero, or the region has no pixel.
    """
    maps = upsample(maps, region.shape[1:]).flatten(2)
    peak, place = maps.max(2)
    inside = region.flatten(1)
    hit = inside.gather(1, place).to(maps.dtype)
    return hit.masked_fill((peak <= 0) | ~inside.any(1)[:, None], torch.nan)


def upsample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """(B, M, h, w) maps to (B, M, H, W), bilinearly, corners not aligned."""
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _of_region(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[MapContext], Tensor]:
    return lambda context: measure(context.maps, context.region)


SWITCH = Switch(
    "localisation", "energy share and pointing hit, where a box or mask is given", default=True, always=True
)
LOCALISATION = Metric(
    "localisation", "energy on the object", SWITCH, _of_region(localisation), heading="Loc.", rank=0, of_region=True
)
POINTING_HIT = Metric(
    "pointing_hit",
    "pointing hits",
    SWITCH,
    _of_region(pointing_hit),
    heading="Point.",
    rank=7,
    of_region=True,
    dtype="bool",
)
