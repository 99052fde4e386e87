"""Grids of maps: where images have sizes of their own, each map fills the upper left of an array of the largest grid.

Cells beyond a map's own grid are NaN, as are all cells of rows that hold no image.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finer_ray.lazy import Tensor, functional, torch


def own_grids(maps: NDArray[np.floating]) -> NDArray[np.intp]:
    """Of each of some maps (n, h, w) how many rows and columns are its own, (n, 2); 0 of rows that hold no image.

    >>> maps = np.full((2, 3, 4), np.nan)
    >>> maps[0, :2, :3] = 1
    >>> own_grids(maps).tolist()
    [[2, 3], [0, 0]]
    """
    there = ~np.isnan(maps)
    return np.stack([there[:, :, 0].sum(1), there[:, 0].sum(1)], axis=1)


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (n, h, w) brought to one size (H, W), bilinearly, each from its own grid; NaN for rows that hold none."""
    result = torch.full((len(maps), *size), torch.nan, dtype=maps.dtype)
    for places, own in by_grid(maps):
        drawn = functional.interpolate(own[:, None], size=size, mode="bilinear", align_corners=False)
        result[places] = drawn[:, 0]
    return result


def by_grid(maps: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Maps (n, h, w) of one grid at a time: their places (m,), and the maps cut to their grid, (m, h', w'); those of
    rows that hold no image are left out."""
    grids = own_grids(maps.numpy())
    for height, width in np.unique(grids, axis=0).tolist():
        if height and width:
            places = torch.from_numpy((grids == (height, width)).all(1).nonzero()[0])
            yield places, maps[places, :height, :width]
