"""Intersection over union of a map and the region, at the threshold that suits the image best.

    max over t of |{map >= t} and region| / |{map >= t} or region|

over all t, exactly: by the values that the map has, not by a grid of them. As t is chosen for each image by its region,
this is what a threshold could reach at most; at the lowest all pixels are taken, so no map has less than the region's
share of the image. (MaxBoxAcc of Choe et al. 2020 chooses one t for a whole data set.)
"""

import numpy as np

from finer_ray.arrays import Array, namespace
from finer_ray.metrics.metric import Metric, Switch
from finer_ray.metrics.regions import by_pixel, descending, of_region
from finer_ray.saliency.registration import Registration


def best_iou(maps: Array, region: Array, registration: Registration | None = None) -> Array:
    """The largest intersection over union with the region that a threshold leads to.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool, the box or mask in the model input's geometry.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) in (0, 1]; NaN where the map is zero everywhere, or the region has no pixel.
    """
    maps, region = by_pixel(maps, region, registration)
    xp = namespace(maps)
    values, inside = descending(maps, region)
    both = xp.cumsum(inside, -1, dtype=maps.dtype)
    taken = xp.cumsum(xp.ones_like(values), -1)
    overlap = both / (taken + region.sum(1, dtype=maps.dtype)[:, None, None] - both)
    # A threshold takes all pixels of one value, or none of them.
    lowest = xp.ones_like(inside[..., :1])
    is_threshold = xp.concat([values[..., 1:] < values[..., :-1], lowest], -1)
    there = xp.any(region, 1)[:, None] & (values[..., 0] > 0)
    best: Array = xp.where(there, xp.amax(xp.where(is_threshold, overlap, 0.0), -1), np.nan)
    return best


IOU = Metric(
    "iou",
    "overlap with the object at the best threshold",
    Switch("iou", "intersection over union with the box or mask, at each image's best threshold"),
    of_region(best_iou),
    heading="IoU",
    rank=9,
    of_region=True,
)
