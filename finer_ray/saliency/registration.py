"""Registration: where in the input's pixels the cells of a map have their centres, and maps brought there and back.

Pixels are numbered from 0, and a pixel's number is its centre. Cell i of an axis has its centre at offset + stride * i,
so that pixel p lies at cell (p - offset) / stride. In between maps are bilinear; beyond the centres of the outer cells
their values go on. Stretching the grid over the input, as CAM libraries do, is the registration with stride = input /
cells and offset = (stride - 1) / 2: then this is what torch calls bilinear with corners not aligned. No torch is needed
for arrays.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from finer_ray.arrays import Array
from finer_ray.lazy import Tensor, torch

Positions = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Registration:
    """The centres of a grid's cells, along y and x.

    Attributes:
        offset: (y, x) of the first cell's centre, in pixels of the model's input; it may lie outside.
        stride: (y, x) pixels from one cell's centre to the next one's.

    >>> Registration.stretched((224, 224), (7, 7))
    Registration(offset=(15.5, 15.5), stride=(32.0, 32.0))
    """

    offset: tuple[float, float]
    stride: tuple[float, float]

    @classmethod
    def stretched(cls, size: Sequence[int], grid: Sequence[int]) -> Self:
        """The grid (h, w) stretched over an input (H, W)."""
        (down, right) = (side / cells for side, cells in zip(size, grid, strict=True))
        return cls(((down - 1) / 2, (right - 1) / 2), (down, right))

    def at(self, maps: Array, positions: tuple[Positions, Positions]) -> Array:
        """Maps at some pixels, bilinearly.

        Args:
            maps: (..., h, w) float, an array or a tensor on any device.
            positions: the rows (H,) and the columns (W,) wanted, in pixels of the input; see `pixels`.

        Returns:
            (..., H, W) of the same kind and dtype.

        >>> Registration((0.0, 0.0), (2.0, 2.0)).at(np.array([[0.0, 1.0]]), pixels((1, 4), (1, 4)))
        array([[0. , 0.5, 1. , 1. ]])
        """
        upper, lower, down = self._between(maps, 0, positions[0])
        left, right, along = self._between(maps, 1, positions[1])
        # As a + (b - a) * share, which is a where a = b: what is flat stays so, to the last bit.
        rows = maps[..., upper, :]
        rows = rows + (maps[..., lower, :] - rows) * down[:, None]
        columns = rows[..., left]
        drawn: Array = columns + (rows[..., right] - columns) * along
        return drawn

    def pool(self, values: Tensor, grid: Sequence[int]) -> Tensor:
        """The way back: means over the pixels around the cells' centres.

        A cell has the pixels that are nearer to its centre than to others', and any that it shares with a neighbour;
        one whose pixels all lie outside has the nearest that there is. Of a stretched grid it is what torch calls
        adaptive average pooling.

        Args:
            values: (..., H, W) float.
            grid: (h, w).

        Returns:
            (..., h, w).
        """
        for axis, cells in enumerate(grid):
            values = values.movedim(axis - 2, -1)
            means = [values[..., first:end].mean(-1) for first, end in self._spans(axis, values.shape[-1], cells)]
            values = torch.stack(means, dim=-1).movedim(-1, axis - 2)
        return values

    def members(self, axis: int, pixels: int, cells: int) -> NDArray[np.float32]:
        """Which pixels along an axis are whose cell's, as `pool` has it: (cells, pixels), 1 where they are, else 0."""
        found = np.zeros((cells, pixels), np.float32)
        for cell, (first, end) in enumerate(self._spans(axis, pixels, cells)):
            found[cell, first:end] = 1
        return found

    def shares(self, axis: int, shares: Array, pixels: int, cells: int) -> Array:
        """Places along an axis as shares of the input's side, as shares of the map's; of a stretched grid the same."""
        return ((shares * pixels - 0.5 - self.offset[axis]) / self.stride[axis] + 0.5) / cells

    def _between(self, maps: Array, axis: int, positions: Positions) -> tuple[Any, Any, Any]:
        """Between which two cells positions lie, and how near to the second, in [0, 1); where `maps` are."""
        last = maps.shape[axis - 2] - 1
        place = ((positions - self.offset[axis]) / self.stride[axis]).clip(0, last)
        first = place.astype(np.int64)
        found = first, np.minimum(first + 1, last), place - first
        if isinstance(maps, np.ndarray):
            return found[0], found[1], found[2].astype(maps.dtype)
        here = [torch.from_numpy(values).to(maps.device, non_blocking=True) for values in found]
        return here[0], here[1], here[2].to(maps.dtype)

    def _spans(self, axis: int, pixels: int, cells: int) -> list[tuple[int, int]]:
        """Each cell's pixels along an axis, from first to before end; the outer cells have all up to the border."""
        offset, stride = self.offset[axis], self.stride[axis]
        edges = [0.0, *(offset + 0.5 + stride * (cell - 0.5) for cell in range(1, cells)), float(pixels)]
        # Sums of fractions such as 7 / 3 miss whole numbers by their rounding.
        edges = [min(max(round(edge, 6), 0), pixels) for edge in edges]
        spans = ((min(floor(low), pixels - 1), ceil(high)) for low, high in itertools.pairwise(edges))
        return [(first, max(end, first + 1)) for first, end in spans]


def pixels(size: Sequence[int], seen: Sequence[int]) -> tuple[Positions, Positions]:
    """Pixels of an image of some size that shows the whole input, as rows and columns of the input.

    Args:
        size: (H, W) of the image.
        seen: (H, W) of the input.

    Returns:
        (H,) and (W,) float. Of an image of the input's size they are 0, 1, 2, ...

    >>> pixels((2, 4), (4, 4))[0]
    array([0.5, 2.5])
    """
    rows, columns = ((np.arange(side) + 0.5) * (whole / side) - 0.5 for side, whole in zip(size, seen, strict=True))
    return rows, columns


def draw(
    maps: Array, size: Sequence[int], registration: Registration | None, seen: Sequence[int] | None = None
) -> Array:
    """Maps brought to an image that shows the whole input.

    Args:
        maps: (..., h, w) float, an array or a tensor.
        size: (H, W) of the image.
        registration: of the maps; None: the grid stretched over the input.
        seen: (H, W) of the input; the image's own where None.

    Returns:
        (..., H, W).

    >>> draw(np.array([[0.0, 1.0]]), (1, 4), None)
    array([[0.  , 0.25, 0.75, 1.  ]])
    """
    seen = size if seen is None else seen
    here = registration or Registration.stretched(seen, maps.shape[-2:])
    return here.at(maps, pixels(size, seen))


def pool(values: Tensor, grid: Sequence[int], registration: Registration | None) -> Tensor:
    """Values of pixels (..., H, W) as a map (..., h, w), see `Registration.pool`; None: of a stretched grid."""
    here = registration or Registration.stretched(values.shape[-2:], grid)
    return here.pool(values, grid)
