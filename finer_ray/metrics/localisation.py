"""Localisation: does a map's energy, or its maximum, lie on the annotated object? (Finer-CAM, Tab. 4, `Loc.`)"""

import numpy as np

from finer_ray.arrays import Array, namespace
from finer_ray.metrics.metric import Metric, Switch
from finer_ray.metrics.regions import by_pixel, of_region
from finer_ray.saliency.registration import Registration


def localisation(maps: Array, region: Array, registration: Registration | None = None) -> Array:
    """Energy share: sum of the map inside the region over its sum.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool, the box or mask in the model input's geometry.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) in [0, 1]; NaN where the map has no energy, or the region no pixel.
    """
    maps, region = by_pixel(maps, region, registration)
    inside, whole = (maps * region[:, None]).sum(2), maps.sum(2)
    xp = namespace(maps)
    there = xp.any(region, 1)[:, None] & (whole > 0)
    share: Array = inside / xp.where(there, whole, np.nan)
    return share


def pointing_hit(maps: Array, region: Array, registration: Registration | None = None) -> Array:
    """Pointing game (Zhang et al. 2018): whether the map's maximum lies in the region.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) float: 1 hit, 0 miss, NaN where the map is flat zero, or the region has no pixel.
    """
    maps, region = by_pixel(maps, region, registration)
    xp = namespace(maps)
    images = xp.arange(len(maps), device=maps.device)[:, None]
    hit = xp.where(region[images, xp.argmax(maps, 2)], xp.ones_like(maps[:, :, 0]), 0.0)
    there = xp.any(region, 1)[:, None] & (xp.amax(maps, 2) > 0)
    found: Array = xp.where(there, hit, np.nan)
    return found


SWITCH = Switch(
    "localisation", "energy share and pointing hit, where a box or mask is given", default=True, always=True
)
LOCALISATION = Metric(
    "localisation", "energy on the object", SWITCH, of_region(localisation), heading="Loc.", rank=0, of_region=True
)
POINTING_HIT = Metric(
    "pointing_hit",
    "pointing hits",
    SWITCH,
    of_region(pointing_hit),
    heading="Point.",
    rank=7,
    of_region=True,
    dtype="bool",
)
