"""Placed: maps on points of their photos, so that two exports can be compared whatever their grids and views."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finer_ray.images.transform import Transform
from finer_ray.saliency.registration import Registration
from finer_ray.store.grids import by_grid
from finer_ray.store.reading import Export, Rows

# Points along each side: more than most grids have cells, few enough for a hundred thousand images.
POINTS = 48
Sizes = Sequence[tuple[int, int]]
Boxes = NDArray[np.float64]


def common_boxes(a: Export, b: Export, sizes: Sizes) -> Boxes:
    """The part of each photo that the models of both exports saw.

    Args:
        a, b: any exports.
        sizes: (width, height) of n photos, pixels.

    Returns:
        (n, 4) x1, y1, x2, y2 in the photos' pixels, without the borders that a model may have seen around them. A view
        is centred in its photo, so no box is empty.
    """
    (low_a, high_a), (low_b, high_b) = (np.split(_views(export, sizes), 2, axis=1) for export in (a, b))
    low, high = np.maximum(low_a, low_b), np.minimum(high_a, high_b)
    return np.hstack([low.clip(0), np.minimum(high, np.reshape(sizes, (-1, 2)))])


def placed(export: Export, rows: Rows, name: str, sizes: Sizes, boxes: Boxes) -> NDArray[np.float32]:
    """One map of each of some images, at points that lie evenly in a box of its photo.

    Args:
        export: any that has the map.
        rows: n rows of its images.
        name: of the map, one of `manifest.layout.maps`.
        sizes: (width, height) of the n photos, pixels.
        boxes: (n, 4) x1, y1, x2, y2 in the photos' pixels.

    Returns:
        (n, POINTS, POINTS), non-negative; NaN for rows that hold no image.
    """
    maps = export.maps(rows, name)
    transform = Transform(**export.manifest.transform)
    views = _views(export, sizes)
    # Boxes as shares of what the model saw: those of photos of one shape are the same, and are drawn together.
    origin, side = np.tile(views[:, :2], 2), np.tile(views[:, 2:] - views[:, :2], 2)
    inputs = np.reshape([transform.shape(*size) for size in sizes], (-1, 2))
    ways = np.hstack([inputs, (boxes - origin) / side])
    middles = (np.arange(POINTS) + 0.5) / POINTS
    result = np.full((len(maps), POINTS, POINTS), np.nan, np.float32)
    for places, own in by_grid(maps):
        distinct, members = np.unique(ways[places], axis=0, return_inverse=True)
        for number, (height, width, left, top, right, bottom) in enumerate(distinct):
            these = members.reshape(-1) == number
            here = export.manifest.layout.registration or Registration.stretched((height, width), own.shape[1:])
            down, along = top + (bottom - top) * middles, left + (right - left) * middles
            result[places[these]] = here.at(own[these], (down * height - 0.5, along * width - 0.5))
    return result


def _views(export: Export, sizes: Sizes) -> Boxes:
    """What an export's model saw of photos, (n, 4) x1, y1, x2, y2 in their pixels; beyond them where it saw borders."""
    transform = Transform(**export.manifest.transform)
    return np.reshape([transform.view_box(*size) for size in sizes], (-1, 4))
