"""Relevance rank accuracy (Arras et al. 2022): of the R most salient pixels, R those of the region, the share inside.

Where more pixels have one value than there is room for, each counts by the share of them that finds room: the mean over
all orders in which they may be taken.
"""

import numpy as np

from finer_ray.arrays import Array, namespace
from finer_ray.metrics.metric import Metric, Switch
from finer_ray.metrics.regions import by_pixel, descending, of_region
from finer_ray.saliency.registration import Registration


def rank_accuracy(maps: Array, region: Array, registration: Registration | None = None) -> Array:
    """Share of the R most salient pixels that lie in the region, which has R.

    Args:
        maps: (B, M, h, w) non-negative; brought to the region's pixels.
        region: (B, H, W) bool, the box or mask in the model input's geometry.
        registration: of the maps; None: stretched.

    Returns:
        (B, M) in [0, 1]; NaN where the map is zero everywhere, or the region has no pixel.
    """
    maps, region = by_pixel(maps, region, registration)
    xp = namespace(maps)
    values, inside = descending(maps, region)
    image, number = (xp.arange(count, device=maps.device) for count in maps.shape[:2])
    last = values[image[:, None], number, (region.sum(1) - 1).clip(min=0)[:, None]][..., None]
    above, tied = values > last, values == last
    size = region.sum(1, dtype=maps.dtype)[:, None]
    room = size - above.sum(2, dtype=maps.dtype)
    among = (tied & inside).sum(2, dtype=maps.dtype) / tied.sum(2, dtype=maps.dtype)
    found = (above & inside).sum(2, dtype=maps.dtype) + room * among
    there = (size > 0) & (values[..., 0] > 0)
    accuracy: Array = found / xp.where(there, size, np.nan)
    return accuracy


RANK_ACCURACY = Metric(
    "rank_accuracy",
    "most salient pixels on the object",
    Switch("rank_accuracy", "relevance rank accuracy: share inside of as many pixels as the box or mask has"),
    of_region(rank_accuracy),
    heading="Rank",
    rank=8,
    of_region=True,
)
