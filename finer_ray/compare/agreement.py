"""Agreement: how alike two maps of one image are, on the same points of the photo."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Maps = NDArray[np.floating[Any]]
Values = NDArray[np.float64]

TOP = 0.05


def correlation(a: Maps, b: Maps) -> Values:
    """Pearson correlation of maps over the points that both have.

    Args:
        a, b: (n, H, W) non-negative; NaN where there is no map.

    Returns:
        (n,) in [-1, 1]: 0 where one of the two is flat and the other is not, NaN where both are or a map is lacking.

    >>> maps = np.array([[[0.0, 1.0], [2.0, 3.0]]])
    >>> correlation(maps, maps).tolist(), correlation(maps, 3 - maps).tolist()
    ([1.0], [-1.0])
    """
    a, b, count = _both(a, b)
    there = count > 0
    centred_a, centred_b = _centred(a, count), _centred(b, count)
    spread_a, spread_b = (np.nansum(values**2, axis=1) for values in (centred_a, centred_b))
    flat_a, flat_b = (_flat(values) for values in (a, b))
    # The square root of x * x is x, to the last bit.
    norm = np.sqrt(np.where(flat_a | flat_b, np.nan, spread_a * spread_b))
    found: Values = np.nansum(centred_a * centred_b, axis=1) / norm
    found[there & (flat_a != flat_b)] = 0
    return found


def top_overlap(a: Maps, b: Maps, top: float = TOP) -> Values:
    """Intersection over union of the points where each map is highest.

    Args:
        a, b: as of `correlation`.
        top: share of the points that count for each map, all that are as high as the last of them included; points
            where a map is 0 never do.

    Returns:
        (n,) in [0, 1]; NaN where neither map has such a point.
    """
    a, b, count = _both(a, b)
    high_a, high_b = (_highest(values, np.ceil(top * count).astype(int)) for values in (a, b))
    union = (high_a | high_b).sum(1)
    overlap: Values = (high_a & high_b).sum(1) / np.where(union > 0, union, np.nan)
    return overlap


def shift(a: Maps, b: Maps) -> Values:
    """How far the centre of mass lies from one map to the other.

    Args:
        a, b: as of `correlation`.

    Returns:
        (n, 2), right and down, as shares of the width and of the height; NaN where a map is zero or lacking.
    """
    grid = a.shape[1:]
    a, b, _ = _both(a, b)
    found: Values = _centre(b, grid) - _centre(a, grid)
    return found


def _both(a: Maps, b: Maps) -> tuple[Values, Values, NDArray[np.intp]]:
    """Maps (n, P), each divided by its maximum, NaN where either is; and at how many points they are, (n,)."""
    a, b = (values.reshape(len(values), -1).astype(np.float64) for values in (a, b))
    lacking = np.isnan(a) | np.isnan(b)
    scaled = []
    for values in (a, b):
        peak = np.where(lacking, 0.0, values).max(1, initial=0.0, keepdims=True)
        scaled.append(np.where(lacking, np.nan, values / np.where(peak > 0, peak, 1)))
    return scaled[0], scaled[1], (~lacking).sum(1)


def _centred(values: Values, count: NDArray[np.intp]) -> Values:
    centred: Values = values - (np.nansum(values, axis=1) / np.maximum(count, 1))[:, None]
    return centred


def _flat(values: Values) -> NDArray[np.bool_]:
    """Which maps have one value everywhere; so have those that are lacking."""
    flat: NDArray[np.bool_] = np.fmax.reduce(values, axis=1) == np.fmin.reduce(values, axis=1)
    return flat | np.isnan(values).all(1)


def _highest(values: Values, count: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which points are among the `count` highest of each map, and above 0."""
    known = np.nan_to_num(values, nan=-1.0)
    least = np.full(len(known), np.inf)
    for number in np.unique(count[count > 0]):
        these = count == number
        least[these] = np.partition(known[these], -number, axis=1)[:, -number]
    high: NDArray[np.bool_] = (known >= least[:, None]) & (known > 0)
    return high


def _centre(values: Values, grid: tuple[int, ...]) -> Values:
    mass = np.nan_to_num(values).reshape(len(values), *grid)
    whole = mass.sum((1, 2))
    down, along = ((np.arange(side) + 0.5) / side for side in grid)
    moments = np.stack([mass.sum(1) @ along, mass.sum(2) @ down], axis=1)
    centre: Values = moments / np.where(whole > 0, whole, np.nan)[:, None]
    return centre
