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


def pack_some(values: NDArray[Any], present: NDArray[np.bool_]) -> pa.Array:
    """An array (m, ...) as binary values in the m of n places that are present, (n,) bool; null elsewhere.

    Nulls take no bytes of data.
    """
    values = np.ascontiguousarray(values)
    width = values.itemsize * int(np.prod(values.shape[1:]))
    ends = np.concatenate([[0], np.cumsum(present)]).astype(np.int64) * width
    buffers = [pa.py_buffer(np.packbits(present, bitorder="little")), pa.py_buffer(ends), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.large_binary(), len(present), buffers)


def unpack_some(column: pa.ChunkedArray, dtype: Any, shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """What `pack_some` made: (m, *shape), a read-only view where the column is one chunk; and for each of the n places
    where in it its value is, (n,) int64, which says nothing of nulls."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if len(array) == array.null_count:
        return np.empty((0, *shape), dtype), np.zeros(len(array), np.int64)
    _, ends, data = array.buffers()
    bounds = np.frombuffer(ends, np.int64)[array.offset : array.offset + len(array) + 1]
    flat = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]]
    values: NDArray[Any] = flat.view(dtype).reshape(-1, *shape)
    return values, (bounds[:-1] - bounds[0]) * len(values) // len(flat)


def or_null(value: Any) -> Any:
    """NaN as null, in lists too."""
    if isinstance(value, list):
        return [or_null(item) for item in value]
    return None if value != value else value
