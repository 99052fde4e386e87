"""Localisation: does a map's energy, or its maximum, lie on the annotated object? (Finer-CAM, Tab. 4, `Loc.`)"""

from collections.abc import Callable

from finer_ray.lazy import Tensor, torch
from finer_ray.metrics.metric import MapContext, Metric, Switch
from finer_ray.saliency.registration import Registration, draw


def localisation(maps: Tensor, region: Tensor, registration: Registration | None = None) -> Tensor:
    """Energy share: sum of the map inside the region over its sum.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool, the box or mask in the model input's geometry.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) in [0, 1]; NaN where the map has no energy, or the region no pixel.
    """
    maps = draw(maps, region.shape[1:], registration)
    inside = (maps * region[:, None]).sum((2, 3))
    share = inside / maps.sum((2, 3))
    return share.masked_fill(~region.flatten(1).any(1)[:, None], torch.nan)


def pointing_hit(maps: Tensor, region: Tensor, registration: Registration | None = None) -> Tensor:
    """Pointing game (Zhang et al. 2018): whether the map's maximum lies in the region.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) float: 1 hit, 0 miss, NaN where the map is flat zero, or the region has no pixel.
    """
    maps = draw(maps, region.shape[1:], registration).flatten(2)
    peak, place = maps.max(2)
    inside = region.flatten(1)
    hit = inside.gather(1, place).to(maps.dtype)
    return hit.masked_fill((peak <= 0) | ~inside.any(1)[:, None], torch.nan)


def _of_region(measure: Callable[[Tensor, Tensor, Registration | None], Tensor]) -> Callable[[MapContext], Tensor]:
    return lambda context: measure(context.maps, context.region, context.registration)


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
