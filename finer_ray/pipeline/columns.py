"""Columns: fixed-shape arrays inside Arrow tables, without a copy per row."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def pack(values: NDArray[Any]) -> pa.Array:
    """An array (n, ...) as n fixed-size binary values."""
    values = np.ascontiguousarray(values)
    width = values.itemsize * int(np.prod(values.shape[1:]))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(values), [None, pa.py_buffer(values)])


def unpack(column: pa.ChunkedArray, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """What `pack` made, (n, *shape); a read-only view where the column is one chunk."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    width = array.type.byte_width
    if len(array) == 0:
        return np.empty((0, *shape), dtype)
    flat = np.frombuffer(array.buffers()[1], dtype=np.uint8)[array.offset * width : (array.offset + len(array)) * width]
    values: NDArray[Any] = flat.view(dtype).reshape(len(array), *shape)
    return values


def or_null(value: Any) -> Any:
    """NaN as null, in lists too."""
    if isinstance(value, list):
        return [or_null(item) for item in value]
    return None if value != value else value
