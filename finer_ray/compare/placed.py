"""Placed: the maps of two exports on the same points of the same photos, whatever their grids and views."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finer_ray.images.transform import Transform
from finer_ray.store.placing import on_photo
from finer_ray.store.reading import Export, Rows

# Points along each side: more than most grids have cells, few enough for a hundred thousand images.
POINTS = 48
Sizes = list[tuple[int, int]]


@dataclass(frozen=True)
class Placed:
    """Two maps of each image on the same points.

    Attributes:
        a, b: (n, POINTS, POINTS) float; NaN where a model did not see the photo, or there is no map.
        extent: (n, 2) width and height of what the points lie on, pixels of the photo.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    extent: NDArray[np.float64]


def placed(a: Export, b: Export, rows_a: Rows, rows_b: Rows, sizes: Sizes, name: str) -> Placed:
    """One map of some images, of each export.

    Points lie evenly on what both models saw. Where they saw other parts of the photos, they lie on the whole photo.

    Args:
        a, b: exports that have the map.
        rows_a, rows_b: n rows of each, of the same images.
        sizes: (width, height) of the n photos, pixels.
        name: of the map.
    """
    transforms = [Transform(**export.manifest.transform) for export in (a, b)]
    if same_view(*transforms):
        boxes = np.array([transforms[0].view_box(*size) for size in sizes]).reshape(-1, 4)
        grid = (POINTS, POINTS)
        return Placed(a.maps(rows_a, name, grid), b.maps(rows_b, name, grid), boxes[:, 2:] - boxes[:, :2])
    on_points = (
        np.stack(
            on_photo(export.maps(rows, name), sizes, transform, export.manifest.layout.registration, samples=POINTS)
        )
        for export, rows, transform in zip((a, b), (rows_a, rows_b), transforms, strict=True)
    )
    return Placed(next(on_points), next(on_points), np.array(sizes, np.float64))


def same_view(a: Transform, b: Transform) -> bool:
    """Whether two transforms show the same part of every photo, if with other pixels.

    >>> same_view(Transform(size=(224, 224), crop_pct=0.9), Transform(size=(448, 448), crop_pct=0.9))
    True
    >>> same_view(Transform(size=(224, 224), crop_pct=0.9), Transform(size=(224, 224)))
    False
    """
    same_shape = a.size[0] * b.size[1] == a.size[1] * b.size[0] or a.resize == "native"
    return a.resize == b.resize and a.crop_pct == b.crop_pct and same_shape
