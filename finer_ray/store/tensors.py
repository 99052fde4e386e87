"""Tensors of an export: a Zarr v3 group whose shard objects are units of work."""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from finer_ray.errors import LeaseError
from finer_ray.store.layout import ARRAYS, Layout
from finer_ray.store.storage import Folder

if TYPE_CHECKING:
    import zarr

NAME = "saliency.zarr"


def create_tensors(folder: Folder, layout: Layout, rows: int) -> None:
    """Create the group's template before the run, or lengthen it; shard objects written already stay untouched.

    Args:
        rows: of all units, a multiple of `layout.rows_per_unit`.
    """
    folder.retry(lambda: _create(folder, layout, rows), f"write {_url(folder)}")


def _create(folder: Folder, layout: Layout, rows: int) -> None:
    group = _open(folder, "a")
    existing = set(group.array_keys())
    for name, shape in layout.shapes().items():
        array = ARRAYS[name]
        if name in existing:
            _lengthen(folder, name, rows)
            continue
        group.create_array(
            name,
            shape=(rows, *shape),
            dtype=array.dtype,
            shards=(layout.rows_per_unit, *shape),
            chunks=(layout.rows_per_chunk, *shape),
            fill_value=array.fill,
            dimension_names=("row", *layout.axes(name)),
            attributes=layout.attributes(name),
        )


def _lengthen(folder: Folder, name: str, rows: int) -> None:
    """Make an array as long as that, unless it is longer.

    Not by Zarr's own `resize`: where another run has made the array longer since it was opened here, that would shorten
    it, and delete what lies beyond.
    """
    file = f"{NAME}/{name}/zarr.json"
    while True:
        content = folder.read(file) or b""
        metadata = json.loads(content)
        if metadata["shape"][0] >= rows:
            return
        metadata["shape"][0] = rows
        with suppress(LeaseError):
            folder.replace(file, json.dumps(metadata, indent=2).encode(), content)
            return


def write_unit(folder: Folder, layout: Layout, unit: int, tensors: dict[str, NDArray[Any]]) -> None:
    """Write one unit: exactly one shard object per array.

    Args:
        tensors: by name, (n, ...) with n <= rows_per_unit; what is missing to a full unit stays fill.
    """
    folder.retry(lambda: _write(folder, layout, unit, tensors), f"write {_url(folder)}")


def _write(folder: Folder, layout: Layout, unit: int, tensors: dict[str, NDArray[Any]]) -> None:
    group = _open(folder, "r+")
    rows = slice(unit * layout.rows_per_unit, (unit + 1) * layout.rows_per_unit)
    for name, shape in layout.shapes().items():
        array = ARRAYS[name]
        full = np.full((layout.rows_per_unit, *shape), array.fill, dtype=array.dtype)
        full[: len(tensors[name])] = tensors[name]
        stored: Any = group[name]
        stored[rows] = full


def erase_units(folder: Folder, layout: Layout, units: Sequence[int]) -> None:
    """Make the rows of some units fill again; their shard objects are removed."""
    nothing = {name: np.empty((0, *shape), ARRAYS[name].dtype) for name, shape in layout.shapes().items()}
    for unit in units:
        write_unit(folder, layout, unit, nothing)


def open_tensors(folder: Folder) -> "zarr.Group":
    """The group, for reading."""
    return _open(folder, "r")


def read_rows(array: Any, rows: NDArray[np.int64], *places: int) -> NDArray[Any]:
    """Rows of an array (n, ...), in any order, at these places of the axes behind them.

    Where they lie close together their whole range is read, which Zarr does several times as fast.
    """
    if len(rows) and (first := int(rows.min())) + 2 * len(rows) > (last := int(rows.max())):
        block: NDArray[Any] = array[(slice(first, last + 1), *places)]
        return block[rows - first]
    stored: NDArray[Any] = array.oindex[(rows, *places)]
    return stored


def to_half(values: NDArray[np.float32], axes: tuple[int, ...]) -> tuple[NDArray[np.float16], NDArray[np.float32]]:
    """Values as float16 and a scale, value = stored * scale, with an error of at most 2^-11 of the scale.

    The scale is the largest magnitude over `axes`, so that stored values lie in [-1, 1]. NaN stays NaN.
    """
    scale = np.nanmax(np.abs(values), axis=axes, initial=0.0).astype(np.float32)
    safe = np.where(scale > 0, scale, np.float32(1))
    return (values / np.expand_dims(safe, axes)).astype(np.float16), scale


def _open(folder: Folder, mode: Literal["r", "r+", "a"]) -> "zarr.Group":
    # Imported here: what reads tables alone starts without it.
    import zarr

    return zarr.open_group(_url(folder), mode=mode, zarr_format=3)


def _url(folder: Folder) -> str:
    return f"{folder.url}/{NAME}"
