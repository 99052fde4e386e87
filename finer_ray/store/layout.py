"""The Zarr layout: which arrays an export has, and of what shape."""

import math
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from finer_ray.saliency.patches import FEATURES
from finer_ray.saliency.registration import Registration

SYMBOLS = {
    "target": "targets",
    "map": "maps",
    "class": "1 + references",
    "reference": "references",
    "y": "h",
    "x": "w",
    "channel": "E",
    "activation_channel": "D",
    "patch": "patches",
    "feature": str(FEATURES),
}


class ArrayLayout(BaseModel):
    """One array, rows in the first axis: dtype, fill value of rows never written, names of the other axes.

    The axis `target` is there only where the layout has several targets.
    """

    model_config = ConfigDict(frozen=True)

    dtype: str
    fill: float | int
    axes: tuple[str, ...] = ()


NAN = float("nan")
ARRAYS: dict[str, ArrayLayout] = {
    "maps": ArrayLayout(dtype="float16", fill=NAN, axes=("target", "map", "y", "x")),
    "maps_scale": ArrayLayout(dtype="float32", fill=NAN, axes=("target", "map")),
    "references": ArrayLayout(dtype="int32", fill=-1, axes=("target", "reference")),
    "basis": ArrayLayout(dtype="float16", fill=NAN, axes=("target", "class", "y", "x")),
    "basis_scale": ArrayLayout(dtype="float32", fill=NAN, axes=("target",)),
    "embedding": ArrayLayout(dtype="float16", fill=NAN, axes=("channel",)),
    "map_embedding": ArrayLayout(dtype="float16", fill=NAN, axes=("activation_channel",)),
    "patch_cells": ArrayLayout(dtype="int32", fill=-1, axes=("patch",)),
    "patches": ArrayLayout(dtype="float16", fill=NAN, axes=("patch", "feature")),
    "parts": ArrayLayout(dtype="uint8", fill=0, axes=("y", "x")),
}


class Layout(BaseModel):
    """What decides the shapes of an export's arrays.

    Attributes:
        maps: names of the maps, in order.
        targets: T, how many an image has at most.
        references: K. With none there is no array of references.
        grid: (h, w) of the maps.
        embedding: E, or None where embeddings are not stored.
        basis: whether the contrast basis is stored.
        rows_per_unit, rows_per_chunk: rows of one shard object, and of one chunk in it.
        registration: where cells of maps and basis have their centres; None: the grid is stretched over the input.
        patches: n, of how many cells of an image the activations are stored; 0, as in exports of earlier versions: of
            none.
        parts: whether the part that each cell shows is stored.
        map_embedding: D, or None where map embeddings are not stored.
    """

    model_config = ConfigDict(frozen=True)

    maps: tuple[str, ...]
    targets: int = 1
    references: int
    grid: tuple[int, int]
    embedding: int | None
    basis: bool
    rows_per_unit: int
    rows_per_chunk: int
    registration: Registration | None = None
    patches: int = 0
    parts: bool = False
    map_embedding: int | None = None

    def attributes(self, name: str) -> dict[str, Any]:
        """Of one array: what its axes do not tell."""
        axes = ARRAYS[name].axes
        found: dict[str, Any] = {"map": list(self.maps)} if "map" in axes else {}
        if "y" in axes and self.registration is not None:
            found["cell_offset"], found["cell_stride"] = list(self.registration.offset), list(self.registration.stride)
        return found

    def axes(self, name: str) -> tuple[str, ...]:
        """Names of an array's axes behind the rows."""
        return tuple(axis for axis in ARRAYS[name].axes if axis != "target" or self.targets > 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """For each array that this export has, its shape without the rows."""
        sizes = {
            "target": self.targets,
            "map": len(self.maps),
            "class": 1 + self.references,
            "reference": self.references,
            "y": self.grid[0],
            "x": self.grid[1],
            "channel": self.embedding or 0,
            "activation_channel": self.map_embedding or 0,
            "patch": self.patches,
            "feature": FEATURES,
        }
        left_out = set()
        if self.references == 0:
            left_out.add("references")
        if not self.basis:
            left_out |= {"basis", "basis_scale"}
        if self.embedding is None:
            left_out.add("embedding")
        if self.map_embedding is None:
            left_out.add("map_embedding")
        if not self.patches:
            left_out |= {"patch_cells", "patches"}
        if not self.parts:
            left_out.add("parts")
        kept = (name for name in ARRAYS if name not in left_out)
        return {name: tuple(sizes[axis] for axis in self.axes(name)) for name in kept}

    def row_bytes(self) -> int:
        """Of one row of all arrays, uncompressed."""
        return sum(math.prod(shape) * np.dtype(ARRAYS[name].dtype).itemsize for name, shape in self.shapes().items())


def describe() -> dict[str, Any]:
    """The layout in words, for schemas/."""
    return {
        name: {
            "shape": ["row", *(SYMBOLS[axis] for axis in array.axes)],
            "dimension_names": ["row", *array.axes],
            "dtype": array.dtype,
            "fill_value": "NaN" if array.fill != array.fill else array.fill,
            "shard": "rows_per_unit rows",
            "chunk": "rows_per_chunk rows",
        }
        for name, array in ARRAYS.items()
    }
