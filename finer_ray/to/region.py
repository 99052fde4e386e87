"""The region where a map is high: a box and a mask, as is usual in weakly supervised localisation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Region:
    """A connected region of a photo.

    Attributes:
        box: x, y of its upper left corner, width, height, in the photo's pixels.
        mask: (height, width) bool, of the whole photo.
    """

    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


def region_of(heat: NDArray[np.floating[Any]], threshold: float) -> Region | None:
    """The largest connected region in which a map is at least a share of its maximum.

    Args:
        heat: (height, width), non-negative; NaN where nothing is known.
        threshold: the share, in (0, 1].

    Returns:
        None where the map is zero everywhere. Pixels that touch by a side are connected; of regions of one size the
        first from above counts.

    >>> heat = np.zeros((4, 6))
    >>> heat[1:3, 2:5], heat[0, 0] = 0.8, 1
    >>> region_of(heat, 0.5).box
    (2, 1, 3, 2)
    """
    # Imported here: the command line starts without it.
    from scipy import ndimage

    peak = np.nanmax(heat, initial=0)
    if peak <= 0:
        return None
    regions, _ = ndimage.label(heat >= threshold * peak)
    largest = 1 + int(np.bincount(regions.ravel())[1:].argmax())
    rows, columns = ndimage.find_objects(regions, largest)[largest - 1]
    box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
    return Region(box, regions == largest)


def runs(flat: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a flat mask, the first of False, which may be 0 long.

    >>> runs(np.array([True, True, False]))
    [0, 2, 1]
    """
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    lengths: list[int] = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return lengths
