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
    samples: int | None = None,
) -> list[NDArray[np.float32]]:
    """Maps at every pixel of their photos.

    Args:
        maps: (n, h, w).
        sizes: (width, height) of each photo.
        transform: that made the inputs of them.
        registration: of the maps; None: the grid stretched over the input.
        samples: how many pixels of each side are wanted, evenly spread; all when None.

    Returns:
        n arrays (height, width), or (samples, samples); NaN where the model did not see the photo, because it was
        cropped there, and all of a map that is not there.
    """
    placed = []
    for own, grid, (width, height) in zip(maps, own_grids(maps), sizes, strict=True):
        rows, columns = transform.positions(width, height)
        if samples is not None:
            middle = 2 * np.arange(samples) + 1
            rows, columns = (side[middle * len(side) // (2 * samples)] for side in (rows, columns))
        if not grid.all():
            placed.append(np.full((len(rows), len(columns)), np.nan, maps.dtype))
            continue
        size = transform.shape(width, height)
        own = own[: grid[0], : grid[1]]
        here = registration or Registration.stretched(size, own.shape)
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
