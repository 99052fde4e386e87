"""Grids of maps: where images have sizes of their own, each map fills the upper left of an array of the largest grid.

Cells beyond a map's own grid are NaN, as are all cells of rows that hold no image.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finer_ray.saliency.registration import Registration, draw


def own_grids(maps: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    """Of each of some maps (n, h, w) how many rows and columns are its own, (n, 2); 0 of rows that hold no image.

    >>> maps = np.full((2, 3, 4), np.nan)
    >>> maps[0, :2, :3] = 1
    >>> own_grids(maps).tolist()
    [[2, 3], [0, 0]]
    """
    there = ~np.isnan(maps)
    return np.stack([there[:, :, 0].sum(1), there[:, 0].sum(1)], axis=1)


def drawn(
    maps: NDArray[np.float32],
    size: tuple[int, int],
    registration: Registration | None,
    inputs: NDArray[np.integer[Any]],
) -> NDArray[np.float32]:
    """Maps brought to images of one size that show the whole input, each from its own grid.

    Args:
        maps: (n, h, w).
        size: (H, W) of the images, pixels.
        registration: of the maps; None: each grid stretched over its input.
        inputs: (n, 2), height and width of the input of each, pixels; anything where there is no map.

    Returns:
        (n, H, W); NaN for rows that hold no image.
    """
    result = np.full((len(maps), *size), np.nan, maps.dtype)
    for places, own in by_grid(maps):
        # Inputs that differ by less than a cell have grids alike.
        for seen in np.unique(inputs[places], axis=0):
            these = (inputs[places] == seen).all(1)
            result[places[these]] = draw(own[these], size, registration, seen.tolist())
    return result


def by_grid(maps: NDArray[np.float32]) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Maps (n, h, w) of one grid at a time: their places (m,), and the maps cut to their grid, (m, h', w'); those of
    rows that hold no image are left out."""
    grids = own_grids(maps)
    for height, width in np.unique(grids, axis=0).tolist():
        if height and width:
            places = (grids == (height, width)).all(1).nonzero()[0]
            yield places, maps[places, :height, :width]
