"""Agreement: how alike two maps of one image are, on the same points of the photo."""

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.metrics.agreement import is_flat, pearson

Maps = NDArray[np.floating[Any]]
Values = NDArray[np.float64]

TOP = 0.05


def correlation(a: Maps, b: Maps) -> Values:
    """Pearson correlation of maps over their points.

    Args:
        a, b: (n, H, W) non-negative.

    Returns:
        (n,) in [-1, 1]: 0 where one of the two is flat and the other is not, NaN where both are.

    >>> some, flat = np.array([[[0.0, 1.0]]]), np.zeros((1, 1, 2))
    >>> correlation(some, some).tolist(), correlation(some, flat).tolist(), correlation(flat, flat).tolist()
    ([1.0], [0.0], [nan])
    """
    found: Values = np.where(is_flat(a) != is_flat(b), 0.0, pearson(a, b))
    return found


def top_overlap(a: Maps, b: Maps, top: float = TOP) -> Values:
    """Intersection over union of the points where each map is highest.

    Args:
        a, b: (n, H, W) non-negative.
        top: share of the points that count for each map, all that are as high as the last of them included; points
            where a map is 0 never do.

    Returns:
        (n,) in [0, 1]; NaN where neither map has such a point.
    """
    high_a, high_b = (_highest(maps.reshape(len(maps), -1), top) for maps in (a, b))
    union = (high_a | high_b).sum(1)
    overlap: Values = (high_a & high_b).sum(1) / np.where(union == 0, np.nan, union)
    return overlap


def shift(a: Maps, b: Maps) -> Values:
    """How far the centre of mass lies from one map to the other.

    Args:
        a, b: (n, H, W) non-negative.

    Returns:
        (n, 2), right and down, as shares of the width and of the height; NaN where a map is zero everywhere.
    """
    moved: Values = _centre(b) - _centre(a)
    return moved


def _highest(values: Maps, top: float) -> NDArray[np.bool_]:
    """Which points (n, P) are among the highest of each map, and above 0."""
    last = values.shape[1] - ceil(top * values.shape[1])
    least = np.partition(values, last, axis=1)[:, last, None]
    high: NDArray[np.bool_] = (values >= least) & (values > 0)
    return high


def _centre(maps: Maps) -> Values:
    mass = maps.astype(np.float64)
    whole = mass.sum((1, 2))
    down, along = ((np.arange(side) + 0.5) / side for side in maps.shape[1:])
    moments = np.stack([mass.sum(1) @ along, mass.sum(2) @ down], axis=1)
    centre: Values = moments / np.where(whole == 0, np.nan, whole)[:, None]
    return centre
