"""Parts: which annotated part of an object each cell of a map's grid shows. Arrays alone, no torch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finer_ray.saliency.registration import Registration

# Ids are uint8, and 0 is no part.
MOST_PARTS = 255


@dataclass(frozen=True, slots=True)
class PartGrid:
    """The grid whose cells show parts.

    Attributes:
        grid: (h, w) of the maps; where images have sizes of their own, of the largest.
        size: (H, W) of the input that this grid is of, pixels.
        registration: where the cells have their centres; None: the grid is stretched over the input.
    """

    grid: tuple[int, int]
    size: tuple[int, int]
    registration: Registration | None

    def __call__(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of each cell, see `cell_parts`.

        Args:
            ids: (H, W) of one image; of less than `size` its own grid is smaller, too.

        Returns:
            (h, w), 0 beyond the image's own grid.
        """
        own = [
            max(1, round(side * cells / whole))
            for side, cells, whole in zip(ids.shape, self.grid, self.size, strict=True)
        ]
        found = np.zeros(self.grid, np.uint8)
        found[: own[0], : own[1]] = cell_parts(ids, (own[0], own[1]), self.registration)
        return found


def cell_parts(ids: NDArray[np.uint8], grid: tuple[int, int], registration: Registration | None) -> NDArray[np.uint8]:
    """The part of each cell: that of whose pixels it holds the largest share, so that a small part in it wins over the
    large one around.

    Args:
        ids: (H, W), the part of each pixel of the model's input, 0 for none.
        grid: (h, w) of the maps.
        registration: where the cells have their centres, which decides which pixels are a cell's (see
            `Registration.pool`); None: the grid is stretched over the input.

    Returns:
        (h, w), the part's id, of equal shares the lowest; 0 where a cell shows no part.

    >>> ids = np.array([[1, 1, 1, 1], [1, 1, 1, 2]], np.uint8)
    >>> cell_parts(ids, (1, 2), None)
    array([[1, 2]], dtype=uint8)
    """
    here = registration or Registration.stretched(ids.shape, grid)
    down, along = (
        here.members(axis, side, cells) for axis, (side, cells) in enumerate(zip(ids.shape, grid, strict=True))
    )
    best, found = np.zeros(grid), np.zeros(grid, np.uint8)
    pixels = np.bincount(ids.ravel(), minlength=1 + MOST_PARTS)
    for part in np.flatnonzero(pixels[1:]) + 1:
        # Counts of at most 2^24 pixels are exact in float32.
        share = (down @ (ids == part).astype(np.float32) @ along.T).astype(np.float64) / pixels[part]
        found[share > best] = part
        best = np.maximum(best, share)
    return found


def one_id_a_name(names: Sequence[str]) -> NDArray[np.uint8]:
    """For each id, 0 to 255, the first one of its name: parts that are called alike, such as both wings, are one.

    >>> one_id_a_name(["wing", "bill", "wing"])[:5].tolist()
    [0, 1, 2, 1, 4]
    """
    found, first = np.arange(1 + MOST_PARTS, dtype=np.uint8), dict[str, int]()
    for part, name in enumerate(names, start=1):
        found[part] = first.setdefault(name, part)
    return found
