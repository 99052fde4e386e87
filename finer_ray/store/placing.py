"""Placing: maps on their grid, brought to the model's input or to the photo's own pixels."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.images.transform import Transform
from finer_ray.saliency.registration import Registration
from finer_ray.store.grids import own_grids


def on_photo(
    maps: NDArray[np.float32],
    sizes: Iterable[tuple[int, int]],
    transform: Transform,
    registration: Registration | None,
) -> list[NDArray[np.float32]]:
    """Maps at every pixel of their photos.

    Args:
        maps: (n, h, w).
        sizes: (width, height) of each photo.
        transform: that made the inputs of them.
        registration: of the maps; None: the grid stretched over the input.

    Returns:
        n arrays (height, width); NaN where the model did not see the photo, because it was cropped there, and all of a
        map that is not there.
    """
    placed = []
    for own, grid, (width, height) in zip(maps, own_grids(maps), sizes, strict=True):
        if not grid.all():
            placed.append(np.full((height, width), np.nan, maps.dtype))
            continue
        size = transform.shape(width, height)
        own = own[: grid[0], : grid[1]]
        here = registration or Registration.stretched(size, own.shape)
        rows, columns = transform.positions(width, height)
        drawn = here.at(own, (rows, columns))
        drawn[~_seen(rows, size[0])] = np.nan
        drawn[:, ~_seen(columns, size[1])] = np.nan
        placed.append(drawn)
    return placed


def _seen(positions: NDArray[np.floating[Any]], side: int) -> NDArray[np.bool_]:
    """Which positions along an axis lie in an input of so many pixels."""
    inside: NDArray[np.bool_] = (positions >= -0.5) & (positions < side - 0.5)
    return inside


def to_unit(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    """Maps (..., H, W), non-negative, each divided by its maximum; a map of zeros stays one, and NaN NaN."""
    peak: NDArray[np.float32] = np.nanmax(maps, axis=(-2, -1), initial=0.0, keepdims=True)
    peak[peak == 0] = 1
    return maps / peak
