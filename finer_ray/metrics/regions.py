"""Maps beside annotated regions, pixel by pixel: what metrics that are `of_region` have in common."""

from collections.abc import Callable
from typing import Any

from finer_ray.arrays import Array, namespace
from finer_ray.metrics.metric import MapContext
from finer_ray.saliency.registration import Registration, draw


def by_pixel(maps: Array, region: Array, registration: Registration | None) -> tuple[Array, Array]:
    """Maps and regions with one axis for all pixels; sums along one axis are the most exact that NumPy has.

    Args:
        maps: (B, M, h, w).
        region: (B, H, W) bool.
        registration: of the maps; None: stretched.

    Returns:
        (B, M, H * W), drawn, and (B, H * W) bool.
    """
    batch, height, width = region.shape
    maps = draw(maps, (height, width), registration)
    return maps.reshape(*maps.shape[:2], height * width), region.reshape(batch, height * width)


def descending(maps: Array, region: Array) -> tuple[Array, Array]:
    """Pixels from the most salient to the least; those of one value in any order.

    Args:
        maps: (B, M, n) float.
        region: (B, n) bool.

    Returns:
        Their values (B, M, n), and whether each lies in the region, (B, M, n) bool.

    >>> import numpy as np
    >>> descending(np.array([[[1.0, 3.0, 2.0]]]), np.array([[False, True, False]]))
    (array([[[3., 2., 1.]]]), array([[[ True, False, False]]]))
    """
    xp = namespace(maps)
    order = xp.argsort(-maps, -1)
    image, number = (xp.arange(count, device=maps.device) for count in maps.shape[:2])
    return maps[image[:, None, None], number[:, None], order], region[image[:, None, None], order]


def of_region(measure: Callable[[Any, Any, Registration | None], Any]) -> Callable[[MapContext[Any]], Any]:
    """`Metric.compute` of a function of maps, regions and registration."""
    return lambda context: measure(context.maps, context.region, context.registration)
